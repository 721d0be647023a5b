//! Brokers that take no messages for now.

use leveret::{Bus, ConnectionState, Cx, PublishError, Queue, Text, Topology};
use leveret_peers::RabbitMq;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_stops_publishers_for_a_while_and_consumers_never() {
    let Some(rabbit) = block_in_place(RabbitMq::start) else { return };
    let watermark = |fraction: &str| {
        let expression = format!("vm_memory_monitor:set_vm_memory_high_watermark({fraction})");
        block_in_place(|| rabbit.eval(&expression));
    };
    let builder = Bus::builder(&rabbit.url()).confirm_timeout(Duration::from_secs(2));
    let bus = builder.window(50, 1024 * 1024).connect().await.unwrap();
    bus.ensure(Topology::new().queue(Queue::new("waiting"))).await.unwrap();
    for number in 0..20 {
        bus.send("waiting", &Text(number.to_string())).await.unwrap();
    }
    watermark("0.0000001");
    // It says so when the first message comes, and may take that.
    let is_blocked =
        || matches!(bus.health().connections[0].state, ConnectionState::Blocked { .. });
    let start = Instant::now();
    while !is_blocked() {
        assert!(start.elapsed() < PATIENCE, "{:?}", bus.health());
        let result = bus.send("waiting", &Text::from("first")).await;
        assert!(matches!(result, Ok(_) | Err(PublishError::Unknown { .. })), "{result:?}");
    }
    assert!(!bus.health().is_ok());

    // More than have room under way, and more than a connection's buffers hold.
    let start = Instant::now();
    let large = Text("x".repeat(100_000));
    let tickets = async {
        let mut tickets = Vec::new();
        for _ in 0..100 {
            tickets.push(bus.send("waiting", &large).pipelined().await);
        }
        tickets
    };
    for ticket in timeout(PATIENCE, tickets).await.expect("no publisher hangs") {
        let (result, matter) = match ticket {
            Ok(ticket) => (ticket.await, "takes no messages"),
            Err(error) => (Err(error), "are not confirmed"),
        };
        let Err(PublishError::NotSent { text, .. }) = &result else { panic!("{result:?}") };
        assert!(text.contains(matter), "{text}");
    }
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());

    let (tell, mut told) = mpsc::unbounded_channel();
    bus.consume("waiting", move |text: Text, _: Cx| {
        let told = tell.send(text.0);
        async move { Ok(told?) }
    })
    .start()
    .await
    .unwrap();
    for number in 0..20 {
        let text = timeout(PATIENCE, told.recv()).await.expect("a message");
        assert_eq!(text, Some(number.to_string()));
    }
    watermark("0.4");
    let start = Instant::now();
    while !bus.health().is_ok() {
        assert!(start.elapsed() < PATIENCE, "{:?}", bus.health());
        sleep(Duration::from_millis(10)).await;
    }
    bus.send("waiting", &Text::from("last")).await.unwrap();
    while told.recv().await.as_deref() != Some("last") {}
    bus.close().await;
}

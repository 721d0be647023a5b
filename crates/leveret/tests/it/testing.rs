//! What programs' own tests ask of a bus in memory.

use leveret::object_store::memory::InMemory;
use leveret::{Bus, ClaimCheck, Cx, Error, Failure, Message, Queue, Retry, Text, Topology};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

#[derive(serde::Serialize, serde::Deserialize, Message, Debug, PartialEq)]
#[message(name = "testing.order")]
struct Order(u64);

#[derive(serde::Serialize, serde::Deserialize, Message, Debug, PartialEq)]
#[message(name = "testing.invoice")]
struct Invoice(u64);

#[tokio::test(start_paused = true)]
async fn what_was_published_is_known() {
    let bus = Bus::connect("memory:").await.unwrap();
    bus.ensure(Topology::new().queue(Queue::new("testing"))).await.unwrap();
    bus.publish(&Order(1)).await.unwrap_err();
    bus.publish(&Invoice(2)).optional().await.unwrap();
    bus.send("testing", &Order(3)).await.unwrap();
    bus.send("testing", &Text::from("text")).await.unwrap();
    assert_eq!(bus.published::<Order>().unwrap(), [Order(1), Order(3)]);
    assert_eq!(bus.published::<Invoice>().unwrap(), [Invoice(2)]);
    assert_eq!(bus.published::<Text>().unwrap(), [Text::from("text")]);
}

#[tokio::test(start_paused = true)]
async fn questions_and_answers_are_known_too() {
    let bus = Bus::connect("memory:").await.unwrap();
    let serving = async |order: Order, _: Cx| Ok(Invoice(order.0));
    bus.serve::<Order, Invoice, _>("testing.desk", serving).start().await.unwrap();
    assert_eq!(bus.call::<_, Invoice>("testing.desk", &Order(4)).await.unwrap(), Invoice(4));
    assert_eq!(bus.published::<Order>().unwrap(), [Order(4)]);
    assert_eq!(bus.published::<Invoice>().unwrap(), [Invoice(4)]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_read_whose_body_went_to_the_store() {
    let store = ClaimCheck::new(InMemory::new(), "").above(1);
    let bus = Bus::builder("memory:").large_bodies(store).connect().await.unwrap();
    let handler = async |_: Order, _: Cx| Err(Failure::permanent("no"));
    bus.consume("testing.large", handler).start().await.unwrap();
    bus.send("testing.large", &Order(1_000)).await.unwrap();
    bus.settle_all().await.unwrap();
    assert_eq!(bus.dead::<Order>("testing.large").await.unwrap(), [Order(1_000)]);
    assert_eq!(bus.published::<Order>().unwrap(), [Order(1_000)]);
}

#[tokio::test(start_paused = true)]
async fn settling_waits_for_attempts_delays_and_what_handlers_publish() {
    let bus = Bus::connect("memory:").await.unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let invoices = Arc::clone(&count);
    bus.consume("testing.orders", async |order: Order, cx: Cx| match order.0 {
        13 => Err(Failure::transient("unlucky")),
        number => {
            Ok(cx.publish(&Invoice(number)).delay(Duration::from_secs(86_400)).await.map(drop)?)
        }
    })
    .retry(Retry::exponential(Duration::from_secs(60)).attempts(5))
    .start()
    .await
    .unwrap();
    bus.consume("testing.invoices", move |_: Invoice, _: Cx| {
        invoices.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    })
    .start()
    .await
    .unwrap();
    bus.settle_all().await.unwrap();
    for number in [7, 13] {
        bus.publish(&Order(number)).await.unwrap();
    }
    let start = Instant::now();
    bus.settle_all().await.unwrap();
    let day = Duration::from_secs(86_400);
    assert!(start.elapsed() >= day && start.elapsed() < day.mul_f64(1.02), "{:?}", start.elapsed());
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert_eq!(bus.dead::<Order>("testing.orders").await.unwrap(), [Order(13)]);
    assert_eq!(bus.dead::<Invoice>("testing.invoices").await.unwrap(), []);
    assert_eq!(bus.published::<Invoice>().unwrap(), [Invoice(7)]);
    // Of what failed each attempt was sent again, but nobody has published that.
    assert_eq!(bus.published::<Order>().unwrap(), [Order(7), Order(13)]);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_stuck_is_not_waited_for_for_ever() {
    let bus = Bus::connect("memory:").await.unwrap();
    let handler = async |_: Order, _: Cx| std::future::pending().await;
    bus.consume("testing.stuck", handler).start().await.unwrap();
    bus.publish(&Order(1)).await.unwrap();
    let error = bus.settle_all().await.unwrap_err();
    assert!(error.to_string().contains("testing.stuck"), "{error}");
}

#[tokio::test]
async fn other_buses_record_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("embedded:{}", directory.path().display());
    let bus = Bus::connect(&url).await.unwrap();
    bus.publish(&Order(1)).optional().await.unwrap();
    let is_refused = |error| matches!(error, Error::Unsupported { .. });
    assert!(is_refused(bus.published::<Order>().unwrap_err()));
    assert!(is_refused(bus.dead::<Order>("testing").await.unwrap_err()));
    assert!(is_refused(bus.settle_all().await.unwrap_err()));
    assert!(bus.native::<leveret_broker::Broker>().is_some());
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn metrics_count_what_nobody_waits_for_and_add_a_queues_consumers_up() {
    let bus = Bus::connect("memory:").await.unwrap();
    for _ in 0..2 {
        bus.consume("counted", async |_: Text, _: Cx| Ok(())).start().await.unwrap();
    }
    for _ in 0..5 {
        drop(bus.send("counted", &Text::from("x")).pipelined().await.unwrap());
    }
    bus.settle_all().await.unwrap();
    let metrics = bus.stats().to_string();
    for line in [
        "leveret_bus_published_total{result=\"confirmed\"} 5",
        "leveret_consumer_handled_total{queue=\"counted\"} 5",
        "leveret_consumer_up{queue=\"counted\"} 2",
    ] {
        assert_eq!(metrics.lines().filter(|it| *it == line).count(), 1, "{line}\nin {metrics}");
    }
    bus.close().await;
}

//! Networks that cut connections, fall silent and are slow.

use super::rounds;
use crate::flow::{Flow, Manner};
use crate::proxy::{Proxy, Troubles};
use crate::{shared_rabbitmq, until, within};
use leveret::{
    Breaker, Bus, ConsumerState, Cx, Failure, PublishError, Queue, Retry, Text, Topology,
};
use leveret_peers::Leveret;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

const MESSAGES: u64 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_a_bad_network_to_leveret() {
    let leveret = block_in_place(Leveret::start);
    for round in 0..rounds() {
        tokio::join!(
            bad_network(leveret.port(), "%2f", Manner::Wait, round),
            bad_network(leveret.port(), "%2f", Manner::Again, round),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_a_bad_network_to_rabbitmq() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    for round in 0..rounds() {
        bad_network(rabbit.port(), &vhost, Manner::Wait, round).await;
    }
}

async fn bad_network(broker: u16, vhost: &str, manner: Manner, round: u64) {
    let queue = &format!("cut-{round}-{manner:?}");
    let troubles = Troubles { cuts: 12, silences: 2, delays: 50 };
    let proxy = Proxy::start(broker).await;
    let flow = Flow::start(Bus::builder(&proxy.url(vhost)), queue, manner, MESSAGES).await;
    proxy.begin(troubles);
    // Slowly enough that all of it happens in the middle.
    while !proxy.is_calm() && flow.handled() < MESSAGES {
        flow.open(10);
        sleep(Duration::from_millis(20)).await;
    }
    flow.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_ever_for_a_network_that_has_fallen_silent() {
    let leveret = block_in_place(Leveret::start);
    let proxy = Proxy::start(leveret.port()).await;
    // Nothing but the bus's own limits ends a wait here.
    let url = proxy.url("%2f").replace("heartbeat=1", "heartbeat=0");
    let builder = Bus::builder(&url).confirm_timeout(Duration::from_secs(1));
    let bus = builder.connect().await.unwrap();
    let handler = async |_: Text, _: Cx| Ok(());
    let consumer = bus.consume("silent", handler).start().await.unwrap();
    bus.send("silent", &Text::from("x")).await.unwrap();
    proxy.be_silent();
    let start = Instant::now();
    let result = bus.send("silent", &Text::from("x")).await;
    assert!(matches!(result, Err(PublishError::Unknown { .. })), "{result:?}");
    consumer.stop(Duration::from_millis(200)).await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(bus.queue("silent").await.is_err());
    let topology = Topology::new().queue(Queue::new("other"));
    assert!(bus.ensure(topology).await.is_err());
    bus.close().await;
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

/// Another consumer may be at it by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_connection_brought_is_begun_no_more() {
    let mut leveret = block_in_place(Leveret::start);
    let bus = Bus::connect(&leveret.url()).await.unwrap();
    bus.ensure(Topology::new().queue(Queue::new("lost"))).await.unwrap();
    for number in 0..5 {
        bus.send("lost", &Text(number.to_string())).await.unwrap();
    }
    let (begun, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let (note, wait) = (Arc::clone(&begun), Arc::clone(&go));
    let handler = move |_: Text, _: Cx| {
        note.fetch_add(1, Ordering::Relaxed);
        let wait = Arc::clone(&wait);
        async move {
            wait.acquire().await?.forget();
            Ok(())
        }
    };
    let consumer = bus.consume("lost", handler).start().await.unwrap();
    within(async {
        until(async || bus.queue("lost").await.unwrap().unwrap().messages == 0).await;
        block_in_place(|| leveret.kill());
        until(async || consumer.health().state != ConsumerState::Consuming).await;
        go.add_permits(1);
        until(async || consumer.health().handled == 1).await;
        sleep(Duration::from_millis(200)).await;
        assert_eq!(begun.load(Ordering::Relaxed), 1, "the others were fetched, too");
        go.add_permits(10);
        block_in_place(|| leveret.start_again());
        until(async || consumer.health().handled == 6).await;
    })
    .await;
    bus.close().await;
}

/// Nor is what was gathered for a batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_without_what_a_lost_connection_brought() {
    let mut leveret = block_in_place(Leveret::start);
    let bus = Bus::connect(&leveret.url()).await.unwrap();
    bus.ensure(Topology::new().queue(Queue::new("gathered"))).await.unwrap();
    for number in 0..5 {
        bus.send("gathered", &Text(number.to_string())).await.unwrap();
    }
    let (seen, mut handled) = mpsc::unbounded_channel();
    let handler = move |batch: Vec<(Text, Cx)>| {
        batch.into_iter().for_each(|(Text(text), _)| drop(seen.send(text)));
        async { Ok(()) }
    };
    let consumer = bus.consume_batches("gathered", 100, Duration::from_secs(3), handler);
    let consumer = consumer.start().await.unwrap();
    within(async {
        until(async || bus.queue("gathered").await.unwrap().unwrap().messages == 0).await;
        block_in_place(|| {
            leveret.kill();
            leveret.start_again();
        });
        until(async || consumer.health().handled == 5).await;
    })
    .await;
    bus.close().await;
    let mut texts = Vec::new();
    while let Ok(text) = handled.try_recv() {
        texts.push(text);
    }
    assert_eq!(texts, ["0", "1", "2", "3", "4"]);
}

/// The message that is to be tried when the breaker's pause is over is another consumer's by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_goes_on_when_what_it_was_to_try_was_lost() {
    let mut leveret = block_in_place(Leveret::start);
    let bus = Bus::connect(&leveret.url()).await.unwrap();
    bus.ensure(Topology::new().queue(Queue::new("tried"))).await.unwrap();
    for text in ["bad", "good"] {
        bus.send("tried", &Text::from(text)).await.unwrap();
    }
    let handler = async |Text(text): Text, _: Cx| match text.as_str() {
        "good" => Ok(()),
        _ => Err(Failure::transient("no")),
    };
    let consumer = bus
        .consume("tried", handler)
        .retry(Retry::fixed(Duration::from_secs(3_600)))
        .breaker(Breaker::new(1, 1, Duration::from_secs(3)));
    let consumer = consumer.start().await.unwrap();
    within(async {
        until(async || consumer.health().state == ConsumerState::Paused).await;
        block_in_place(|| {
            leveret.kill();
            leveret.start_again();
        });
        until(async || consumer.health().handled == 1).await;
    })
    .await;
    bus.close().await;
}

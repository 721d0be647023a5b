//! What the first page of the guide shows.

use crate::bus;
use leveret::{Cx, Failure, Filter, Message, PublishError, Queue, Retry, Text, Topology};
use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

#[derive(serde::Serialize, serde::Deserialize, Message, Debug)]
#[message(name = "basics.order", key = "id")]
struct Order {
    id: u64,
}

#[tokio::test]
async fn what_is_published_comes_to_the_consumer_in_order() {
    let bus = bus().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    bus.consume("basics.orders", move |order: Order, cx: Cx| {
        let sent = tell.send((order.id, cx.subject().to_owned(), cx.attempt()));
        async move { Ok(sent?) }
    })
    .start()
    .await
    .unwrap();
    for id in 0..100 {
        bus.publish(&Order { id }).await.unwrap();
    }
    for id in 0..100 {
        assert_eq!(told.recv().await.unwrap(), (id, "basics.order".to_owned(), 1));
    }
    assert_eq!(bus.stats().confirmed, 100);
    bus.close().await;
}

#[tokio::test]
async fn a_message_that_nobody_gets_is_an_error() {
    let bus = bus().await;
    bus.ensure(Topology::new().queue(Queue::new("basics.kept"))).await.unwrap();
    bus.send("basics.kept", &Text::from("hi")).await.unwrap();
    assert_eq!(bus.queue("basics.kept").await.unwrap().unwrap().messages, 1);
    let nowhere = bus.send("basics.nowhere", &Text::from("hi")).await;
    assert!(matches!(nowhere, Err(PublishError::Unroutable { .. })), "{nowhere:?}");
    let nobody = bus.publish(&Text::from("hi")).subject("basics.nobody").await;
    assert!(matches!(nobody, Err(PublishError::Unroutable { .. })), "{nobody:?}");
    assert_eq!((bus.stats().confirmed, bus.stats().unroutable), (1, 2));
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_keeps_failing_comes_ever_later_and_is_a_dead_letter() {
    keeps_failing("basics.failing").await;
}

#[tokio::test]
async fn a_message_that_keeps_failing_is_a_dead_letter_in_real_time_too() {
    keeps_failing("basics.failing.really").await;
}

async fn keeps_failing(queue: &str) {
    let bus = bus().await;
    let count = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&count);
    bus.consume(queue, move |_: Order, _: Cx| {
        seen.fetch_add(1, Ordering::Relaxed);
        async { Err(Failure::transient("it is always so")) }
    })
    .retry(Retry::exponential(Duration::from_millis(100)).attempts(4))
    .start()
    .await
    .expect("a consumer");
    let start = Instant::now();
    bus.send(queue, &Order { id: 7 }).await.expect("it is taken");
    while bus.dead_letters(queue).count().await.expect("a number") == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(start.elapsed() >= Duration::from_millis(100 + 200 + 400), "{:?}", start.elapsed());
    assert_eq!(count.load(Ordering::Relaxed), 4);
    let dead = bus.dead_letters(queue).list(10).await.expect("dead letters");
    assert_eq!(dead[0].message::<Order>().expect("an order").id, 7);
    let errors: Vec<&str> = dead[0].failures.iter().map(|failed| &*failed.error).collect();
    assert_eq!(errors, ["it is always so"; 4]);
    assert_eq!(
        bus.dead_letters(queue).redrive(&Filter::all(), 100).await.expect("it is redriven").done,
        1
    );
    bus.close().await;
}

#[tokio::test]
async fn everything_can_be_awaited_in_a_task_of_its_own() {
    fn is_send<F: Future + Send>(_: F) {}
    let bus = bus().await;
    let (order, filter, dead) = (Order { id: 1 }, Filter::all(), bus.dead_letters("basics.tasks"));
    let handler = async |_: Order, _: Cx| Ok(());
    is_send(bus.consume("basics.tasks", handler).start());
    is_send(bus.publish(&order).into_future());
    is_send(bus.publish(&order).pipelined());
    is_send(bus.ensure(Topology::new()));
    is_send(bus.queue("basics.tasks"));
    is_send(dead.list(1));
    is_send(dead.redrive(&filter, 1));
    is_send(dead.discard(&filter));
    is_send(bus.settle_all());
    is_send(bus.close());
}

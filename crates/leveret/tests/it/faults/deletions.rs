//! Queues that somebody deletes while they are in use, or puts others in their place.

use crate::shared_rabbitmq;
use leveret::{Bus, ConsumerState, Cx, Failure, Queue, Retry, Text, Topology};
use leveret_peers::Leveret;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_go_on_when_a_queue_is_deleted_on_leveret() {
    let leveret = block_in_place(Leveret::start);
    deletions(&leveret.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_go_on_when_a_queue_is_deleted_on_rabbitmq() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    deletions(&rabbit.url_of(&vhost)).await;
}

async fn deletions(url: &str) {
    let bus = Bus::connect(url).await.expect("a broker");
    let (tell, mut told) = mpsc::unbounded_channel();
    let consumer = bus
        .consume("deleted", move |text: Text, _: Cx| {
            let told = tell.send(text.0.clone());
            async move {
                told?;
                match text.0.as_str() {
                    "bad" => Err(Failure::permanent("bad")),
                    "again" => Err(Failure::transient("again")),
                    _ => Ok(()),
                }
            }
        })
        .subjects(["deletions"])
        .retry(Retry::fixed(Duration::from_millis(100)).attempts(2))
        .start()
        .await
        .expect("a consumer");
    let mut next =
        async || timeout(PATIENCE, told.recv()).await.expect("a message").expect("a message");
    bus.publish(&Text::from("before")).subject("deletions").await.expect("it is taken");
    assert_eq!(next().await, "before");

    delete_queue(url, "deleted").await;
    while consumer.health().state == ConsumerState::Consuming {
        sleep(Duration::from_millis(1)).await;
    }
    wait_for("the consumer", async || consumer.health().state == ConsumerState::Consuming).await;
    // It is bound again, and put off to again.
    bus.publish(&Text::from("after")).subject("deletions").await.expect("it is taken");
    assert_eq!(next().await, "after");
    bus.publish(&Text::from("again")).subject("deletions").await.expect("it is taken");
    assert_eq!((next().await, next().await), ("again".to_owned(), "again".to_owned()));
    wait_for("a dead letter", async || count(&bus).await == 1).await;

    delete_queue(url, "deleted.dead").await;
    bus.publish(&Text::from("bad")).subject("deletions").await.expect("it is taken");
    assert_eq!(next().await, "bad");
    wait_for("a dead letter", async || count(&bus).await == 1).await;
    bus.publish(&Text::from("well")).subject("deletions").await.expect("it is taken");
    assert_eq!(next().await, "well");
    bus.close().await;
}

async fn count(bus: &Bus) -> u64 {
    bus.dead_letters("deleted").count().await.expect("a number")
}

async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_dead_letter_is_refused_says_so_on_leveret() {
    let leveret = block_in_place(Leveret::start);
    refusals(&leveret.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_dead_letter_is_refused_says_so_on_rabbitmq() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    refusals(&rabbit.url_of(&vhost)).await;
}

async fn refusals(url: &str) {
    let bus = Bus::connect(url).await.expect("a broker");
    let handler = async |_: Text, _: Cx| Err(Failure::permanent("bad"));
    let consumer = bus.consume("deleted", handler).start().await.expect("a consumer");
    delete_queue(url, "deleted.dead").await;
    declare_full(url, "deleted.dead").await;
    bus.send("deleted", &Text::from("bad")).await.expect("it is taken");
    wait_for("trouble", async || match consumer.health().state {
        ConsumerState::Waiting { reason } => reason.contains("cannot be sent on"),
        _ => false,
    })
    .await;
    assert!(!bus.health().is_ok());
    assert!(consumer.health().oldest.is_some());
    delete_queue(url, "deleted.dead").await;
    wait_for("a dead letter", async || count(&bus).await == 1).await;
    wait_for("peace", async || bus.health().is_ok()).await;
    let health = consumer.health();
    assert_eq!((health.dead, health.retried, health.oldest), (1, 0, None));
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_comes_back_with_the_one_for_its_dead_letters_on_leveret() {
    let leveret = block_in_place(Leveret::start);
    both_come_back(&leveret.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_comes_back_with_the_one_for_its_dead_letters_on_rabbitmq() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    both_come_back(&rabbit.url_of(&vhost)).await;
}

async fn both_come_back(url: &str) {
    let bus = Bus::connect(url).await.expect("a broker");
    // It is there already when the consumer starts.
    bus.ensure(Topology::new().queue(Queue::new("late"))).await.expect("it is made");
    let other = Bus::connect(url).await.expect("a broker");
    let like = |queue: Queue| queue.dead_letter_queue("late");
    let consumer = other.consume("deleted", async |_: Text, _: Cx| Ok(())).queue(like);
    consumer.start().await.expect("a consumer");
    bus.close().await;
    delete_queue(url, "late").await;
    delete_queue(url, "deleted").await;
    for queue in ["deleted", "late"] {
        let there = async || matches!(other.queue(queue).await, Ok(Some(_)));
        wait_for(queue, there).await;
    }
    other.close().await;
}

/// As somebody else does.
async fn delete_queue(url: &str, queue: &str) {
    on_a_channel(url, async |channel| {
        channel.queue_delete(queue.into(), Default::default()).await.expect("it is deleted");
    })
    .await;
}

/// A queue that takes nothing.
async fn declare_full(url: &str, queue: &str) {
    let mut arguments = lapin::types::FieldTable::default();
    arguments.insert("x-max-length".into(), 0.into());
    let overflow = lapin::types::LongString::from("reject-publish");
    arguments.insert("x-overflow".into(), overflow.into());
    let options = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    on_a_channel(url, async |channel| {
        channel.queue_declare(queue.into(), options, arguments).await.expect("it is made");
    })
    .await;
}

async fn on_a_channel(url: &str, does: impl AsyncFnOnce(&lapin::Channel)) {
    let options = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(url, options).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    does(&channel).await;
    connection.close(200, "done".into()).await.expect("a goodbye");
}

//! Messages that were put off and that nobody takes when they are due: those of others come still.

use crate::shared_rabbitmq;
use leveret::{Bus, Exchange, PublishError, Queue, Text, Topology};
use leveret_peers::Leveret;
use std::time::Duration;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

/// More than RabbitMQ takes on from a queue before it is rid of the first.
const MESSAGES: usize = 40;
const DELAY: Duration = Duration::from_millis(256);
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_takes_holds_nobody_up_on_leveret() {
    let leveret = block_in_place(Leveret::start);
    undeliverable(&leveret.url()).await;
    // RabbitMQ has them wait before it.
    let bus = Bus::connect(&leveret.url()).await.expect("a broker");
    until(&bus, "full", MESSAGES + 1).await;
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_takes_holds_nobody_up_on_rabbitmq() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    undeliverable(&rabbit.url_of(&vhost)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_takes_holds_nobody_up_among_quorum_queues_of_rabbitmq() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    undeliverable(&(rabbit.url_of(&vhost) + "?queues=quorum")).await;
}

async fn undeliverable(url: &str) {
    let bus = Bus::connect(url).await.expect("a broker");
    let queues = Topology::new().queue(Queue::new("good")).queue(Queue::new("deleted"));
    let full = Queue::new("full").messages_max(1);
    bus.ensure(queues.queue(full)).await.expect("they are made");

    // Nobody is bound to it.
    let text = Text::from("to nobody");
    put_off(async || bus.publish(&text).subject("to.nobody").delay(DELAY).await.map(drop)).await;
    good_comes(&bus, 1).await;
    until(&bus, "leveret.delayed-events", MESSAGES).await;

    put_off(async || bus.send("deleted", &text).delay(DELAY * 8).await.map(drop)).await;
    delete(url, async |channel| {
        drop(channel.queue_delete("deleted".into(), Default::default()).await)
    })
    .await;
    until(&bus, "leveret.undelivered", MESSAGES).await;
    good_comes(&bus, 2).await;

    let gone = || Exchange::topic("gone").transient();
    let publish = async || bus.publish(&text).exchange(gone()).subject("x").delay(DELAY * 8).await;
    put_off(async || publish().await.map(drop)).await;
    delete(url, async |channel| {
        drop(channel.exchange_delete("gone".into(), Default::default()).await);
    })
    .await;
    until(&bus, "leveret.delayed-events", 2 * MESSAGES).await;
    good_comes(&bus, 3).await;

    bus.send("full", &text).await.expect("there is room for one");
    put_off(async || bus.send("full", &text).delay(DELAY).await.map(drop)).await;
    good_comes(&bus, 4).await;
    bus.close().await;
}

/// A thousand of them, for a day.
#[tokio::test(start_paused = true)]
async fn the_last_events_that_were_put_off_are_kept_for_a_day() {
    let bus = Bus::connect("memory:").await.expect("a broker");
    let mut tickets = Vec::new();
    for number in 0..1_010 {
        let text = Text(number.to_string());
        let publish = bus.publish(&text).subject("to.nobody").delay(DELAY);
        tickets.push(publish.pipelined().await.expect("it is sent"));
    }
    for ticket in tickets {
        ticket.await.expect("it is put off");
    }
    let copies = async || bus.queue("leveret.delayed-events").await.unwrap().unwrap().messages;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(copies().await, 1_000);
    sleep(Duration::from_secs(24 * 3_600)).await;
    assert_eq!(copies().await, 0);
    bus.close().await;
}

async fn put_off(send: impl AsyncFn() -> Result<(), PublishError>) {
    for _ in 0..MESSAGES {
        send().await.expect("it is put off");
    }
}

/// One more message comes, in time.
async fn good_comes(bus: &Bus, number: usize) {
    sleep(DELAY * 2).await;
    bus.send("good", &Text::from("good")).delay(DELAY).await.expect("it is put off");
    until(bus, "good", number).await;
}

async fn until(bus: &Bus, queue: &str, messages: usize) {
    let mut last = None;
    let waiting = async {
        while last.is_none_or(|last: u64| last < messages as u64) {
            sleep(Duration::from_millis(20)).await;
            last = bus.queue(queue).await.expect("an answer").map(|status| status.messages);
        }
    };
    let come = timeout(PATIENCE, waiting).await;
    assert!(come.is_ok(), "{last:?} messages in {queue}, not {messages}");
}

/// As somebody else does.
async fn delete(url: &str, what: impl AsyncFnOnce(&lapin::Channel)) {
    let options = lapin::ConnectionProperties::default();
    let url = url.split('?').next().unwrap_or_default();
    let connection = lapin::Connection::connect(url, options).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    what(&channel).await;
    connection.close(200, "done".into()).await.expect("a goodbye");
}

//! A look at all that the queues hold, which changes little.

use super::Record;
use super::body::Id;
use super::ledger::QUEUES;
use crate::amqp::{connect, consume, depth, next, soon};
use lapin::options::BasicAckOptions;
use lapin::{Channel, Connection};

/// How many messages stay in each queue from round to round, so that old ones are among those
/// that must survive, and the rounds do not get longer and longer.
const KEPT: usize = 300;

/// All messages of a queue, held without an acknowledgement.
struct Held {
    channel: Channel,
    ids: Vec<Id>,
    tags: Vec<u64>,
}

/// Compares the queues with the record, and acknowledges most of what they hold.
pub(super) async fn inspect(url: &str, record: &Record) {
    let connection = connect(url).await;
    let mut held = Vec::new();
    for queue in 0..QUEUES.len() {
        held.push(hold(&connection, queue, record).await);
    }
    let contents = std::array::from_fn(|queue| held[queue].ids.clone());
    record.lock().compare(&contents);
    for (queue, held) in held.into_iter().enumerate() {
        thin(queue, held, record).await;
    }
    soon("connection.close", connection.close(200, "bye".into())).await.expect("close");
}

async fn hold(connection: &Connection, queue: usize, record: &Record) -> Held {
    let channel = connection.create_channel().await.expect("a channel");
    let count = depth(&channel, QUEUES[queue]).await;
    let mut held = Held { channel, ids: Vec::new(), tags: Vec::new() };
    let mut consumer = consume(&held.channel, QUEUES[queue]).await;
    for _ in 0..count {
        let delivery = next(&mut consumer).await;
        if let Some(id) = record.lock().receive(queue, &delivery.data) {
            held.ids.push(id);
            held.tags.push(delivery.delivery_tag);
        }
    }
    assert_eq!(depth(&held.channel, QUEUES[queue]).await, 0, "{} holds more", QUEUES[queue]);
    held
}

async fn thin(queue: usize, held: Held, record: &Record) {
    let surplus = held.ids.len().saturating_sub(KEPT);
    if surplus > 0 {
        for id in &held.ids[..surplus] {
            record.lock().settle(queue, *id);
        }
        let all = BasicAckOptions { multiple: true };
        held.channel.basic_ack(held.tags[surplus - 1], all).await.expect("acknowledge");
    }
    // What is left goes back to its place.
    soon("channel.close", held.channel.close(200, "bye".into())).await.expect("close");
}

//! A look at all that the queues hold, which changes little.

use super::Record;
use super::body::body;
use super::ledger::Found;
use super::plan::QUEUES;
use crate::amqp::{connect, consume, depth, persistent, soon};
use lapin::options::{BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection, Consumer, Result};
use std::array;
use std::time::Duration;
use tokio::time::timeout;
use tokio_stream::StreamExt;

/// How many messages stay in each queue from round to round, so that old ones are among those
/// that must survive, and the rounds do not get longer and longer.
const KEPT: usize = 200;
/// How often in turn nothing has to come from anywhere for all to be there. Messages that die
/// while we look are nowhere for a moment.
const QUIET: usize = 3;

/// All messages of a queue, held without an acknowledgement: what is held does not die.
struct Held {
    queue: usize,
    channel: Channel,
    consumer: Consumer,
    found: Vec<Found>,
    tags: Vec<u64>,
}

/// A look that is not over: it holds all messages there are.
pub(super) struct Inspection {
    connection: Connection,
    held: Vec<Held>,
}

/// Compares the queues with the record, and acknowledges most of what they hold.
pub(super) async fn inspect(url: &str, record: &Record) {
    let Inspection { connection, held } = begin(url, record).await;
    for held in held {
        held.thin(record, KEPT).await.expect("acknowledge");
    }
    keep(&connection, record).await;
    soon("connection.close", connection.close(200, "bye".into())).await.expect("close");
}

/// Compares the queues with the record.
pub(super) async fn begin(url: &str, record: &Record) -> Inspection {
    let connection = connect(url).await;
    let mut held = Vec::new();
    for (queue, name) in QUEUES.iter().enumerate() {
        let channel = connection.create_channel().await.expect("a channel");
        let consumer = consume(&channel, name).await;
        held.push(Held { queue, channel, consumer, found: Vec::new(), tags: Vec::new() });
    }
    let mut quiet = 0;
    while quiet < QUIET {
        quiet += 1;
        for held in &mut held {
            if held.take(record).await {
                quiet = 0;
            }
        }
    }
    let contents = array::from_fn(|queue| held[queue].found.clone());
    record.lock().compare(&contents);
    Inspection { connection, held }
}

impl Inspection {
    /// Acknowledges all there is, or what it can before the broker ends.
    pub(super) async fn clear(self, record: Record) {
        for held in self.held {
            if held.thin(&record, 0).await.is_err() {
                break;
            }
        }
        drop(self.connection);
    }
}

impl Held {
    /// Takes what has come; says whether that was anything, or there is more to come.
    async fn take(&mut self, record: &Record) -> bool {
        // What was delivered before the answer has come before it.
        let mut more = depth(&self.channel, QUEUES[self.queue]).await > 0;
        while let Ok(delivery) = timeout(Duration::ZERO, self.consumer.next()).await {
            let delivery = delivery.expect("a delivery").expect("no error");
            let headers = delivery.properties.headers().as_ref();
            let found = record.lock().receive(self.queue, &delivery.data, headers);
            if let Some(found) = found {
                self.found.push(found);
                self.tags.push(delivery.delivery_tag);
            }
            more = true;
        }
        more
    }

    /// Acknowledges all but so many.
    async fn thin(self, record: &Record, kept: usize) -> Result<()> {
        let surplus = self.found.len().saturating_sub(kept);
        if surplus > 0 {
            for found in &self.found[..surplus] {
                record.lock().settle(self.queue, found.id);
            }
            let all = BasicAckOptions { multiple: true };
            self.channel.basic_ack(self.tags[surplus - 1], all).await?;
        }
        // What is left goes back to its place.
        soon("channel.close", self.channel.close(200, "bye".into())).await
    }
}

/// Returns when what we saw is on the disk, dead letters of a moment ago too: a message that is
/// confirmed now is behind them in the log.
async fn keep(connection: &Connection, record: &Record) {
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let id = record.lock().attempt(0);
    let body = body(id, record.lock().seed());
    let (options, key) = (BasicPublishOptions::default(), QUEUES[0].into());
    let sent = channel.basic_publish("".into(), key, options, &body, persistent()).await;
    let confirm = soon("a confirm", sent.expect("publish")).await.expect("a confirm");
    assert_eq!(confirm, Confirmation::Ack(None));
    record.lock().confirm(id);
    soon("channel.close", channel.close(200, "bye".into())).await.expect("close");
}

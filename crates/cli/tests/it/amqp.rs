//! What the tests in Rust need from an AMQP client.

use lapin::options::{BasicConsumeOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use std::time::Duration;
use tokio::time::timeout;
use tokio_stream::StreamExt;

/// How long a broker may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// The same future with a deadline.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = timeout(LIMIT, future).await;
    result.unwrap_or_else(|_| panic!("{what} takes more than {LIMIT:?}"))
}

/// A connection, made without a second try.
pub(crate) async fn connect(url: &str) -> Connection {
    let connection = Connection::connect(url, ConnectionProperties::default());
    soon("a connection", connection).await.expect("connect")
}

/// A consumer with manual acknowledgements.
pub(crate) async fn consume(channel: &Channel, queue: &str) -> Consumer {
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(queue.into(), "".into(), options, arguments);
    soon("basic.consume", consumer).await.expect("consume")
}

/// The consumer's next delivery.
pub(crate) async fn next(consumer: &mut Consumer) -> lapin::message::Delivery {
    soon("a delivery", consumer.next()).await.expect("a delivery").expect("no error")
}

/// How many messages wait in a queue.
pub(crate) async fn depth(channel: &Channel, queue: &str) -> u32 {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let found = channel.queue_declare(queue.into(), options, FieldTable::default());
    soon("queue.declare", found).await.expect("find the queue").message_count()
}

/// Makes sure that the queue does not exist.
pub(crate) async fn delete(channel: &Channel, queue: &str) {
    let deleted = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    soon("queue.delete", deleted).await.expect("delete the queue");
}

/// The properties of a message that survives.
pub(crate) fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

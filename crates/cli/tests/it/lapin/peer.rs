//! A client, and a message with all that one can have.

use crate::amqp::{connect, consume, next, persistent, soon};
use crate::broker::Broker;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

pub(super) const QUEUE: &str = "check.lapin";
pub(super) const ALL: BasicAckOptions = BasicAckOptions { multiple: true };

/// Every type that a field table can hold.
fn headers() -> FieldTable {
    let nothing = || FieldArray::from(vec![AMQPValue::Boolean(true), AMQPValue::Void]);
    let mut inner = FieldTable::default();
    inner.insert("er".into(), AMQPValue::FieldArray(nothing()));
    let mut table = FieldTable::default();
    for (name, value) in [
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-7)),
        ("u8", AMQPValue::ShortShortUInt(250)),
        ("i16", AMQPValue::ShortInt(-300)),
        ("u16", AMQPValue::ShortUInt(65_000)),
        ("i32", AMQPValue::LongInt(-70_000)),
        ("u32", AMQPValue::LongUInt(u32::MAX)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("f32", AMQPValue::Float(0.5)),
        ("f64", AMQPValue::Double(0.1)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("text", AMQPValue::LongString("h\u{e9}llo".into())),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("array", AMQPValue::FieldArray(nothing())),
        ("table", AMQPValue::FieldTable(inner)),
        ("void", AMQPValue::Void),
    ] {
        table.insert(name.into(), value);
    }
    table
}

/// Every property that a message can have.
pub(super) fn properties() -> BasicProperties {
    persistent()
        .with_content_type("application/json".into())
        .with_content_encoding("identity".into())
        .with_headers(headers())
        .with_priority(3)
        .with_correlation_id("c-1".into())
        .with_reply_to("nobody".into())
        .with_expiration("600000".into())
        .with_message_id("m-1".into())
        .with_timestamp(1_700_000_000)
        .with_type("greeting".into())
        .with_user_id("guest".into())
        .with_app_id("check".into())
        .with_cluster_id("x".into())
}

/// A connection with one channel, which wants confirms.
pub(super) struct Peer {
    pub(super) connection: Connection,
    pub(super) channel: Channel,
}

impl Peer {
    pub(super) async fn open(broker: &Broker) -> Peer {
        Peer::on(connect(broker.url()).await).await
    }

    pub(super) async fn on(connection: Connection) -> Peer {
        let channel = soon("channel.open", connection.create_channel()).await.expect("a channel");
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        soon("confirm.select", confirms).await.expect("confirms");
        Peer { connection, channel }
    }

    /// Publishes to a queue, as mandatory.
    pub(super) async fn publish(
        &self,
        queue: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Confirmation {
        self.publish_to("", queue, body, properties, true).await
    }

    pub(super) async fn publish_to(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
        mandatory: bool,
    ) -> Confirmation {
        let options = BasicPublishOptions { mandatory, ..Default::default() };
        let (exchange, key) = (exchange.into(), key.into());
        let sent = self.channel.basic_publish(exchange, key, options, body, properties);
        let confirm = soon("basic.publish", sent).await.expect("publish");
        soon("a confirm", confirm).await.expect("a confirm")
    }

    pub(super) async fn publish_numbers(&self, count: u32) -> Vec<Vec<u8>> {
        let bodies: Vec<_> = (0..count).map(|n| n.to_string().into_bytes()).collect();
        for body in &bodies {
            assert_eq!(self.publish(QUEUE, body, persistent()).await, Confirmation::Ack(None));
        }
        bodies
    }

    /// What a new consumer gets, unacknowledged. It is cancelled again.
    pub(super) async fn take(&self, count: usize) -> Vec<Delivery> {
        let mut consumer = consume(&self.channel, QUEUE).await;
        let mut found = Vec::new();
        while found.len() < count {
            found.push(next(&mut consumer).await);
        }
        let cancelled = self.channel.basic_cancel(consumer.tag(), Default::default());
        soon("basic.cancel", cancelled).await.expect("cancel");
        found
    }

    pub(super) async fn prefetch(&self, count: u16) {
        let qos = self.channel.basic_qos(count, BasicQosOptions::default());
        soon("basic.qos", qos).await.expect("a limit");
    }

    pub(super) async fn close(self) {
        soon("connection.close", self.connection.close(200, "bye".into())).await.expect("close");
    }
}

pub(super) fn bodies(deliveries: &[Delivery]) -> Vec<Vec<u8>> {
    deliveries.iter().map(|delivery| delivery.data.clone()).collect()
}

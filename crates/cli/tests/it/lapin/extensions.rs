//! What RabbitMQ adds to AMQP, and the parts of AMQP that few use.

use super::peer::Peer;
use crate::amqp::{consume, delete, next, persistent, soon};
use crate::broker::Broker;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicRejectOptions,
    ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};
use std::time::Duration;
use tokio::time::sleep;
use tokio_stream::StreamExt;

const REPLIES: &str = "amq.rabbitmq.reply-to";
const ACK: Confirmation = Confirmation::Ack(None);
const REJECT: BasicRejectOptions = BasicRejectOptions { requeue: false };

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

/// The arguments of a queue whose dead go to the queue `key`, and others.
fn dead_letters_to(key: &str, others: &[(&str, AMQPValue)]) -> FieldTable {
    let mut arguments = table(others);
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text(key));
    arguments
}

/// A broker and a client of it.
struct Stage {
    peer: Peer,
    broker: Broker,
}

impl Stage {
    async fn open() -> Stage {
        let broker = Broker::start();
        Stage { peer: Peer::open(&broker).await, broker }
    }

    fn channel(&self) -> &Channel {
        &self.peer.channel
    }

    /// Makes an empty durable queue.
    async fn queue(&self, name: &str, arguments: FieldTable) {
        delete(self.channel(), name).await;
        let durable = QueueDeclareOptions::durable();
        let declared = self.channel().queue_declare(name.into(), durable, arguments);
        soon("queue.declare", declared).await.expect("a queue");
    }

    /// Makes an exchange without bindings.
    async fn exchange(&self, name: &str, kind: ExchangeKind, arguments: FieldTable) {
        let gone = self.channel().exchange_delete(name.into(), Default::default());
        soon("exchange.delete", gone).await.expect("delete the exchange");
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let declared = self.channel().exchange_declare(name.into(), kind, options, arguments);
        soon("exchange.declare", declared).await.expect("an exchange");
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str, arguments: FieldTable) {
        let (queue, exchange, key) = (queue.into(), exchange.into(), key.into());
        let bound = self.channel().queue_bind(queue, exchange, key, Default::default(), arguments);
        soon("queue.bind", bound).await.expect("a binding");
    }

    async fn publish(&self, exchange: &str, key: &str, body: &str, properties: BasicProperties) {
        let body = body.as_bytes();
        let confirm = self.peer.publish_to(exchange, key, body, properties, false).await;
        assert_eq!(confirm, ACK);
    }

    async fn get(&self, queue: &str) -> Delivery {
        get(self.channel(), queue, true).await
    }

    /// The bodies of all that waits in the queue.
    async fn drain(&self, queue: &str) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(message) = get_now(self.channel(), queue, true).await {
            found.push(body(&message));
        }
        found
    }

    async fn close(self) {
        self.peer.close().await;
    }
}

async fn get_now(channel: &Channel, queue: &str, no_ack: bool) -> Option<Delivery> {
    let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack });
    soon("basic.get", got).await.expect("get").map(|message| message.delivery)
}

/// The queue's next message; waits for it.
async fn get(channel: &Channel, queue: &str, no_ack: bool) -> Delivery {
    let found = async {
        loop {
            if let Some(found) = get_now(channel, queue, no_ack).await {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    soon("a message", found).await
}

fn body(message: &Delivery) -> String {
    String::from_utf8(message.data.clone()).expect("text")
}

fn header<'a>(message: &'a Delivery, name: &str) -> &'a AMQPValue {
    let headers = message.properties.headers().as_ref().expect("headers");
    headers.inner().get(name).unwrap_or_else(|| panic!("no {name} in {headers:?}"))
}

/// The entries of the x-death header, each in one line.
fn deaths(message: &Delivery) -> Vec<String> {
    let AMQPValue::FieldArray(entries) = header(message, "x-death") else {
        panic!("x-death is no array");
    };
    entries.as_slice().iter().map(death).collect()
}

fn death(entry: &AMQPValue) -> String {
    let AMQPValue::FieldTable(entry) = entry else { panic!("{entry:?} is no table") };
    let field = |name| entry.inner().get(name).unwrap_or_else(|| panic!("{name} in {entry:?}"));
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => text.to_string(),
        other => panic!("{other:?} is no text"),
    };
    let (reason, queue) = (text(field("reason")), text(field("queue")));
    let (AMQPValue::LongLongInt(count), AMQPValue::FieldArray(keys), AMQPValue::Timestamp(_)) =
        (field("count"), field("routing-keys"), field("time"))
    else {
        panic!("the types in {entry:?}");
    };
    let keys: Vec<String> = keys.as_slice().iter().map(text).collect();
    let expiration = entry.inner().get("original-expiration").map(text);
    let expiration = expiration.map(|value| format!(" within {value}")).unwrap_or_default();
    let exchange = text(field("exchange"));
    format!("{reason} {count}x in {queue}{expiration}, sent to '{exchange}' {keys:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_without_a_queue() {
    let stage = Stage::open().await;
    let queue = "check.lapin.call";
    stage.queue(queue, FieldTable::default()).await;
    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let none = FieldTable::default();
    let consumed = stage.channel().basic_consume(REPLIES.into(), "".into(), no_ack, none);
    let mut replies = soon("basic.consume", consumed).await.expect("consume");
    let call = persistent().with_reply_to(REPLIES.into()).with_correlation_id("42".into());
    stage.publish("", queue, "hi", call).await;

    let server = Peer::open(&stage.broker).await;
    let request = get(&server.channel, queue, true).await;
    let address = request.properties.reply_to().as_ref().expect("an address").as_str();
    assert!(address.starts_with(&format!("{REPLIES}.")), "{address}");
    let id = request.properties.correlation_id().clone().expect("an id");
    let answer = BasicProperties::default().with_correlation_id(id);
    let sent = server.publish_to("", address, b"re: hi", answer, false).await;
    assert_eq!(sent, ACK);

    let reply = next(&mut replies).await;
    assert_eq!(reply.data, b"re: hi");
    assert_eq!(reply.properties.correlation_id().as_ref().expect("an id").as_str(), "42");
    server.close().await;
    delete(stage.channel(), queue).await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_message_goes_where_the_dead_go() {
    let stage = Stage::open().await;
    let (exchange, queue, dead) = ("check.lapin.dlx", "check.lapin.mortal", "check.lapin.dead");
    stage.exchange(exchange, ExchangeKind::Direct, FieldTable::default()).await;
    stage.queue(dead, FieldTable::default()).await;
    stage.bind(dead, exchange, "dead", FieldTable::default()).await;
    let to = [("x-dead-letter-exchange", exchange), ("x-dead-letter-routing-key", "dead")];
    stage.queue(queue, table(&to.map(|(name, value)| (name, text(value))))).await;

    let properties = persistent().with_headers(table(&[("kept", AMQPValue::LongInt(1))]));
    stage.publish("", queue, "bad", properties).await;
    let message = get(stage.channel(), queue, false).await;
    assert!(message.reject(REJECT).await.expect("reject"));
    let message = stage.get(dead).await;
    assert_eq!(body(&message), "bad");
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), (exchange, "dead"));
    let rejected = format!("rejected 1x in {queue}, sent to '' [{queue:?}]");
    assert_eq!(deaths(&message), [rejected]);
    assert_eq!(*header(&message, "kept"), AMQPValue::LongInt(1));
    assert_eq!(*header(&message, "x-first-death-reason"), text("rejected"));
    assert_eq!(*header(&message, "x-first-death-queue"), text(queue));
    assert_eq!(*header(&message, "x-first-death-exchange"), text(""));
    stage.close().await;
}

/// The usual way to try again later: two queues that are each other's place for the dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_message_comes_back_later() {
    let stage = Stage::open().await;
    let (work, wait) = ("check.lapin.work", "check.lapin.wait");
    stage.queue(work, dead_letters_to(wait, &[])).await;
    let ttl = [("x-message-ttl", AMQPValue::LongInt(50))];
    stage.queue(wait, dead_letters_to(work, &ttl)).await;
    stage.publish("", work, "task", persistent()).await;
    let mut consumer = consume(stage.channel(), work).await;
    for count in 0..3 {
        let message = next(&mut consumer).await;
        if count > 0 {
            // The newest comes first.
            let expired = format!("expired {count}x in {wait}, sent to '' [{wait:?}]");
            let rejected = format!("rejected {count}x in {work}, sent to '' [{work:?}]");
            assert_eq!(deaths(&message), [expired, rejected]);
        }
        if count < 2 {
            assert!(message.reject(REJECT).await.expect("reject"));
        } else {
            assert!(message.ack(BasicAckOptions::default()).await.expect("acknowledge"));
        }
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_expire() {
    let stage = Stage::open().await;
    let (queue, dead) = ("check.lapin.brief", "check.lapin.expired");
    stage.queue(dead, FieldTable::default()).await;
    let ttl = [("x-message-ttl", AMQPValue::LongInt(600_000))];
    stage.queue(queue, dead_letters_to(dead, &ttl)).await;
    // The shorter of the two counts.
    stage.publish("", queue, "brief", persistent().with_expiration("50".into())).await;
    stage.publish("", queue, "kept", persistent().with_expiration("900000".into())).await;
    let message = stage.get(dead).await;
    assert_eq!(body(&message), "brief");
    // Or it would expire again.
    assert_eq!(*message.properties.expiration(), None);
    let expired = format!("expired 1x in {queue} within 50, sent to '' [{queue:?}]");
    assert_eq!(deaths(&message), [expired]);
    assert_eq!(stage.drain(queue).await, ["kept"]);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_has_a_maximum_length() {
    let stage = Stage::open().await;
    let (queue, dead) = ("check.lapin.short", "check.lapin.overflow");
    stage.queue(dead, FieldTable::default()).await;
    let most = [("x-max-length", AMQPValue::LongInt(3))];
    stage.queue(queue, dead_letters_to(dead, &most)).await;
    for body in ["0", "1", "2", "3", "4"] {
        stage.publish("", queue, body, persistent()).await;
    }
    for expected in ["0", "1"] {
        let message = stage.get(dead).await;
        assert_eq!(body(&message), expected);
        assert_eq!(deaths(&message), [format!("maxlen 1x in {queue}, sent to '' [{queue:?}]")]);
    }
    assert_eq!(stage.drain(queue).await, ["2", "3", "4"]);

    let most = [("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", text("reject-publish"))];
    stage.queue(queue, table(&most)).await;
    assert_eq!(stage.peer.publish(queue, b"first", persistent()).await, ACK);
    let refused = stage.peer.publish(queue, b"second", persistent()).await;
    assert_eq!(refused, Confirmation::Nack(None));
    assert_eq!(stage.drain(queue).await, ["first"]);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn higher_priorities_come_first() {
    let stage = Stage::open().await;
    let queue = "check.lapin.priority";
    stage.queue(queue, table(&[("x-max-priority", AMQPValue::LongInt(5))])).await;
    for (body, priority) in [("a", 1), ("b", 5), ("c", 3), ("e", 5), ("f", 9), ("g", 1)] {
        stage.publish("", queue, body, persistent().with_priority(priority)).await;
    }
    stage.publish("", queue, "none", persistent()).await;
    // None is 0, what is above the most is the most, equals keep their order.
    assert_eq!(stage.drain(queue).await, ["b", "e", "f", "c", "a", "g", "none"]);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_are_bound_to_exchanges() {
    let stage = Stage::open().await;
    let (source, target, queue) = ("check.lapin.from", "check.lapin.to", "check.lapin.end");
    stage.exchange(source, ExchangeKind::Topic, FieldTable::default()).await;
    stage.exchange(target, ExchangeKind::Fanout, FieldTable::default()).await;
    stage.queue(queue, FieldTable::default()).await;
    stage.bind(queue, target, "", FieldTable::default()).await;
    let names: [ShortString; 3] = [target.into(), source.into(), "log.#".into()];
    let [to, from, key] = names.clone();
    let bound = stage.channel().exchange_bind(to, from, key, Default::default(), table(&[]));
    soon("exchange.bind", bound).await.expect("a binding");
    stage.publish(source, "log.error", "one", persistent()).await;
    stage.publish(source, "other", "none", persistent()).await;
    let message = stage.get(queue).await;
    assert_eq!((body(&message).as_str(), message.exchange.as_str()), ("one", source));
    let [to, from, key] = names;
    let gone = stage.channel().exchange_unbind(to, from, key, Default::default(), table(&[]));
    soon("exchange.unbind", gone).await.expect("no binding");
    stage.publish(source, "log.error", "none", persistent()).await;
    assert!(stage.drain(queue).await.is_empty());
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_decide_the_way() {
    let stage = Stage::open().await;
    let (exchange, queue) = ("check.lapin.headers", "check.lapin.matched");
    let kind = |value| ("kind", text(value));
    let pages = |count| ("pages", AMQPValue::LongInt(count));
    for (how, expected) in [("all", vec!["both"]), ("any", vec!["both", "kind", "pages"])] {
        stage.exchange(exchange, ExchangeKind::Headers, FieldTable::default()).await;
        stage.queue(queue, FieldTable::default()).await;
        let wanted = table(&[("x-match", text(how)), kind("report"), pages(3)]);
        stage.bind(queue, exchange, "", wanted).await;
        for (body, headers) in [
            ("both", table(&[kind("report"), pages(3), ("more", AMQPValue::Boolean(true))])),
            ("kind", table(&[kind("report"), pages(4)])),
            ("pages", table(&[pages(3)])),
            ("neither", table(&[kind("log")])),
        ] {
            stage.publish(exchange, "", body, persistent().with_headers(headers)).await;
        }
        stage.publish(exchange, "", "no headers", persistent()).await;
        assert_eq!(stage.drain(queue).await, expected);
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_binding_wants_goes_to_the_alternate_exchange() {
    let stage = Stage::open().await;
    let (exchange, rest) = ("check.lapin.first", "check.lapin.rest");
    let (queue, other) = ("check.lapin.known", "check.lapin.unknown");
    stage.exchange(rest, ExchangeKind::Fanout, FieldTable::default()).await;
    let arguments = table(&[("alternate-exchange", text(rest))]);
    stage.exchange(exchange, ExchangeKind::Direct, arguments).await;
    for queue in [queue, other] {
        stage.queue(queue, FieldTable::default()).await;
    }
    stage.bind(queue, exchange, "known", FieldTable::default()).await;
    stage.bind(other, rest, "", FieldTable::default()).await;
    for key in ["known", "unknown"] {
        // Nothing comes back.
        let sent = stage.peer.publish_to(exchange, key, key.as_bytes(), persistent(), true).await;
        assert_eq!(sent, ACK);
    }
    assert_eq!(stage.drain(queue).await, ["known"]);
    let message = stage.get(other).await;
    assert_eq!((body(&message).as_str(), message.exchange.as_str()), ("unknown", exchange));
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_all_or_nothing() {
    let stage = Stage::open().await;
    let queue = "check.lapin.tx";
    stage.queue(queue, FieldTable::default()).await;
    let tx = soon("channel.open", stage.peer.connection.create_channel()).await.expect("open");
    soon("tx.select", tx.tx_select()).await.expect("select");
    let publish = async |body: &[u8]| {
        let options = Default::default();
        let sent = tx.basic_publish("".into(), queue.into(), options, body, persistent());
        soon("basic.publish", sent).await.expect("publish");
    };
    publish(b"undone").await;
    soon("tx.rollback", tx.tx_rollback()).await.expect("roll back");
    publish(b"one").await;
    publish(b"two").await;
    assert!(get_now(stage.channel(), queue, true).await.is_none());
    soon("tx.commit", tx.tx_commit()).await.expect("commit");

    let message = get(&tx, queue, false).await;
    assert_eq!(body(&message), "one");
    let tag = message.delivery_tag;
    tx.basic_ack(tag, BasicAckOptions::default()).await.expect("acknowledge");
    soon("tx.rollback", tx.tx_rollback()).await.expect("roll back");
    // It is to be acknowledged as if nothing had happened.
    tx.basic_ack(tag, BasicAckOptions::default()).await.expect("acknowledge");
    soon("tx.commit", tx.tx_commit()).await.expect("commit");
    let message = get(&tx, queue, false).await;
    assert_eq!(body(&message), "two");
    assert!(message.ack(BasicAckOptions::default()).await.expect("acknowledge"));
    // Without a commit it comes back.
    soon("channel.close", tx.close(200, "bye".into())).await.expect("close");
    let message = stage.get(queue).await;
    assert!(message.redelivered);
    assert_eq!(body(&message), "two");
    assert!(stage.drain(queue).await.is_empty());
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_hears_of_the_end_of_its_queue() {
    let stage = Stage::open().await;
    let queue = "check.lapin.doomed";
    stage.queue(queue, FieldTable::default()).await;
    let connection = &stage.peer.connection;
    let other = soon("channel.open", connection.create_channel()).await.expect("open");
    let mut consumer = consume(&other, queue).await;
    delete(stage.channel(), queue).await;
    assert!(soon("the end", consumer.next()).await.is_none());
    // Only the consumer is gone.
    let exclusive = QueueDeclareOptions::exclusive();
    let declared = other.queue_declare("".into(), exclusive, FieldTable::default());
    soon("queue.declare", declared).await.expect("a queue");
    stage.close().await;
}

//! lapin, the client in Rust.

mod extensions;
mod peer;
mod wire;

use crate::amqp::{consume, delete, depth, next, persistent, soon};
use crate::broker::Broker;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicRejectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties, Consumer};
use peer::{ALL, Peer, QUEUE, bodies, properties};
use tokio_stream::StreamExt;
use wire::Wire;

/// How many at the front are marked as redelivered; none behind them may be.
fn redelivered(deliveries: &[Delivery]) -> usize {
    let count = deliveries.iter().take_while(|delivery| delivery.redelivered).count();
    assert!(deliveries[count..].iter().all(|delivery| !delivery.redelivered));
    count
}

/// A broker with an empty durable queue, and a client of it.
async fn prepare() -> (Broker, Peer) {
    let broker = Broker::start();
    let peer = Peer::open(&broker).await;
    delete(&peer.channel, QUEUE).await;
    let durable = QueueDeclareOptions::durable();
    let declared = peer.channel.queue_declare(QUEUE.into(), durable, FieldTable::default());
    soon("queue.declare", declared).await.expect("a queue");
    (broker, peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_comes_as_it_went() {
    let (_broker, peer) = prepare().await;
    let sent = [b"".to_vec(), vec![0, 1], vec![b'x'; 300_000], "h\u{e9}".into()];
    for body in &sent {
        let confirm = peer.publish(QUEUE, body, properties()).await;
        assert_eq!(confirm, Confirmation::Ack(None));
    }
    let deliveries = peer.take(sent.len()).await;
    assert_eq!(bodies(&deliveries), sent);
    for delivery in &deliveries {
        assert_eq!(delivery.properties, properties());
        assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("", QUEUE));
        assert!(!delivery.redelivered);
    }
    assert!(deliveries[3].ack(ALL).await.expect("acknowledge"));
    peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requeued_messages_keep_their_place() {
    let (_broker, peer) = prepare().await;
    let sent = peer.publish_numbers(100).await;
    peer.prefetch(10).await;
    let first = peer.take(10).await;
    assert_eq!(bodies(&first), sent[..10]);
    assert!(first[0].ack(BasicAckOptions::default()).await.expect("acknowledge"));
    assert!(first[1].reject(BasicRejectOptions { requeue: false }).await.expect("reject"));
    let requeue = BasicNackOptions { multiple: true, requeue: true };
    assert!(first[9].nack(requeue).await.expect("requeue"));
    peer.prefetch(0).await;
    let again = peer.take(98).await;
    assert_eq!(bodies(&again), sent[2..]);
    assert_eq!(redelivered(&again), 8);
    assert!(again[97].ack(ALL).await.expect("acknowledge"));
    peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unroutable_mandatory_message_comes_back() {
    let (_broker, peer) = prepare().await;
    let confirm = peer.publish("check.nowhere", b"lost?", properties()).await;
    assert!(confirm.is_ack());
    let returned = confirm.take_message().expect("the message comes back");
    assert_eq!((returned.reply_code, returned.reply_text.as_str()), (312, "NO_ROUTE"));
    assert_eq!(returned.delivery.routing_key.as_str(), "check.nowhere");
    assert_eq!(returned.delivery.data, b"lost?");
    assert_eq!(returned.delivery.properties, properties());
    peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_fetches_one_message() {
    let (_broker, peer) = prepare().await;
    let get = async |no_ack| {
        let got = peer.channel.basic_get(QUEUE.into(), BasicGetOptions { no_ack });
        soon("basic.get", got).await.expect("get")
    };
    assert!(get(false).await.is_none());
    peer.publish_numbers(2).await;
    let one = get(false).await.expect("a message");
    assert_eq!((one.data.as_slice(), one.message_count), (b"0".as_slice(), 1));
    assert!(one.ack(BasicAckOptions::default()).await.expect("acknowledge"));
    let two = get(true).await.expect("a message");
    assert_eq!((two.data.as_slice(), two.message_count), (b"1".as_slice(), 0));
    assert!(get(false).await.is_none());
    peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_in_a_reply_queue() {
    let (broker, peer) = prepare().await;
    let exclusive = QueueDeclareOptions::exclusive();
    let declared = peer.channel.queue_declare("".into(), exclusive, FieldTable::default());
    let replies = soon("queue.declare", declared).await.expect("a queue").name().clone();
    assert!(replies.as_str().starts_with("amq.gen-"), "{replies}");
    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let consumed =
        peer.channel.basic_consume(replies.clone(), "".into(), no_ack, FieldTable::default());
    let mut answers = soon("basic.consume", consumed).await.expect("consume");

    let call = persistent().with_reply_to(replies).with_correlation_id("42".into());
    assert!(peer.publish(QUEUE, b"hi", call).await.is_ack());
    let server = Peer::open(&broker).await;
    let request = server.take(1).await.remove(0);
    let (reply_to, id) = (request.properties.reply_to(), request.properties.correlation_id());
    let answer = BasicProperties::default().with_correlation_id(id.clone().expect("an id"));
    let reply_to = reply_to.as_ref().expect("an address").as_str();
    let body = [b"re: ", request.data.as_slice()].concat();
    assert_eq!(server.publish(reply_to, &body, answer).await, Confirmation::Ack(None));
    assert!(request.ack(BasicAckOptions::default()).await.expect("acknowledge"));

    let answer = next(&mut answers).await;
    assert_eq!(answer.data, b"re: hi");
    assert_eq!(answer.properties.correlation_id().as_ref().expect("an id").as_str(), "42");
    server.close().await;
    peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_connection_gives_back_what_it_held() {
    let (broker, peer) = prepare().await;
    let sent = peer.publish_numbers(5).await;
    peer.prefetch(2).await;
    assert_eq!(bodies(&peer.take(2).await), sent[..2]);
    peer.close().await;

    let peer = Peer::open(&broker).await;
    let again = peer.take(5).await;
    assert_eq!(bodies(&again), sent);
    assert_eq!(redelivered(&again), 2);
    peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_gives_back_what_it_held() {
    let (broker, peer) = prepare().await;
    let sent = peer.publish_numbers(5).await;
    let wire = Wire::to(&broker);
    let doomed = Peer::on(wire.connect().await).await;
    doomed.prefetch(2).await;
    assert_eq!(bodies(&doomed.take(2).await), sent[..2]);
    // No close, no goodbye: as when the machine is unplugged.
    wire.cut();

    let again = peer.take(5).await;
    let mut found = bodies(&again);
    // Nothing says how soon the broker notices.
    found.sort();
    assert_eq!(found, sent);
    assert_eq!(again.iter().filter(|delivery| delivery.redelivered).count(), 2);
    assert!(again[4].ack(ALL).await.expect("acknowledge"));
    peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmed_messages_survive_restarts() {
    let Some(mut broker) = Broker::start_mortal("confirmed_messages_survive_restarts") else {
        return;
    };
    let peer = Peer::open(&broker).await;
    let durable = QueueDeclareOptions::durable();
    let declared = peer.channel.queue_declare(QUEUE.into(), durable, FieldTable::default());
    soon("queue.declare", declared).await.expect("a queue");
    assert_eq!(peer.publish(QUEUE, b"kept", properties()).await, Confirmation::Ack(None));
    let transient = BasicProperties::default();
    assert_eq!(peer.publish(QUEUE, b"lost", transient).await, Confirmation::Ack(None));
    broker.kill9();
    broker.restart();

    let peer = Peer::open(&broker).await;
    let found = peer.take(1).await.remove(0);
    assert_eq!((found.data.as_slice(), found.properties), (b"kept".as_slice(), properties()));
    assert_eq!(depth(&peer.channel, QUEUE).await, 0);
    peer.close().await;
    let status = broker.terminate();
    assert!(status.success(), "the broker ended with {status}");
    broker.restart();

    let peer = Peer::open(&broker).await;
    let found = peer.take(1).await.remove(0);
    assert_eq!(found.data, b"kept");
    assert!(found.ack(BasicAckOptions::default()).await.expect("acknowledge"));
    peer.close().await;
}

/// The consumer's next delivery, whether or not it hears that the connection was lost.
async fn next_after_recovery(peer: &Peer, consumer: &mut Consumer) -> Delivery {
    loop {
        match soon("a delivery", consumer.next()).await.expect("not the end") {
            Ok(delivery) => return delivery,
            Err(error) => {
                let recovery = peer.channel.wait_for_recovery(error);
                soon("recovery", recovery).await.expect("recover");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_recovers_from_a_kill() {
    let Some(mut broker) = Broker::start_mortal("the_client_recovers_from_a_kill") else {
        return;
    };
    let properties = ConnectionProperties::default().enable_auto_recover();
    let connection = soon("a connection", Connection::connect(broker.url(), properties)).await;
    let peer = Peer::on(connection.expect("connect")).await;
    let durable = QueueDeclareOptions::durable();
    let declared = peer.channel.queue_declare(QUEUE.into(), durable, FieldTable::default());
    soon("queue.declare", declared).await.expect("a queue");
    let sent = peer.publish_numbers(20).await;
    peer.prefetch(5).await;
    let mut consumer = consume(&peer.channel, QUEUE).await;
    for body in &sent[..5] {
        assert_eq!(next(&mut consumer).await.data, *body);
    }
    broker.kill9();
    broker.restart();

    // With the connection, the channel and the consumer that it had.
    for body in &sent {
        let delivery = next_after_recovery(&peer, &mut consumer).await;
        assert_eq!(delivery.data, *body);
        assert!(delivery.ack(BasicAckOptions::default()).await.expect("acknowledge"));
    }
    assert_eq!(peer.publish(QUEUE, b"and on", persistent()).await, Confirmation::Ack(None));
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.data, b"and on");
    assert!(delivery.ack(BasicAckOptions::default()).await.expect("acknowledge"));
    peer.close().await;
}

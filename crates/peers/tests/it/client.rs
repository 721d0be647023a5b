//! A client that puts messages into brokers and looks whether they are still there.

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// What brokers answer first.
pub(crate) fn first_bytes(stream: &mut (impl Read + Write)) -> [u8; 11] {
    stream.write_all(b"AMQP\x00\x00\x09\x01").expect("write");
    let mut answer = [0; 11];
    stream.read_exact(&mut answer).expect("an answer");
    answer
}

/// Fails unless a broker answers there: a method frame of channel 0, connection.start.
pub(crate) fn assert_greets(port: u16) {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set a time limit");
    assert_start(first_bytes(&mut socket));
}

/// Fails unless these bytes begin a method frame of channel 0 with connection.start.
pub(crate) fn assert_start(bytes: [u8; 11]) {
    assert_eq!((bytes[..3].to_vec(), &bytes[7..]), (vec![1, 0, 0], &[0, 10, 0, 10][..]));
}

async fn open(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await;
    let connection = connection.expect("connect");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// Declares a durable queue of this type and puts a persistent message in it.
pub(crate) async fn put(url: &str, kind: &'static str, queue: &str, text: &str) {
    let (connection, channel) = open(url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, arguments).await.expect("a queue");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish("".into(), queue.into(), options, text.as_bytes(), persistent);
    let confirmed = sent.await.expect("publish").await.expect("an answer");
    assert_eq!(confirmed, Confirmation::Ack(None));
    connection.close(200, "done".into()).await.expect("close");
}

/// Takes a message out of a queue.
pub(crate) async fn take(url: &str, queue: &str) -> Option<String> {
    let (connection, channel) = open(url).await;
    let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await;
    let text = got
        .expect("an answer")
        .map(|message| String::from_utf8(message.delivery.data).expect("a message of ours"));
    connection.close(200, "done".into()).await.expect("close");
    text
}

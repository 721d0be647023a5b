//! A connection driven without a socket, on a real broker.

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use leveret_amqp_wire::method::{
    BasicAck, BasicGet, BasicPublish, ChannelOpen, ConnectionOpen, ConnectionStartOk,
    ConnectionTuneOk, QueueDeclare,
};
use leveret_amqp_wire::{ContentHeader, Method, frame, write_content};
use leveret_broker::{Broker, Options, User};
use leveret_model::ShortString;
use leveret_model::limits::{BATCH_BYTES_MAX, CHANNEL_MAX, FRAME_MAX_BYTES};

use crate::connection::{Connection, Phase};

/// A client that has opened channel 1 and queue `q`.
struct Client {
    connection: Connection,
    broker: Broker,
    _directory: tempfile::TempDir,
}

/// What the client is told: a method, or a body.
#[derive(Debug, PartialEq)]
enum Told {
    Method(Method),
    Body(Vec<u8>),
}

impl Client {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let user = User { name: "u".into(), password: "p".into(), loopback_only: true };
        let options = Options { data_dir: directory.path().to_owned(), users: vec![user] };
        let broker = Broker::open(options).unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let connection = Connection::new(broker.clone(), peer);
        let mut client = Client { connection, broker, _directory: directory };
        client.send(&frame::PROTOCOL_HEADER);
        let mechanism = ShortString::from_static("PLAIN");
        let response = b"\0u\0p".to_vec();
        client.say(0, ConnectionStartOk { mechanism, response, ..Default::default() });
        let (channel_max, frame_max) = (CHANNEL_MAX, FRAME_MAX_BYTES);
        client.say(0, ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 });
        let virtual_host = ShortString::from_static("/");
        client.say(0, ConnectionOpen { virtual_host, ..Default::default() });
        client.say(1, ChannelOpen::default());
        client.say(1, QueueDeclare { queue: ShortString::from_static("q"), ..Default::default() });
        assert_eq!(client.connection.phase, Phase::Running);
        client
    }

    /// Sends bytes in one go; the answers.
    fn send(&mut self, input: &[u8]) -> Vec<Told> {
        let mut out = Vec::new();
        assert_eq!(self.connection.receive(input, &mut out), input.len());
        let mut told = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while let Some(session) = &self.connection.session
            && session.poll_outbound(&mut context, &mut told) == Poll::Ready(())
        {
            for outbound in told.drain(..) {
                self.connection.tell(&outbound, &mut out);
            }
        }
        self.connection.write_confirms(&mut out);
        parsed(&out)
    }

    fn say(&mut self, channel: u16, method: impl Into<Method>) -> Vec<Told> {
        let mut bytes = Vec::new();
        method.into().frame(channel, &mut bytes);
        self.send(&bytes)
    }
}

fn parsed(mut input: &[u8]) -> Vec<Told> {
    let mut told = Vec::new();
    while let Some((frame, used)) = frame::parse(input, FRAME_MAX_BYTES).unwrap() {
        match (frame.kind, told.last_mut()) {
            (frame::METHOD, _) => told.push(Told::Method(Method::decode(frame.payload).unwrap())),
            (frame::BODY, Some(Told::Body(body))) => body.extend_from_slice(frame.payload),
            (frame::HEADER, _) => {
                ContentHeader::parse(frame.payload).unwrap();
                told.push(Told::Body(Vec::new()));
            }
            _ => panic!("a frame out of place"),
        }
        input = &input[used..];
    }
    told
}

#[test]
fn what_one_read_brings_is_carried_out_in_batches_of_bounded_size() {
    const BODY_BYTES: usize = 1024 * 1024;
    let count = BATCH_BYTES_MAX / BODY_BYTES * 2 + 3;
    let mut client = Client::new();
    let mut bytes = Vec::new();
    for i in 0..count {
        let routing_key = ShortString::from_static("q");
        Method::from(BasicPublish { routing_key, ..Default::default() }).frame(1, &mut bytes);
        let body = vec![u8::try_from(i).unwrap(); BODY_BYTES];
        write_content(&mut bytes, 1, &[0, 0], &body, FRAME_MAX_BYTES);
    }
    assert_eq!(client.send(&bytes), []);
    assert_eq!(client.broker.queues()[0].ready, count);
    for i in 0..count {
        let get = BasicGet { queue: ShortString::from_static("q"), ..Default::default() };
        let told = client.say(1, get);
        let [Told::Method(Method::BasicGetOk(got)), Told::Body(body)] = &told[..] else {
            panic!("{told:?}")
        };
        assert!(body.len() == BODY_BYTES && body.iter().all(|byte| usize::from(*byte) == i));
        let delivery_tag = got.delivery_tag;
        assert_eq!(client.say(1, BasicAck { delivery_tag, multiple: false }), []);
    }
}

#[test]
fn frames_may_come_in_any_pieces() {
    let mut client = Client::new();
    let mut bytes = Vec::new();
    let routing_key = ShortString::from_static("q");
    Method::from(BasicPublish { routing_key, ..Default::default() }).frame(1, &mut bytes);
    write_content(&mut bytes, 1, &[0, 0], b"in pieces", FRAME_MAX_BYTES);
    for piece in 1..=bytes.len() {
        let mut unread = Vec::new();
        for part in bytes.chunks(piece) {
            unread.extend_from_slice(part);
            let used = client.connection.receive(&unread, &mut Vec::new());
            unread.drain(..used);
        }
        assert!(unread.is_empty());
        let get = BasicGet { no_ack: true, queue: ShortString::from_static("q"), ticket: 0 };
        let told = client.say(1, get);
        assert_eq!(told.get(1), Some(&Told::Body(b"in pieces".to_vec())), "in pieces of {piece}");
    }
}

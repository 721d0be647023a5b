//! A connection driven without a socket, on a real broker.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use leveret_amqp_wire::content::{write_body, write_header};
use leveret_amqp_wire::method::{
    BasicAck, BasicGet, BasicPublish, ChannelOpen, ConnectionOpen, ConnectionStartOk,
    ConnectionTuneOk, QueueDeclare,
};
use leveret_amqp_wire::{ContentHeader, Method, frame, write_content};
use leveret_broker::engine::{Item, Outbound};
use leveret_broker::{Broker, DiskOptions, Options, Probe, Space, User};
use leveret_model::limits::{BATCH_BYTES_MAX, CHANNEL_MAX, FRAME_MAX_BYTES, SEGMENT_BYTES_MIN};
use leveret_model::{FieldTable, SessionId, ShortString};
use tempfile::TempDir;

use crate::connection::{Connection, Phase};

mod blocking;
mod closing;
mod disk;
mod logging;
mod publishing;
mod random;
mod starting;
mod telling;
mod time;

/// What messages may take where there is a limit, in bytes.
const MEMORY: usize = 10_000;

/// A client that has opened channel 1 and queue `q`.
struct Client {
    connection: Connection,
    broker: Broker,
    _directory: Rc<TempDir>,
}

/// What the client is told: a method, or a body.
#[derive(Debug, PartialEq)]
enum Told {
    Method(Method),
    Body(Vec<u8>),
}

impl Client {
    fn new() -> Self {
        Self::with_memory(usize::MAX)
    }

    /// On a broker with a disk of which so much is free, in bytes, and marks of 1000 and 100.
    fn with_disk(free: &Arc<AtomicU64>) -> Self {
        let free = Arc::clone(free);
        let probe = Probe::new(move || Ok(Space { free: free.load(Relaxed), total: 2000 }));
        let disk = DiskOptions { low: Some(1000), critical: Some(100), probe: Some(probe) };
        Self::with(MEMORY, disk)
    }

    /// On a broker whose messages may take that many bytes.
    fn with_memory(memory_max: usize) -> Self {
        Self::with(memory_max, DiskOptions::default())
    }

    fn with(memory_max: usize, disk: DiskOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let user = User { name: "u".into(), password: "p".into(), loopback_only: true };
        let data_dir = directory.path().to_owned();
        let broker = Broker::open(Options {
            data_dir,
            users: vec![user],
            memory_max,
            memory_target: usize::MAX,
            segment_bytes: SEGMENT_BYTES_MIN,
            disk,
        })
        .unwrap();
        Client::start(broker, Rc::new(directory), ConnectionStartOk::default())
    }

    /// Another one on the same broker, with everything that `start_ok` says but the login.
    fn another(&self, start_ok: ConnectionStartOk) -> Self {
        Client::start(self.broker.clone(), Rc::clone(&self._directory), start_ok)
    }

    fn start(broker: Broker, directory: Rc<TempDir>, start_ok: ConnectionStartOk) -> Self {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let connection = Connection::new(broker.clone(), peer);
        let mut client = Client { connection, broker, _directory: directory };
        client.send(&frame::PROTOCOL_HEADER);
        let mechanism = ShortString::from_static("PLAIN");
        let response = b"\0u\0p".to_vec();
        client.say(0, ConnectionStartOk { mechanism, response, ..start_ok });
        let (channel_max, frame_max) = (CHANNEL_MAX, FRAME_MAX_BYTES);
        client.say(0, ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 });
        let virtual_host = ShortString::from_static("/");
        client.say(0, ConnectionOpen { virtual_host, ..Default::default() });
        client.say(1, ChannelOpen::default());
        let queue = ShortString::from_static("q");
        let told = client.say(1, QueueDeclare { queue, ..Default::default() });
        assert!(matches!(told[..], [Told::Method(Method::QueueDeclareOk(_))]), "{told:?}");
        client
    }

    /// Sends bytes in one go; the answers.
    fn send(&mut self, input: &[u8]) -> Vec<Told> {
        let mut out = Vec::new();
        assert_eq!(self.connection.receive(input, &mut out), input.len());
        self.listen(out)
    }

    /// What the session is told, behind what was said already.
    fn listen(&mut self, mut out: Vec<u8>) -> Vec<Told> {
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

    /// Sends a method; the answers, which may have to wait for the disk.
    fn say(&mut self, channel: u16, method: impl Into<Method>) -> Vec<Told> {
        let method = method.into();
        let wait = method.expects_reply();
        let mut told = self.send(&framed(channel, method));
        let start = Instant::now();
        while told.is_empty() && wait && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
            told = self.listen(Vec::new());
        }
        told
    }

    /// Tells the client what the engine might.
    fn tell(&mut self, items: Vec<Item>) -> Vec<Told> {
        let mut out = Vec::new();
        self.connection.tell(&Outbound::of(SessionId(0), items), &mut out);
        self.connection.write_confirms(&mut out);
        parsed(&out)
    }
}

fn framed(channel: u16, method: impl Into<Method>) -> Vec<u8> {
    let mut bytes = Vec::new();
    method.into().frame(channel, &mut bytes);
    bytes
}

/// A message for queue `q`.
fn message(channel: u16, properties: &[u8], body: &[u8]) -> Vec<u8> {
    let routing_key = ShortString::from_static("q");
    let mut bytes = framed(channel, BasicPublish { routing_key, ..Default::default() });
    write_content(&mut bytes, channel, properties, body, FRAME_MAX_BYTES);
    bytes
}

/// All of a message for queue `q` but the last `missing` bytes of its body.
fn unfinished(channel: u16, body: &[u8], missing: u64) -> Vec<u8> {
    let routing_key = ShortString::from_static("q");
    let mut bytes = framed(channel, BasicPublish { routing_key, ..Default::default() });
    write_header(&mut bytes, channel, &[0, 0], body.len() as u64 + missing);
    for piece in body.chunks(FRAME_MAX_BYTES as usize - 8) {
        write_body(&mut bytes, channel, piece);
    }
    bytes
}

/// Client properties with these capabilities.
fn capable<const N: usize>(names: [&'static str; N]) -> ConnectionStartOk {
    let capabilities = names.map(|name| (ShortString::from_static(name), true.into()));
    let mut client_properties = FieldTable::new();
    let name = ShortString::from_static("capabilities");
    client_properties.insert(name, FieldTable::from_iter(capabilities));
    ConnectionStartOk { client_properties, ..Default::default() }
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

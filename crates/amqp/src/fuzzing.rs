//! Clients that do what bytes tell them, for tests and for `fuzz/`: nearly valid methods on a few
//! channels with a few names, and what a client should not send.

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use leveret_amqp_wire::method::{
    ChannelClose, ChannelCloseOk, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
};
use leveret_amqp_wire::{ContentHeader, Method, frame};
use leveret_broker::engine::{Command, Operation, Token};
use leveret_broker::{Broker, DiskOptions, Options, User};
use leveret_model::limits::{CHANNEL_MAX, FRAME_MAX_BYTES, SEGMENT_BYTES_MIN};
use leveret_model::{Chunk, FieldTable, FieldValue, ShortString};

use crate::connection::{Connection, Phase};

mod methods;

/// Small enough that some of the clients meet it.
const MEMORY_MAX: usize = 16 * 1024;
/// Channels that are used, with 0.
const CHANNELS: usize = 4;
/// How long a client waits for memory before it is taken for dead, in attempts.
const PATIENCE: usize = 3;

/// What a broker for [`run`] needs to know.
#[must_use]
pub fn options(data_dir: std::path::PathBuf) -> Options {
    let user = User { name: "u".into(), password: "p".into(), loopback_only: true };
    Options {
        data_dir,
        users: vec![user],
        memory_max: MEMORY_MAX,
        memory_target: MEMORY_MAX,
        segment_bytes: SEGMENT_BYTES_MIN,
        // How full the disk of the machine is must not matter.
        disk: DiskOptions { low: Some(0), critical: Some(0), probe: None },
    }
}

/// Has clients do what `data` says.
///
/// # Panics
/// If the broker says something that is no answer, or anything is left of the clients afterwards.
pub fn run(broker: &Broker, data: &[u8]) {
    if !broker.queues().is_empty() {
        // An earlier run failed.
        tidy(broker);
    }
    let mut source = Source(data);
    let mut clients = [Client::new(broker), Client::new(broker)];
    if source.byte() < 240 {
        clients[0].prepare(1);
        methods::begin(&mut source, &mut clients[0].unsent);
        clients[0].flush();
    }
    while !source.0.is_empty() {
        // Mostly one of them for a while.
        let which = usize::from(source.byte() < 100);
        clients[which].act(broker, &mut source);
    }
    for client in &mut clients {
        client.flush();
    }
    drop(clients);
    for queue in broker.queues() {
        assert_eq!((queue.consumers, queue.unacknowledged), (0, 0), "{queue:?}");
        assert!(!queue.exclusive, "{queue:?}");
    }
    tidy(broker);
}

/// Deletes what the clients declared. Nothing of theirs may be left then.
fn tidy(broker: &Broker) {
    let session = broker.connect(b"/").expect("the virtual host that always exists");
    let mut operations = Vec::new();
    for queue in broker.queues() {
        let (if_unused, if_empty) = (false, false);
        operations.push(Operation::DeleteQueue {
            name: queue.name,
            if_unused,
            if_empty,
            reply: false,
        });
    }
    for name in methods::NAMES {
        let name = ShortString::from_static(name);
        operations.push(Operation::DeleteExchange { name, if_unused: false, reply: false });
    }
    let mut commands = Vec::new();
    // A holder each, because a refusal closes it.
    for (holder, operation) in (1..).zip(operations) {
        for operation in [Operation::Open, operation] {
            commands.push(Command { holder, token: Token::default(), operation });
        }
    }
    session.submit(commands, Chunk::default());
    drop(session);
    assert_eq!(broker.queues().len(), 0);
    assert_eq!(broker.memory().used, 0);
}

/// Takes decisions from bytes, as long as there are some.
pub(crate) struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }
}

struct Client {
    connection: Connection,
    /// Frames that were not sent yet.
    unsent: Vec<u8>,
    /// What was not taken of the last read.
    unread: Vec<u8>,
    /// For each channel, whether the client takes it for open, and what is left to send of a
    /// message that it has begun.
    channels: [(bool, Vec<u8>); CHANNELS],
    /// What the broker is in the middle of saying.
    expected: Expected,
}

/// What may come next from the broker.
enum Expected {
    Method,
    Header(u16),
    Body(u16, u64),
}

impl Client {
    fn new(broker: &Broker) -> Self {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let connection = Connection::new(broker.clone(), peer);
        let mut client = Client {
            connection,
            unsent: Vec::new(),
            unread: Vec::new(),
            channels: Default::default(),
            expected: Expected::Method,
        };
        client.unsent.extend_from_slice(&frame::PROTOCOL_HEADER);
        let mechanism = ShortString::from_static("PLAIN");
        let response = b"\0u\0p".to_vec();
        client.say(0, ConnectionStartOk { mechanism, response, ..capable() });
        let (channel_max, frame_max) = (CHANNEL_MAX, FRAME_MAX_BYTES);
        client.say(0, ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 });
        let virtual_host = ShortString::from_static("/");
        client.say(0, ConnectionOpen { virtual_host, ..Default::default() });
        client.flush();
        assert_eq!(client.connection.phase, Phase::Running);
        client
    }

    fn say(&mut self, channel: u16, method: impl Into<Method>) {
        method.into().frame(channel, &mut self.unsent);
    }

    /// What comes before anything else on a channel, in a client that keeps to the rules.
    fn prepare(&mut self, channel: u16) {
        let (open, rest) = &mut self.channels[usize::from(channel)];
        if channel > 0 && !std::mem::replace(open, true) {
            Method::from(ChannelOpen::default()).frame(channel, &mut self.unsent);
        }
        self.unsent.append(rest);
    }

    fn act(&mut self, broker: &Broker, source: &mut Source<'_>) {
        let channel = source.pick(&[1, 1, 1, 2, 2, 3]);
        let choice = source.byte();
        if choice >= 8 {
            self.prepare(channel);
        }
        match choice {
            0 | 8 => self.unsent.extend_from_slice(source.bytes(9)),
            1 | 9 => {
                let channel = source.pick(&[0, channel]);
                let kind = source.pick(&[frame::METHOD, frame::HEADER, frame::BODY, 8, 4]);
                let start = frame::begin(&mut self.unsent, kind, channel);
                let len = usize::from(source.byte() % 16);
                self.unsent.extend_from_slice(source.bytes(len));
                frame::finish(&mut self.unsent, start);
            }
            10 => *self = Client::new(broker),
            11 => {
                let method = methods::method(source);
                self.say(0, method);
            }
            2 | 12 => self.say(channel, ChannelCloseOk {}),
            13..=18 => {
                self.say(channel, ChannelClose::default());
                self.flush();
                self.channels[usize::from(channel)].0 = false;
            }
            19..=24 => {
                // Frames arrive in pieces, too.
                let mut unsent = std::mem::take(&mut self.unsent);
                let later = unsent.split_off(unsent.len() / 2);
                self.unsent = unsent;
                self.flush();
                let answers = std::mem::replace(&mut self.unsent, later);
                self.unsent.extend(answers);
            }
            25..=56 => self.flush(),
            3..=5 | 57..=120 => {
                let rest = &mut self.channels[usize::from(channel)].1;
                methods::publish(source, channel, &mut self.unsent, rest);
            }
            _ => match methods::method(source) {
                method @ Method::ConnectionUpdateSecret(_) => self.say(0, method),
                method => self.say(channel, method),
            },
        }
        if matches!(self.connection.phase, Phase::Closed | Phase::Closing) {
            *self = Client::new(broker);
        }
    }

    /// Sends what was not sent, and reads the answers.
    fn flush(&mut self) {
        self.unread.append(&mut self.unsent);
        let mut out = Vec::new();
        for _ in 0..PATIENCE {
            let used = self.connection.receive(&self.unread, &mut out);
            self.unread.drain(..used);
            self.listen(&mut out);
            self.check(&out);
            out.clear();
            if !self.connection.blocked || !self.may_go_on(&mut out) {
                break;
            }
        }
        if self.connection.blocked {
            // A patient client would wait for others; this one goes away.
            self.connection.phase = Phase::Closed;
            self.connection.session = None;
        }
    }

    fn may_go_on(&mut self, out: &mut Vec<u8>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let session = self.connection.session.as_ref();
        let ready = session.is_none_or(|session| session.poll_plenty(&mut context).is_ready());
        if ready {
            self.connection.unblock(out);
        }
        ready
    }

    fn listen(&mut self, out: &mut Vec<u8>) {
        let mut told = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut taken = 0;
        while let Some(session) = &self.connection.session
            && session.poll_outbound(&mut context, &mut told) == Poll::Ready(())
        {
            for outbound in told.drain(..) {
                taken += outbound.bytes;
                self.connection.tell(&outbound, out);
            }
        }
        self.connection.write_confirms(out);
        self.connection.taken(taken);
    }

    /// Output is whole frames in an order that makes sense.
    fn check(&mut self, mut out: &[u8]) {
        while let Some((frame, used)) = frame::parse(out, FRAME_MAX_BYTES).expect("sound frames") {
            out = &out[used..];
            self.expected = match (&self.expected, frame.kind) {
                (Expected::Method, frame::METHOD) => {
                    let method = Method::decode(frame.payload).expect("a sound method");
                    if matches!(method, Method::ChannelClose(_)) {
                        self.channels[usize::from(frame.channel)] = Default::default();
                        Method::from(ChannelCloseOk {}).frame(frame.channel, &mut self.unsent);
                    }
                    match method.has_content() {
                        true => Expected::Header(frame.channel),
                        false => Expected::Method,
                    }
                }
                (Expected::Header(channel), frame::HEADER) if *channel == frame.channel => {
                    let header = ContentHeader::parse(frame.payload).expect("a sound header");
                    leveret_model::Properties::decode(header.properties).expect("sound properties");
                    body(frame.channel, header.body_size)
                }
                (Expected::Body(channel, left), frame::BODY) if *channel == frame.channel => {
                    body(frame.channel, left.checked_sub(frame.payload.len() as u64).expect("more"))
                }
                _ => panic!("a frame of type {} out of place", frame.kind),
            };
        }
        assert!(out.is_empty(), "the rest of a frame is missing");
        assert!(matches!(self.expected, Expected::Method), "the rest of a message is missing");
    }
}

fn body(channel: u16, left: u64) -> Expected {
    if left == 0 { Expected::Method } else { Expected::Body(channel, left) }
}

/// A client that wants to hear everything.
fn capable() -> ConnectionStartOk {
    let capabilities = ["consumer_cancel_notify", "connection.blocked"]
        .map(|name| (ShortString::from_static(name), FieldValue::Bool(true)));
    let mut client_properties = FieldTable::new();
    let capabilities = FieldTable::from_iter(capabilities);
    client_properties.insert(ShortString::from_static("capabilities"), capabilities);
    ConnectionStartOk { client_properties, ..Default::default() }
}

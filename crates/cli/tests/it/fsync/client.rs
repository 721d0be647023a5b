//! A client as raw as its socket, of a broker that may end at any moment.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use leveret_amqp_wire::method::{
    BasicGet, ChannelOpen, ConfirmSelect, ConnectionTuneOk, QueueDeclare,
};
use leveret_amqp_wire::publish::{write_envelope, write_publish};
use leveret_amqp_wire::{Method, frame, write_content};
use leveret_model::limits::FRAME_MAX_BYTES;

use crate::hostile::peer::{handshake_with, method, short};

/// Delivery mode 2.
pub(super) const PERSISTENT: &[u8] = &[0x10, 0x00, 2];
/// No properties.
pub(super) const TRANSIENT: &[u8] = &[0, 0];
/// How long the broker may take to answer.
const LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Client {
    pub(super) socket: TcpStream,
    input: Vec<u8>,
}

/// What a client hears next.
#[derive(Debug)]
pub(super) enum Heard {
    Method(Method),
    Body(Vec<u8>),
    Heartbeat,
    /// Nothing within the socket's time limit.
    Silence,
    /// The broker is gone.
    End,
}

/// A message on channel 1.
pub(super) fn message(exchange: &str, key: &str, properties: &[u8], body: &[u8]) -> Vec<u8> {
    message_on(1, exchange, key, properties, body)
}

pub(super) fn message_on(
    channel: u16,
    exchange: &str,
    key: &str,
    properties: &[u8],
    body: &[u8],
) -> Vec<u8> {
    let (mut envelope, mut out) = (Vec::new(), Vec::new());
    write_envelope(&mut envelope, &short(exchange), &short(key));
    write_publish(&mut out, channel, &envelope, false);
    write_content(&mut out, channel, properties, body, FRAME_MAX_BYTES);
    out
}

pub(super) fn durable_queue(queue: &str) -> QueueDeclare {
    QueueDeclare { queue: short(queue), durable: true, ..QueueDeclare::default() }
}

impl Client {
    /// A connection with channels 1 and 2 open; 1 is in confirm mode.
    pub(super) fn open(broker: SocketAddr, heartbeat: u16) -> Client {
        let mut client = Client::blurt(broker, heartbeat, &[]);
        client.expect(|method| matches!(method, Method::ConfirmSelectOk(_)));
        client
    }

    /// The same of a client that says all of it, and more, before it listens.
    pub(super) fn blurt(broker: SocketAddr, heartbeat: u16, more: &[u8]) -> Client {
        let socket = TcpStream::connect(broker).expect("connect");
        socket.set_nodelay(true).expect("set an option");
        let mut client = Client { socket, input: Vec::new() };
        client.patience(LIMIT);
        let tune = ConnectionTuneOk { channel_max: 9, frame_max: FRAME_MAX_BYTES, heartbeat };
        let channels =
            [method(2, ChannelOpen::default()), method(1, ConfirmSelect::default())].concat();
        client.send(&[&handshake_with(tune), &channels, more].concat());
        client
    }

    /// How long [`Client::next`] waits.
    pub(super) fn patience(&self, limit: Duration) {
        self.socket.set_read_timeout(Some(limit)).expect("set a time limit");
    }

    /// Says whether the broker is still there to hear it.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// What comes next.
    pub(super) fn next(&mut self) -> Heard {
        loop {
            let parsed = frame::parse(&self.input, FRAME_MAX_BYTES).expect("a proper frame");
            if let Some((frame, used)) = parsed {
                let heard = match frame.kind {
                    frame::METHOD => {
                        let method = Method::decode(frame.payload).expect("a method");
                        Some(Heard::Method(method))
                    }
                    frame::BODY => Some(Heard::Body(frame.payload.to_vec())),
                    frame::HEARTBEAT => Some(Heard::Heartbeat),
                    _ => None,
                };
                self.input.drain(..used);
                match heard {
                    Some(heard) => return heard,
                    None => continue,
                }
            }
            let mut bytes = [0; 16 * 1024];
            match self.socket.read(&mut bytes) {
                Ok(0) => return Heard::End,
                Ok(read) => self.input.extend_from_slice(&bytes[..read]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Heard::Silence,
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return Heard::End,
                    _ => panic!("cannot read: {error}"),
                },
            }
        }
    }

    /// Reads until a method is the one wanted.
    pub(super) fn expect(&mut self, wanted: fn(&Method) -> bool) -> Method {
        loop {
            match self.next() {
                Heard::Method(method) if wanted(&method) => return method,
                Heard::Method(Method::ConnectionClose(_) | Method::ChannelClose(_))
                | Heard::Silence
                | Heard::End => panic!("no answer"),
                _ => {}
            }
        }
    }

    /// Reads until a message and all before it are confirmed.
    pub(super) fn expect_confirm(&mut self, tag: u64) {
        let mut open: BTreeSet<u64> = (1..=tag).collect();
        while !open.is_empty() {
            match self.next() {
                Heard::Method(Method::BasicAck(ack)) if ack.multiple => {
                    open = open.split_off(&(ack.delivery_tag + 1));
                }
                Heard::Method(Method::BasicAck(ack)) => {
                    open.remove(&ack.delivery_tag);
                }
                Heard::Heartbeat => {}
                other => panic!("{} not confirmed: {other:?}", open.len()),
            }
        }
    }

    /// Asks for something, and waits for the answer.
    pub(super) fn ask(
        &mut self,
        channel: u16,
        asked: impl Into<Method>,
        answer: fn(&Method) -> bool,
    ) -> Method {
        assert!(self.send(&method(channel, asked)), "the broker is gone");
        self.expect(answer)
    }

    pub(super) fn declare(&mut self, queue: QueueDeclare) {
        self.ask(1, queue, |m| matches!(m, Method::QueueDeclareOk(_)));
    }

    /// Takes a message out of a queue, if there is one.
    pub(super) fn get(&mut self, queue: &str) -> Option<Vec<u8>> {
        let get = BasicGet { queue: short(queue), no_ack: true, ..BasicGet::default() };
        let got =
            self.ask(2, get, |m| matches!(m, Method::BasicGetOk(_) | Method::BasicGetEmpty(_)));
        if matches!(got, Method::BasicGetEmpty(_)) {
            return None;
        }
        loop {
            match self.next() {
                Heard::Body(body) => return Some(body),
                Heard::Silence | Heard::End => panic!("half a message"),
                _ => {}
            }
        }
    }
}

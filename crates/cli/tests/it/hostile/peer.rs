//! A client that says exactly what it is told to, right or wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use leveret_amqp_wire::method::{
    ChannelOpen, ConnectionCloseOk, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
};
use leveret_amqp_wire::{Method, frame};
use leveret_model::{FieldTable, FieldValue, ShortString};

/// How long the broker may take to answer.
const LIMIT: Duration = Duration::from_secs(20);
const FRAME_MAX: u32 = 131_072;

/// How a connection or a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The broker closed the connection with this code.
    Connection(u16),
    /// The broker closed a channel with this code.
    Channel(u16),
    /// The broker agreed to our close.
    Agreed,
    /// The broker hung up without a word.
    Silence,
}

pub(crate) struct Peer {
    pub(crate) socket: TcpStream,
    input: Vec<u8>,
}

pub(crate) fn short(text: &str) -> ShortString {
    ShortString::try_from(text).expect("a short string")
}

/// A frame of any kind, with its size and end as they should be.
pub(crate) fn framed(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let start = frame::begin(&mut out, kind, channel);
    out.extend_from_slice(payload);
    frame::finish(&mut out, start);
    out
}

pub(crate) fn method(channel: u16, method: impl Into<Method>) -> Vec<u8> {
    let mut out = Vec::new();
    method.into().frame(channel, &mut out);
    out
}

pub(crate) fn start_ok(password: &str, capable: bool) -> Vec<u8> {
    let mut capabilities = FieldTable::new();
    capabilities.insert(short("authentication_failure_close"), FieldValue::Bool(capable));
    let mut client_properties = FieldTable::new();
    client_properties.insert(short("capabilities"), FieldValue::Table(capabilities));
    let response = format!("\0guest\0{password}").into_bytes();
    let (mechanism, locale) = (short("PLAIN"), short("en_US"));
    method(0, ConnectionStartOk { client_properties, mechanism, response, locale })
}

/// All that a client says until its connection and channel 1 are open.
pub(crate) fn handshake() -> Vec<u8> {
    handshake_with(ConnectionTuneOk { channel_max: 100, frame_max: FRAME_MAX, heartbeat: 0 })
}

/// The same with limits of its own.
pub(crate) fn handshake_with(tune: ConnectionTuneOk) -> Vec<u8> {
    let open = ConnectionOpen { virtual_host: short("/"), ..ConnectionOpen::default() };
    [
        frame::PROTOCOL_HEADER.to_vec(),
        start_ok("guest", true),
        method(0, tune),
        method(0, open),
        method(1, ChannelOpen::default()),
    ]
    .concat()
}

impl Peer {
    pub(crate) fn connect(broker: SocketAddr) -> Peer {
        let socket = TcpStream::connect(broker).expect("connect");
        socket.set_nodelay(true).expect("set an option");
        socket.set_read_timeout(Some(LIMIT)).expect("set a time limit");
        Peer { socket, input: Vec::new() }
    }

    /// A connection with channel 1 open.
    pub(crate) fn open(broker: SocketAddr) -> Peer {
        let mut peer = Peer::connect(broker);
        peer.send(&handshake());
        peer.expect(|method| matches!(method, Method::ChannelOpenOk(_)));
        peer
    }

    /// The same with limits of its own.
    pub(crate) fn open_with(broker: SocketAddr, tune: ConnectionTuneOk) -> Peer {
        let mut peer = Peer::connect(broker);
        peer.send(&handshake_with(tune));
        peer.expect(|method| matches!(method, Method::ChannelOpenOk(_)));
        peer
    }

    /// Takes so many bytes off the socket, to be looked at later.
    pub(crate) fn fetch(&mut self, count: usize) {
        let start = self.input.len();
        self.input.resize(start + count, 0);
        self.socket.read_exact(&mut self.input[start..]).expect("more to read");
    }

    /// Sends, unless the broker has hung up already.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let sent = self.socket.write_all(bytes);
        if let Err(error) = sent {
            let gone = matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
            assert!(gone, "cannot send: {error}");
        }
    }

    /// The next frame; `None` when the broker has hung up.
    pub(crate) fn frame(&mut self) -> Option<(u8, u16, Vec<u8>)> {
        loop {
            let parsed = frame::parse(&self.input, FRAME_MAX).expect("a frame as it should be");
            if let Some((frame, used)) = parsed {
                let frame = (frame.kind, frame.channel, frame.payload.to_vec());
                self.input.drain(..used);
                return Some(frame);
            }
            let mut bytes = [0; 16 * 1024];
            let read = self.socket.read(&mut bytes).expect("an answer, or a proper end");
            if read == 0 {
                return None;
            }
            self.input.extend_from_slice(&bytes[..read]);
        }
    }

    /// The next method; `None` when the broker has hung up.
    pub(crate) fn method(&mut self) -> Option<(u16, Method)> {
        loop {
            let (kind, channel, payload) = self.frame()?;
            if kind == frame::METHOD {
                return Some((channel, Method::decode(&payload).expect("a method")));
            }
        }
    }

    /// Reads until a method is the one wanted.
    pub(crate) fn expect(&mut self, wanted: impl Fn(&Method) -> bool) -> Method {
        loop {
            let (_, method) = self.method().expect("an answer");
            let ended = matches!(method, Method::ConnectionClose(_) | Method::ChannelClose(_));
            assert!(!ended || wanted(&method), "{method:?}");
            if wanted(&method) {
                return method;
            }
        }
    }

    /// How this ends. A connection that the broker closes must then really end, and soon.
    pub(crate) fn end(&mut self) -> End {
        let start = Instant::now();
        let end = loop {
            match self.method() {
                None => break End::Silence,
                Some((_, Method::ConnectionCloseOk(_))) => break End::Agreed,
                Some((_, Method::ChannelClose(close))) => return End::Channel(close.reply_code),
                Some((_, Method::ConnectionClose(close))) => {
                    self.send(&method(0, ConnectionCloseOk {}));
                    break End::Connection(close.reply_code);
                }
                Some(_) => {}
            }
        };
        // A reset is an end too, once the reason has come.
        let mut rest = Vec::new();
        let over = self.socket.read_to_end(&mut rest);
        let reset = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
        assert!(over.as_ref().err().is_none_or(reset), "not hung up: {over:?}");
        assert!(start.elapsed() < LIMIT, "it takes too long to end");
        end
    }
}

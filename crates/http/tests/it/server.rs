//! A broker with the API in front of it, and a client of few words.

use std::io::ErrorKind;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use leveret_broker::engine::command::DeclareQueue;
use leveret_broker::engine::{Command, Operation, Token};
use leveret_broker::{Broker, DiskOptions, Options, Probe, Session, Space, User};
use leveret_http::{Api, Identity};
use leveret_model::limits::{MEMORY_BYTES_MIN, SEGMENT_BYTES_MIN};
use leveret_model::{Chunk, FieldTable, Message, ShortString};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What must be free of the disk, in bytes.
pub(crate) const DISK_LOW: u64 = 1_000_000;
/// The one holder of leases a session has here.
const HOLDER: u16 = 1;

pub(crate) struct Server {
    pub(crate) broker: Broker,
    pub(crate) api: Api,
    stop: watch::Sender<bool>,
    _home: TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::start_with_free(Some(DISK_LOW))
    }

    /// On a disk of which so much is free; one that does not tell if none.
    pub(crate) fn start_with_free(free: Option<u64>) -> Server {
        let probe = Probe::new(move || {
            let free = free.ok_or(ErrorKind::Unsupported)?;
            Ok(Space { free, total: 2 * free })
        });
        let home = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        let user = |name: &str, loopback_only| User {
            name: name.into(),
            password: "pass:word".into(),
            loopback_only,
        };
        let broker = Broker::open(Options {
            data_dir: home.path().join("data"),
            users: vec![user("guest", true), user("app", false)],
            memory_max: MEMORY_BYTES_MIN,
            memory_target: MEMORY_BYTES_MIN,
            segment_bytes: SEGMENT_BYTES_MIN,
            disk: DiskOptions { low: Some(DISK_LOW), critical: None, probe: Some(probe) },
        });
        let broker = broker.expect("open the broker");
        let identity =
            Identity { node: "leveret@here".into(), version: "0.1.2", rabbitmq_version: "4.5.6" };
        let api = Api::new(broker.clone(), identity);
        Server { broker, api, stop: watch::Sender::new(false), _home: home }
    }

    /// Serves whoever comes to the address.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("an address");
        let (api, stop) = (self.api.clone(), self.stop.subscribe());
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.expect("accept");
                tokio::spawn(leveret_http::serve(stream, peer, api.clone(), stop.clone()));
            }
        });
        address
    }

    /// A connection without a socket, whose client seems to be at this address.
    pub(crate) fn connect_from(&self, peer: &str, buffer: usize) -> DuplexStream {
        let (client, stream) = duplex(buffer);
        let peer = peer.parse().expect("an address");
        tokio::spawn(leveret_http::serve(stream, peer, self.api.clone(), self.stop.subscribe()));
        client
    }

    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// A session that may publish and consume.
    pub(crate) fn session(&self) -> Session {
        let session = self.broker.connect(b"/").expect("the virtual host");
        submit(&session, Operation::Open, Chunk::default());
        session
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Before its directory goes: connections may still have the broker.
        self.broker.close();
    }
}

pub(crate) fn submit(session: &Session, operation: Operation, chunk: Chunk) {
    session.submit(vec![Command { holder: HOLDER, token: Token(0), operation }], chunk);
}

pub(crate) fn queue(name: &str) -> DeclareQueue {
    DeclareQueue {
        name: ShortString::try_from(name).expect("a short name"),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        arguments: FieldTable::new(),
        reply: false,
    }
}

pub(crate) fn declare(session: &Session, queue: DeclareQueue) {
    submit(session, Operation::DeclareQueue(Box::new(queue)), Chunk::default());
}

/// Publishes `count` empty messages to a queue.
pub(crate) fn publish(session: &Session, queue: &str, count: u32) {
    let length = u8::try_from(queue.len()).expect("a short name");
    let envelope = [&[0, length], queue.as_bytes()].concat();
    let message =
        Message { envelope: &envelope, properties: &[0, 0], body: b"", persistent: false };
    let mut chunk = Chunk::default();
    for _ in 0..count {
        chunk.push(message).expect("room");
    }
    let publish = Operation::Publish { first: 0, count, mandatory: false, special: false };
    submit(session, publish, chunk);
}

pub(crate) fn get(session: &Session, queue: &str) {
    let queue = ShortString::try_from(queue).expect("a short name");
    submit(session, Operation::Get { queue, no_ack: false }, Chunk::default());
}

/// The head of a request that guest sends.
pub(crate) fn request(method: &str, path: &str) -> String {
    signed(method, path, "guest", "pass:word")
}

pub(crate) fn signed(method: &str, path: &str, name: &str, password: &str) -> String {
    let pair = BASE64_STANDARD.encode(format!("{name}:{password}"));
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Basic {pair}\r\n")
}

/// Sends the head of a request and reads the answer, after which the connection is closed.
pub(crate) async fn ask_on<S>(mut stream: S, head: &str) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let text = format!("{head}connection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.expect("send the request");
    answer(stream).await
}

pub(crate) async fn ask(address: SocketAddr, head: &str) -> Answer {
    ask_on(TcpStream::connect(address).await.expect("connect"), head).await
}

/// Gets a path as guest.
pub(crate) async fn get_path(address: SocketAddr, path: &str) -> Answer {
    ask(address, &request("GET", path)).await
}

/// Reads until the connection is closed.
pub(crate) async fn answer<S: AsyncRead + Unpin>(mut stream: S) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("read the answer");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, head: head.to_lowercase(), body: body.into() }
}

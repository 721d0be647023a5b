//! A client and leveret's own front door, joined by a pipe; and brokers that behave badly.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use leveret_amqp_wire::frame;
use leveret_amqp_wire::method::*;
use leveret_amqp_wire::publish::write_envelope;
use leveret_broker::{Broker, User};
use leveret_model::limits::MEMORY_BYTES_MIN;
use leveret_model::{Properties, ShortString, Time};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::{Connection, Error, Event, Login, Scope};

const QUEUE: &str = "client";

/// A broker in memory.
struct Server {
    broker: Broker,
    stop: watch::Sender<bool>,
}

impl Server {
    fn start() -> Server {
        let user = User { name: "guest".into(), password: "guest".into(), loopback_only: true };
        let (broker, _) = Broker::in_memory(vec![user], MEMORY_BYTES_MIN, || Time(1)).unwrap();
        Server { broker, stop: watch::Sender::new(false) }
    }

    fn pipe(&self) -> DuplexStream {
        let (ours, theirs) = duplex(64 * 1024);
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
        let stop = self.stop.subscribe();
        tokio::spawn(leveret_amqp::serve(theirs, peer, self.broker.clone(), stop));
        ours
    }

    async fn connect(&self) -> Connection {
        Connection::open(self.pipe(), &Login::default()).await.unwrap()
    }
}

fn name(text: &str) -> ShortString {
    ShortString::try_from(text).unwrap()
}

fn envelope(queue: &str) -> Vec<u8> {
    let mut envelope = Vec::new();
    write_envelope(&mut envelope, &ShortString::default(), &name(queue));
    envelope
}

fn properties(id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    Properties { message_id: Some(name(id)), ..Properties::default() }.encode(&mut bytes);
    bytes
}

fn declare(queue: &str) -> QueueDeclare {
    QueueDeclare { queue: name(queue), ..Default::default() }
}

async fn next(events: &mut crate::Events) -> Vec<Event> {
    let mut found = Vec::new();
    events.next(&mut found).await;
    found
}

#[tokio::test]
async fn messages_go_out_and_come_in_whatever_their_size() {
    let server = Server::start();
    let connection = server.connect().await;
    let (publisher, mut confirms) = connection.channel().await.unwrap();
    let (consumer, mut deliveries) = connection.channel().await.unwrap();
    publisher.call(declare(QUEUE)).await.unwrap();
    publisher.call(ConfirmSelect::default()).await.unwrap();
    consumer.call(BasicQos { prefetch_count: 10, ..Default::default() }).await.unwrap();
    consumer.call(BasicConsume { queue: name(QUEUE), ..Default::default() }).await.unwrap();
    for (number, size) in [0, 1, 131_064, 131_065, 1_000_000].into_iter().enumerate() {
        let body = vec![number as u8; size];
        publisher.room().await;
        let tag = publisher.publish(&envelope(QUEUE), true, &properties("m"), &body).unwrap();
        assert_eq!(tag, number as u64 + 1);
        let [Event::Deliver(delivery)] = &next(&mut deliveries).await[..] else { panic!() };
        assert_eq!((delivery.exchange(), delivery.routing_key()), (&b""[..], QUEUE.as_bytes()));
        assert_eq!((delivery.properties(), delivery.body()), (&properties("m")[..], body.into()));
        assert!(!delivery.redelivered);
        consumer.ack(delivery.tag, false).unwrap();
        let [Event::Confirm { tag: confirmed, taken: true, .. }] = next(&mut confirms).await[..]
        else {
            panic!()
        };
        assert_eq!(confirmed, tag);
    }
    publisher.publish(&envelope("nowhere"), true, &properties("lost"), b"x").unwrap();
    let mut came = Vec::new();
    while came.len() < 2 {
        confirms.next(&mut came).await;
    }
    let [Event::Return(returned), Event::Confirm { tag: 6, taken: true, .. }] = &came[..] else {
        panic!("{came:?}")
    };
    assert_eq!((returned.code, returned.routing_key()), (312, &b"nowhere"[..]));
    assert_eq!(returned.properties(), properties("lost"));
    connection.close().await.unwrap();
    assert!(matches!(connection.ended().await, Error::Ended(Scope::Connection)));
}

#[tokio::test]
async fn a_get_has_its_message_or_none() {
    let server = Server::start();
    let connection = server.connect().await;
    let (channel, _events) = connection.channel().await.unwrap();
    channel.call(declare(QUEUE)).await.unwrap();
    let get = || BasicGet { queue: name(QUEUE), no_ack: true, ..Default::default() };
    let none = channel.call(get()).await.unwrap();
    assert!(matches!(none.method, Method::BasicGetEmpty(_)) && none.message.is_none());
    channel.publish(&envelope(QUEUE), false, &properties("m"), b"body").unwrap();
    let some = channel.call(get()).await.unwrap();
    assert_eq!(some.message.unwrap().body(), "body");
}

#[tokio::test]
async fn a_login_that_is_refused_says_so() {
    let server = Server::start();
    let refused = |login: Login| {
        let pipe = server.pipe();
        async move { Connection::open(pipe, &login).await.unwrap_err() }
    };
    let error = refused(Login { password: "wrong".into(), ..Login::default() }).await;
    assert_eq!(error.code(), Some(403), "{error}");
    assert!(!error.to_string().contains("wrong"));
    let error = refused(Login { vhost: "elsewhere".into(), ..Login::default() }).await;
    assert_eq!(error.code(), Some(530), "{error}");
    let error = refused(Login { vhost: "v".repeat(256), ..Login::default() }).await;
    assert!(matches!(error, Error::TooLong(_)), "{error}");
}

#[tokio::test]
async fn a_channel_that_is_closed_by_the_broker_leaves_the_others_alone() {
    let server = Server::start();
    let connection = server.connect().await;
    let (bad, mut events) = connection.channel().await.unwrap();
    let (good, _events) = connection.channel().await.unwrap();
    let passive = QueueDeclare { passive: true, ..declare("missing") };
    let error = bad.call(passive).await.unwrap_err();
    assert_eq!(error.code(), Some(404), "{error}");
    assert!(!error.ends_connection());
    assert!(
        matches!(&next(&mut events).await[..], [Event::Closed(error)] if error.code() == Some(404))
    );
    assert!(bad.call(declare(QUEUE)).await.is_err());
    assert!(bad.publish(&envelope(QUEUE), false, &properties("m"), b"").is_err());
    good.call(declare(QUEUE)).await.unwrap();
}

#[tokio::test]
async fn dropping_the_events_closes_the_channel_and_frees_its_number() {
    let server = Server::start();
    let connection = server.connect().await;
    for _ in 0..3 * u32::from(leveret_model::limits::CHANNEL_MAX) {
        let (channel, events) = connection.channel().await.unwrap();
        drop(events);
        assert!(channel.call(declare(QUEUE)).await.is_err());
    }
}

#[tokio::test]
async fn all_that_waits_is_told_when_the_connection_ends() {
    let server = Server::start();
    let connection = server.connect().await;
    let (channel, mut events) = connection.channel().await.unwrap();
    server.stop.send_replace(true);
    let error = connection.ended().await;
    assert!(matches!(error, Error::Closed { scope: Scope::Connection, code: 320, .. }), "{error}");
    assert!(error.ends_connection());
    assert!(matches!(&next(&mut events).await[..], [Event::Closed(_)]));
    assert_eq!(channel.call(declare(QUEUE)).await.unwrap_err().code(), Some(320));
    assert_eq!(connection.channel().await.map(drop).unwrap_err().code(), Some(320));
    assert!(connection.close().await.is_err());
}

/// A broker that shakes hands and then says what it is told to.
async fn puppet(mut stream: DuplexStream, then: Vec<u8>) -> DuplexStream {
    let mut header = [0; 8];
    stream.read_exact(&mut header).await.unwrap();
    let mut say = async |method: Method, answers: usize| {
        let mut bytes = Vec::new();
        method.frame(0, &mut bytes);
        stream.write_all(&bytes).await.unwrap();
        for _ in 0..answers {
            let mut head = [0; 7];
            stream.read_exact(&mut head).await.unwrap();
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut rest = vec![0; size as usize + 1];
            stream.read_exact(&mut rest).await.unwrap();
        }
    };
    say(ConnectionStart::default().into(), 1).await;
    say(ConnectionTune { heartbeat: 10, ..Default::default() }.into(), 2).await;
    say(ConnectionOpenOk::default().into(), 0).await;
    stream.write_all(&then).await.unwrap();
    stream
}

async fn end_after(then: Vec<u8>) -> Error {
    let (ours, theirs) = duplex(1024 * 1024);
    let broker = tokio::spawn(puppet(theirs, then));
    let connection = Connection::open(ours, &Login::default()).await.unwrap();
    let error = connection.ended().await;
    broker.abort();
    error
}

fn content(body_size: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Method::from(BasicDeliver { delivery_tag: 1, ..Default::default() }).frame(1, &mut bytes);
    leveret_amqp_wire::content::write_header(&mut bytes, 1, &[0, 0], body_size);
    leveret_amqp_wire::content::write_body(&mut bytes, 1, body);
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_misbehaves_ends_the_connection_and_nothing_else() {
    let method = |channel, method: Method| {
        let mut bytes = Vec::new();
        method.frame(channel, &mut bytes);
        bytes
    };
    let mut body_first = Vec::new();
    leveret_amqp_wire::content::write_body(&mut body_first, 1, b"x");
    for (what, then) in [
        ("garbage", b"HTTP/1.1 400 Bad Request\r\n\r\n\r\n".to_vec()),
        ("a body out of turn", body_first),
        ("a body that is too long", content(1, b"xy")),
        ("a body that nobody could hold", content(u64::MAX, b"x")),
        ("an answer to nothing", method(1, QueueDeclareOk::default().into())),
        ("a handshake once more", method(0, ConnectionTune::default().into())),
        ("a huge frame", vec![frame::BODY, 0, 1, 0xff, 0xff, 0xff, 0xff]),
        ("content on channel 0", {
            let mut bytes = Vec::new();
            leveret_amqp_wire::content::write_body(&mut bytes, 0, b"x");
            bytes
        }),
    ] {
        let error = end_after(then).await;
        assert!(matches!(error, Error::Malformed(_)), "{what}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_silent_is_given_up() {
    let start = tokio::time::Instant::now();
    let error = end_after(Vec::new()).await;
    assert!(matches!(error, Error::Silent(_)), "{error}");
    assert_eq!(start.elapsed().as_secs(), 20, "two intervals of the ten seconds agreed on");

    let (ours, _theirs) = duplex(1024);
    let login = Login { timeout: Duration::from_secs(3), ..Login::default() };
    let error = Connection::open(ours, &login).await.unwrap_err();
    assert!(matches!(error, Error::Silent(limit) if limit == Duration::from_secs(3)), "{error}");
}

/// A stream that keeps to itself what is written until it is flushed, as TLS does when the socket
/// takes nothing more.
struct Lazy {
    stream: DuplexStream,
    kept: Vec<u8>,
}

impl Lazy {
    fn new(stream: DuplexStream) -> Lazy {
        Lazy { stream, kept: Vec::new() }
    }
}

impl AsyncRead for Lazy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lazy {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.kept.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Lazy { stream, kept } = &mut *self;
        while !kept.is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, kept))?;
            kept.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_stays_in_a_stream_that_must_be_flushed() {
    let server = Server::start();
    let login = Login { heartbeat: Duration::ZERO, ..Login::default() };
    let open = Connection::open(Lazy::new(server.pipe()), &login);
    let connection = open.await.unwrap();
    let (channel, mut events) = connection.channel().await.unwrap();
    let all = async {
        channel.call(declare(QUEUE)).await.unwrap();
        channel.call(ConfirmSelect::default()).await.unwrap();
        // More than fits into the pipe at once.
        for size in [1, 1_000_000] {
            let body = vec![0; size];
            channel.publish(&envelope(QUEUE), true, &properties("m"), &body).unwrap();
            assert!(matches!(next(&mut events).await[..], [Event::Confirm { taken: true, .. }]));
        }
        connection.close().await.unwrap();
    };
    timeout(Duration::from_secs(5), all).await.expect("all of it arrives");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_closes_the_connection_is_answered() {
    let mut close = Vec::new();
    Method::from(ConnectionClose::default()).frame(0, &mut close);
    let (ours, theirs) = duplex(1024 * 1024);
    let broker = tokio::spawn(puppet(theirs, close));
    let connection = Connection::open(Lazy::new(ours), &Login::default()).await.unwrap();
    connection.ended().await;
    let mut said = Vec::new();
    broker.await.unwrap().read_to_end(&mut said).await.unwrap();
    assert_eq!(said[7..11], [0, 10, 0, 51], "connection.close-ok");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_reads_nothing_does_not_keep_the_stream() {
    let (ours, theirs) = duplex(1024);
    let broker = tokio::spawn(puppet(theirs, Vec::new()));
    // Only the limits for goodbyes end this one.
    let login = Login { heartbeat: Duration::ZERO, ..Login::default() };
    let connection = Connection::open(ours, &login).await.unwrap();
    let mut stream = broker.await.unwrap();
    let mut opened = Vec::new();
    Method::from(ChannelOpenOk::default()).frame(1, &mut opened);
    let (open, _) = tokio::join!(connection.channel(), stream.write_all(&opened));
    let (channel, _events) = open.unwrap();
    channel.publish(&envelope(QUEUE), true, &properties("m"), &[0; 10_000]).unwrap();
    let error = connection.close().await.unwrap_err();
    assert!(matches!(error, Error::Silent(_)), "{error}");
    let gone = async {
        while stream.write_all(&[frame::HEARTBEAT, 0, 0, 0, 0, 0, 0, 0xce]).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("the stream is closed");
}

#[tokio::test]
async fn who_waits_for_a_channels_events_learns_that_it_was_closed_here() {
    let server = Server::start();
    let connection = server.connect().await;
    let (channel, mut events) = connection.channel().await.unwrap();
    channel.close().await.unwrap();
    let told = timeout(Duration::from_secs(5), next(&mut events)).await.expect("an event");
    assert!(matches!(&told[..], [Event::Closed(Error::Ended(Scope::Channel))]), "{told:?}");
}

#[tokio::test]
async fn dropping_everything_says_goodbye() {
    let (ours, theirs) = duplex(1024 * 1024);
    let broker = tokio::spawn(puppet(theirs, Vec::new()));
    let connection = Connection::open(ours, &Login::default()).await.unwrap();
    let mut stream = broker.await.unwrap();
    drop(connection);
    let mut bytes = vec![0; 11];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes[7..11], [0, 10, 0, 50], "connection.close");
}

//! Publishers that wait for memory.

use leveret_amqp_wire::method::{
    BasicConsume, ConnectionBlocked, ConnectionClose, ConnectionCloseOk, ConnectionUnblocked,
    QueueDeclareOk, QueueDelete,
};
use leveret_model::limits::{MESSAGE_BYTES_MAX, UNFINISHED_BYTES_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use super::*;
use crate::serve;

/// A client that has filled the memory with a body that is not whole.
fn hog() -> Client {
    let mut client = Client::with_memory(MEMORY);
    let queue = ShortString::from_static("r");
    client.say(1, QueueDeclare { queue, ..Default::default() });
    client.say(2, ChannelOpen::default());
    assert_eq!(client.send(&unfinished(1, &[7; MEMORY + 1], 1)), []);
    client
}

/// The last byte of it.
fn last_byte() -> Vec<u8> {
    let mut bytes = Vec::new();
    write_body(&mut bytes, 1, &[7]);
    bytes
}

fn declare(queue: &'static str) -> QueueDeclare {
    QueueDeclare { queue: ShortString::from_static(queue), ..Default::default() }
}

fn ready(client: &Client) -> Vec<(String, usize)> {
    let queues = client.broker.queues().into_iter();
    queues.map(|queue| (queue.name.to_string(), queue.ready)).collect()
}

fn may_go_on(client: &Client) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    client.connection.session.as_ref().unwrap().poll_plenty(&mut context).is_ready()
}

#[test]
fn a_publisher_stops_in_front_of_a_message_when_memory_is_full() {
    let mut hog = hog();
    let mut client = hog.another(capable(["connection.blocked"]));
    let before = framed(1, declare("x"));
    let after = framed(1, declare("y"));
    let input = [&before[..], &message(1, &[0, 0], b"first"), &after].concat();
    let mut out = Vec::new();
    assert_eq!(client.connection.receive(&input, &mut out), before.len());
    assert!(client.connection.blocked);
    let reason = ShortString::from_static("low on memory");
    let declared = |queue| {
        let queue = ShortString::from_static(queue);
        Told::Method(QueueDeclareOk { queue, message_count: 0, consumer_count: 0 }.into())
    };
    assert_eq!(
        client.listen(out),
        [Told::Method(ConnectionBlocked { reason }.into()), declared("x")]
    );
    assert!(!may_go_on(&client));

    // The body that is whole now is the engine's, and gone with what it was for.
    hog.send(&last_byte());
    hog.say(2, QueueDelete { queue: ShortString::from_static("q"), ..Default::default() });
    hog.say(2, declare("q"));
    assert!(may_go_on(&client));
    let mut out = Vec::new();
    client.connection.unblock(&mut out);
    assert_eq!(
        client.connection.receive(&input[before.len()..], &mut out),
        input.len() - before.len()
    );
    assert_eq!(client.listen(out), [Told::Method(ConnectionUnblocked {}.into()), declared("y")]);
    assert!(ready(&client).contains(&("q".to_owned(), 1)));
}

#[test]
fn a_client_that_does_not_know_the_methods_stops_in_silence() {
    let hog = hog();
    let mut client = hog.another(ConnectionStartOk::default());
    let mut out = Vec::new();
    assert_eq!(client.connection.receive(&message(1, &[0, 0], b"first"), &mut out), 0);
    assert!(client.connection.blocked);
    client.connection.unblock(&mut out);
    assert_eq!(out, b"");
}

#[test]
fn who_does_not_publish_or_has_begun_to_is_not_stopped() {
    let mut hog = hog();
    let mut client = hog.another(capable(["connection.blocked"]));
    let told = client.say(1, declare("x"));
    assert!(matches!(told[..], [Told::Method(Method::QueueDeclareOk(_))]), "{told:?}");
    assert_eq!(hog.send(&last_byte()), []);
    assert!(!hog.connection.blocked);
    assert!(ready(&hog).contains(&("q".to_owned(), 1)));
}

/// Otherwise connections that all wait for each other's bodies would wait for ever.
#[test]
fn a_client_whose_own_bodies_fill_the_memory_gets_to_send_the_rest() {
    let mut hog = hog();
    let input = [message(2, &[0, 0], b"between"), last_byte()].concat();
    let mut out = Vec::new();
    assert_eq!(hog.connection.receive(&input, &mut out), 0);
    assert!(may_go_on(&hog));
    hog.connection.unblock(&mut out);
    assert_eq!(hog.connection.receive(&input, &mut out), input.len());
    assert!(ready(&hog).contains(&("q".to_owned(), 2)));
}

#[test]
fn messages_that_are_not_whole_count_while_there_is_a_chance() {
    let mut client = Client::new();
    let used = |client: &Client| client.broker.memory().used;
    client.say(2, ChannelOpen::default());
    client.send(&unfinished(1, &[7; 1000], 500));
    client.send(&unfinished(2, &[7; 3000], 500));
    // The envelopes, and the flags of the properties.
    assert_eq!(used(&client), 4000 + 2 * (3 + 2));
    // A channel that fails forgets its message.
    let routing_key = ShortString::from_static("q");
    client.say(3, ChannelOpen::default());
    client.say(3, BasicPublish { routing_key, ..Default::default() });
    assert_eq!(used(&client), 4000 + 2 * (3 + 2) + 3);
    let mut header = Vec::new();
    write_header(&mut header, 3, &[0, 0], MESSAGE_BYTES_MAX + 1);
    client.send(&header);
    assert_eq!(used(&client), 4000 + 2 * (3 + 2));
    // And so does a connection.
    client.say(0, ConnectionOpen::default());
    assert_eq!(client.connection.phase, Phase::Closing);
    assert_eq!(used(&client), 0);
}

#[test]
fn a_connection_may_not_begin_too_much() {
    let mut client = Client::new();
    let body = vec![7; MESSAGE_BYTES_MAX as usize - 1];
    let mut told = Vec::new();
    let mut channels = 0;
    while told.is_empty() {
        channels += 1;
        assert!(channels <= 1 + UNFINISHED_BYTES_MAX / body.len());
        let channel = u16::try_from(channels).unwrap() + 1;
        client.say(channel, ChannelOpen::default());
        told = client.send(&unfinished(channel, &body, 1));
    }
    let [Told::Method(Method::ConnectionClose(close))] = &told[..] else { panic!("{told:?}") };
    assert_eq!(close.reply_code, 506);
    let text = close.reply_text.to_string();
    let start = "RESOURCE_ERROR - messages of this connection that are not whole hold ";
    assert!(text.starts_with(start) && text.ends_with(" bytes, more than 134217728"), "{text}");
    assert_eq!(client.broker.memory().used, 0);
}

/// A client behind a socket.
struct Remote {
    stream: DuplexStream,
    heard: Vec<u8>,
}

impl Remote {
    /// The next method; heartbeats count.
    async fn next(&mut self, heartbeats: &mut usize) -> Method {
        loop {
            if let Some((frame, used)) = frame::parse(&self.heard, FRAME_MAX_BYTES).unwrap() {
                let method = (frame.kind == frame::METHOD).then(|| Method::decode(frame.payload));
                self.heard.drain(..used);
                match method {
                    Some(method) => return method.unwrap(),
                    None => *heartbeats += 1,
                }
            } else {
                assert!(self.stream.read_buf(&mut self.heard).await.unwrap() > 0);
            }
        }
    }

    async fn say(&mut self, channel: u16, method: impl Into<Method>) {
        self.stream.write_all(&framed(channel, method)).await.unwrap();
    }
}

/// Begins a connection with heartbeats each second, and consumes from queue `r`.
async fn connect(broker: &Broker, shutdown: watch::Receiver<bool>) -> Remote {
    let (stream, served) = tokio::io::duplex(64 * 1024);
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    tokio::task::spawn_local(serve(served, peer, broker.clone(), shutdown));
    let mut remote = Remote { stream, heard: Vec::new() };
    remote.stream.write_all(&frame::PROTOCOL_HEADER).await.unwrap();
    let mechanism = ShortString::from_static("PLAIN");
    let response = b"\0u\0p".to_vec();
    let capable = capable(["connection.blocked", "consumer_cancel_notify"]);
    remote.say(0, ConnectionStartOk { mechanism, response, ..capable }).await;
    let (channel_max, frame_max) = (CHANNEL_MAX, FRAME_MAX_BYTES);
    remote.say(0, ConnectionTuneOk { channel_max, frame_max, heartbeat: 1 }).await;
    let virtual_host = ShortString::from_static("/");
    remote.say(0, ConnectionOpen { virtual_host, ..Default::default() }).await;
    remote.say(1, ChannelOpen::default()).await;
    let queue = ShortString::from_static("r");
    remote.say(1, BasicConsume { queue, no_ack: true, ..Default::default() }).await;
    while !matches!(remote.next(&mut 0).await, Method::BasicConsumeOk(_)) {}
    remote
}

/// Runs what needs timers, on this thread.
fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future);
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("within ten seconds")
}

#[test]
fn a_blocked_client_is_kept_told_and_let_go_on() {
    run(kept_told_and_let_go_on());
}

async fn kept_told_and_let_go_on() {
    let mut hog = hog();
    let (_keep, shutdown) = watch::channel(false);
    let mut remote = connect(&hog.broker, shutdown).await;
    let mut beats = 0;
    remote.stream.write_all(&message(1, &[0, 0], b"waits")).await.unwrap();
    remote.say(1, declare("behind")).await;
    let blocked = within(remote.next(&mut beats)).await;
    assert!(matches!(blocked, Method::ConnectionBlocked(_)), "{blocked:?}");
    // Longer than a client may be silent otherwise.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    hog.say(2, QueueDelete { queue: ShortString::from_static("r"), ..Default::default() });
    let cancel = within(remote.next(&mut beats)).await;
    assert!(matches!(cancel, Method::BasicCancel(_)), "{cancel:?}");
    assert!(beats >= 3, "{beats} heartbeats");
    hog.send(&last_byte());
    hog.say(2, QueueDelete { queue: ShortString::from_static("q"), ..Default::default() });
    hog.say(2, declare("q"));
    let unblocked = within(remote.next(&mut beats)).await;
    assert!(matches!(unblocked, Method::ConnectionUnblocked(_)), "{unblocked:?}");
    let declared = within(remote.next(&mut beats)).await;
    assert!(matches!(declared, Method::QueueDeclareOk(_)), "{declared:?}");
    assert!(ready(&hog).contains(&("q".to_owned(), 1)));
}

#[test]
fn a_blocked_client_hears_of_a_shutdown() {
    run(hears_of_a_shutdown());
}

async fn hears_of_a_shutdown() {
    let hog = hog();
    let (shut, shutdown) = watch::channel(false);
    let mut remote = connect(&hog.broker, shutdown).await;
    remote.stream.write_all(&message(1, &[0, 0], b"waits")).await.unwrap();
    let blocked = within(remote.next(&mut 0)).await;
    assert!(matches!(blocked, Method::ConnectionBlocked(_)), "{blocked:?}");
    shut.send(true).unwrap();
    let close = within(remote.next(&mut 0)).await;
    let Method::ConnectionClose(ConnectionClose { reply_code: 320, .. }) = close else {
        panic!("{close:?}")
    };
    remote.say(0, ConnectionCloseOk {}).await;
    assert_eq!(within(remote.stream.read_buf(&mut remote.heard)).await.unwrap(), 0);
}

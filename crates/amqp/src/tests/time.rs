//! A broker in memory behind a stream in memory: time passes at once where all wait for it.

use leveret_amqp_wire::method::{BasicConsume, BasicDeliver, ConfirmSelect};
use leveret_model::limits::MEMORY_BYTES_MIN;
use leveret_model::{FieldValue, Time};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::*;
use crate::serve;

const ORIGIN: u64 = 1_700_000_000_000;
const HOUR: Duration = Duration::from_secs(3_600);
const STREAM_BYTES: usize = 64 * 1024;

/// Sends bytes in one go; the answers, which come in one go.
async fn send(stream: &mut DuplexStream, bytes: &[u8]) -> Vec<Told> {
    stream.write_all(bytes).await.unwrap();
    let mut input = Vec::with_capacity(STREAM_BYTES);
    stream.read_buf(&mut input).await.unwrap();
    parsed(&input)
}

/// Sends a method; the answer to it.
async fn say(stream: &mut DuplexStream, channel: u16, method: impl Into<Method>) -> Method {
    let mut told = send(stream, &framed(channel, method)).await;
    let Some(Told::Method(answer)) = told.pop() else { panic!("{told:?}") };
    answer
}

async fn begin(stream: &mut DuplexStream) {
    send(stream, &frame::PROTOCOL_HEADER).await;
    let mechanism = ShortString::from_static("PLAIN");
    let response = b"\0u\0p".to_vec();
    say(stream, 0, ConnectionStartOk { mechanism, response, ..Default::default() }).await;
    let (channel_max, frame_max) = (CHANNEL_MAX, FRAME_MAX_BYTES);
    let tuned = framed(0, ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 });
    stream.write_all(&tuned).await.unwrap();
    let virtual_host = ShortString::from_static("/");
    say(stream, 0, ConnectionOpen { virtual_host, ..Default::default() }).await;
    say(stream, 1, ChannelOpen::default()).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_passes_at_once() {
    let (start, real_start) = (Instant::now(), std::time::Instant::now());
    let user = User { name: "u".into(), password: "p".into(), loopback_only: true };
    let now = move || Time(ORIGIN).after(start.elapsed().as_millis() as u64);
    let (broker, ticker) = Broker::in_memory(vec![user], MEMORY_BYTES_MIN, now).unwrap();
    let instant = move |Time(at)| start + Duration::from_millis(at.saturating_sub(ORIGIN));
    let ticking = tokio::spawn(ticker.run(move |at| sleep_until(instant(at))));
    let (mut client, stream) = duplex(STREAM_BYTES);
    let (_stop, shutdown) = watch::channel(false);
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let served = tokio::spawn(serve(stream, peer, broker, shutdown));

    begin(&mut client).await;
    let queue = ShortString::from_static("dead");
    let told = say(&mut client, 1, QueueDeclare { queue, ..Default::default() }).await;
    assert!(matches!(told, Method::QueueDeclareOk(_)), "{told:?}");
    let arguments = FieldTable::from_iter([
        (ShortString::from_static("x-message-ttl"), FieldValue::I32(3_600_000)),
        (ShortString::from_static("x-dead-letter-exchange"), FieldValue::from("")),
        (ShortString::from_static("x-dead-letter-routing-key"), FieldValue::from("dead")),
    ]);
    let queue = ShortString::from_static("q");
    let declare = QueueDeclare { queue, durable: true, arguments, ..Default::default() };
    let told = say(&mut client, 1, declare).await;
    assert!(matches!(told, Method::QueueDeclareOk(_)), "{told:?}");
    let queue = ShortString::from_static("dead");
    say(&mut client, 1, BasicConsume { queue, ..Default::default() }).await;
    say(&mut client, 1, ConfirmSelect::default()).await;

    let persistent = b"\x10\0\x02";
    let told = send(&mut client, &message(1, persistent, b"late")).await;
    assert!(matches!(told[..], [Told::Method(Method::BasicAck(_))]), "{told:?}");
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody waited for anything");
    let told = send(&mut client, b"").await;
    let [Told::Method(Method::BasicDeliver(BasicDeliver { .. })), Told::Body(body)] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(body, b"late");
    assert_eq!(start.elapsed(), HOUR);

    // Without a close: the broker goes with its last session, and the ticker with the broker.
    drop(client);
    served.await.unwrap();
    ticking.await.unwrap();
    assert_eq!(start.elapsed(), HOUR);
    assert!(real_start.elapsed() < HOUR / 60);
}

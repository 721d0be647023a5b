//! Publishing over connections that are cut and slow, to a broker in memory.

use std::future::IntoFuture;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use leveret_broker::{Broker, User};
use leveret_client::Login;
use leveret_client::model::Time;
use leveret_client::model::limits::MEMORY_BYTES_MIN;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, duplex};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Amqp;
use super::link::{Connector, Stream};
use crate::error::PublishError;
use crate::health::ConnectionState;
use crate::topology::{Exchange, Queue, QueueKind, Topology};
use crate::transport::BoxFuture;
use crate::{Bus, Text};

const QUEUE: &str = "q";
/// How long bytes are under way, in either direction.
const UNDER_WAY: Duration = Duration::from_millis(1);
const PIPE_BYTES: usize = 256 * 1024;

/// Pipes to a broker in memory, all of which can be cut.
struct Pipes {
    broker: Broker,
    login: Login,
    stop: watch::Sender<bool>,
    /// Whether nobody answers.
    away: AtomicBool,
}

impl Pipes {
    fn new() -> Arc<Pipes> {
        let login = Login { heartbeat: Duration::ZERO, ..Login::default() };
        let (name, password) = (login.user.clone(), login.password.clone());
        let user = User { name, password, loopback_only: true };
        let (broker, _) = Broker::in_memory(vec![user], MEMORY_BYTES_MIN, || Time(1)).unwrap();
        Arc::new(Pipes {
            broker,
            login,
            stop: watch::Sender::new(false),
            away: AtomicBool::new(false),
        })
    }

    async fn bus(self: &Arc<Self>) -> Bus {
        let within = Duration::from_secs(30);
        let pipes = Arc::clone(self) as Arc<dyn Connector>;
        let amqp = Amqp::start("pipes", pipes, QueueKind::Classic, within);
        Bus::builder("").transport(Arc::new(amqp)).window(64, 1 << 20).connect().await.unwrap()
    }

    /// Ends all connections, and lets nobody connect until `away` is false again.
    async fn go_away(&self, bus: &Bus) {
        self.away.store(true, Ordering::Relaxed);
        self.cut();
        while bus.health().connections[0].state == ConnectionState::Up {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends all connections.
    fn cut(&self) {
        self.stop.send_replace(true);
        self.stop.send_replace(false);
    }
}

impl Connector for Pipes {
    fn address(&self, _: usize) -> String {
        "a pipe".to_owned()
    }

    fn connect(&self, _: usize) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        if self.away.load(Ordering::Relaxed) {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        let (ours, near) = duplex(PIPE_BYTES);
        let (far, theirs) = duplex(PIPE_BYTES);
        let (near_in, near_out) = tokio::io::split(near);
        let (far_in, far_out) = tokio::io::split(far);
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
        let (broker, mut stop) = (self.broker.clone(), self.stop.subscribe());
        let serving = leveret_amqp::serve(theirs, peer, broker, self.stop.subscribe());
        tokio::spawn(async move {
            let stopped = stop.changed();
            tokio::select! {
                _ = stopped => {}
                _ = serving => {}
                () = carry(near_in, far_out) => {}
                () = carry(far_in, near_out) => {}
            }
        });
        Box::pin(async { Ok(Box::new(ours) as Box<dyn Stream>) })
    }

    fn login(&self) -> &Login {
        &self.login
    }
}

impl std::fmt::Debug for Pipes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipes")
    }
}

async fn carry<S: Stream>(mut from: ReadHalf<S>, mut to: WriteHalf<S>) {
    let mut buffer = vec![0; PIPE_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        sleep(UNDER_WAY).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_believed_when_the_connection_has_lasted_for_a_while() {
    let pipes = Pipes::new();
    let bus = pipes.bus().await;
    bus.ensure(Topology::new().queue(Queue::new(QUEUE).messages_max(1))).await.unwrap();
    bus.send(QUEUE, &Text::from("it has room")).await.unwrap();
    for (lasted, doubted) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let before = bus.health().connections[0].connects;
        pipes.cut();
        while bus.health().connections[0].connects == before || !bus.health().is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(lasted).await;
        let start = Instant::now();
        let result = bus.send(QUEUE, &Text::from("it has none")).await;
        assert!(matches!(result, Err(PublishError::Refused { .. })), "{result:?}");
        let elapsed = start.elapsed();
        assert_eq!(elapsed > Duration::from_secs(1), doubted, "{lasted:?}: {elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_go_together_again_when_what_closed_the_channel_has_passed() {
    let pipes = Pipes::new();
    let bus = pipes.bus().await;
    let exchange = Exchange::topic("gone");
    let made = Topology::new().exchange(exchange.clone()).queue(Queue::new(QUEUE));
    bus.ensure(made.clone()).await.unwrap();
    let text = Text::from("x");
    let to_exchange = || bus.publish(&text).exchange(exchange.clone()).subject("x").optional();
    to_exchange().await.unwrap();
    let other = leveret_client::Connection::open(pipes.connect(0).await.unwrap(), pipes.login());
    let other = other.await.unwrap();
    let (channel, _events) = other.channel().await.unwrap();
    let name = leveret_client::model::ShortString::from_static("gone");
    let delete = leveret_client::method::ExchangeDelete { exchange: name, ..Default::default() };
    channel.call(delete).await.unwrap();

    let mut tickets = FuturesUnordered::new();
    for _ in 0..10 {
        tickets.push(to_exchange().pipelined().await.unwrap());
    }
    // The channel is closed meanwhile, and not open again yet.
    sleep(Duration::from_millis(20)).await;
    bus.ensure(made).await.unwrap();
    let start = Instant::now();
    // There is always something that is not confirmed.
    for _ in 0..2_000 {
        if tickets.len() >= 50 {
            tickets.next().await.unwrap().unwrap();
        }
        tickets.push(bus.send(QUEUE, &text).pipelined().await.unwrap());
    }
    while let Some(result) = tickets.next().await {
        result.unwrap();
    }
    // One by one it would be twice as many milliseconds as there are messages.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_in_the_window_waits_no_longer_than_for_a_confirm() {
    let pipes = Pipes::new();
    let bus = pipes.bus().await;
    bus.ensure(Topology::new().queue(Queue::new(QUEUE))).await.unwrap();
    pipes.go_away(&bus).await;
    let start = Instant::now();
    let text = Text::from("x");
    let sent =
        futures_util::future::join_all((0..200).map(|_| bus.send(QUEUE, &text).into_future()));
    for result in sent.await {
        assert!(matches!(result, Err(PublishError::NotSent { .. })), "{result:?}");
    }
    let elapsed = start.elapsed().as_secs();
    assert!((30..32).contains(&elapsed), "{elapsed}");
    // And nothing is left of those that were given up.
    pipes.away.store(false, Ordering::Relaxed);
    bus.send(QUEUE, &text).await.unwrap();
    assert_eq!(bus.queue(QUEUE).await.unwrap().unwrap().messages, 1);
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_nobody_waits_for_any_more_is_sent() {
    let pipes = Pipes::new();
    let bus = pipes.bus().await;
    bus.ensure(Topology::new().queue(Queue::new(QUEUE))).await.unwrap();
    pipes.go_away(&bus).await;
    let text = Text::from("x");
    drop(bus.send(QUEUE, &text).pipelined().await.unwrap());
    let waited = timeout(Duration::from_secs(1), bus.send(QUEUE, &text).into_future()).await;
    assert!(waited.is_err(), "{waited:?}");
    pipes.away.store(false, Ordering::Relaxed);
    bus.send(QUEUE, &text).await.unwrap();
    assert_eq!(bus.queue(QUEUE).await.unwrap().unwrap().messages, 3);
}

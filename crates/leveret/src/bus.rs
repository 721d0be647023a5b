//! The bus: where messages are published and consumed.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::OnceCell;

use crate::chance::Names;
#[cfg(feature = "claim-check")]
use crate::claim_check::ClaimCheck;
use crate::claim_check::{self, LargeBodies};
use crate::clock::Clock;
use crate::connect;
use crate::consume::{BatchHandler, Batches, ConsumerBuilder, ConsumerShared, Each, Handler};
use crate::dead_letters::DeadLetters;
use crate::delays::Delays;
use crate::describe::Catalog;
use crate::error::{ConnectError, Error, Result, TopologyError};
use crate::health::Health;
use crate::letter::Letter;
use crate::message::{Message, Payload};
use crate::publish::{Publish, Window};
use crate::rpc::Replies;
use crate::stats::{Counters, Stats};
use crate::testing::Recorder;
use crate::topology::{Exchange, Topology};
use crate::transport::{Capabilities, QueueStatus, Transport};

/// How long consumers may take to finish what they are doing when a bus is closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The URL of a broker for tests.
const IN_MEMORY: &str = "memory:";

/// A way to a broker: programs publish and consume through it. Clones are the same bus.
///
/// It connects again whenever the connection is lost, sends again what was not confirmed and goes
/// on consuming; [`Bus::health`] tells how that goes. Close it with [`Bus::close`], or what is
/// unconfirmed then is not waited for.
#[derive(Clone)]
pub struct Bus {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) transport: Arc<dyn Transport>,
    /// Where messages are published that name no other exchange.
    pub(crate) exchange: Exchange,
    /// Declared by the first message that goes there.
    exchange_ready: OnceCell<()>,
    pub(crate) names: Names,
    pub(crate) window: Window,
    pub(crate) large_bodies: LargeBodies,
    pub(crate) clock: Clock,
    /// Apart, for some who count must not hold the bus.
    pub(crate) counters: Arc<Counters>,
    pub(crate) catalog: Catalog,
    /// Opened by the first question.
    pub(crate) replies: OnceCell<Replies>,
    /// What was published, for tests: on `memory:` alone.
    pub(crate) recorder: Option<Recorder>,
    /// What was declared for messages that were put off when they were published.
    pub(crate) delays: Delays,
    /// Exchanges that were declared for publishing.
    ensured: Mutex<HashSet<Cow<'static, str>>>,
    consumers: Mutex<Vec<Arc<ConsumerShared>>>,
}

/// Puts a transport inside another one.
type Wrap = dyn Fn(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync;

/// Settings of a bus; each has a default.
#[derive(Clone)]
pub struct BusBuilder {
    url: String,
    transport: Option<Arc<dyn Transport>>,
    wrap: Option<Arc<Wrap>>,
    unverified: bool,
    exchange: Exchange,
    window_messages: usize,
    window_bytes: usize,
    large_bodies: LargeBodies,
    connect_timeout: Duration,
    confirm_timeout: Duration,
}

impl Bus {
    /// Connects, with defaults for everything that the URL does not say:
    ///
    /// - `amqp://user:password@host:port,host:port/vhost`, and `amqps://`: a leveret server, or
    ///   RabbitMQ; of several hosts, nodes of a cluster, any will do. Options:
    ///   `?queues=quorum` has queues on several nodes, `heartbeat=SECONDS`, `name=NAME` for the
    ///   broker's lists, `cacertfile=FILE` to trust.
    /// - `embedded:DIRECTORY`: the broker within the process, with its data in that directory.
    /// - `memory:`: the broker within the process, without a disk, for tests: by tokio's clock, so
    ///   that paused time makes delays pass at once.
    ///
    /// # Errors
    /// [`Error::Connect`] if the login is refused, or nobody answers within ten seconds.
    pub async fn connect(url: &str) -> Result<Bus> {
        Bus::builder(url).connect().await
    }

    /// A bus with other settings.
    #[must_use]
    pub fn builder(url: &str) -> BusBuilder {
        BusBuilder {
            url: url.to_owned(),
            transport: None,
            wrap: None,
            unverified: false,
            exchange: Exchange::topic("events"),
            window_messages: 1024,
            window_bytes: 8 * 1024 * 1024,
            large_bodies: LargeBodies::default(),
            connect_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(30),
        }
    }

    /// Publishes a message under its name, to whoever consumes that. Await it: it returns when the
    /// broker has confirmed that it has the message, and that it is in some queue.
    pub fn publish<'a, M: Message>(&'a self, message: &'a M) -> Publish<'a, M> {
        Publish::event(self, message)
    }

    /// Sends a message to one queue. Await it: it returns when the broker has confirmed it.
    pub fn send<'a, M: Message>(&'a self, queue: &str, message: &'a M) -> Publish<'a, M> {
        Publish::to_queue(self, queue, message)
    }

    /// Consumes messages of a type: `queue` is the name of the queue they wait in, and so of the
    /// group of consumers that share them.
    pub fn consume<M: Message, H: Handler<M>>(
        &self,
        queue: &str,
        handler: H,
    ) -> ConsumerBuilder<Each<M, H>> {
        ConsumerBuilder::each(self, queue, handler)
    }

    /// Consumes messages of a type in batches of at most `most`, for what is cheaper done together.
    /// A batch is handled when it is full, or its first message has waited for `within`.
    pub fn consume_batches<M: Message, H: BatchHandler<M>>(
        &self,
        queue: &str,
        most: usize,
        within: Duration,
        handler: H,
    ) -> ConsumerBuilder<Batches<M, H>> {
        ConsumerBuilder::batches(self, queue, most, within, handler)
    }

    /// Declares exchanges, queues and bindings, now and at each connect from now on. The bus's own
    /// exchange is declared, too, where something is bound to it; and so is a queue that is named
    /// for dead letters, where there is none: declare it before if it is to have settings.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the transport cannot make a queue like that;
    /// [`Error::Topology`] if something is there already and differs, or is refused.
    pub async fn ensure(&self, mut topology: Topology) -> Result<()> {
        self.capabilities().check(&topology)?;
        let own = &self.inner.exchange;
        let bound = topology.bindings.iter().any(|it| it.exchange == own.name);
        if bound && topology.exchanges.iter().all(|it| it.name != own.name) {
            topology = topology.exchange(own.clone());
        }
        Ok(self.inner.transport.ensure(topology).await?)
    }

    /// The dead letters of a queue's consumers.
    #[must_use]
    pub fn dead_letters(&self, queue: &str) -> DeadLetters {
        DeadLetters::new(self, queue)
    }

    /// The body of a message that was not handed to a handler, such as a dead letter: it may be in
    /// the store for large bodies.
    ///
    /// # Errors
    /// [`Error::Store`] if it is there and cannot be had, or this bus knows of no store.
    pub async fn payload(&self, letter: &Letter) -> Result<Payload> {
        if !claim_check::is_claimed(letter) {
            return Ok(letter.payload.clone());
        }
        let fetched = self.inner.large_bodies.fetch(letter).await;
        fetched.map_err(|failure| Error::Store {
            what: format!("message {}", letter.id),
            source: failure.to_string().into(),
        })
    }

    /// How many messages wait in a queue, and who consumes it; `None` if there is no such queue.
    ///
    /// # Errors
    /// [`Error::Connect`] if there is no connection.
    pub async fn queue(&self, name: &str) -> Result<Option<QueueStatus>> {
        Ok(self.inner.transport.queue(name).await?)
    }

    /// How the bus is, its connections and its consumers.
    #[must_use]
    pub fn health(&self) -> Health {
        let consumers = self.inner.consumers();
        Health {
            connections: self.inner.transport.health(),
            consumers: consumers.iter().map(|consumer| consumer.health()).collect(),
            unconfirmed: self.inner.transport.unconfirmed(),
        }
    }

    /// What the bus has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.counters.snapshot(self.health())
    }

    /// What the broker can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.inner.transport.capabilities()
    }

    /// What is below, for who needs more: the `leveret_broker::Broker` of `embedded:` and
    /// `memory:`.
    #[must_use]
    pub fn native<T: 'static>(&self) -> Option<&T> {
        self.inner.transport.native()?.downcast_ref()
    }

    /// Lets consumers finish what they are doing, waits for confirms and says goodbye.
    pub async fn close(&self) {
        let consumers = self.inner.consumers().clone();
        for consumer in &consumers {
            consumer.stop();
        }
        join_all(consumers.iter().map(|consumer| consumer.stopped(DRAIN_TIMEOUT))).await;
        self.inner.transport.close().await;
    }

    /// Goes on until the process is told to end (SIGINT or SIGTERM), then closes the bus.
    ///
    /// # Errors
    /// [`Error::Invalid`] if signals cannot be waited for.
    pub async fn run_until_signal(&self) -> Result<()> {
        signal().await.map_err(|error| Error::Invalid(format!("no signals: {error}")))?;
        self.close().await;
        Ok(())
    }
}

#[cfg(unix)]
async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        done = tokio::signal::ctrl_c() => done,
    }
}

#[cfg(not(unix))]
async fn signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

impl Inner {
    pub(crate) fn consumers(&self) -> MutexGuard<'_, Vec<Arc<ConsumerShared>>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares an exchange that messages are published to, unless that was done before.
    pub(crate) async fn ensure_exchange(&self, exchange: Exchange) -> Result<(), TopologyError> {
        if exchange.name != self.exchange.name {
            let topology = || Topology::new().exchange(exchange.clone());
            return self.ensure_once(exchange.name.clone(), topology).await;
        }
        if self.exchange_ready.initialized() {
            return Ok(());
        }
        let topology = || Topology::new().exchange(self.exchange.clone());
        let declare = async || self.transport.ensure(topology()).await;
        // Boxed: what is rare must not make every message's future large.
        Box::pin(self.exchange_ready.get_or_try_init(declare)).await.map(|&()| ())
    }

    /// Declares something for publishing, unless that was done before.
    pub(crate) async fn ensure_once(
        &self,
        name: Cow<'static, str>,
        topology: impl FnOnce() -> Topology,
    ) -> Result<(), TopologyError> {
        let known = || self.ensured.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&name) {
            return Ok(());
        }
        self.transport.ensure(topology()).await?;
        known().insert(name);
        Ok(())
    }
}

impl BusBuilder {
    /// Where messages are published that name no other exchange: `events`, routing by topics, where
    /// nothing is said.
    #[must_use]
    pub fn exchange(mut self, exchange: Exchange) -> Self {
        self.exchange = exchange;
        self
    }

    /// How many messages, and how many bytes of them, may be unconfirmed before who publishes
    /// waits: 1,024 and 8 MiB where nothing is said. A message takes the place of as many as its
    /// share of the bytes comes to; one that is larger than all of them goes alone.
    #[must_use]
    pub fn window(mut self, messages: usize, bytes: usize) -> Self {
        (self.window_messages, self.window_bytes) = (messages.max(1), bytes.max(1));
        self
    }

    /// How long the first connection may take: ten seconds where nothing is said.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a message may take to be confirmed, the wait for its place in the window included,
    /// and the broker to answer: thirty seconds where nothing is said.
    #[must_use]
    pub fn confirm_timeout(mut self, timeout: Duration) -> Self {
        self.confirm_timeout = timeout;
        self
    }

    /// With this store for large bodies: they are put there before their message is published, and
    /// fetched before it is handled. Without one, a consumer of such a message fails for good.
    #[cfg(feature = "claim-check")]
    #[must_use]
    pub fn large_bodies(mut self, store: ClaimCheck) -> Self {
        self.large_bodies.store = Some(store);
        self
    }

    /// Over this transport, instead of that of the URL.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// With the transport inside another one, which may count, slow or fail what goes through it.
    #[must_use]
    pub fn wrap(
        mut self,
        wrap: impl Fn(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync + 'static,
    ) -> Self {
        self.wrap = Some(Arc::new(wrap));
        self
    }

    /// Also over a transport that cannot tell that a message went nowhere: what is published for
    /// nobody, or sent to a queue that is not there, is lost then without an error, and so is what
    /// failed if its queue for dead letters was deleted.
    #[must_use]
    pub fn unverified(mut self) -> Self {
        self.unverified = true;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Error::Connect`] if the URL makes no sense, the login is refused, or nobody answers in
    /// time; [`Error::Unsupported`] if the transport cannot tell that a message went nowhere.
    pub async fn connect(self) -> Result<Bus> {
        let in_memory = self.transport.is_none() && self.url == IN_MEMORY;
        let catalog = Catalog::new(self.transport.is_none().then_some(&self.url));
        let transport = match self.transport {
            Some(transport) => transport,
            None => connect::open(&self.url, self.confirm_timeout).await?,
        };
        let transport = match &self.wrap {
            Some(wrap) => wrap(transport),
            None => transport,
        };
        transport.connected(self.connect_timeout).await?;
        let can = transport.capabilities();
        if !can.unroutable && !self.unverified {
            let what = "tell that a message went nowhere";
            return Err(can.unsupported(what, "say unverified() to the builder if it may be lost"));
        }
        let names = Names::new().map_err(|error| {
            ConnectError::Url(format!("the system gives no random bytes: {error}"))
        })?;
        let inner = Inner {
            transport,
            exchange: self.exchange,
            exchange_ready: OnceCell::new(),
            names,
            window: Window::new(self.window_messages, self.window_bytes, self.confirm_timeout),
            large_bodies: self.large_bodies,
            clock: if in_memory { Clock::of_runtime() } else { Clock::Wall },
            counters: Arc::default(),
            catalog,
            replies: OnceCell::new(),
            recorder: in_memory.then(Recorder::default),
            delays: Delays::default(),
            ensured: Mutex::default(),
            consumers: Mutex::default(),
        };
        Ok(Bus { inner: Arc::new(inner) })
    }
}

impl fmt::Debug for BusBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URL: it may hold a password.
        f.debug_struct("BusBuilder").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bus").field(&self.inner.transport).finish()
    }
}

//! Consuming: a handler, and all that happens around it.

mod attempt;
mod batch;
mod check;
mod course;
mod guard;
mod intake;
mod keyed;
mod lanes;
mod layer;
mod shared;
#[cfg(test)]
mod tests;
mod way;

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use crate::breaker::Breaker;
use crate::bus::Bus;
use crate::cx::Cx;
use crate::dead_letters::dead_queue;
use crate::dedup::Dedup;
use crate::describe::{Received, Traffic};
use crate::error::Result;
use crate::failure::Failure;
use crate::message::Message;
use crate::rate::Rate;
use crate::retry::Retry;
use crate::topology::{
    Binding, DelayTarget, Exchange, ExchangeKind, Match, Queue, QueueKind, Topology,
};
use crate::transport::{Source, Subscription};

pub(crate) use self::course::Course;
pub(crate) use self::guard::guard;
pub(crate) use self::shared::ConsumerShared;

pub use self::attempt::Outcome;
pub use self::batch::BatchHandler;
pub use self::layer::{Deliveries, HandlerService, Layered};
pub use self::way::{Batches, Each, Way};

use self::batch::Batch;
use self::intake::Intake;
use self::keyed::{KeyOf, Keyed};
use self::lanes::Order;

/// How many messages are fetched ahead for each that may be handled at a time.
pub(crate) const PREFETCH_EACH: usize = 16;

/// What handles messages: an async function or closure of the message and its [`Cx`].
///
/// A message is acknowledged when its handler has returned `Ok`, not before: so it is handled at
/// least once, and once more where that could not be told to the broker.
pub trait Handler<M>: Send + Sync + 'static {
    /// Handles a message.
    fn handle(&self, message: M, cx: Cx) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl<M, F, R> Handler<M> for F
where
    F: Fn(M, Cx) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), Failure>> + Send,
{
    fn handle(&self, message: M, cx: Cx) -> impl Future<Output = Result<(), Failure>> + Send {
        self(message, cx)
    }
}

/// A consumer that is to be started. Everything has a default.
#[must_use = "nothing is consumed before start() is awaited"]
pub struct ConsumerBuilder<W> {
    bus: Bus,
    way: W,
    traffic: Traffic,
    queue: Queue,
    exchange: Option<Exchange>,
    subjects: Vec<Cow<'static, str>>,
    headers: Option<Match>,
    own: bool,
    /// Whether what fails is kept: not where somebody waits for an answer and is told.
    keeps_dead: bool,
    concurrency: usize,
    ordered: bool,
    /// Whether one consumer at a time is to have the queue.
    alone: bool,
    key_from: Option<KeyOf>,
    prefetch: Option<u16>,
    priority: i32,
    retry: Option<Retry>,
    policy: Policy,
}

/// What is done with messages around their handler.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) timeout: Option<Duration>,
    pub(crate) rate: Option<Rate>,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) dedup: Option<Dedup>,
}

/// A consumer that consumes, until it is stopped; dropping this does not stop it.
#[derive(Clone)]
pub struct Consumer {
    bus: Bus,
    shared: Arc<ConsumerShared>,
}

impl<M: Message, H: Handler<M>> ConsumerBuilder<Each<M, H>> {
    pub(crate) fn each(bus: &Bus, queue: &str, handler: H) -> Self {
        let way = Each { handler, layers: Vec::new(), message: PhantomData };
        ConsumerBuilder::new::<M>(bus, queue, way)
    }

    pub(crate) fn handler_mut(&mut self) -> &mut H {
        &mut self.way.handler
    }

    /// With a tower layer around the handler: a service of messages and their [`Cx`], whose errors
    /// are failures. It is called for every try. Of several the last one is the outermost.
    pub fn inner<L>(self, layer: L) -> ConsumerBuilder<Each<M, Layered<L::Service>>>
    where
        L: Layer<HandlerService<H>>,
    {
        let Each { handler, layers, message } = self.way;
        let handler = Layered { service: layer.layer(HandlerService::new(handler)) };
        let way = Each { handler, layers, message };
        ConsumerBuilder {
            bus: self.bus,
            way,
            traffic: self.traffic,
            queue: self.queue,
            exchange: self.exchange,
            subjects: self.subjects,
            headers: self.headers,
            own: self.own,
            keeps_dead: self.keeps_dead,
            concurrency: self.concurrency,
            ordered: self.ordered,
            alone: self.alone,
            key_from: self.key_from,
            prefetch: self.prefetch,
            priority: self.priority,
            retry: self.retry,
            policy: self.policy,
        }
    }

    /// With a tower layer around all that is done with a message, retries and dead letters
    /// included: a service of [`Cx`], whose answer is the [`Outcome`]. Of several the last one is
    /// the outermost.
    pub fn outer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Deliveries> + Send + 'static,
        L::Service: Service<Cx, Response = Outcome, Error = Infallible>,
        L::Service: Clone + Send + Sync + 'static,
        <L::Service as Service<Cx>>::Future: Send,
    {
        self.way.layers.push(Box::new(move |run| {
            Arc::new(Layered { service: layer.layer(Deliveries { run }) })
        }));
        self
    }
}

impl<M: Message, H: BatchHandler<M>> ConsumerBuilder<Batches<M, H>> {
    pub(crate) fn batches(
        bus: &Bus,
        queue: &str,
        most: usize,
        within: Duration,
        handler: H,
    ) -> Self {
        let most = most.clamp(1, usize::from(u16::MAX));
        let way = Batches { handler, batch: Batch { most, within }, message: PhantomData };
        ConsumerBuilder::new::<M>(bus, queue, way)
    }
}

impl<W: Way> ConsumerBuilder<W> {
    fn new<M: Message>(bus: &Bus, queue: &str, way: W) -> Self {
        let subjects = if M::NAME.is_empty() { Vec::new() } else { vec![Cow::Borrowed(M::NAME)] };
        ConsumerBuilder {
            bus: bus.clone(),
            way,
            traffic: Traffic::of::<M>(),
            queue: Queue::new(queue),
            exchange: M::EXCHANGE.map(Exchange::topic),
            subjects,
            headers: None,
            own: false,
            keeps_dead: true,
            concurrency: 1,
            ordered: false,
            alone: false,
            key_from: None,
            prefetch: None,
            priority: 0,
            retry: None,
            policy: Policy {
                timeout: None,
                rate: None,
                breaker: Some(Breaker::default()),
                dedup: None,
            },
        }
    }

    /// Of these subjects instead of the message's name. Where the exchange routes by topics they
    /// may be patterns: `*` is one word, `#` any number of them.
    pub fn subjects<S: Into<Cow<'static, str>>>(
        mut self,
        subjects: impl IntoIterator<Item = S>,
    ) -> Self {
        self.subjects = subjects.into_iter().map(Into::into).collect();
        self
    }

    /// With these headers, whatever their subject, from an [`Exchange::headers`].
    pub fn headers(mut self, headers: Match) -> Self {
        self.subjects = vec![Cow::Borrowed("")];
        self.headers = Some(headers);
        self
    }

    /// Only of what is sent to the queue by [`Bus::send`], and not of what is published.
    pub fn sent_only(mut self) -> Self {
        self.subjects.clear();
        self
    }

    /// Of this exchange instead of the bus's. A fanout exchange looks at no subjects.
    pub fn exchange(mut self, exchange: Exchange) -> Self {
        if exchange.kind == ExchangeKind::Fanout && self.subjects.is_empty() {
            self.subjects.push(Cow::Borrowed(""));
        }
        self.exchange = Some(exchange);
        self
    }

    /// With a queue like this; its name stays.
    pub fn queue(mut self, change: impl FnOnce(Queue) -> Queue) -> Self {
        let name = self.queue.name.clone();
        self.queue = change(self.queue);
        self.queue.name = name;
        self
    }

    /// Each started consumer has a queue of its own and gets every message, while it is connected:
    /// what is published while it is not is missed. For news, not for work: what fails is tried at
    /// once, three times in all, and then is a dead letter.
    pub fn own_queue(mut self) -> Self {
        self.own = true;
        self
    }

    /// What fails is gone: there is no queue of dead letters. For questions, whose failures go to
    /// those who asked.
    pub(crate) fn without_dead_letters(mut self) -> Self {
        self.keeps_dead = false;
        self.retry = Some(Retry::none());
        self.policy.breaker = None;
        self
    }

    /// What its messages are described as.
    pub(crate) fn traffic(mut self, traffic: Traffic) -> Self {
        self.traffic = traffic;
        self
    }

    /// So many messages are handled at a time; one where nothing is said.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages.max(1);
        self
    }

    /// Messages of the same key are handled one after the other, in the order of the queue, also
    /// across processes: one of them consumes at a time, the others wait to take its place. A
    /// message that comes again after a delay has lost its place.
    ///
    /// Whether a queue that is there already is made for that cannot be seen from here, so its
    /// consumer says so: `queue(|it| it.existing().single_active_consumer())`.
    pub fn ordered_by_key(mut self) -> Self {
        self.alone = true;
        self.ordered_here()
    }

    /// The same within this consumer alone.
    pub(crate) fn ordered_here(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Where the key is of a message that has none on it.
    pub(crate) fn key_from(mut self, key: KeyOf) -> Self {
        self.key_from = Some(key);
        self
    }

    /// How many messages are fetched ahead, those in handling included. Few share work more evenly,
    /// many are faster. Where nothing is said 16 for each of [`ConsumerBuilder::concurrency`]; of
    /// batches one for each, and one more.
    pub fn prefetch(mut self, messages: u16) -> Self {
        self.prefetch = Some(messages.max(1));
        self
    }

    /// Consumers of higher priority get messages first.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// What is done with messages that fail.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }

    /// How long a handler may take; then it is dropped where it waits, and the try has failed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout = Some(timeout);
        self
    }

    /// No more messages than so many in so much time, evenly.
    pub fn rate(mut self, messages: u32, per: Duration) -> Self {
        self.policy.rate = Some(Rate::new(messages, per));
        self
    }

    /// When to pause since too much fails; where nothing is said, see [`Breaker`].
    pub fn breaker(mut self, breaker: impl Into<Option<Breaker>>) -> Self {
        self.policy.breaker = breaker.into();
        self
    }

    /// Handles no message twice: what was handled is remembered by its id.
    pub fn dedup(mut self, dedup: Dedup) -> Self {
        self.policy.dedup = Some(dedup);
        self
    }

    /// Declares what must be there, and begins to consume.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] if the transport cannot do what was asked for;
    /// [`crate::Error::Invalid`] if that does not go together; [`crate::Error::Topology`] if
    /// something is there already and differs; [`crate::Error::Subscribe`] if the broker refuses.
    pub async fn start(mut self) -> Result<Consumer> {
        let bus = self.bus.clone();
        let inner = &bus.inner;
        self.check()?;
        self.queue.single_active_consumer |= self.alone && !self.own;
        let retry = self.retry_policy();
        let queue = self.queue.name.clone();
        let exchange = self.exchange.clone().unwrap_or_else(|| inner.exchange.clone());
        let mut topology = Topology::new();
        if !self.subjects.is_empty() {
            topology = topology.exchange(exchange.clone());
        }
        if self.keeps_dead {
            topology = topology.queue(dead_queue(&queue));
        }
        let own = self.own.then(|| format!("{queue}.{}", inner.names.next()));
        let name = own.clone().unwrap_or_else(|| queue.clone());
        let bindings = self.subjects.iter().map(|subject| Binding {
            exchange: exchange.name.clone(),
            queue: name.clone(),
            subject: subject.to_string(),
            headers: self.headers.clone(),
        });
        let bindings: Vec<Binding> = bindings.collect();
        let source = match own {
            Some(name) => Source::Own { queue: self.queue_of_its_own(name), bindings },
            None => {
                topology = topology.queue(self.queue.clone());
                topology.bindings.extend(bindings);
                if let Some(longest) = retry.longest().filter(|longest| !longest.is_zero()) {
                    topology = topology.delay(DelayTarget::Queue(queue.clone()), longest);
                }
                Source::Queue(self.queue.clone())
            }
        };
        bus.ensure(topology).await?;
        let ahead = u16::try_from(self.way.prefetch(self.concurrency)).unwrap_or(u16::MAX);
        let prefetch = self.prefetch.unwrap_or(ahead);
        let subscription = Subscription { source, prefetch, priority: self.priority };
        let mut inlet = inner.transport.subscribe(subscription).await?;
        if let Some(key_of) = self.key_from {
            inlet = Box::new(Keyed { inlet, key_of });
        }
        inner.catalog.receives(Received {
            traffic: self.traffic,
            queue: queue.clone(),
            own: self.own,
            exchange,
            subjects: self.subjects,
            headers: self.headers,
            retry: self.keeps_dead.then_some(retry),
        });
        let shared = Arc::new(ConsumerShared::new(queue, inlet.state()));
        let course = Arc::new(Course::new(bus.clone(), retry, self.policy, Arc::clone(&shared)));
        let work = self.way.work(Arc::clone(&course));
        let by_key = self.ordered && self.concurrency > 1;
        let order = Order { kept: self.ordered, by_key, again: !self.own };
        Intake::start(inlet, &work, &course, order, self.concurrency);
        inner.consumers().push(Arc::clone(&shared));
        Ok(Consumer { bus, shared })
    }

    /// The queue that this consumer alone has.
    fn queue_of_its_own(&self, name: String) -> Queue {
        Queue { name, kind: Some(QueueKind::Classic), ..self.queue.clone() }
    }

    /// What is done with messages that fail.
    fn retry_policy(&self) -> Retry {
        self.retry.unwrap_or_else(|| match self.own {
            true => Retry::none().at_once(3),
            false => Retry::default(),
        })
    }
}

impl Consumer {
    /// Fetches no more messages, lets handlers finish, and gives back what was fetched and not
    /// begun. Handlers that take longer than `within` are dropped where they wait; their messages
    /// come again. The bus's health
    /// tells no more of it then.
    pub async fn stop(&self, within: Duration) {
        self.shared.stop();
        self.shared.stopped(within).await;
        self.bus.inner.consumers().retain(|it| !Arc::ptr_eq(it, &self.shared));
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> crate::health::ConsumerHealth {
        self.shared.health()
    }
}

impl<W> fmt::Debug for ConsumerBuilder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Consumer").field(&self.shared.health()).finish()
    }
}

//! Where a test happens.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::bus::{Bus, BusBuilder};
use crate::consume::{ConsumerBuilder, Each, Handler};
use crate::cx::Cx;
use crate::failure::{BoxError, Failure};
use crate::message::{Message, Text};
use crate::retry::Retry;
use crate::topology::{Queue, Topology};

/// How long anything may take that should happen soon. Servers under load take their time.
const SOON: Duration = Duration::from_secs(30);
/// How long nothing must happen for it to count as not happening.
const QUIET: Duration = Duration::from_millis(300);

/// A test's own buses and names.
#[derive(Clone)]
pub struct Scene {
    make: Arc<dyn Fn() -> BusBuilder + Send + Sync>,
    prefix: String,
}

impl Scene {
    pub(super) fn new(make: Arc<dyn Fn() -> BusBuilder + Send + Sync>, prefix: String) -> Self {
        Scene { make, prefix }
    }

    /// A bus; for a broker in the process one with a broker of its own.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn bus(&self) -> Result<Bus, BoxError> {
        Ok(self.builder().connect().await?)
    }

    /// The same, to be changed.
    #[must_use]
    pub fn builder(&self) -> BusBuilder {
        (self.make)()
    }

    /// A name that no other test uses, for a queue or a subject.
    #[must_use]
    pub fn name(&self, what: &str) -> String {
        format!("conformance.{}.{what}", self.prefix)
    }

    /// A queue that is there, and its name.
    pub(super) async fn queue(&self, bus: &Bus, what: &str) -> Result<String, BoxError> {
        let name = self.name(what);
        bus.ensure(Topology::new().queue(Queue::new(&name))).await?;
        Ok(name)
    }
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What a consumer was given, in order, and when.
pub(super) struct Seen<M = Text>(mpsc::UnboundedReceiver<(M, Cx, Instant)>);

/// Where a handler notes what it was given.
pub(super) struct Notes<M = Text>(mpsc::UnboundedSender<(M, Cx, Instant)>);

impl<M> Clone for Notes<M> {
    fn clone(&self) -> Self {
        Notes(self.0.clone())
    }
}

/// A consumer that tries again as its transport can.
pub(super) fn consume<M: Message, H: Handler<M>>(
    bus: &Bus,
    queue: &str,
    handler: H,
) -> ConsumerBuilder<Each<M, H>> {
    let consumer = bus.consume(queue, handler);
    match bus.capabilities().delay_max {
        Some(_) => consumer,
        None => consumer.retry(Retry::none().at_once(3)),
    }
}

/// So long, or not at all where nothing can be put off.
pub(super) fn delay(bus: &Bus, delay: Duration) -> Duration {
    delay.min(bus.capabilities().delay_max.unwrap_or_default())
}

/// Notes, and who reads them.
pub(super) fn notes<M>() -> (Notes<M>, Seen<M>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Notes(sender), Seen(receiver))
}

impl<M> Notes<M> {
    /// Whoever reads may have seen enough.
    pub(super) fn note(&self, message: M, cx: Cx) {
        let _ = self.0.send((message, cx, Instant::now()));
    }
}

/// A handler that notes what it is given, and is content.
pub(super) fn content<M: Send + 'static>(
    notes: Notes<M>,
) -> impl Fn(M, Cx) -> std::future::Ready<Result<(), Failure>> {
    move |message, cx| {
        notes.note(message, cx);
        std::future::ready(Ok(()))
    }
}

impl<M> Seen<M> {
    /// The next message.
    pub(super) async fn next(&mut self) -> Result<(M, Cx), BoxError> {
        self.next_at().await.map(|(message, cx, _)| (message, cx))
    }

    /// The next message, and when it was given to the handler.
    pub(super) async fn next_at(&mut self) -> Result<(M, Cx, Instant), BoxError> {
        match timeout(SOON, self.0.recv()).await {
            Ok(Some(seen)) => Ok(seen),
            Ok(None) => Err("the consumer is gone".into()),
            Err(_) => Err("no message came".into()),
        }
    }

    /// How many came already that nobody has looked at.
    pub(super) fn waiting(&self) -> usize {
        self.0.len()
    }

    /// Fails if there is another message.
    pub(super) async fn none(&mut self) -> Result<(), BoxError> {
        match timeout(QUIET, self.0.recv()).await {
            Ok(Some((_, cx, _))) => Err(format!("one message too many: {cx:?}").into()),
            _ => Ok(()),
        }
    }
}

impl Seen<Text> {
    /// The texts of the next so many messages.
    pub(super) async fn texts(&mut self, count: usize) -> Result<Vec<String>, BoxError> {
        let mut texts = Vec::new();
        while texts.len() < count {
            texts.push(self.next().await?.0.0);
        }
        Ok(texts)
    }
}

/// Waits until something is so.
pub(super) async fn until(
    what: &str,
    mut holds: impl AsyncFnMut() -> bool,
) -> Result<(), BoxError> {
    let start = Instant::now();
    while !holds().await {
        check!(start.elapsed() < SOON, "in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Waits until so many messages wait in a queue.
pub(super) async fn until_waiting(bus: &Bus, queue: &str, count: u64) -> Result<(), BoxError> {
    let mut last = None;
    let waited = until("messages in the queue", async || {
        last = bus.queue(queue).await.ok().flatten().map(|status| status.messages);
        last == Some(count)
    })
    .await;
    waited.map_err(|_| format!("{last:?} messages wait in {queue}, not {count}").into())
}

/// Something that handlers and tests both see.
#[derive(Default)]
pub(super) struct Shared<T>(Arc<Mutex<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl<T> Shared<T> {
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

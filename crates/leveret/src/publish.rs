//! Publishing: a message, how it is to go, and what came of it.

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};

use crate::bus::{Bus, Inner};
use crate::describe::Traffic;
use crate::error::PublishError;
use crate::history;
use crate::letter::Letter;
use crate::message::Message;
use crate::topology::{DelayTarget, Exchange};
use crate::transport::{BoxFuture, Done, Outgoing, Target};

/// A message to be published. Nothing happens before it is awaited, or [`Publish::pipelined`] is.
/// Dropped while it is awaited, by a timeout for example, it may still be sent.
#[must_use = "nothing is published unless it is awaited"]
pub struct Publish<'a, M> {
    bus: &'a Bus,
    message: &'a M,
    to: To,
    delay: Option<Duration>,
    optional: bool,
    letter: Box<Letter>,
}

enum To {
    Queue(String),
    Subject {
        exchange: Option<Exchange>,
        subject: Cow<'static, str>,
    },
    /// To a queue, and what only [`Bus::publish`] goes by was said, too.
    Both,
}

/// A message that is ready to be sent.
pub(crate) struct Sealed {
    pub(crate) to: Address,
    pub(crate) mandatory: bool,
    pub(crate) delay: Option<Duration>,
    pub(crate) letter: Box<Letter>,
}

/// Where a message goes, with all that is to be known of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Queue(String),
    Subject { exchange: Exchange, subject: Cow<'static, str> },
}

/// A published message that is not confirmed yet. Awaiting it gives what came of it; dropping it
/// gives up knowing, and the message is sent all the same.
#[derive(Debug)]
pub struct Ticket {
    receiver: oneshot::Receiver<Result<(), PublishError>>,
    id: String,
}

/// A message that was confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The message's id.
    pub id: String,
}

/// The messages that are not confirmed: so many there may be. The bytes are what is counted; each
/// message counts as many as an equal share of them, or more if it is larger.
pub(crate) struct Window {
    bytes: Arc<Semaphore>,
    bytes_max: u32,
    bytes_min: u32,
    /// How long one waits for a place.
    within: Duration,
}

impl Window {
    pub(crate) fn new(messages: usize, bytes: usize, within: Duration) -> Self {
        let bytes_max = u32::try_from(bytes.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        // Rounded up: more messages never fit.
        let bytes_min = bytes_max.div_ceil(u32::try_from(messages).unwrap_or(u32::MAX));
        let permits = Arc::new(Semaphore::new(bytes_max as usize));
        Window { bytes: permits, bytes_max, bytes_min, within }
    }

    /// Waits for a place for a message of so many bytes; `None` if that takes too long.
    async fn enter(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(self.bytes_min, self.bytes_max);
        // Most of the time there is one, and a timer would cost more than that.
        if let Ok(place) = Arc::clone(&self.bytes).try_acquire_many_owned(bytes) {
            return Some(place);
        }
        let place = Arc::clone(&self.bytes).acquire_many_owned(bytes);
        timeout(self.within, place).await.ok()?.ok()
    }
}

impl<'a, M: Message> Publish<'a, M> {
    pub(crate) fn event(bus: &'a Bus, message: &'a M) -> Self {
        let exchange = M::EXCHANGE.map(Exchange::topic);
        let to = To::Subject { exchange, subject: Cow::Borrowed(M::NAME) };
        Publish::new(bus, message, to)
    }

    fn new(bus: &'a Bus, message: &'a M, to: To) -> Self {
        Publish { bus, message, to, delay: None, optional: false, letter: Box::default() }
    }

    pub(crate) fn to_queue(bus: &'a Bus, queue: &str, message: &'a M) -> Self {
        Publish::new(bus, message, To::Queue(queue.to_owned()))
    }

    /// Under this subject instead of the message's name.
    pub fn subject(mut self, subject: impl Into<Cow<'static, str>>) -> Self {
        match &mut self.to {
            To::Subject { subject: name, .. } => *name = subject.into(),
            To::Queue(_) | To::Both => self.to = To::Both,
        }
        self
    }

    /// To this exchange instead of the bus's; it is declared if it is not there.
    pub fn exchange(mut self, exchange: Exchange) -> Self {
        match &mut self.to {
            To::Subject { exchange: known, .. } => *known = Some(exchange),
            To::Queue(_) | To::Both => self.to = To::Both,
        }
        self
    }

    /// It is no error if nobody gets it: an event that nobody may listen to.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// With this key instead of the message's own.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.letter.key = Some(key.into());
        self
    }

    /// With a header. Names that begin with `leveret-` or `x-` are the toolkit's and the broker's.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.letter.headers.set(name, value);
        self
    }

    /// With this id, which deduplication goes by, instead of one that nothing else has. What is
    /// published again after an error should have the id that it had.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.letter.id = id.into();
        self
    }

    /// Delivered after this time, not now. It is kept by the broker meanwhile, and cannot have
    /// [`Publish::expires`].
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Delivered at this time; now if it has been.
    pub fn at(mut self, time: SystemTime) -> Self {
        self.delay = Some(self.bus.inner.clock.until(time));
        self
    }

    /// Of no use after this time: from then on it is no longer delivered from a queue.
    pub fn expires(mut self, after: Duration) -> Self {
        self.letter.expires = Some(after);
        self
    }

    /// How important it is, in a queue with priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.letter.priority = Some(priority);
        self
    }

    /// Not kept on disk: fast, and gone when the broker restarts.
    pub fn transient(mut self) -> Self {
        self.letter.transient = true;
        self
    }

    /// Where an answer goes, and what it will be called.
    pub fn reply_to(mut self, queue: impl Into<String>, correlation: impl Into<String>) -> Self {
        self.letter.reply_to = Some(queue.into());
        self.letter.correlation_id = Some(correlation.into());
        self
    }

    /// What it is an answer to.
    pub fn correlation_id(mut self, correlation: impl Into<String>) -> Self {
        self.letter.correlation_id = Some(correlation.into());
        self
    }

    /// Publishes without waiting for the confirm, which the ticket is for. Waits only if too many
    /// messages are not confirmed, for as long as a confirm may take.
    ///
    /// # Errors
    /// [`PublishError`] if the message certainly was not sent.
    pub async fn pipelined(self) -> Result<Ticket, PublishError> {
        let inner = &self.bus.inner;
        inner.post(self.seal()?).await
    }

    /// The message as it goes, without a look at the broker.
    pub(crate) fn seal(self) -> Result<Sealed, PublishError> {
        let Publish { bus, message, to, delay, optional, mut letter } = self;
        letter.payload = message.encode()?;
        letter.name = Cow::Borrowed(M::NAME);
        if letter.key.is_none() {
            letter.key = message.key();
        }
        let to = match to {
            To::Queue(queue) => Address::Queue(queue),
            To::Both => {
                let text = "a message sent to a queue has no subject() and no exchange(): say \
                            them with publish()";
                return Err(PublishError::Invalid(text.to_owned()));
            }
            To::Subject { exchange, subject } => {
                if subject.is_empty() && exchange.is_none() {
                    let text = "a message without a name: say subject(), or send() it to a queue";
                    return Err(PublishError::Invalid(text.to_owned()));
                }
                let exchange = exchange.unwrap_or_else(|| bus.inner.exchange.clone());
                Address::Subject { exchange, subject }
            }
        };
        bus.inner.catalog.learn(Traffic::of::<M>(), &to, letter.transient);
        Ok(Sealed { to, mandatory: !optional, delay, letter })
    }
}

impl Inner {
    /// Sends a message that is ready, and makes the exchange first that it goes to.
    pub(crate) async fn post(&self, sealed: Sealed) -> Result<Ticket, PublishError> {
        let Sealed { to, mandatory, delay, letter } = sealed;
        let target = match to {
            Address::Queue(queue) => Target::Queue(queue),
            Address::Subject { exchange, subject } => {
                let name = exchange.name.clone();
                self.ensure_exchange(exchange).await?;
                Target::Subject { exchange: name, subject }
            }
        };
        self.dispatch(target, mandatory, delay, letter).await
    }

    /// Sends a letter.
    pub(crate) async fn dispatch(
        &self,
        target: Target,
        mandatory: bool,
        delay: Option<Duration>,
        letter: impl Into<Box<Letter>>,
    ) -> Result<Ticket, PublishError> {
        let mut letter = letter.into();
        if let Some(recorder) = &self.recorder {
            recorder.record(letter.name.clone(), letter.payload.clone());
        }
        if letter.id.is_empty() {
            letter.id = self.names.next();
        }
        if self.large_bodies.takes(&letter) {
            Box::pin(self.large_bodies.put(&mut letter)).await?;
        }
        let limit = self.transport.capabilities().body_bytes_max;
        let size = letter.body().len() as u64;
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        self.forward(target, mandatory, delay, letter).await
    }

    /// Sends a letter on that a broker had already, whatever its size, and waits for the confirm.
    /// What has no room on it any more is left out.
    pub(crate) async fn send_on(
        &self,
        target: Target,
        delay: Option<Duration>,
        letter: &mut Box<Letter>,
    ) -> Result<(), PublishError> {
        loop {
            let sent = match self.forward(target.clone(), true, delay, letter.clone()).await {
                Ok(ticket) => ticket.await,
                Err(error) => Err(error),
            };
            match sent {
                Err(PublishError::Invalid(text)) if history::lighten(letter) => {
                    tracing::warn!(id = letter.id, text, "a message goes on with less on it");
                }
                sent => return sent.map(drop),
            }
        }
    }

    async fn forward(
        &self,
        target: Target,
        mandatory: bool,
        delay: Option<Duration>,
        mut letter: Box<Letter>,
    ) -> Result<Ticket, PublishError> {
        let capabilities = self.transport.capabilities();
        let delay = delay.filter(|delay| !delay.is_zero());
        if let Some(delay) = delay {
            if letter.expires.is_some() {
                // It would expire on its way, and come early.
                let text = "a message cannot both be put off and expire: say delay() or expires()";
                return Err(PublishError::Invalid(text.to_owned()));
            }
            let (longest, name) = (capabilities.delay_max, capabilities.name);
            // Boxed: what is rare must not make every message's future large.
            Box::pin(self.ensure_delay(&target, delay, longest, name)).await?;
        }
        letter.sent_at.get_or_insert_with(|| self.clock.milliseconds());
        let since = Instant::now();
        let Some(_permit) = self.window.enter(letter.size()).await else {
            let text =
                format!("{} messages before it are not confirmed", self.transport.unconfirmed());
            return Err(PublishError::NotSent { within: self.window.within, text });
        };
        let (sender, receiver) = oneshot::channel();
        let ticket = Ticket { receiver, id: letter.id.clone() };
        let done = Done { sender, counters: Arc::clone(&self.counters), since, _permit };
        self.transport.send(Outgoing { target, mandatory, delay, letter, done });
        Ok(ticket)
    }

    async fn ensure_delay(
        &self,
        target: &Target,
        delay: Duration,
        longest: Option<Duration>,
        transport: &'static str,
    ) -> Result<(), PublishError> {
        let longest = longest.unwrap_or_default();
        if delay > longest {
            let text =
                format!("{transport} puts messages off by at most {longest:?}, not {delay:?}");
            return Err(PublishError::Invalid(text));
        }
        let to = match target {
            Target::Subject { exchange, .. } => DelayTarget::Exchange(exchange.to_string()),
            Target::Queue(queue) => DelayTarget::Queue(queue.clone()),
        };
        Ok(self.delays.ensure(&*self.transport, to, delay).await?)
    }
}

impl<'a, M: Message> IntoFuture for Publish<'a, M> {
    type Output = Result<Receipt, PublishError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.pipelined().await?.await })
    }
}

impl Ticket {
    /// The message's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Future for Ticket {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map(|told| {
            let result = told.unwrap_or(Err(PublishError::Closed));
            let id = std::mem::take(&mut self.id);
            result.map(|()| Receipt { id })
        })
    }
}

impl<M> fmt::Debug for Publish<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish").finish_non_exhaustive()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bus").field(&self.transport).finish()
    }
}

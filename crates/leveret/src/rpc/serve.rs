//! Answering.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::DEADLINE;
use super::fault::Fault;
use crate::backoff::Backoff;
use crate::bus::{Bus, Inner};
use crate::consume::{Consumer, ConsumerBuilder, Each, Handler, guard};
use crate::cx::Cx;
use crate::describe::Traffic;
use crate::error::{PublishError, Result};
use crate::failure::Failure;
use crate::letter::{Headers, Letter};
use crate::message::{CodecError, Message, Payload};
use crate::topology::Queue;
use crate::transport::Target;

/// When an answer is tried again that did not get there.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(50), 2.0, Duration::from_secs(1));

/// What answers questions: an async function or closure of the question and its [`Cx`].
///
/// A question is acknowledged when its answer is on its way, so it may be handled twice when a
/// connection is lost: what must not happen twice should know the question by something of its own.
pub trait Answer<Q, A>: Send + Sync + 'static {
    /// Answers a question.
    fn answer(
        &self,
        question: Q,
        cx: Cx,
    ) -> impl Future<Output = std::result::Result<A, Fault>> + Send;
}

impl<Q, A, F, R> Answer<Q, A> for F
where
    F: Fn(Q, Cx) -> R + Send + Sync + 'static,
    R: Future<Output = std::result::Result<A, Fault>> + Send,
{
    fn answer(
        &self,
        question: Q,
        cx: Cx,
    ) -> impl Future<Output = std::result::Result<A, Fault>> + Send {
        self(question, cx)
    }
}

/// A service that is to be started. Everything has a default.
#[must_use = "nothing is answered before start() is awaited"]
pub struct ServiceBuilder<Q, A, H> {
    consumer: ConsumerBuilder<Each<Asked<Q>, Service<Q, A, H>>>,
}

/// A question, or why there is none: that is an answer, too.
struct Asked<Q>(std::result::Result<Q, CodecError>);

/// A service's handler and what is around it.
struct Service<Q, A, H> {
    handler: H,
    timeout: Option<Duration>,
    types: PhantomData<fn(Q) -> A>,
}

impl<Q: Message, A: Message, H: Answer<Q, A>> ServiceBuilder<Q, A, H> {
    pub(super) fn new(bus: &Bus, service: &str, handler: H) -> Self {
        let service_handler = Service { handler, timeout: None, types: PhantomData };
        let consumer = ConsumerBuilder::each(bus, service, service_handler);
        let consumer = consumer.without_dead_letters().traffic(Traffic::call::<Q, A>());
        ServiceBuilder { consumer }
    }

    /// So many questions are handled at a time; one where nothing is said.
    pub fn concurrency(mut self, questions: usize) -> Self {
        self.consumer = self.consumer.concurrency(questions);
        self
    }

    /// How many questions are fetched ahead, those in handling included; 16 for each of
    /// [`ServiceBuilder::concurrency`] where nothing is said.
    pub fn prefetch(mut self, questions: u16) -> Self {
        self.consumer = self.consumer.prefetch(questions);
        self
    }

    /// How long a handler may take; then it is dropped where it waits, and the answer is a fault of
    /// the kind `timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.consumer.handler_mut().timeout = Some(timeout);
        self
    }

    /// No more questions than so many in so much time, evenly.
    pub fn rate(mut self, questions: u32, per: Duration) -> Self {
        self.consumer = self.consumer.rate(questions, per);
        self
    }

    /// With a queue like this; its name stays. With [`Queue::messages_max`] those who ask are
    /// refused when too many questions wait.
    pub fn queue(mut self, change: impl FnOnce(Queue) -> Queue) -> Self {
        self.consumer = self.consumer.queue(change);
        self
    }

    /// Declares the service's queue and begins to answer.
    ///
    /// # Errors
    /// As [`ConsumerBuilder::start`].
    pub async fn start(self) -> Result<Consumer> {
        self.consumer.start().await
    }
}

impl<Q: Message> Message for Asked<Q> {
    const NAME: &'static str = "";

    fn encode(&self) -> std::result::Result<Payload, CodecError> {
        match &self.0 {
            Ok(question) => question.encode(),
            Err(error) => Err(CodecError::Other(error.to_string())),
        }
    }

    fn decode(payload: &Payload) -> std::result::Result<Self, CodecError> {
        Ok(Asked(Q::decode(payload)))
    }
}

impl<Q: Message, A: Message, H: Answer<Q, A>> Handler<Asked<Q>> for Service<Q, A, H> {
    async fn handle(&self, Asked(question): Asked<Q>, cx: Cx) -> std::result::Result<(), Failure> {
        let inner = &cx.bus().inner;
        if is_late(&cx) {
            return Ok(());
        }
        let answer = match question {
            Ok(question) => guard(self.timeout, self.handler.answer(question, cx.clone())).await,
            Err(error) => Err(Fault::new("codec", format!("the question cannot be read: {error}"))),
        };
        let payload = answer.and_then(|answer: A| {
            answer.encode().map_err(|error| {
                Fault::new("codec", format!("the answer cannot be written: {error}"))
            })
        });
        if let Err(fault) = &payload {
            tracing::warn!(service = cx.queue(), id = cx.id(), %fault, "answering with a fault");
        }
        let Some(mut reply) = Reply::to(cx.letter()) else { return Ok(()) };
        reply.name = A::NAME;
        // Who asked asks again when its queue for answers was lost.
        reply.send(inner, payload, Duration::ZERO).await;
        Ok(())
    }
}

/// Whether nobody waits for a question's answer any more; then it is counted.
pub(crate) fn is_late(cx: &Cx) -> bool {
    let late = cx.time_left().is_some_and(|left| left.is_zero());
    if late {
        cx.bus().inner.counters.expired.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(queue = cx.queue(), id = cx.id(), "a question came after its deadline");
    }
    late
}

/// Where an answer goes.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    queue: String,
    correlation_id: Option<String>,
    /// The answer's name.
    pub(crate) name: &'static str,
}

impl Reply {
    /// Where the answer to that question goes; `None` if nobody waits for one.
    pub(crate) fn to(question: &Letter) -> Option<Reply> {
        let queue = question.reply_to.clone().filter(|queue| !queue.is_empty())?;
        let correlation_id = question.correlation_id.clone();
        Some(Reply { queue, correlation_id, name: "" })
    }

    /// Answers, and counts what came of it: that an answer does not arrive is for who waits for it.
    /// Who waits may be connecting again just then, so it is tried for as long as `patience`.
    pub(crate) async fn send(
        &self,
        inner: &Arc<Inner>,
        mut answer: std::result::Result<Payload, Fault>,
        patience: Duration,
    ) {
        let counters = &inner.counters;
        let counter = if answer.is_ok() { &counters.answered } else { &counters.faults };
        counter.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + patience;
        let mut failures = 0;
        let error = loop {
            match self.try_send(inner, answer.clone()).await {
                Ok(()) => return,
                Err(PublishError::TooLarge { size, limit }) => {
                    let text = format!("the answer has {size} bytes, and may have {limit}");
                    answer = Err(Fault::new("too_large", text));
                }
                Err(PublishError::Unroutable { .. }) if Instant::now() < until => {
                    failures += 1;
                    sleep(AGAIN.delay(failures)).await;
                }
                Err(error) => break error,
            }
        };
        counters.unwanted.fetch_add(1, Ordering::Relaxed);
        tracing::info!(queue = self.queue, %error, "an answer did not get there");
    }

    async fn try_send(
        &self,
        inner: &Arc<Inner>,
        answer: std::result::Result<Payload, Fault>,
    ) -> std::result::Result<(), PublishError> {
        let mut headers = Headers::default();
        let payload = answer.unwrap_or_else(|fault| {
            fault.write(&mut headers);
            Payload::default()
        });
        let letter = Letter {
            name: Cow::Borrowed(self.name),
            headers,
            correlation_id: self.correlation_id.clone(),
            transient: true,
            payload,
            ..Letter::default()
        };
        let target = Target::Queue(self.queue.clone());
        inner.dispatch(target, true, None, letter).await?.await.map(drop)
    }
}

impl Cx {
    /// How long the answer is waited for still, where the message is a question with a deadline;
    /// nothing if that has passed.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let deadline = self.headers().number(DEADLINE)?;
        let now = self.bus().inner.clock.milliseconds();
        Some(Duration::from_millis(deadline.saturating_sub(now)))
    }
}

impl<Q, A, H> fmt::Debug for ServiceBuilder<Q, A, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceBuilder").field(&self.consumer).finish()
    }
}

//! Asking.

use std::borrow::Cow;
use std::fmt;
use std::future::{IntoFuture, pending};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::DEADLINE;
use super::fault::Fault;
use super::replies::Replies;
use crate::bus::{Bus, Inner};
use crate::describe::Traffic;
use crate::error::{PublishError, SubscribeError};
use crate::health::ConsumerState;
use crate::letter::{Headers, Letter};
use crate::message::{CodecError, Message};
use crate::publish::Address;
use crate::transport::{BoxFuture, Target};

/// How long an answer is waited for where nothing is said.
pub(crate) const WITHIN: Duration = Duration::from_secs(30);
/// The longest that an answer can be waited for.
const WITHIN_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The service answered that it cannot.
    #[error("{0}")]
    Fault(Fault),
    /// No answer came in time. The question may have been handled nevertheless.
    #[error("no answer from {service:?} within {within:?}; {}", what_is_known(*.taken))]
    Timeout {
        /// Who was asked.
        service: String,
        /// How long it was waited for.
        within: Duration,
        /// Whether the broker is known to have had the question.
        taken: bool,
    },
    /// The question was not published: most often there is no such service
    /// ([`PublishError::Unroutable`]), or its queue is full ([`PublishError::Refused`]).
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The queue for answers cannot be had.
    #[error("no queue for answers: {0}")]
    Replies(#[from] SubscribeError),
    /// The answer cannot be read.
    #[error("the answer from {service:?} cannot be read: {source}")]
    Codec {
        /// Who answered.
        service: String,
        /// Why not.
        source: CodecError,
    },
    /// An agent asked one that waits for its own answer: both would wait until a deadline.
    #[error("{agent:?} waits for this very answer and cannot be asked for it")]
    Circle {
        /// Who waits.
        agent: String,
    },
}

fn what_is_known(taken: bool) -> &'static str {
    match taken {
        true => "the question was taken, and it may be handled still",
        false => "the broker did not confirm the question",
    }
}

/// A question that is to be asked. Nothing happens before it is awaited; dropped while it waits,
/// the answer is not waited for any more.
#[must_use = "nothing is asked unless it is awaited"]
pub struct Call<'a, Q, A> {
    bus: &'a Bus,
    service: String,
    question: &'a Q,
    within: Duration,
    headers: Headers,
    answer: PhantomData<fn() -> A>,
}

/// A question as letters see it.
pub(crate) struct Question {
    /// Who is asked, for people.
    pub(crate) service: String,
    pub(crate) target: Target,
    pub(crate) letter: Letter,
    pub(crate) within: Duration,
    /// Whether it expires in its queue, and is asked again when its answer may be lost.
    pub(crate) fleeting: bool,
}

impl<'a, Q: Message, A: Message> Call<'a, Q, A> {
    pub(super) fn new(bus: &'a Bus, service: &str, question: &'a Q) -> Self {
        Call {
            bus,
            service: service.to_owned(),
            question,
            within: WITHIN,
            headers: Headers::default(),
            answer: PhantomData,
        }
    }

    /// How long to wait for the answer; thirty seconds where nothing is said, thirty days at most.
    /// The question knows: it expires in the service's queue, and a service that gets it too late
    /// does not handle it. For that, the clocks of both sides should agree.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// With a header. Names that begin with `leveret-` or `x-` are the toolkit's and the broker's.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.set(name, value);
        self
    }

    async fn ask(self) -> Result<A, CallError> {
        let to = Address::Queue(self.service.clone());
        self.bus.inner.catalog.learn(Traffic::call::<Q, A>(), &to, true);
        let question = Question {
            target: Target::Queue(self.service.clone()),
            letter: Letter {
                name: Cow::Borrowed(Q::NAME),
                key: self.question.key(),
                headers: self.headers,
                transient: true,
                payload: self.question.encode().map_err(PublishError::from)?,
                ..Letter::default()
            },
            service: self.service.clone(),
            within: self.within,
            fleeting: true,
        };
        let answer = self.bus.inner.ask(question).await?;
        A::decode(&answer.payload)
            .map_err(|source| CallError::Codec { service: self.service, source })
    }
}

impl Inner {
    /// The queue for answers.
    pub(crate) async fn replies(&self) -> Result<&Replies, SubscribeError> {
        self.replies.get_or_try_init(|| Replies::open(self)).await
    }

    /// Asks, and waits for an answer that is no fault.
    pub(crate) async fn ask(self: &Arc<Self>, question: Question) -> Result<Letter, CallError> {
        let (service, within) = (question.service.clone(), question.within.min(WITHIN_MAX));
        let mut asking =
            Asking { inner: self, deadline: Instant::now() + within, question, taken: false };
        asking.question.letter.headers.set(DEADLINE, self.clock.after(within).to_string());
        let asked = timeout_at(asking.deadline, asking.whole_answer()).await;
        let taken = asking.taken;
        let answer =
            asked.unwrap_or_else(|_| Err(CallError::Timeout { service, within, taken }))?;
        match Fault::read(&answer.headers) {
            Some(fault) => Err(CallError::Fault(fault)),
            None => Ok(answer),
        }
    }
}

/// A question on its way.
struct Asking<'a> {
    inner: &'a Arc<Inner>,
    deadline: Instant,
    question: Question,
    /// The broker has confirmed it.
    taken: bool,
}

impl Asking<'_> {
    /// The answer with its body, wherever that is.
    async fn whole_answer(&mut self) -> Result<Letter, CallError> {
        let answer = self.answer().await?;
        self.inner.whole(answer).await.map_err(|failure| CallError::Codec {
            service: self.question.service.clone(),
            source: CodecError::Other(failure.to_string()),
        })
    }

    async fn answer(&mut self) -> Result<Letter, CallError> {
        let replies = self.inner.replies().await?;
        let letter = &mut self.question.letter;
        letter.id = self.inner.names.next();
        letter.reply_to = Some(replies.queue().to_owned());
        letter.correlation_id = Some(letter.id.clone());
        let mut expected = replies.expect(&letter.id, 1);
        tokio::select! {
            biased;
            answer = expected.next() => answer.ok_or(CallError::Publish(PublishError::Closed)),
            error = self.put(replies) => Err(error),
        }
    }

    /// Asks, and again whenever the answer may have been lost. Returns only if that is impossible.
    async fn put(&mut self, replies: &Replies) -> CallError {
        let mut state = replies.state();
        loop {
            let up = state.wait_for(|state| *state == ConsumerState::Consuming).await.is_ok();
            if !up {
                return PublishError::Closed.into();
            }
            match self.send().await {
                Ok(()) => self.taken = true,
                // It may come nevertheless.
                Err(PublishError::Unknown { .. }) => {}
                Err(error) => return error.into(),
            }
            // Whatever has changed, the queue for answers is not the one that was named.
            if !self.question.fleeting || state.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    async fn send(&self) -> Result<(), PublishError> {
        let mut letter = self.question.letter.clone();
        if self.question.fleeting {
            let left = self.deadline.saturating_duration_since(Instant::now());
            letter.expires = Some(left.max(Duration::from_millis(1)));
        }
        let target = self.question.target.clone();
        self.inner.dispatch(target, true, None, letter).await?.await.map(drop)
    }
}

impl<'a, Q: Message, A: Message> IntoFuture for Call<'a, Q, A> {
    type Output = Result<A, CallError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.ask())
    }
}

impl<Q, A> fmt::Debug for Call<'_, Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("service", &self.service).finish_non_exhaustive()
    }
}

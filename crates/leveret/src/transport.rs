//! The narrow waist: what a broker must be able to do for the toolkit.
//!
//! A transport reconnects by itself, declares again what was declared, sends again what was not
//! confirmed, and resumes what was subscribed to. It says what it cannot do in its
//! [`Capabilities`]; who asks for more is refused when a program starts, not when a message comes.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::Instant;

use crate::error::{ConnectError, Error, PublishError, SubscribeError, TopologyError};
use crate::health::{ConnectionHealth, ConsumerState};
use crate::letter::Letter;
use crate::stats::Counters;
use crate::topology::{Binding, ExchangeKind, Match, Queue, QueueKind, Topology};

/// A future that is named nowhere else.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A broker, or several of them, behind a connection that looks after itself.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Waits until it is connected for the first time.
    fn connected(&self, within: Duration) -> BoxFuture<'_, Result<(), ConnectError>>;

    /// Declares, now and at each connect from now on.
    fn ensure(&self, topology: Topology) -> BoxFuture<'_, Result<(), TopologyError>>;

    /// Declares, for now: who needs it after the next connect declares it again.
    fn declare(&self, topology: Topology) -> BoxFuture<'_, Result<(), TopologyError>>;

    /// Sends a message, as often as it takes. [`Outgoing::done`] is told what came of it.
    fn send(&self, outgoing: Outgoing);

    /// Begins to consume.
    fn subscribe(
        &self,
        subscription: Subscription,
    ) -> BoxFuture<'_, Result<Box<dyn Inlet>, SubscribeError>>;

    /// How many messages wait in a queue, and who consumes it; `None` if there is no such queue.
    fn queue<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<QueueStatus>, ConnectError>>;

    /// How many messages are not confirmed yet.
    fn unconfirmed(&self) -> usize;

    /// How its connections are.
    fn health(&self) -> Vec<ConnectionHealth>;

    /// Sends what is still to be sent, says goodbye, and stops. What is left is told that its fate
    /// is unknown.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// What is below, for who needs more than the toolkit gives.
    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        None
    }
}

/// What a transport can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// What it is, for messages to people.
    pub name: &'static str,
    /// How long a message can be put off; `None` if not at all.
    pub delay_max: Option<Duration>,
    /// How fine a delay is.
    pub delay_step: Duration,
    /// The kind of a queue that says nothing of its own.
    pub queues: QueueKind,
    /// How many priorities a classic queue can tell apart.
    pub priorities: u8,
    /// How many priorities a quorum queue can tell apart.
    pub quorum_priorities: u8,
    /// Whether a publisher learns that a message went nowhere. Without it nobody gets a bus who
    /// does not ask for one that is [unverified](crate::BusBuilder::unverified).
    pub unroutable: bool,
    /// Whether an exchange can route by headers.
    pub headers: bool,
    /// Whether one consumer at a time can be had on a queue: without it there is order only within
    /// a process.
    pub single_active_consumer: bool,
    /// Whether a queue's length can be limited.
    pub messages_max: bool,
    /// The largest body, in bytes.
    pub body_bytes_max: u64,
}

impl Capabilities {
    /// How many priorities that queue can tell apart, by its kind.
    #[must_use]
    pub fn priorities_of(&self, queue: &Queue) -> u8 {
        match queue.kind.unwrap_or(self.queues) {
            QueueKind::Classic => self.priorities,
            QueueKind::Quorum => self.quorum_priorities,
        }
    }

    /// Refuses what cannot be made as it is asked for.
    pub(crate) fn check(&self, topology: &Topology) -> Result<(), Error> {
        for queue in &topology.queues {
            self.check_queue(queue)?;
        }
        for binding in &topology.bindings {
            self.check_binding(binding, topology)?;
        }
        let longest = topology.delays.iter().map(|delay| delay.longest).max();
        match longest.filter(|longest| *longest > self.delay_max.unwrap_or_default()) {
            None => Ok(()),
            Some(longest) => {
                let what = format!("put off messages for {longest:?}");
                Err(self.unsupported(what, "ask for no longer delay than delay_max"))
            }
        }
    }

    pub(crate) fn check_queue(&self, queue: &Queue) -> Result<(), Error> {
        // What is there already is taken as it is.
        if queue.existing {
            return Ok(());
        }
        let refuse = |what: &str, hint| Err(self.unsupported(what, hint));
        let quorum = queue.kind.unwrap_or(self.queues) == QueueKind::Quorum;
        if queue.priorities > self.priorities_of(queue) {
            return match quorum {
                true => refuse(
                    "tell so many priorities apart in a quorum queue",
                    "have a queue for each, or say kind(QueueKind::Classic)",
                ),
                false => refuse("tell so many priorities apart", "use fewer, or a queue for each"),
            };
        }
        if queue.delivery_limit.is_some() && !quorum {
            let hint = "leave delivery_limit out, or say kind(QueueKind::Quorum)";
            return refuse("count deliveries in a classic queue", hint);
        }
        if queue.messages_max.is_some() && !self.messages_max {
            return refuse("limit a queue's length", "leave messages_max() out");
        }
        if queue.single_active_consumer && !self.single_active_consumer {
            let hint = "leave single_active_consumer() out";
            return refuse("let one consumer at a time have a queue", hint);
        }
        Ok(())
    }

    fn check_binding(&self, binding: &Binding, topology: &Topology) -> Result<(), Error> {
        let Some(headers) = &binding.headers else { return Ok(()) };
        let named = topology.exchanges.iter().find(|it| it.name == binding.exchange);
        if named.is_some_and(|it| it.kind != ExchangeKind::Headers) {
            let name = &binding.exchange;
            let text = format!("{name:?} is bound by headers: make it by Exchange::headers()");
            return Err(Error::Invalid(text));
        }
        self.check_headers(headers)
    }

    pub(crate) fn check_headers(&self, headers: &Match) -> Result<(), Error> {
        if !self.headers {
            return Err(self.unsupported("route by headers", "use subjects"));
        }
        let (Match::All(headers) | Match::Any(headers)) = headers;
        match headers.iter().find(|(name, _)| name.starts_with("x-")) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Invalid(format!(
                "a binding by header {name:?}: brokers look at none that begins with x-"
            ))),
        }
    }

    pub(crate) fn unsupported(&self, what: impl Into<String>, hint: &'static str) -> Error {
        Error::Unsupported { transport: self.name, what: what.into(), hint }
    }
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To every queue that is bound to this.
    Subject {
        /// The exchange's name.
        exchange: Cow<'static, str>,
        /// The subject.
        subject: Cow<'static, str>,
    },
    /// To one queue.
    Queue(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Subject { exchange, subject } => {
                write!(f, "subject {subject:?} of exchange {exchange:?}")
            }
            Target::Queue(queue) => write!(f, "queue {queue:?}"),
        }
    }
}

/// A message to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// Where to.
    pub target: Target,
    /// Whether it is an error that nobody gets it.
    pub mandatory: bool,
    /// How long it is put off.
    pub delay: Option<Duration>,
    /// The message.
    pub letter: Box<Letter>,
    /// Is told when the message is confirmed or refused.
    pub done: Done,
}

/// Who waits for a message to be confirmed; and the place in the window of unconfirmed messages
/// that it holds until then.
#[derive(Debug)]
pub struct Done {
    pub(crate) sender: oneshot::Sender<Result<(), PublishError>>,
    pub(crate) counters: Arc<Counters>,
    /// Since when it waits.
    pub(crate) since: Instant,
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Done {
    /// Tells what came of it.
    pub fn tell(self, result: Result<(), PublishError>) {
        self.counters.published(&result);
        // Whoever asked may have given up.
        let _ = self.sender.send(result);
    }
}

/// What to consume, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// What to consume from.
    pub source: Source,
    /// How many messages may be out at a time.
    pub prefetch: u16,
    /// Consumers of higher priority get messages first.
    pub priority: i32,
}

/// What is consumed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A queue that stays, and that others may consume too.
    Queue(Queue),
    /// A queue of this consumer's own that goes with its connection; what is published while that
    /// is lost is missed.
    Own {
        /// What it is like. Nobody else uses its name; of what kind it is, is the transport's.
        queue: Queue,
        /// What goes there.
        bindings: Vec<Binding>,
    },
}

impl Source {
    /// The queue's name.
    #[must_use]
    pub fn queue(&self) -> &str {
        match self {
            Source::Queue(queue) | Source::Own { queue, .. } => &queue.name,
        }
    }
}

/// Where a consumer's messages come from. What it was subscribed to is resumed after any loss.
pub trait Inlet: Send {
    /// Moves what has come to the end of `into`, and waits for something if that is nothing. Given
    /// up and called again, it loses nothing.
    ///
    /// # Errors
    /// When no more will come, as the transport was closed.
    fn next<'a>(
        &'a mut self,
        into: &'a mut Vec<Arc<Inbound>>,
    ) -> BoxFuture<'a, Result<(), SubscribeError>>;

    /// Where its messages are settled.
    fn settler(&self) -> Arc<dyn Settler>;

    /// What it is doing.
    fn state(&self) -> watch::Receiver<ConsumerState>;

    /// Takes no more messages. What is out can still be settled, until this is dropped; the rest
    /// goes back then.
    fn stop(&mut self) -> BoxFuture<'_, ()>;
}

/// Where messages are settled. A message of a connection that was lost since need not be: it will
/// come again.
pub trait Settler: fmt::Debug + Send + Sync {
    /// It is done with.
    fn ack(&self, token: Token);

    /// It goes back to its queue.
    fn release(&self, token: Token);

    /// Sends what it may have held back to say it all at once.
    fn flush(&self);

    /// Whether it can still be settled. Otherwise it comes again, maybe to somebody else, and must
    /// not be begun.
    fn is_current(&self, token: Token) -> bool;
}

/// What a message is called in a [`Settler`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Which of a consumer's connections, one after the other.
    pub epoch: u64,
    /// Which message of it.
    pub tag: u64,
}

/// A message that came.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// What it is settled by.
    pub token: Token,
    /// Whether it may have come before.
    pub redelivered: bool,
    /// How often it was delivered before without being settled, if the broker counts.
    pub deliveries: Option<u64>,
    /// The exchange it was published to; empty if straight to the queue.
    pub exchange: String,
    /// The subject it was published with.
    pub subject: String,
    /// The message.
    pub letter: Letter,
}

/// What is in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// How many messages wait; those that consumers have are not counted.
    pub messages: u64,
    /// How many consumers it has.
    pub consumers: u64,
}

//! What a handler is told besides the message.

use std::fmt;
use std::sync::Arc;

use crate::bus::Bus;
use crate::consume::Course;
use crate::history;
use crate::letter::{Headers, Letter};
use crate::message::Message;
use crate::publish::Publish;
use crate::transport::Inbound;

/// The header by which traces go on (W3C Trace Context).
pub(crate) const TRACE: &str = "traceparent";

/// What is known of the message that is being handled, and the bus it came by. Clones are cheap.
#[derive(Clone)]
pub struct Cx {
    pub(crate) course: Arc<Course>,
    pub(crate) inbound: Arc<Inbound>,
}

impl Cx {
    /// The bus that the message came by.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.course.bus
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.letter().id
    }

    /// The message's key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.letter().key.as_deref()
    }

    /// The subject it was published under first.
    #[must_use]
    pub fn subject(&self) -> &str {
        history::origin(&self.inbound).1
    }

    /// The exchange it was published to first; empty if it was sent to the queue.
    #[must_use]
    pub fn exchange(&self) -> &str {
        history::origin(&self.inbound).0
    }

    /// The queue it came from.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.course.queue()
    }

    /// Its headers, the toolkit's own included.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.letter().headers
    }

    /// How often it has come, this time included; tries at once are not counted.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        history::attempts(self.headers()).saturating_add(1)
    }

    /// Whether it may have been handled before, without that being known.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.inbound.redelivered
    }

    /// Where an answer is awaited.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        self.letter().reply_to.as_deref()
    }

    /// What the message is an answer to, or what its answer will be called.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.letter().correlation_id.as_deref()
    }

    /// The letter itself.
    #[must_use]
    pub fn letter(&self) -> &Letter {
        &self.inbound.letter
    }

    /// Publishes in the course of this message: with its trace. Await it in the handler, so that it
    /// is confirmed before this message is acknowledged.
    pub fn publish<'a, M: Message>(&'a self, message: &'a M) -> Publish<'a, M> {
        self.traced(self.bus().publish(message))
    }

    /// Sends to a queue in the course of this message: with its trace.
    pub fn send<'a, M: Message>(&'a self, queue: &str, message: &'a M) -> Publish<'a, M> {
        self.traced(self.bus().send(queue, message))
    }

    fn traced<'a, M: Message>(&self, publish: Publish<'a, M>) -> Publish<'a, M> {
        match self.headers().get(TRACE) {
            Some(trace) => publish.header(TRACE, trace),
            None => publish,
        }
    }
}

impl fmt::Debug for Cx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx")
            .field("id", &self.id())
            .field("subject", &self.subject())
            .field("queue", &self.queue())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

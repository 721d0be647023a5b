//! Dead letters: seeing them, and giving them another chance.

mod look;
mod pass;

use std::fmt;
use std::time::Duration;

use self::look::{Look, Next};
use self::pass::{Act, Pass};
use crate::bus::Bus;
use crate::claim_check;
use crate::error::{Error, Result};
use crate::history::{self, Failed};
use crate::letter::Letter;
use crate::message::{CodecError, Message};
use crate::rate::{Pace, Rate};
use crate::topology::{Queue, Topology};
use crate::transport::Inbound;

/// What a queue's dead letters are kept in is called like it, with this behind it.
const SUFFIX: &str = ".dead";
/// How often a broker may deliver a dead letter to who only looks, before it thinks that this does
/// no good.
pub(crate) const LOOKS_MAX: u64 = 1_000_000;

pub(crate) fn dead_name(queue: &str) -> String {
    format!("{queue}{SUFFIX}")
}

pub(crate) fn is_dead(queue: &str) -> bool {
    queue.ends_with(SUFFIX)
}

pub(crate) fn dead_queue(queue: &str) -> Queue {
    Queue::new(dead_name(queue))
}

/// The dead letters of a queue's consumers. They wait in a queue called like it with `.dead` behind
/// it, until somebody redrives or discards them.
#[derive(Clone)]
pub struct DeadLetters {
    bus: Bus,
    queue: String,
}

/// A message that could not be handled.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The message.
    pub letter: Letter,
    /// The queue whose consumers could not handle it.
    pub queue: String,
    /// The exchange it was published to; empty if it was sent to the queue.
    pub exchange: String,
    /// The subject it was published under.
    pub subject: String,
    /// Why it was given up. A broker's own reasons are not told.
    pub reason: String,
    /// Since when it is dead, in milliseconds since 1970.
    pub since: Option<u64>,
    /// The failures, the oldest first; of many the first and the last ones.
    pub failures: Vec<Failed>,
}

/// Which dead letters are meant. The default: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    ids: Vec<String>,
    subject: Option<String>,
    kind: Option<String>,
    error: Option<String>,
}

/// What was done with dead letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Redriven {
    /// How many were sent on, or discarded.
    pub done: u64,
    /// How many the filter did not mean; they are dead letters still.
    pub kept: u64,
}

impl Filter {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Filter::default()
    }

    /// Only those with one of these ids.
    #[must_use]
    pub fn ids<S: Into<String>>(mut self, ids: impl IntoIterator<Item = S>) -> Self {
        self.ids.extend(ids.into_iter().map(Into::into));
        self
    }

    /// Only those that were published under this subject.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Only those whose last error's type contains this.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Only those whose last error's text contains this.
    #[must_use]
    pub fn error(mut self, text: impl Into<String>) -> Self {
        self.error = Some(text.into());
        self
    }

    fn means(&self, dead: &DeadLetter) -> bool {
        let last = dead.failures.last();
        let has = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| found.is_some_and(|it| it.contains(wanted)))
        };
        (self.ids.is_empty() || self.ids.contains(&dead.letter.id))
            && self.subject.as_ref().is_none_or(|subject| *subject == dead.subject)
            && has(&self.kind, last.map(|failed| failed.kind.as_str()))
            && has(&self.error, last.map(|failed| failed.error.as_str()))
    }
}

impl DeadLetter {
    fn new(inbound: &Inbound, queue: &str) -> Self {
        let headers = &inbound.letter.headers;
        let (exchange, subject) = history::origin(inbound);
        let (exchange, subject) = (exchange.to_owned(), subject.to_owned());
        DeadLetter {
            queue: history::queue(headers).unwrap_or(queue).to_owned(),
            reason: history::dead_reason(headers).unwrap_or("the broker gave it up").to_owned(),
            since: history::dead_since(headers),
            failures: history::failures(headers),
            letter: inbound.letter.clone(),
            exchange,
            subject,
        }
    }

    /// The message of that type.
    ///
    /// # Errors
    /// [`Error::Codec`] if it is none, or its body is in the store for large bodies: then
    /// [`Bus::payload`] gives what can be decoded.
    pub fn message<M: Message>(&self) -> Result<M> {
        let decoded = if claim_check::is_claimed(&self.letter) {
            let text = "its body is in the store for large bodies, see Bus::payload()";
            Err(CodecError::Other(text.to_owned()))
        } else {
            M::decode(&self.letter.payload)
        };
        decoded.map_err(|source| Error::Codec {
            what: format!("dead letter {}", self.letter.id),
            source,
        })
    }
}

impl DeadLetters {
    pub(crate) fn new(bus: &Bus, queue: &str) -> Self {
        DeadLetters { bus: bus.clone(), queue: queue.to_owned() }
    }

    /// The name of the queue that they wait in.
    #[must_use]
    pub fn queue(&self) -> String {
        dead_name(&self.queue)
    }

    /// How many there are.
    ///
    /// # Errors
    /// [`Error::Connect`] if there is no connection.
    pub async fn count(&self) -> Result<u64> {
        let status = self.bus.queue(&dead_name(&self.queue)).await?;
        Ok(status.map_or(0, |status| status.messages))
    }

    /// Looks at the first so many, 65,535 at most; they stay where they are.
    ///
    /// # Errors
    /// [`Error`] if the queue of dead letters cannot be read.
    pub async fn list(&self, most: usize) -> Result<Vec<DeadLetter>> {
        let prefetch = u16::try_from(most).unwrap_or(u16::MAX);
        let (mut found, mut batch) = (Vec::new(), Vec::new());
        if prefetch == 0 {
            return Ok(found);
        }
        let mut look = Look::new(self, prefetch).await?;
        while look.left > 0 && found.len() < usize::from(prefetch) {
            match look.next(&mut batch, false).await? {
                Next::Some => {
                    for inbound in
                        batch.drain(..).take(usize::try_from(look.left).unwrap_or(usize::MAX))
                    {
                        look.seen();
                        found.push(DeadLetter::new(&inbound, &self.queue));
                    }
                }
                Next::Nothing => break,
                Next::Lost => {
                    found.clear();
                    look.again(prefetch, true).await?;
                }
            }
        }
        found.truncate(prefetch.into());
        look.end().await?;
        Ok(found)
    }

    /// Looks for the one with this id; it stays where it is. All that are before it are fetched.
    ///
    /// # Errors
    /// [`Error`] if the queue of dead letters cannot be read.
    pub async fn find(&self, id: &str) -> Result<Option<DeadLetter>> {
        // Without a limit: those that are not meant are out all the time. They are dropped as fast
        // as they come.
        let (mut look, mut batch, mut found) = (Look::new(self, 0).await?, Vec::new(), None);
        while look.left > 0 && found.is_none() {
            match look.next(&mut batch, false).await? {
                Next::Some => {
                    for inbound in batch.drain(..) {
                        if look.left == 0 || found.is_some() {
                            break;
                        }
                        look.seen();
                        let meant = inbound.letter.id == id;
                        found = meant.then(|| DeadLetter::new(&inbound, &self.queue));
                    }
                }
                Next::Nothing => break,
                Next::Lost => look.again(0, true).await?,
            }
        }
        look.end().await?;
        Ok(found)
    }

    /// Sends those that the filter means back to the queue that they came from, no more than
    /// `per_second`. They have all their attempts again. One that was sent back and could not be
    /// taken out, since the connection was lost at that moment, is there twice, with the same id.
    ///
    /// All that there are is fetched, and when some are not meant and many are, those twice; no
    /// more than a few are held in memory.
    ///
    /// # Errors
    /// [`Error`] if the queue of dead letters cannot be read, or a message not be sent: one of a
    /// consumer with [`crate::ConsumerBuilder::own_queue`] has no queue to go back to.
    pub async fn redrive(&self, filter: &Filter, per_second: u32) -> Result<Redriven> {
        self.redrive_to(None, filter, per_second).await
    }

    /// Like [`DeadLetters::redrive`], but sends them to another queue, if one is given.
    ///
    /// # Errors
    /// As there.
    pub async fn redrive_to(
        &self,
        queue: Option<&str>,
        filter: &Filter,
        per_second: u32,
    ) -> Result<Redriven> {
        let pace = Pace::new(Rate::new(per_second, Duration::from_secs(1)));
        Pass::new(self, filter, Act::Redrive { to: queue, pace }).await?.run().await
    }

    /// Throws those away that the filter means.
    ///
    /// # Errors
    /// [`Error`] if the queue of dead letters cannot be read.
    pub async fn discard(&self, filter: &Filter) -> Result<Redriven> {
        Pass::new(self, filter, Act::Discard).await?.run().await
    }

    /// Makes the queue of dead letters, if no consumer has: for who redrives into it by hand.
    ///
    /// # Errors
    /// [`Error::Topology`] if it is there already and differs.
    pub async fn ensure(&self) -> Result<()> {
        self.bus.ensure(Topology::new().queue(dead_queue(&self.queue))).await
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("queue", &self.queue).finish_non_exhaustive()
    }
}

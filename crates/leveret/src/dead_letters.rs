//! Dead letters: seeing them, and giving them another chance.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::bus::Bus;
use crate::claim_check;
use crate::error::{Error, Result};
use crate::history::{self, Failed};
use crate::letter::Letter;
use crate::message::{CodecError, Message};
use crate::rate::{Pace, Rate};
use crate::topology::{Queue, Topology};
use crate::transport::{Inbound, Inlet, Source, Subscription, Target};

/// What a queue's dead letters are kept in is called like it, with this behind it.
const SUFFIX: &str = ".dead";
/// When nothing has come for so long, nothing more will.
const QUIET: Duration = Duration::from_millis(500);
/// How often one looks whether they are back in their queue.
const POLL: Duration = Duration::from_millis(10);
/// How often a broker may deliver a dead letter to who only looks, before it thinks that this does
/// no good.
const LOOKS_MAX: u64 = 1_000_000;

pub(crate) fn dead_name(queue: &str) -> String {
    format!("{queue}{SUFFIX}")
}

pub(crate) fn is_dead(queue: &str) -> bool {
    queue.ends_with(SUFFIX)
}

pub(crate) fn dead_queue(queue: &str) -> Queue {
    let mut dead = Queue::new(dead_name(queue));
    dead.delivery_limit = Some(LOOKS_MAX);
    dead
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

/// What is to be done with dead letters.
enum Act<'a> {
    Discard,
    Redrive { to: Option<&'a str>, pace: Pace },
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

    /// Looks at the first so many; they stay where they are.
    ///
    /// # Errors
    /// [`Error`] if the queue of dead letters cannot be read.
    pub async fn list(&self, most: usize) -> Result<Vec<DeadLetter>> {
        let mut found = Vec::new();
        let prefetch = u16::try_from(most).unwrap_or(u16::MAX).max(1);
        let Some((mut inlet, count)) = self.open(prefetch).await? else { return Ok(found) };
        let most = most.min(usize::try_from(count).unwrap_or(usize::MAX));
        let mut batch = Vec::new();
        while found.len() < most && next(&mut *inlet, &mut batch).await? {
            let dead = batch.drain(..).map(|inbound| DeadLetter::new(&inbound, &self.queue));
            found.extend(dead);
        }
        found.truncate(most);
        // Those that were looked at go back with the inlet; whoever looks next should find them.
        drop(inlet);
        let start = Instant::now();
        while self.count().await? < count && start.elapsed() < QUIET {
            sleep(POLL).await;
        }
        Ok(found)
    }

    /// Looks for the one with this id; it stays where it is.
    ///
    /// # Errors
    /// [`Error`] if the queue of dead letters cannot be read.
    pub async fn find(&self, id: &str) -> Result<Option<DeadLetter>> {
        // Without a limit: those that are not meant are out all the time.
        let Some((mut inlet, count)) = self.open(0).await? else { return Ok(None) };
        let (mut seen, mut batch) = (0, Vec::new());
        while seen < count && next(&mut *inlet, &mut batch).await? {
            if let Some(found) = batch.iter().find(|inbound| inbound.letter.id == id) {
                return Ok(Some(DeadLetter::new(found, &self.queue)));
            }
            seen += batch.len() as u64;
            batch.clear();
        }
        Ok(None)
    }

    /// Sends those that the filter means back to the queue that they came from, no more than
    /// `per_second`. They have all their attempts again. One that was sent back and could not be
    /// taken out, since the connection was lost at that moment, is there twice, with the same id.
    ///
    /// # Errors
    /// [`Error`] if the queue of dead letters cannot be read, or a message not be sent.
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
        self.each(filter, Act::Redrive { to: queue, pace }).await
    }

    async fn send_back(&self, dead: DeadLetter, to: Option<&str>) -> Result<()> {
        let mut letter = Box::new(dead.letter);
        history::revive(&mut letter);
        let target = Target::Queue(to.map_or(dead.queue, str::to_owned));
        self.bus.inner.dispatch(target, true, None, letter).await?.await?;
        Ok(())
    }

    /// Throws those away that the filter means.
    ///
    /// # Errors
    /// [`Error`] if the queue of dead letters cannot be read.
    pub async fn discard(&self, filter: &Filter) -> Result<Redriven> {
        self.each(filter, Act::Discard).await
    }

    /// Does something with each that the filter means and takes it out. Those that come after this
    /// has begun are left alone.
    async fn each(&self, filter: &Filter, mut act: Act<'_>) -> Result<Redriven> {
        let mut redriven = Redriven::default();
        // Without a limit: those that are kept are out all the time.
        let Some((mut inlet, count)) = self.open(0).await? else { return Ok(redriven) };
        let settler = inlet.settler();
        let mut batch = Vec::new();
        while redriven.done + redriven.kept < count && next(&mut *inlet, &mut batch).await? {
            for inbound in batch.drain(..) {
                if redriven.done + redriven.kept >= count {
                    break;
                }
                let (token, dead) = (inbound.token, DeadLetter::new(&inbound, &self.queue));
                if filter.means(&dead) {
                    if let Act::Redrive { to, pace } = &mut act {
                        pace.wait().await;
                        self.send_back(dead, *to).await?;
                    }
                    settler.ack(token);
                    settler.flush();
                    redriven.done += 1;
                } else {
                    redriven.kept += 1;
                }
            }
        }
        Ok(redriven)
    }

    /// Consumes the dead letters, and says how many there are; `None` if there are none.
    async fn open(&self, prefetch: u16) -> Result<Option<(Box<dyn Inlet>, u64)>> {
        let transport = &self.bus.inner.transport;
        let queue = Queue::new(dead_name(&self.queue)).existing();
        let Some(status) = transport.queue(&queue.name).await? else { return Ok(None) };
        if status.messages == 0 {
            return Ok(None);
        }
        let source = Source::Queue(queue);
        let subscription = Subscription { source, prefetch, priority: 0 };
        Ok(Some((transport.subscribe(subscription).await?, status.messages)))
    }

    /// Makes the queue of dead letters, if no consumer has: for who redrives into it by hand.
    ///
    /// # Errors
    /// [`Error::Topology`] if it is there already and differs.
    pub async fn ensure(&self) -> Result<()> {
        self.bus.ensure(Topology::new().queue(dead_queue(&self.queue))).await
    }
}

/// Whether something came before it was quiet for too long.
async fn next(inlet: &mut dyn Inlet, batch: &mut Vec<Arc<Inbound>>) -> Result<bool> {
    match timeout(QUIET, inlet.next(batch)).await {
        Ok(came) => Ok(came.map(|()| true)?),
        Err(_) => Ok(false),
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("queue", &self.queue).finish_non_exhaustive()
    }
}

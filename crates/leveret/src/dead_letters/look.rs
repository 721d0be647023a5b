//! The dead letters of a queue, as they come.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::DeadLetters;
use crate::error::{ConnectError, Error, Result};
use crate::health::ConsumerState;
use crate::topology::Queue;
use crate::transport::{Inbound, Inlet, Settler, Source, Subscription};

/// When nothing has come for so long, one looks whether anything will.
const QUIET: Duration = Duration::from_millis(500);
/// How often one looks whether they are back in their queue.
const POLL: Duration = Duration::from_millis(10);
/// For how long those that must be there may fail to come.
const STALLED: Duration = Duration::from_secs(60);

/// Gets dead letters. What is not settled goes back when this is dropped.
pub(super) struct Look<'a> {
    dead: &'a DeadLetters,
    /// Nothing if there are none.
    open: Option<Open>,
    /// How many there were at first.
    pub(super) count: u64,
    /// How many of them were taken out.
    pub(super) done: u64,
    /// How many of them are still to come.
    pub(super) left: u64,
    /// When it came further last: to fewer that were left than ever, or something was done.
    least: u64,
    since: Instant,
}

struct Open {
    inlet: Box<dyn Inlet>,
    state: watch::Receiver<ConsumerState>,
}

/// What comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Some,
    /// Nothing: somebody else has those that are left.
    Nothing,
    /// The connection was lost. What it brought comes again, after [`Look::again`].
    Lost,
}

impl Open {
    fn is_lost(&self) -> bool {
        self.state.has_changed().unwrap_or(true)
    }
}

impl<'a> Look<'a> {
    pub(super) async fn new(dead: &'a DeadLetters, prefetch: u16) -> Result<Look<'a>> {
        let since = Instant::now();
        let mut look = Look { dead, open: None, count: 0, done: 0, left: 0, least: 0, since };
        look.count = look.subscribe(prefetch).await?;
        (look.left, look.least) = (look.count, look.count);
        Ok(look)
    }

    /// Where they are settled; nowhere if there are none.
    pub(super) fn settler(&self) -> Option<Arc<dyn Settler>> {
        self.open.as_ref().map(|open| open.inlet.settler())
    }

    /// Consumes, if there is something, and says how many there are.
    async fn subscribe(&mut self, prefetch: u16) -> Result<u64> {
        let until = Instant::now() + STALLED;
        loop {
            match self.try_subscribe(prefetch).await {
                Err(error) if is_passing(&error) && Instant::now() < until => sleep(POLL).await,
                done => return done,
            }
        }
    }

    async fn try_subscribe(&mut self, prefetch: u16) -> Result<u64> {
        let transport = &self.dead.bus.inner.transport;
        let queue = Queue::new(self.dead.queue()).existing();
        let status = transport.queue(&queue.name).await?.unwrap_or_default();
        if status.messages == 0 {
            return Ok(0);
        }
        let source = Source::Queue(queue);
        let subscription = Subscription { source, prefetch, priority: 0 };
        let Ok(inlet) = timeout(STALLED, transport.subscribe(subscription)).await else {
            return Err(self.stalled("they cannot be consumed"));
        };
        let inlet = inlet?;
        self.open = Some(Open { state: inlet.state(), inlet });
        Ok(status.messages)
    }

    /// Waits for more. Nothing follows from silence while who asks is `busy` with what it has.
    pub(super) async fn next(&mut self, batch: &mut Vec<Arc<Inbound>>, busy: bool) -> Result<Next> {
        let until = Instant::now() + STALLED;
        let mut none_before = false;
        loop {
            let Some(open) = &mut self.open else { return Ok(Next::Nothing) };
            let came = match busy {
                true => Ok(open.inlet.next(batch).await),
                false => timeout(QUIET, open.inlet.next(batch)).await,
            };
            if let Ok(Err(closed)) = came {
                return Err(closed.into());
            }
            if open.is_lost() {
                batch.clear();
                return Ok(Next::Lost);
            }
            if came.is_ok() {
                return Ok(Next::Some);
            }
            // Twice, for the connection may have been lost meanwhile, and who asks notices last.
            let none = match self.dead.count().await {
                Err(error) if is_passing(&error) => false,
                counted => counted? == 0,
            };
            if none && none_before {
                return Ok(Next::Nothing);
            }
            none_before = none;
            if Instant::now() >= until {
                return Err(self.stalled("they are there and do not come"));
            }
        }
    }

    /// One of them was looked at.
    pub(super) fn seen(&mut self) {
        self.left -= 1;
        if self.left < self.least {
            self.least = self.left;
            self.since = Instant::now();
        }
    }

    /// One of them was taken out.
    pub(super) fn done(&mut self) {
        self.done += 1;
        self.since = Instant::now();
    }

    /// Gives back what is out, and begins again; `lost` if the connection was.
    pub(super) async fn again(&mut self, prefetch: u16, lost: bool) -> Result<()> {
        self.open = None;
        let there = self.count.saturating_sub(self.done);
        let back = self.dead.back(there, if lost { STALLED } else { QUIET }).await?;
        if lost && (!back || self.since.elapsed() >= STALLED) {
            return Err(self.stalled("the connection was lost"));
        }
        // What was taken out last may be there nevertheless, as a lost connection took it along.
        self.left = self.subscribe(prefetch).await?.max(there).min(self.count);
        Ok(())
    }

    /// Gives all back, so that who looks next finds them.
    pub(super) async fn end(mut self) -> Result<()> {
        self.open = None;
        self.dead.back(self.count.saturating_sub(self.done), QUIET).await.map(drop)
    }

    fn stalled(&self, text: &'static str) -> Error {
        let (queue, done, count) = (self.dead.queue(), self.done, self.count);
        Error::Stalled { queue, done, count, text }
    }
}

/// Whether there is no connection just now.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Connect(error) if !matches!(error, ConnectError::Closed))
}

impl DeadLetters {
    /// Waits until so many are there; whether they are.
    async fn back(&self, there: u64, within: Duration) -> Result<bool> {
        let until = Instant::now() + within;
        loop {
            match self.count().await {
                Ok(count) if count >= there => return Ok(true),
                Err(error) if !is_passing(&error) => return Err(error),
                _ if Instant::now() >= until => return Ok(false),
                _ => sleep(POLL).await,
            }
        }
    }
}

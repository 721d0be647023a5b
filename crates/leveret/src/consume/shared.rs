//! What a consumer's tasks and its handles share.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::health::{ConsumerHealth, ConsumerState};

pub(crate) struct ConsumerShared {
    pub(crate) queue: String,
    /// What the transport says of it.
    state: watch::Receiver<ConsumerState>,
    phase: watch::Sender<Phase>,
    pub(crate) handling: AtomicUsize,
    pub(crate) handled: AtomicU64,
    failed: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) dead: AtomicU64,
    plights: Mutex<Plights>,
    /// The circuit breaker is open.
    pub(crate) paused: watch::Sender<bool>,
    last_error: Mutex<Option<(String, Instant)>>,
}

/// What keeps workers from the next message.
#[derive(Default)]
struct Plights {
    /// When those began that were not done at once, with a number to tell them apart.
    busy: BTreeSet<(Instant, u64)>,
    numbers: u64,
    /// How many cannot send on what failed, and what the last of them was told.
    stuck: usize,
    reason: String,
}

/// A worker that is at something, for as long as this is kept.
pub(crate) struct Busy<'a> {
    shared: &'a ConsumerShared,
    key: (Instant, u64),
}

/// A worker that cannot send on a message that failed, for as long as this is kept.
pub(crate) struct Stuck<'a> {
    shared: &'a ConsumerShared,
}

/// How far a consumer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    /// It begins no more messages.
    Stopping,
    /// Handlers that are not done are dropped.
    Aborting,
    Stopped,
}

impl ConsumerShared {
    pub(crate) fn new(queue: String, state: watch::Receiver<ConsumerState>) -> Self {
        ConsumerShared {
            queue,
            state,
            phase: watch::Sender::new(Phase::Running),
            handling: AtomicUsize::new(0),
            handled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            plights: Mutex::default(),
            paused: watch::Sender::new(false),
            last_error: Mutex::default(),
        }
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn is_running(&self) -> bool {
        *self.phase.borrow() == Phase::Running
    }

    /// Goes on to a later phase.
    pub(crate) fn proceed(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = *phase < to;
            *phase = to.max(*phase);
            later
        });
    }

    pub(crate) fn stop(&self) {
        self.proceed(Phase::Stopping);
    }

    /// Waits until it has stopped; after `within` without what is not done by then.
    pub(crate) async fn stopped(&self, within: Duration) {
        let mut phase = self.phase();
        let stopped = phase.wait_for(|phase| *phase == Phase::Stopped);
        if timeout(within, stopped).await.is_ok() {
            return;
        }
        self.proceed(Phase::Aborting);
        // The sender is here.
        let _ = phase.wait_for(|phase| *phase == Phase::Stopped).await;
    }

    pub(crate) fn failed(&self, error: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((error, Instant::now()));
    }

    fn plights(&self) -> MutexGuard<'_, Plights> {
        self.plights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has begun with something that is not done at once.
    pub(crate) fn busy(&self) -> Busy<'_> {
        let mut plights = self.plights();
        plights.numbers += 1;
        let key = (Instant::now(), plights.numbers);
        plights.busy.insert(key);
        Busy { shared: self, key }
    }

    /// A worker cannot send on what failed.
    pub(crate) fn stuck(&self) -> Stuck<'_> {
        self.plights().stuck += 1;
        Stuck { shared: self }
    }

    pub(crate) fn health(&self) -> ConsumerHealth {
        let (stuck, oldest) = {
            let plights = self.plights();
            let oldest = plights.busy.first().map(|(since, _)| since.elapsed());
            ((plights.stuck > 0).then(|| plights.reason.clone()), oldest)
        };
        let state = match (*self.phase.borrow(), *self.paused.borrow(), stuck) {
            (Phase::Stopped, ..) => ConsumerState::Stopped,
            (_, true, _) => ConsumerState::Paused,
            (_, _, Some(reason)) => ConsumerState::Waiting { reason },
            _ => self.state.borrow().clone(),
        };
        let last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ConsumerHealth {
            queue: self.queue.clone(),
            state,
            handling: self.handling.load(Ordering::Relaxed),
            handled: self.handled.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            retried: self.retried.load(Ordering::Relaxed),
            dead: self.dead.load(Ordering::Relaxed),
            oldest,
            last_error: last_error.map(|(error, at)| (error, at.elapsed())),
        }
    }
}

impl Stuck<'_> {
    /// What the broker says.
    pub(crate) fn because(&self, error: &dyn Error) {
        self.shared.plights().reason = format!("a failed message cannot be sent on: {error}");
    }
}

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        self.shared.plights().stuck -= 1;
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.shared.plights().busy.remove(&self.key);
    }
}

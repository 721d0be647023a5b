//! What a consumer's tasks and its handles share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
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
    /// The circuit breaker is open.
    pub(crate) paused: watch::Sender<bool>,
    last_error: Mutex<Option<(String, Instant)>>,
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

    pub(crate) fn health(&self) -> ConsumerHealth {
        let state = match (*self.phase.borrow(), *self.paused.borrow()) {
            (Phase::Stopped, _) => ConsumerState::Stopped,
            (_, true) => ConsumerState::Paused,
            _ => self.state.borrow().clone(),
        };
        let last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ConsumerHealth {
            queue: self.queue.clone(),
            state,
            handling: self.handling.load(Ordering::Relaxed),
            handled: self.handled.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            last_error: last_error.map(|(error, at)| (error, at.elapsed())),
        }
    }
}

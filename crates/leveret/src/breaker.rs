//! A circuit breaker: when almost everything fails, the fault is not the messages'.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::backoff::later;
use crate::consume::Outcome;

/// When a consumer pauses. Of its last messages so many may fail; with more it pauses, tries a
/// single message after a while, and goes on when that went well. What waits meanwhile uses up no
/// attempts. Messages that fail for good, by their own fault, say nothing of how things are.
///
/// The default: when the last 20 all failed, ten seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    last: usize,
    failures: usize,
    pause: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::new(20, 20, Duration::from_secs(10))
    }
}

impl Breaker {
    /// Pauses when `failures` of the `last` messages failed.
    #[must_use]
    pub fn new(failures: usize, last: usize, pause: Duration) -> Self {
        let last = last.max(1);
        Breaker { last, failures: failures.clamp(1, last), pause }
    }
}

/// A breaker at work.
pub(crate) struct Gate {
    breaker: Breaker,
    state: Mutex<State>,
    reported: Notify,
    paused: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// Which of the last messages failed.
    last: VecDeque<bool>,
    failures: usize,
    /// Until when nothing is let through.
    open_until: Option<Instant>,
    /// A single message is being tried.
    probing: bool,
}

impl Gate {
    pub(crate) fn new(breaker: Breaker, paused: watch::Sender<bool>) -> Self {
        Gate { breaker, state: Mutex::default(), reported: Notify::new(), paused }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the next message may be handled.
    pub(crate) async fn enter(&self) {
        loop {
            let reported = self.reported.notified();
            let open_until = {
                let mut state = self.lock();
                match state.open_until {
                    None => return,
                    Some(_) if state.probing => None,
                    Some(until) if until <= Instant::now() => {
                        state.probing = true;
                        return;
                    }
                    Some(until) => Some(until),
                }
            };
            match open_until {
                Some(until) => sleep_until(until).await,
                None => reported.await,
            }
        }
    }

    /// Whether not all are let through.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().open_until.is_some()
    }

    /// Takes note of how a message went.
    pub(crate) fn report(&self, outcome: Outcome) {
        let mut state = self.lock();
        let well = match outcome {
            Outcome::Done => true,
            Outcome::Failed => false,
            Outcome::Rejected | Outcome::Released => {
                // The next one may be tried at once.
                state.probing = false;
                drop(state);
                self.reported.notify_waiters();
                return;
            }
        };
        if state.open_until.is_some() {
            if well {
                *state = State::default();
                self.paused.send_replace(false);
            } else if state.probing {
                state.probing = false;
                state.open_until = Some(later(self.breaker.pause));
            }
            drop(state);
            self.reported.notify_waiters();
            return;
        }
        state.last.push_back(!well);
        state.failures += usize::from(!well);
        if state.last.len() > self.breaker.last && state.last.pop_front() == Some(true) {
            state.failures -= 1;
        }
        if state.failures >= self.breaker.failures && !well {
            state.open_until = Some(later(self.breaker.pause));
            self.paused.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_pauses_when_too_much_fails_and_tries_one() {
        let paused = watch::Sender::new(false);
        let breaker = Breaker::new(2, 3, Duration::from_secs(10));
        let gate = Gate::new(breaker, paused.clone());
        let start = Instant::now();
        let (good, bad) = (Outcome::Done, Outcome::Failed);
        for outcome in [bad, good, good, bad, Outcome::Rejected, good, bad] {
            gate.enter().await;
            gate.report(outcome);
        }
        assert!(*paused.borrow());
        gate.enter().await;
        assert_eq!(start.elapsed().as_secs(), 10);
        gate.report(bad);
        gate.enter().await;
        assert_eq!(start.elapsed().as_secs(), 20);
        gate.report(Outcome::Released);
        gate.enter().await;
        assert_eq!(start.elapsed().as_secs(), 20);
        assert!(*paused.borrow());
        gate.report(good);
        assert!(!*paused.borrow());
        gate.enter().await;
        assert_eq!(start.elapsed().as_secs(), 20);
    }
}

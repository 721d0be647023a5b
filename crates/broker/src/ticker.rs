//! Takes the place of the clock's thread where the broker's owner says what time it is.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use leveret_model::Time;

use crate::broker::Shared;
use crate::clock::Clock;

/// Has a broker in memory do what only time asks for. It does not keep the broker: once that is
/// closed or nobody has it, there are no more deadlines.
pub struct Ticker {
    shared: Weak<Shared>,
    clock: Arc<Clock>,
    /// The deadline as it was told last, if no tick was made since.
    told: Option<Time>,
}

impl Ticker {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        let clock = Arc::clone(&shared.clock);
        Ticker { shared: Arc::downgrade(shared), clock, told: None }
    }

    /// Ticks whenever a deadline has come, until the broker is gone.
    ///
    /// `sleep_until` gives what is ready at that time, or at once if that is past: the broker's
    /// `now` must say so then.
    pub async fn run<S: Future<Output = ()>>(mut self, sleep_until: impl Fn(Time) -> S) {
        let mut sleep = None;
        poll_fn(|cx| {
            loop {
                match self.poll_deadline(cx) {
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Ready(Some(Time::NEVER)) => sleep = None,
                    Poll::Ready(Some(at)) => sleep = Some(Box::pin(sleep_until(at))),
                    Poll::Pending => {
                        let Some(come) = sleep.as_mut() else { return Poll::Pending };
                        ready!(come.as_mut().poll(cx));
                        sleep = None;
                        self.tick();
                    }
                }
            }
        })
        .await;
    }

    /// When [`Ticker::tick`] is due next, [`Time::NEVER`] if nothing is waiting for time to pass;
    /// or nothing if the broker is gone. Pending as long as that is what the last call said and
    /// there was no tick since. It may be past, or of something that is no more.
    pub fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Option<Time>> {
        let polled = self.clock.poll_due(cx, self.told);
        if let Poll::Ready(deadline) = polled {
            self.told = deadline;
        }
        polled
    }

    /// Has the broker do what is due by now, or a part of it: the next deadline is past then.
    pub fn tick(&mut self) {
        self.told = None;
        if let Some(shared) = self.shared.upgrade()
            && self.clock.begin_tick()
        {
            shared.tick();
        }
    }
}

//! The time, and the thread that has the engine run when nothing but time asks for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use leveret_model::Time;

use crate::worker::Worker;

/// Stands for a moment while a tick is on its way: earlier than every other.
const TICKING: u64 = 0;
/// How long the thread steps aside if its tick left work over. The engine's lock is not fair: who
/// waits for it would get it late from a thread that takes it again at once.
const BREATH: Duration = Duration::from_micros(100);

/// The wall clock as it was at the start, and how long that is ago: it never goes back.
pub(crate) struct Clock {
    source: Source,
    /// When the next tick is due, in the milliseconds of [`Time`].
    due: AtomicU64,
    pub(crate) worker: Worker,
}

enum Source {
    System {
        start: Instant,
        origin: Time,
    },
    /// A simulation says what time it is.
    #[cfg(test)]
    Given(Arc<AtomicU64>),
}

impl Default for Clock {
    fn default() -> Self {
        let origin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let origin = Time(0).after(milliseconds(origin));
        Clock::new(Source::System { start: Instant::now(), origin })
    }
}

impl Clock {
    fn new(source: Source) -> Self {
        Clock { source, due: AtomicU64::new(Time::NEVER.0), worker: Worker::default() }
    }

    /// A clock that shows what it is told, in the milliseconds of [`Time`].
    #[cfg(test)]
    pub(crate) fn given(now: Arc<AtomicU64>) -> Self {
        Clock::new(Source::Given(now))
    }

    pub(crate) fn now(&self) -> Time {
        match &self.source {
            Source::System { start, origin } => origin.after(milliseconds(start.elapsed())),
            #[cfg(test)]
            Source::Given(now) => Time(now.load(Ordering::Relaxed)),
        }
    }

    /// Starts the thread. `tick` is called when the deadline has come, and must see to it that
    /// [`Clock::ticked`] is called with the next one, by whichever thread. Call this once, before
    /// others have the clock.
    pub(crate) fn start(self: &Arc<Self>, tick: impl Fn() + Send + 'static) -> io::Result<()> {
        let clock = Arc::clone(self);
        self.worker.start("engine-clock", move || clock.run(tick))
    }

    fn run(&self, tick: impl Fn()) {
        while !self.worker.is_closed() {
            let due = self.due.load(Ordering::Acquire);
            let now = self.now().0;
            // Whoever changes `due` unparks this thread afterwards, so no change is slept through.
            if due == TICKING || due == Time::NEVER.0 {
                thread::park();
            } else if due > now {
                thread::park_timeout(Duration::from_millis(due - now));
            } else if self.replace(due, TICKING) {
                tick();
                let next = self.due.load(Ordering::Relaxed);
                if next != TICKING && next <= now {
                    thread::sleep(BREATH);
                }
            }
        }
    }

    /// The engine's deadline after a step that was no tick. Only the thread that has the engine may
    /// call this. The thread here is woken only to sleep less; if it wakes for a deadline that is
    /// no more, the tick finds nothing to do.
    pub(crate) fn stepped(&self, deadline: Option<Time>) {
        let deadline = moment(deadline);
        let due = self.due.load(Ordering::Relaxed);
        if deadline < due && self.replace(due, deadline) {
            self.worker.wake();
        }
    }

    /// The engine's deadline after a tick.
    pub(crate) fn ticked(&self, deadline: Option<Time>) {
        self.due.store(moment(deadline), Ordering::Release);
        self.worker.wake();
    }

    /// Whether a tick is on its way, or due at some time.
    #[cfg(test)]
    pub(crate) fn is_set(&self) -> bool {
        self.due.load(Ordering::Acquire) != Time::NEVER.0
    }

    fn replace(&self, due: u64, by: u64) -> bool {
        self.due.compare_exchange(due, by, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

fn moment(deadline: Option<Time>) -> u64 {
    deadline.unwrap_or(Time::NEVER).0.max(TICKING + 1)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

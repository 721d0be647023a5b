//! The time, and the thread that has the engine run when nothing but time asks for it. Where
//! somebody else says what time it is, a task of his takes the thread's place (see `ticker`).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use leveret_model::Time;

use crate::worker::Worker;

/// Stands for a moment while a tick is on its way: earlier than every other.
const TICKING: u64 = 0;
/// How long the thread steps aside if its tick left work over. The engine's lock is not fair: who
/// waits for it would get it late from a thread that takes it again at once.
const BREATH: Duration = Duration::from_micros(100);

/// It never goes back.
pub(crate) struct Clock {
    source: Source,
    /// When the next tick is due, in the milliseconds of [`Time`].
    due: AtomicU64,
    pub(crate) worker: Worker,
    /// The task that has the thread's place, if it waits for another deadline.
    task: Mutex<Option<Waker>>,
}

enum Source {
    /// The wall clock as it was at the start, and how long that is ago.
    System { start: Instant, origin: Time },
    /// Somebody else says what time it is, and did say that it was as late as this.
    Given { now: Box<dyn Fn() -> Time + Send + Sync>, latest: AtomicU64 },
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
        let (due, worker) = (AtomicU64::new(Time::NEVER.0), Worker::default());
        Clock { source, due, worker, task: Mutex::default() }
    }

    /// A clock that shows what it is told. It has no thread.
    pub(crate) fn given(now: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        Clock::new(Source::Given { now: Box::new(now), latest: AtomicU64::new(0) })
    }

    pub(crate) fn now(&self) -> Time {
        match &self.source {
            Source::System { start, origin } => origin.after(milliseconds(start.elapsed())),
            Source::Given { now, latest } => {
                let now = now().0;
                Time(latest.fetch_max(now, Ordering::Relaxed).max(now))
            }
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
    /// no more, the tick finds nothing to do. A task hears of every change: time may go on just
    /// because it waits. Returns whom to wake, which is best done when no lock is held.
    pub(crate) fn stepped(&self, deadline: Option<Time>) -> Option<Waker> {
        let deadline = moment(deadline);
        let due = self.due.load(Ordering::Relaxed);
        let sooner = deadline < due;
        let later = deadline > due && due != TICKING && matches!(self.source, Source::Given { .. });
        if (sooner || later) && self.replace(due, deadline) { self.wake() } else { None }
    }

    /// The engine's deadline after a tick. Returns whom to wake, as [`Clock::stepped`].
    pub(crate) fn ticked(&self, deadline: Option<Time>) -> Option<Waker> {
        self.due.store(moment(deadline), Ordering::Release);
        self.wake()
    }

    /// Whether the deadline has come. Then a tick is on its way, as far as others can see.
    pub(crate) fn begin_tick(&self) -> bool {
        let due = self.due.load(Ordering::Acquire);
        due != TICKING && due <= self.now().0 && self.replace(due, TICKING)
    }

    /// The deadline, [`Time::NEVER`] if there is none; or nothing once the clock is closed. Pending
    /// while it is `known`, or a tick is on its way.
    pub(crate) fn poll_due(&self, cx: &mut Context<'_>, known: Option<Time>) -> Poll<Option<Time>> {
        // Whoever changes `due` looks for a task afterwards, so no change is missed. The waker that
        // was there is dropped when the lock is free: what that does is not known here.
        let _before = self.task().replace(cx.waker().clone());
        if self.worker.is_closed() {
            return Poll::Ready(None);
        }
        match self.due.load(Ordering::Acquire) {
            TICKING => Poll::Pending,
            due if known == Some(Time(due)) => Poll::Pending,
            due => Poll::Ready(Some(Time(due))),
        }
    }

    /// Ends the thread, or the task.
    pub(crate) fn close(&self) {
        self.worker.close();
        let task = self.task().take();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn wake(&self) -> Option<Waker> {
        self.worker.wake();
        self.task().take()
    }

    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
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

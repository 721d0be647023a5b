//! Ticks of a fixed schedule.

use std::io;

/// Wakes on a schedule with microsecond precision, which tokio's own timers lack.
#[cfg(target_os = "linux")]
pub(crate) struct Ticker(tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>);

#[cfg(target_os = "linux")]
impl Ticker {
    /// Ticks at `start` of the monotonic clock and every `gap` from then on, in nanoseconds.
    pub(crate) fn new(start: u64, gap: u64) -> io::Result<Ticker> {
        use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
        const SECOND: u64 = 1_000_000_000;
        let spec =
            |nanos: u64| Timespec { tv_sec: (nanos / SECOND) as _, tv_nsec: (nanos % SECOND) as _ };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let times = Itimerspec { it_value: spec(start), it_interval: spec(gap) };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &times)?;
        // What replaces it is unsafe, against types that give their descriptor away; `OwnedFd` does
        // not.
        #[allow(deprecated)]
        let timer = tokio::io::unix::AsyncFd::new(timer)?;
        Ok(Ticker(timer))
    }

    /// Waits for the next tick.
    pub(crate) async fn tick(&self) {
        let Ok(mut ready) = self.0.readable().await else { return };
        // How many ticks there were does not matter: the schedule is kept by the clock.
        let _ = rustix::io::read(self.0.get_ref(), &mut [0; 8]);
        ready.clear_ready();
    }
}

/// Wakes on a schedule, to the millisecond.
#[cfg(not(target_os = "linux"))]
pub(crate) struct Ticker(std::time::Duration);

#[cfg(not(target_os = "linux"))]
impl Ticker {
    /// Ticks every `gap` nanoseconds.
    pub(crate) fn new(_start: u64, gap: u64) -> io::Result<Ticker> {
        Ok(Ticker(std::time::Duration::from_nanos(gap)))
    }

    /// Waits for the next tick.
    pub(crate) async fn tick(&self) {
        tokio::time::sleep(self.0).await;
    }
}

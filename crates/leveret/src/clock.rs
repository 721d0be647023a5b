//! The time on the wall, for what other programs read, or this one when it has started again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    /// The machine's. It goes on while the machine sleeps, and somebody may put it right.
    Wall,
    /// The runtime's, from that time on: where it stands still, as in tests, so does this.
    Runtime { start: Instant, origin: Duration },
}

impl Clock {
    /// That of `memory:`.
    pub(crate) fn of_runtime() -> Self {
        let origin = wall();
        // Whole milliseconds, so that an instant made from some is not before them.
        let origin = Duration::from_secs(origin.as_secs())
            + Duration::from_millis(origin.subsec_millis().into());
        Clock::Runtime { start: Instant::now(), origin }
    }

    /// Since 1970.
    pub(crate) fn now(&self) -> Duration {
        match self {
            Clock::Wall => wall(),
            Clock::Runtime { start, origin } => *origin + start.elapsed(),
        }
    }

    /// Milliseconds since 1970.
    pub(crate) fn milliseconds(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since 1970 when so much more time will have passed.
    pub(crate) fn after(&self, time: Duration) -> u64 {
        let then = self.now().saturating_add(time);
        u64::try_from(then.as_millis()).unwrap_or(u64::MAX)
    }

    /// When it will be so many milliseconds since 1970; now, if it has been.
    #[cfg(feature = "embedded")]
    pub(crate) fn instant(&self, milliseconds: u64) -> Instant {
        let left = Duration::from_millis(milliseconds).saturating_sub(self.now());
        Instant::now() + left
    }

    /// How long it is until then; nothing if it has been.
    pub(crate) fn until(&self, time: SystemTime) -> Duration {
        time.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(self.now())
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(20);

    #[tokio::test(start_paused = true)]
    async fn the_wall_goes_on_where_the_runtime_stands_still_as_in_a_machine_that_sleeps() {
        let (wall, runtime) = (Clock::Wall, Clock::of_runtime());
        let (before, still) = (wall.now(), runtime.now());
        std::thread::sleep(PAUSE);
        assert!(wall.now() >= before + PAUSE);
        assert!(wall.until(UNIX_EPOCH + before + PAUSE).is_zero());
        assert_eq!(runtime.now(), still);
        tokio::time::advance(PAUSE).await;
        assert_eq!(runtime.now(), still + PAUSE);
        assert!(wall.now() < before + Duration::from_secs(3_600));
    }
}

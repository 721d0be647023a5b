//! The time on the wall, by the runtime's clock: where that stands still, as in tests, so does
//! this.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    origin: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let origin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Whole milliseconds, so that an instant made from some is not before them.
        let origin = Duration::from_secs(origin.as_secs())
            + Duration::from_millis(origin.subsec_millis().into());
        Clock { start: Instant::now(), origin }
    }

    /// Since 1970.
    pub(crate) fn now(&self) -> Duration {
        self.origin + self.start.elapsed()
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

    /// When it is or was so many milliseconds since 1970.
    #[cfg(feature = "embedded")]
    pub(crate) fn instant(&self, milliseconds: u64) -> Instant {
        self.start + Duration::from_millis(milliseconds).saturating_sub(self.origin)
    }

    /// How long it is until then; nothing if it has been.
    pub(crate) fn until(&self, time: SystemTime) -> Duration {
        time.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(self.now())
    }
}

//! How long to wait before something is tried again.

use std::time::Duration;

use tokio::time::Instant;

use crate::chance::chance;

/// Delays that grow by a factor up to a limit, with chance, so that many who failed together do not
/// come back together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Backoff {
    first: Duration,
    pub(crate) factor: f64,
    pub(crate) longest: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, factor: f64, longest: Duration) -> Self {
        Backoff { first, factor, longest }
    }

    /// The delay before the attempt that follows `failures` failed ones: from half of it to all.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let whole = self.whole(failures);
        whole.mul_f64(0.5 + chance() / 2.0)
    }

    /// The delay without chance.
    pub(crate) fn whole(&self, failures: u32) -> Duration {
        let steps = failures.saturating_sub(1).min(1_000);
        times(self.first, self.factor.powi(steps as i32)).min(self.longest)
    }
}

/// What stands for a time that a clock has no room for.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The time so long from now.
pub(crate) fn later(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration).unwrap_or_else(|| now + FAR)
}

/// So many times a duration; the longest there is if it would be longer.
pub(crate) fn times(duration: Duration, factor: f64) -> Duration {
    if duration.is_zero() {
        return duration;
    }
    let seconds = duration.as_secs_f64() * factor;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_the_longest() {
        let backoff = Backoff::new(Duration::from_millis(100), 2.0, Duration::from_secs(1));
        let whole: Vec<u128> = (0..7).map(|n| backoff.whole(n).as_millis()).collect();
        assert_eq!(whole, [100, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(backoff.whole(u32::MAX), Duration::from_secs(1));
        let endless = Backoff::new(Duration::from_secs(1), 2.0, Duration::MAX);
        assert_eq!(endless.whole(u32::MAX), Duration::MAX);
        for failures in 0..100 {
            let delay = backoff.delay(failures);
            assert!(delay >= backoff.whole(failures) / 2 && delay <= backoff.whole(failures));
        }
    }
}

//! When a message that failed is tried again, and when no more.

use std::time::Duration;

use crate::backoff::{Backoff, times};
use crate::chance::chance;
use crate::failure::Remedy;

/// The failure policy of a consumer. There are tries at once, for what a moment heals; then tries
/// after a delay, during which no worker is held and other messages go on; then the message is a
/// dead letter.
///
/// The default: three tries at once, and that up to 16 times, one second and then ever longer up to
/// five minutes apart, which takes some 45 minutes in all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    tries_at_once: u32,
    delays: Backoff,
    pub(crate) attempts: u32,
    within: Duration,
    jitter: f64,
}

/// How many leading bits of a delay chance may set.
const BITS: u32 = 7;

/// What is to be done with a message that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It comes again after this time.
    Again(Duration),
    /// It is a dead letter, for this reason.
    Dead(&'static str),
}

impl Default for Retry {
    fn default() -> Self {
        Retry::exponential(Duration::from_secs(1)).at_once(3)
    }
}

impl Retry {
    /// No second try: what fails is a dead letter.
    #[must_use]
    pub fn none() -> Self {
        Retry::exponential(Duration::ZERO).attempts(1).at_once(1)
    }

    /// After `first`, then after twice that, and so on up to five minutes; 16 attempts in all.
    #[must_use]
    pub fn exponential(first: Duration) -> Self {
        Retry {
            tries_at_once: 1,
            delays: Backoff::new(first, 2.0, Duration::from_secs(300)),
            attempts: 16,
            within: Duration::MAX,
            jitter: 0.25,
        }
    }

    /// Always after the same time; 16 attempts in all.
    #[must_use]
    pub fn fixed(delay: Duration) -> Self {
        Retry { delays: Backoff::new(delay, 1.0, delay), ..Retry::exponential(delay) }
    }

    /// By this factor longer each time, instead of two.
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        self.delays.factor = factor.max(1.0);
        self
    }

    /// With no delay longer than this.
    #[must_use]
    pub fn up_to(mut self, longest: Duration) -> Self {
        self.delays.longest = longest;
        self
    }

    /// How often the message comes at most, the first time included.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// How often it is tried each time it comes, one try right after the other. They hold a worker,
    /// so they are for what a moment heals.
    #[must_use]
    pub fn at_once(mut self, tries: u32) -> Self {
        self.tries_at_once = tries.max(1);
        self
    }

    /// No more tries when the first failure is longer ago than this.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// By which share, drawn by chance, a delay is longer than it would be; a quarter where nothing
    /// is said. It only ever makes delays longer.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share.clamp(0.0, 10.0);
        self
    }

    pub(crate) fn tries_at_once(&self) -> u32 {
        self.tries_at_once
    }

    /// The longest delay there can be; `None` if there is none.
    pub(crate) fn longest(&self) -> Option<Duration> {
        let longest = self.delays.whole(self.attempts.saturating_sub(1));
        (self.attempts > 1).then(|| times(longest, 1.0 + self.jitter))
    }

    /// What is to be done after so many attempts, the first failure being so long ago.
    pub(crate) fn decide(&self, attempts: u32, since_first: Duration, remedy: Remedy) -> Decision {
        let own = spread(self.delays.whole(attempts), self.jitter);
        let delay = match remedy {
            Remedy::None => return Decision::Dead("permanent failure"),
            Remedy::RetryAfter(after) => after.max(own),
            Remedy::Retry => own,
        };
        if attempts >= self.attempts {
            Decision::Dead("no attempts left")
        } else if since_first.saturating_add(delay) > self.within {
            Decision::Dead("no time left")
        } else {
            Decision::Again(delay)
        }
    }
}

/// A delay made longer by chance, by up to a share of it, to a round number of milliseconds in
/// binary: the fewer bits it has, the fewer queues it waits in where a broker adds delays up.
fn spread(whole: Duration, share: f64) -> Duration {
    let drawn = times(whole, 1.0 + share * chance());
    let milliseconds = u64::try_from(drawn.as_millis()).unwrap_or(u64::MAX);
    let dropped = milliseconds.max(1).ilog2().saturating_sub(BITS - 1);
    Duration::from_millis(milliseconds >> dropped << dropped).max(whole)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn attempts_are_ever_further_apart_and_end() {
        let retry = Retry::exponential(Duration::from_secs(1))
            .up_to(Duration::from_secs(5))
            .attempts(5)
            .jitter(0.0);
        let decide = |attempts| retry.decide(attempts, Duration::ZERO, Remedy::Retry);
        let seconds = |n| Decision::Again(Duration::from_secs(n));
        assert_eq!([1, 2, 3, 4].map(decide), [1, 2, 4, 5].map(seconds));
        assert_eq!(decide(5), Decision::Dead("no attempts left"));
        assert_eq!(retry.longest(), Some(Duration::from_secs(5)));
        assert_eq!(Retry::none().longest(), None);
        assert_eq!(
            Retry::none().decide(1, Duration::ZERO, Remedy::Retry),
            Decision::Dead("no attempts left")
        );
    }

    #[test]
    fn chance_only_makes_delays_longer() {
        let retry = Retry::fixed(Duration::from_secs(10)).jitter(0.5);
        for _ in 0..1_000 {
            match retry.decide(1, Duration::ZERO, Remedy::Retry) {
                Decision::Again(delay) => {
                    assert!(delay >= Duration::from_secs(10) && delay <= Duration::from_secs(15));
                }
                Decision::Dead(reason) => panic!("{reason}"),
            }
        }
    }

    #[test]
    fn chance_makes_many_delays_of_few_bits() {
        let whole = Duration::from_secs(300);
        let delays: BTreeSet<_> = (0..1_000).map(|_| spread(whole, 0.25)).collect();
        assert!(delays.len() >= 8, "{delays:?}");
        for delay in delays.into_iter().filter(|&delay| delay != whole) {
            assert!((1..=BITS).contains(&delay.as_millis().count_ones()), "{delay:?}");
        }
    }

    #[test]
    fn what_the_failure_says_counts() {
        let retry =
            Retry::fixed(Duration::from_secs(1)).within(Duration::from_secs(60)).jitter(0.0);
        let after = |seconds| Remedy::RetryAfter(Duration::from_secs(seconds));
        let decide = |since, remedy| retry.decide(1, Duration::from_secs(since), remedy);
        assert_eq!(decide(0, after(30)), Decision::Again(Duration::from_secs(30)));
        assert_eq!(decide(0, after(61)), Decision::Dead("no time left"));
        assert_eq!(decide(60, Remedy::Retry), Decision::Dead("no time left"));
        assert_eq!(decide(0, Remedy::None), Decision::Dead("permanent failure"));
    }
}

//! No more than so many messages in so much time.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backoff::later;

/// So many messages in so much time, evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    each: Duration,
}

impl Rate {
    pub(crate) fn new(messages: u32, per: Duration) -> Self {
        Rate { each: per / messages.max(1) }
    }
}

/// How far a rate has come.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Rate,
    next: Instant,
}

/// A pause that was too long by this much may be made up for: timers are not exact.
const SLACK: Duration = Duration::from_millis(20);

impl Pace {
    pub(crate) fn new(rate: Rate) -> Self {
        Pace { rate, next: Instant::now() }
    }

    /// Waits for the next message's turn.
    pub(crate) async fn wait(&mut self) {
        let now = Instant::now();
        if self.next > now {
            sleep_until(self.next).await;
        }
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let next = self.next.max(earliest);
        self.next = next.checked_add(self.rate.each).unwrap_or_else(|| later(Duration::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn messages_come_evenly_however_long_nothing_came() {
        let mut pace = Pace::new(Rate::new(100, Duration::from_secs(1)));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..101 {
            pace.wait().await;
        }
        let taken = start.elapsed().as_millis();
        assert!((970..=1_000).contains(&taken), "{taken}");
    }
}

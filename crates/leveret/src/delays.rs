//! What was declared so that messages can be put off when they are published.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::TopologyError;
use crate::topology::{DelayTarget, Topology};
use crate::transport::Transport;

/// How many targets are known. The oldest is forgotten for one more, and declared again when a
/// message to it is put off.
const TARGETS_MAX: usize = 1_024;

/// What was declared for publishing. It is not declared again at each connect, but when it is
/// needed: a program may put off messages to ever new queues.
#[derive(Debug, Default)]
pub(crate) struct Delays(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// How often the transport had connected: whether the next broker has the same is not known.
    connects: u64,
    longest: HashMap<DelayTarget, Duration>,
    /// From the oldest on.
    order: VecDeque<DelayTarget>,
}

impl Delays {
    /// Declares what a delay needs, unless that was done on this connection.
    pub(crate) async fn ensure(
        &self,
        transport: &dyn Transport,
        target: DelayTarget,
        delay: Duration,
    ) -> Result<(), TopologyError> {
        // By powers of two, so that not every delay is declared anew.
        let milliseconds = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).max(1);
        let longest = Duration::from_millis(milliseconds.next_power_of_two());
        let connects = transport.health().iter().map(|connection| connection.connects).sum();
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known().has(connects, &target, longest) {
            return Ok(());
        }
        transport.declare(Topology::new().delay(target.clone(), longest)).await?;
        known().add(connects, target, longest);
        Ok(())
    }
}

impl Known {
    fn has(&mut self, connects: u64, target: &DelayTarget, longest: Duration) -> bool {
        if self.connects != connects {
            *self = Known { connects, ..Known::default() };
        }
        self.longest.get(target).is_some_and(|known| *known >= longest)
    }

    fn add(&mut self, connects: u64, target: DelayTarget, longest: Duration) {
        if self.connects != connects {
            return;
        }
        if let Some(known) = self.longest.get_mut(&target) {
            *known = longest.max(*known);
            return;
        }
        self.longest.insert(target.clone(), longest);
        self.order.push_back(target);
        if self.order.len() > TARGETS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.longest.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn queue(number: usize) -> DelayTarget {
        DelayTarget::Queue(number.to_string())
    }

    #[test]
    fn the_oldest_target_is_forgotten_and_all_are_when_there_was_another_connection() {
        let mut known = Known::default();
        for number in 0..TARGETS_MAX {
            known.add(0, queue(number), SECOND);
        }
        assert!(known.has(0, &queue(0), SECOND));
        assert!(!known.has(0, &queue(0), 2 * SECOND));
        known.add(0, queue(0), 2 * SECOND);
        assert!(known.has(0, &queue(0), 2 * SECOND));
        known.add(0, queue(TARGETS_MAX), SECOND);
        assert!(!known.has(0, &queue(0), SECOND));
        assert!(known.has(0, &queue(1), SECOND) && known.has(0, &queue(TARGETS_MAX), SECOND));
        assert_eq!(known.longest.len(), TARGETS_MAX);
        assert!(!known.has(1, &queue(1), SECOND));
        // What was declared on the last connection says nothing of this one.
        known.add(0, queue(1), SECOND);
        assert!(!known.has(1, &queue(1), SECOND));
    }
}

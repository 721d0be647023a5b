//! Who holds leases: an AMQP channel, and later an SQS or Kafka consumer.
//!
//! Lease numbers are dense per holder, so that the leases are a ring and "all up to this one" is
//! a range of it.

use std::collections::VecDeque;

use leveret_model::{QueueId, ShortString};
use rustc_hash::FxHashMap;

use crate::queue::Entry;

/// A message that was delivered and is not settled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) queue: QueueId,
    /// The consumer it was delivered to, unless it was fetched.
    pub(crate) consumer: Option<u64>,
    pub(crate) entry: Entry,
}

#[derive(Debug, Default)]
pub(crate) struct Holder {
    /// Its consumers by tag.
    pub(crate) consumers: FxHashMap<ShortString, u64>,
    /// Lease `first_lease + i` at index `i`; `None` where it is settled.
    leases: VecDeque<Option<Lease>>,
    first_lease: u64,
    /// Leases out through consumers; fetched ones do not count towards a prefetch limit.
    pub(crate) consuming: u32,
    /// Limit for each consumer started from now on; 0 is none.
    pub(crate) prefetch: u16,
    /// Limit for all consumers together; 0 is none.
    pub(crate) shared_prefetch: u16,
    /// If confirms are selected: the publisher, and the number of its last message.
    pub(crate) published: Option<(u64, u64)>,
    /// The queue that an empty name stands for.
    pub(crate) last_queue: Option<ShortString>,
    pub(crate) route: Route,
}

/// Where the last message went, for the next one with the same envelope.
#[derive(Debug, Default)]
pub(crate) struct Route {
    pub(crate) envelope: Vec<u8>,
    /// The topology's generation that it was computed for; 0 is none.
    pub(crate) generation: u64,
    pub(crate) queues: Vec<QueueId>,
}

impl Holder {
    pub(crate) fn new() -> Self {
        Holder { first_lease: 1, ..Holder::default() }
    }

    /// Numbers a delivery. `None` is one that is settled already.
    pub(crate) fn lease(&mut self, lease: Option<Lease>) -> u64 {
        let number = self.first_lease + self.leases.len() as u64;
        match lease {
            None if self.leases.is_empty() => self.first_lease += 1,
            lease => self.leases.push_back(lease),
        }
        number
    }

    /// Whether the shared prefetch limit lets another delivery out.
    pub(crate) fn has_room(&self) -> bool {
        self.shared_prefetch == 0 || self.consuming < u32::from(self.shared_prefetch)
    }

    /// Ends one lease, if it is out.
    pub(crate) fn settle_one(&mut self, number: u64) -> Option<Lease> {
        let index = usize::try_from(number.checked_sub(self.first_lease)?).ok()?;
        let lease = self.leases.get_mut(index)?.take()?;
        self.trim();
        Some(lease)
    }

    /// Whether the lease is out.
    pub(crate) fn holds(&self, number: u64) -> bool {
        number
            .checked_sub(self.first_lease)
            .and_then(|index| self.leases.get(usize::try_from(index).ok()?))
            .is_some_and(Option::is_some)
    }

    /// Ends the first lease that is out, if it is not beyond `last`.
    pub(crate) fn settle_next(&mut self, last: u64) -> Option<Lease> {
        while self.first_lease <= last {
            let lease = self.leases.pop_front()?;
            self.first_lease += 1;
            if lease.is_some() {
                self.trim();
                return lease;
            }
        }
        None
    }

    fn trim(&mut self) {
        while let Some(None) = self.leases.front() {
            self.leases.pop_front();
            self.first_lease += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_model::Position;

    #[test]
    fn settled_leases_take_no_room() {
        let (chunk, message, bytes, durable, redelivered) = (0, 0, 0, false, false);
        let position = Position(0);
        let entry = Entry { position, chunk, message, bytes, durable, redelivered };
        let mut holder = Holder::new();
        assert_eq!(holder.lease(Some(Lease { queue: QueueId(1), consumer: None, entry })), 1);
        assert_eq!(holder.lease(None), 2);
        assert!(holder.settle_next(1).is_some());
        assert!(holder.settle_next(1).is_none());
        for number in 3..100 {
            assert_eq!(holder.lease(None), number);
        }
        assert!(holder.leases.is_empty());
    }
}

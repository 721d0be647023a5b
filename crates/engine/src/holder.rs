//! Who holds leases: an AMQP channel, and later an SQS or Kafka consumer.
//!
//! Lease numbers are dense per holder and only grow, so that the leases are a ring in their order
//! and "all up to this one" is the front of it.

use std::collections::{BTreeMap, VecDeque};

use leveret_model::{QueueId, ShortString};

use crate::queue::Entry;
use crate::transaction::{Settled, Transaction};

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
    pub(crate) consumers: BTreeMap<ShortString, u64>,
    /// By number; `None` where it is settled. Numbers of deliveries that needed no settling are
    /// not in it.
    leases: VecDeque<(u64, Option<Lease>)>,
    /// How many of them are out.
    out: usize,
    next_lease: u64,
    /// Leases out through consumers; fetched ones do not count towards a prefetch limit.
    pub(crate) consuming: u32,
    /// Limit for each consumer started from now on; 0 is none.
    pub(crate) prefetch: u16,
    /// Limit for all consumers together; 0 is none.
    pub(crate) shared_prefetch: u16,
    /// If confirms are selected: the publisher, and the number of its last message.
    pub(crate) published: Option<(u64, u64)>,
    /// If transactions are selected: what the next commit does.
    pub(crate) transaction: Option<Box<Transaction>>,
    /// The queue of its direct replies.
    pub(crate) replies: Option<ShortString>,
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
        Holder { next_lease: 1, ..Holder::default() }
    }

    /// Numbers a delivery. `None` is one that is settled already.
    pub(crate) fn lease(&mut self, lease: Option<Lease>) -> u64 {
        let number = self.next_lease;
        self.next_lease += 1;
        if lease.is_some() {
            self.leases.push_back((number, lease));
            self.out += 1;
        }
        number
    }

    /// Whether the shared prefetch limit lets another delivery out.
    pub(crate) fn has_room(&self) -> bool {
        self.shared_prefetch == 0 || self.consuming < u32::from(self.shared_prefetch)
    }

    /// Ends one lease, if it is out.
    pub(crate) fn settle_one(&mut self, number: u64) -> Option<Lease> {
        let index = self.find(number)?;
        let lease = self.leases[index].1.take()?;
        self.out -= 1;
        self.tidy();
        Some(lease)
    }

    /// The leases that are out.
    pub(crate) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.iter().filter_map(|(_, lease)| lease.as_ref())
    }

    /// Whether the lease is out.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.find(number).is_some_and(|index| self.leases[index].1.is_some())
    }

    /// Ends the first lease that is out, if it is not beyond `last`.
    pub(crate) fn settle_next(&mut self, last: u64) -> Option<(u64, Lease)> {
        // Tidy: the first one is out.
        let (number, _) = *self.leases.front()?;
        if number > last {
            return None;
        }
        self.settle_one(number).map(|lease| (number, lease))
    }

    /// Has leases out again that were settled in a transaction.
    pub(crate) fn put_back(&mut self, settled: Vec<Settled>) {
        if settled.is_empty() {
            return;
        }
        self.out += settled.len();
        self.leases.retain(|(_, lease)| lease.is_some());
        self.leases.extend(settled.into_iter().map(|each| (each.number, Some(each.lease))));
        self.leases.make_contiguous().sort_unstable_by_key(|(number, _)| *number);
    }

    fn find(&self, number: u64) -> Option<usize> {
        // Nearly always leases are settled in order, or there are no gaps between their numbers.
        let (first, _) = self.leases.front()?;
        let guess = usize::try_from(number.checked_sub(*first)?).ok()?;
        if self.leases.get(guess).is_some_and(|(same, _)| *same == number) {
            return Some(guess);
        }
        self.leases.binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    /// Keeps the first lease one that is out, and the settled ones fewer than the others.
    fn tidy(&mut self) {
        while let Some((_, None)) = self.leases.front() {
            self.leases.pop_front();
        }
        if self.leases.len() > 2 * self.out + 16 {
            self.leases.retain(|(_, lease)| lease.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_model::{Position, Time};

    #[test]
    fn settled_leases_take_no_room() {
        let entry = Entry {
            position: Position(0),
            expires: Time::NEVER,
            chunk: 0,
            message: 0,
            bytes: 0,
            attempts: 0,
            priority: 0,
            durable: false,
        };
        let mut holder = Holder::new();
        assert_eq!(holder.lease(Some(Lease { queue: QueueId(1), consumer: None, entry })), 1);
        assert_eq!(holder.lease(None), 2);
        assert!(holder.settle_next(1).is_some());
        assert!(holder.settle_next(1).is_none());
        for number in 3..100 {
            assert_eq!(holder.lease(None), number);
        }
        assert!(holder.leases.is_empty());
        // Not even behind one that stays.
        let stays = holder.lease(Some(Lease { queue: QueueId(1), consumer: None, entry }));
        for _ in 0..1_000 {
            holder.lease(None);
            let lease = Some(Lease { queue: QueueId(1), consumer: None, entry });
            let number = holder.lease(lease);
            assert!(holder.settle_one(number).is_some());
            assert!(holder.settle_one(number).is_none());
        }
        assert!(holder.leases.len() < 50);
        assert!(holder.holds(stays));
    }
}

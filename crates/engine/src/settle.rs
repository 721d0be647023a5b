//! Leases and their end.

use std::mem;

use leveret_model::QueueId;
use rustc_hash::FxHashMap;

use crate::Reason;
use crate::command::Outcome;
use crate::engine::{Consumer, Engine};
use crate::holder::Lease;
use crate::queue::{Queue, mark_dirty};
use crate::refusal::Refusal;
use crate::settings::Kind;
use crate::step::Step;
use crate::transaction::Settled;

impl Engine {
    /// Ends one lease, or all up to it.
    pub(crate) fn settle(
        &mut self,
        number: u16,
        lease: u64,
        multiple: bool,
        outcome: Outcome,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if multiple {
            if lease != 0 && !self.holder(step, number).holds(lease) {
                return Err(Refusal::UnknownLease(lease));
            }
            let last = if lease == 0 { u64::MAX } else { lease };
            self.settle_up_to(number, last, outcome, step);
            return Ok(());
        }
        let holder = self.holder(step, number);
        let ended = holder.settle_one(lease).ok_or(Refusal::UnknownLease(lease))?;
        if let Some(transaction) = &mut holder.transaction {
            transaction.settled.push(Settled { number: lease, lease: ended, outcome });
            return Ok(());
        }
        self.end_lease(number, ended, outcome, step);
        if ended.consumer.is_some() {
            self.wake_shared(number, step);
        }
        Ok(())
    }

    /// Ends every lease of the holder that is out, up to `last`, with its next commit if there is
    /// to be one.
    fn settle_up_to(&mut self, number: u16, last: u64, outcome: Outcome, step: &mut Step<'_>) {
        let holder = self.holder(step, number);
        let Some(mut transaction) = holder.transaction.take() else {
            return self.end_leases(number, last, outcome, step);
        };
        while let Some((number, lease)) = holder.settle_next(last) {
            transaction.settled.push(Settled { number, lease, outcome });
        }
        holder.transaction = Some(transaction);
    }

    /// Ends every lease of the holder that is out, up to `last`.
    pub(crate) fn end_leases(
        &mut self,
        number: u16,
        last: u64,
        outcome: Outcome,
        step: &mut Step<'_>,
    ) {
        let mut consumed = false;
        while let Some((_, lease)) = self.holder(step, number).settle_next(last) {
            consumed |= lease.consumer.is_some();
            self.end_lease(number, lease, outcome, step);
        }
        if consumed {
            self.wake_shared(number, step);
        }
    }

    /// Ends a lease that its holder has given up.
    pub(crate) fn end_lease(
        &mut self,
        number: u16,
        lease: Lease,
        outcome: Outcome,
        step: &mut Step<'_>,
    ) {
        if let Some(consumer) = lease.consumer {
            let holder = self.holder(step, number);
            holder.consuming -= 1;
            let alone = holder.shared_prefetch == 0;
            let (consumers, queues) = (&mut self.consumers, &mut self.queues);
            if let Some(consumer) = consumers.get_mut(&consumer) {
                consumer.leased -= 1;
                consumer.leased_bytes -= lease.entry.bytes as usize;
            }
            if alone {
                wake(consumer, consumers, queues, &mut self.dirty);
            }
        }
        let Some(queue) = self.queues.get_mut(&lease.queue) else {
            // The queue was deleted, and the log knows.
            return self.chunks.release(lease.entry.chunk, &mut step.effects.released);
        };
        queue.leased -= 1;
        let limit = queue.settings.delivery_limit;
        match outcome {
            Outcome::Accept => step.settled(queue, lease.entry, &mut self.chunks),
            Outcome::Discard => self.die(lease.queue, lease.entry, Reason::Rejected, step),
            Outcome::Requeue if limit.is_some_and(|limit| lease.entry.attempts >= limit) => {
                self.die(lease.queue, lease.entry, Reason::DeliveryLimit, step);
            }
            Outcome::Requeue => {
                queue.give_back(lease.entry, &self.chunks);
                mark_dirty(queue, &mut self.dirty);
                // A quorum queue's consumers have their share first.
                let drops = queue.settings.kind == Kind::Classic && !queue.settings.rejects();
                if drops && queue.over_limit() {
                    self.trim(lease.queue, step);
                }
            }
        }
    }

    /// Where all consumers of a holder share a limit, one's settling makes room for any.
    pub(crate) fn wake_shared(&mut self, number: u16, step: &Step<'_>) {
        if self.holder(step, number).shared_prefetch != 0 {
            self.wake_consumers(step.session, number);
        }
    }

    /// Whether consumers are held back for a reason that is no more.
    pub(crate) fn may_wake_held_back(&self) -> bool {
        let over = !self.is_short() || self.held_for_letters && !self.letters_wait();
        over && !self.held_back.is_empty()
    }

    /// Lets them try again.
    pub(crate) fn wake_held_back(&mut self) {
        if self.may_wake_held_back() {
            self.held_for_letters = false;
            for consumer in mem::take(&mut self.held_back) {
                wake(consumer, &mut self.consumers, &mut self.queues, &mut self.dirty);
            }
        }
    }

    /// Lets every blocked consumer of a holder try again.
    pub(crate) fn wake_consumers(&mut self, session: leveret_model::SessionId, holder: u16) {
        // As RabbitMQ does, from anywhere: or one queue always gets what little room there is.
        let start = self.random() as usize;
        let Some(holder) = self.sessions.get(&session).and_then(|s| s.holders.get(&holder)) else {
            return;
        };
        let count = holder.consumers.len();
        let consumers = holder.consumers.values().cycle().skip(start % count.max(1)).take(count);
        for consumer in consumers {
            wake(*consumer, &mut self.consumers, &mut self.queues, &mut self.dirty);
        }
    }
}

/// Lets a consumer try again if it was blocked.
fn wake(
    id: u64,
    consumers: &mut FxHashMap<u64, Consumer>,
    queues: &mut FxHashMap<QueueId, Queue>,
    dirty: &mut Vec<QueueId>,
) {
    let Some(consumer) = consumers.get_mut(&id) else { return };
    if mem::take(&mut consumer.blocked)
        && let Some(queue) = queues.get_mut(&consumer.queue)
    {
        queue.active.push(consumer.priority, id);
        mark_dirty(queue, dirty);
    }
}

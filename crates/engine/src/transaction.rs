//! Transactions: what a holder publishes and settles takes effect when it commits, in one step and
//! so in one piece of the log.

use std::collections::BTreeMap;
use std::ops::Range;

use leveret_model::limits::TRANSACTION_BYTES_MAX;
use leveret_model::{Chunk, QueueId};

use crate::chunks::ENTRY_BYTES;
use crate::command::Outcome;
use crate::effect::Reply;
use crate::engine::Engine;
use crate::holder::Lease;
use crate::publish::{Demands, Publication};
use crate::queue::{OVERHEAD_BYTES, Queue};
use crate::refusal::Refusal;
use crate::step::Step;

/// What was done since the last commit or rollback.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    /// Copies: the chunk of a read is not kept for a transaction.
    chunk: Chunk,
    published: Vec<Kept>,
    /// What both take, in bytes.
    pub(crate) bytes: usize,
    pub(crate) settled: Vec<Settled>,
}

/// A lease that was settled, with its number.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) number: u64,
    pub(crate) lease: Lease,
    pub(crate) outcome: Outcome,
}

/// Messages that were published, and the queues they were routed to then.
#[derive(Debug)]
struct Kept {
    messages: Range<u32>,
    queues: Vec<QueueId>,
    mandatory: bool,
    demands: Demands,
}

impl Transaction {
    /// Whether the commit writes messages.
    pub(crate) fn publishes(&self) -> bool {
        !self.published.is_empty()
    }

    /// Keeps messages until the commit, and says how many bytes more that takes.
    pub(crate) fn keep(
        &mut self,
        publication: &Publication,
        queues: &[QueueId],
    ) -> Result<usize, Refusal> {
        let first = self.chunk.len() as u32;
        let before = self.bytes;
        let entries = publication.messages.len() * queues.len();
        self.bytes += size_of::<Kept>() + size_of_val(queues) + entries * ENTRY_BYTES;
        for message in publication.messages.clone() {
            let bytes = publication.content.chunk.message_len(message) + OVERHEAD_BYTES;
            let message = publication.content.chunk.get(message);
            let full = self.bytes + bytes > TRANSACTION_BYTES_MAX;
            if full || self.chunk.push(message).is_err() {
                self.bytes = before;
                return Err(Refusal::TransactionTooLarge(TRANSACTION_BYTES_MAX));
            }
            self.bytes += bytes;
        }
        if self.bytes > TRANSACTION_BYTES_MAX {
            self.bytes = before;
            return Err(Refusal::TransactionTooLarge(TRANSACTION_BYTES_MAX));
        }
        self.published.push(Kept {
            messages: first..self.chunk.len() as u32,
            queues: queues.to_vec(),
            mandatory: publication.mandatory,
            demands: publication.demands,
        });
        Ok(self.bytes - before)
    }
}

impl Engine {
    pub(crate) fn select_transactions(
        &mut self,
        number: u16,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let holder = self.holder(step, number);
        if holder.published.is_some() {
            return Err(Refusal::ConfirmsSelected);
        }
        holder.transaction.get_or_insert_default();
        self.reply(number, Reply::TransactionsSelected, step);
        Ok(())
    }

    /// Does all that the transaction holds, and begins another.
    pub(crate) fn commit(&mut self, number: u16, step: &mut Step<'_>) -> Result<(), Refusal> {
        let transaction = self.take_transaction(number, step)?;
        if let Err(refusal) = self.check_room(&transaction, step) {
            // The holder closes for it, and gives back what the transaction has settled.
            self.kept += transaction.bytes;
            self.holder(step, number).transaction = Some(Box::new(transaction));
            return Err(refusal);
        }
        let content = self.hold(transaction.chunk);
        for kept in transaction.published {
            let publication = Publication {
                content: content.clone(),
                messages: kept.messages,
                holder: Some(number),
                mandatory: kept.mandatory,
                demands: kept.demands,
            };
            self.enqueue(&publication, &kept.queues, step);
        }
        self.chunks.release(content.slot, &mut step.effects.released);
        let before = std::mem::take(&mut self.dying);
        for Settled { lease, outcome, .. } in transaction.settled {
            self.end_lease(number, lease, outcome, step);
        }
        self.wake_shared(number, step);
        // What a commit rejects is part of it, so these dead letters are not put off.
        let own = std::mem::replace(&mut self.dying, before);
        self.bury_now(own, step);
        self.holder(step, number).transaction = Some(Box::default());
        self.after_log(step);
        self.reply(number, Reply::Committed, step);
        Ok(())
    }

    /// All or nothing: a queue that would refuse one message refuses them all. And not too much.
    fn check_room(
        &mut self,
        transaction: &Transaction,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let rejected = |each: &&Settled| each.outcome == Outcome::Discard;
        let letters = transaction.settled.iter().filter(rejected);
        // They are written anew within the commit's step.
        if letters.map(|each| each.lease.entry.bytes as usize).sum::<usize>()
            > TRANSACTION_BYTES_MAX
        {
            return Err(Refusal::TransactionTooLarge(TRANSACTION_BYTES_MAX));
        }
        let mut wanted: BTreeMap<QueueId, (u64, u64)> = BTreeMap::new();
        for kept in &transaction.published {
            for id in &kept.queues {
                let (count, bytes) = wanted.entry(*id).or_default();
                for message in kept.messages.clone() {
                    *count += 1;
                    *bytes += transaction.chunk.body_len(message) as u64;
                }
            }
        }
        for (id, (count, bytes)) in wanted {
            let rejects =
                |queue: &Queue| queue.settings.rejects() && queue.would_overflow(count, bytes);
            if self.queues.get(&id).is_some_and(rejects) {
                // What a consumer would have taken already does not count.
                self.dispatch(id, step);
            }
            if let Some(queue) = self.queues.get(&id).filter(|queue| rejects(queue)) {
                let vhost = self.vhosts[queue.vhost].name.clone();
                return Err(Refusal::TransactionRejected(queue.name.clone(), vhost));
            }
        }
        Ok(())
    }

    /// Forgets what was published; what was settled is out on its leases again.
    pub(crate) fn roll_back(&mut self, number: u16, step: &mut Step<'_>) -> Result<(), Refusal> {
        let transaction = self.take_transaction(number, step)?;
        let holder = self.holder(step, number);
        holder.put_back(transaction.settled);
        holder.transaction = Some(Box::default());
        self.reply(number, Reply::RolledBack, step);
        Ok(())
    }

    fn take_transaction(&mut self, number: u16, step: &Step<'_>) -> Result<Transaction, Refusal> {
        let transaction = self.holder(step, number).transaction.take();
        let transaction = transaction.ok_or(Refusal::NoTransaction)?;
        self.kept -= transaction.bytes;
        Ok(*transaction)
    }
}

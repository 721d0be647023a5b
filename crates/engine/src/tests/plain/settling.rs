//! Leases and their end, and transactions.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Answer, Lease, Plain, Transaction, Who};

/// How a lease ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::tests) enum Outcome {
    Done,
    Requeued,
    Rejected,
}

impl Plain {
    /// The numbers of what a holder has to settle, and of the last lease it was given.
    pub(in crate::tests) fn leases(&self, who: Who) -> (Vec<u64>, u64) {
        let Some(holder) = self.holders.get(&who) else { return (Vec::new(), 0) };
        (holder.leases.keys().copied().collect(), holder.last_lease)
    }

    pub(in crate::tests) fn commits(&self, who: Who) -> bool {
        self.holders.get(&who).is_some_and(|holder| holder.transaction.is_some())
    }

    pub(in crate::tests) fn settle(
        &mut self,
        who: Who,
        number: u64,
        multiple: bool,
        outcome: Outcome,
    ) -> Answer {
        let holder = self.holder(who);
        let all = multiple && number == 0;
        if !all && !holder.leases.contains_key(&number) {
            return Err(format!("unknown delivery tag {number}"));
        }
        let ends = |each: u64| all || each == number || multiple && each < number;
        let numbers: Vec<u64> = holder.leases.keys().copied().filter(|each| ends(*each)).collect();
        for number in numbers {
            let holder = self.holder(who);
            let lease = holder.leases.remove(&number).unwrap();
            match &mut holder.transaction {
                Some(transaction) => transaction.settled.push((number, lease, outcome)),
                None => self.end_lease(lease, outcome),
            }
        }
        Ok(())
    }

    pub(in crate::tests) fn recover(&mut self, who: Who) -> Answer {
        // At once, also in a transaction.
        for (_, lease) in std::mem::take(&mut self.holder(who).leases) {
            self.end_lease(lease, Outcome::Requeued);
        }
        self.tell(who.0, "Recovered");
        Ok(())
    }

    pub(super) fn end_lease(&mut self, lease: Lease, outcome: Outcome) {
        let Lease { queue: id, mut entry, .. } = lease;
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let spec = Rc::clone(&queue.spec);
        match outcome {
            Outcome::Done => {}
            Outcome::Rejected => self.die(&spec, &entry.letter, "rejected"),
            Outcome::Requeued
                if spec.limit().is_some_and(|max| i64::from(entry.attempts) >= max) =>
            {
                self.die(&spec, &entry.letter, "delivery_limit");
            }
            Outcome::Requeued => {
                entry.attempts += 1;
                queue.ready.push(entry);
                if !spec.quorum && !spec.rejects() {
                    self.trim(id);
                }
            }
        }
    }

    pub(in crate::tests) fn select_confirms(&mut self, who: Who) -> Answer {
        let holder = self.holder(who);
        if holder.transaction.is_some() {
            return Err("cannot switch from tx to confirm mode".to_owned());
        }
        holder.published.get_or_insert(0);
        self.tell(who.0, "confirms");
        Ok(())
    }

    pub(in crate::tests) fn select_transactions(&mut self, who: Who) -> Answer {
        let holder = self.holder(who);
        if holder.published.is_some() {
            return Err("cannot switch from confirm to tx mode".to_owned());
        }
        holder.transaction.get_or_insert_default();
        self.tell(who.0, "TransactionsSelected");
        Ok(())
    }

    /// Does all that was published and settled, unless a queue would refuse some of it.
    pub(in crate::tests) fn commit(&mut self, who: Who) -> Answer {
        let Some(transaction) = self.holder(who).transaction.clone() else {
            return Err("channel is not transactional".to_owned());
        };
        let mut wanted: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (letter, targets, _) in &transaction.published {
            for id in targets {
                let (count, bytes) = wanted.entry(*id).or_default();
                *count += 1;
                *bytes += letter.body.len() as u64;
            }
        }
        for (id, (count, bytes)) in wanted {
            let full = |plain: &Plain| {
                let queue = plain.queues.get(&id);
                queue.is_some_and(|it| it.spec.rejects() && it.over_limit(count, bytes))
            };
            if full(self) {
                self.attend(&[id]);
            }
            if full(self) {
                let name = self.queues[&id].spec.name;
                return Err(format!(
                    "the transaction is refused as a whole: queue '{name}' in vhost '/' is full"
                ));
            }
        }
        let Transaction { published, settled } = transaction;
        // What it settles is out until all is published.
        let taken = self.holder(who).transaction.as_mut().unwrap();
        taken.published.clear();
        published.into_iter().for_each(|kept| self.enqueue(Some(who), kept));
        self.holder(who).transaction = Some(Transaction::default());
        // What it rejects is dead-lettered with it, before what its publishing has ended.
        let waiting = std::mem::take(&mut self.dying);
        settled.into_iter().for_each(|(_, lease, outcome)| self.end_lease(lease, outcome));
        let own = std::mem::replace(&mut self.dying, waiting);
        own.iter().for_each(|dying| self.send_letter(dying));
        self.tell(who.0, "Committed");
        Ok(())
    }

    pub(in crate::tests) fn roll_back(&mut self, who: Who) -> Answer {
        if self.holder(who).transaction.is_none() {
            return Err("channel is not transactional".to_owned());
        }
        self.put_back(who);
        self.holder(who).transaction = Some(Transaction::default());
        self.tell(who.0, "RolledBack");
        Ok(())
    }

    /// Has out again what a transaction was about to settle.
    pub(super) fn put_back(&mut self, who: Who) {
        let holder = self.holder(who);
        let settled = holder.transaction.iter_mut().flat_map(|it| it.settled.drain(..));
        let settled: Vec<_> = settled.collect();
        holder.leases.extend(settled.into_iter().map(|(number, lease, _)| (number, lease)));
    }
}

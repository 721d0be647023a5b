//! Consumers, and what is delivered to them.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::{Answer, Consumer, Entry, Lease, Plain, Who};

/// So many messages ahead the log knows that they may have been delivered.
const PROMISED_MESSAGES: u64 = 4096;

/// What a consumer asks for.
#[derive(Clone, Debug)]
pub(in crate::tests) struct Subscription {
    pub(in crate::tests) queue: &'static str,
    pub(in crate::tests) tag: &'static str,
    pub(in crate::tests) no_ack: bool,
    pub(in crate::tests) exclusive: bool,
    pub(in crate::tests) priority: Option<i64>,
}

impl Plain {
    pub(in crate::tests) fn consume(&mut self, who: Who, wanted: &Subscription) -> Answer {
        let Subscription { queue: name, tag, no_ack, .. } = *wanted;
        if self.consumers.values().any(|each| each.who == who && each.tag == tag) {
            return Err(format!("attempt to reuse consumer tag '{tag}'"));
        }
        let id = self.find(who, name)?;
        let spec = Rc::clone(&self.queues[&id].spec);
        // Quorum queues take no notice of it.
        let exclusive = wanted.exclusive && !spec.quorum;
        let mut others = self.consumers.values().filter(|each| each.queue == id);
        if exclusive && spec.single_active || others.any(|other| exclusive || other.exclusive) {
            return Err(format!("queue '{name}' in vhost '/' in exclusive use"));
        }
        if spec.quorum && self.holder(who).shared != 0 {
            return Err(format!("queue '{name}' in vhost '/' does not support global qos"));
        }
        self.last_consumer += 1;
        let prefetch = self.holder(who).prefetch;
        let (queue, tag) = (id, tag.to_owned());
        self.tell(who.0, format!("consuming {tag}"));
        let priority = wanted.priority.unwrap_or(0);
        let consumer = Consumer { who, queue, tag, no_ack, exclusive, priority, prefetch };
        self.consumers.insert(self.last_consumer, consumer);
        let single = &mut self.queues.get_mut(&id).unwrap().single;
        single.get_or_insert(self.last_consumer);
        Ok(())
    }

    pub(in crate::tests) fn cancel(&mut self, who: Who, tag: &str) {
        let mine = |each: &Consumer| each.who == who && each.tag == tag;
        match self.consumers.iter().find(|(_, each)| mine(each)).map(|(id, _)| *id) {
            Some(id) => {
                self.end_consumers(&[id]);
                self.tell(who.0, format!("cancelled {tag}"));
            }
            None => self.tell(who.0, format!("no consumer {tag}")),
        }
    }

    /// First all of them go, then what that means for each queue.
    pub(super) fn end_consumers(&mut self, ids: &[u64]) {
        let gone = ids.iter().filter_map(|id| self.consumers.remove(id));
        let queues: BTreeSet<u64> = gone.map(|consumer| consumer.queue).collect();
        for id in queues {
            let others = self.consumers.iter().filter(|(_, each)| each.queue == id);
            // Of those of the highest priority the first to have come.
            let next = others.max_by_key(|(id, each)| (each.priority, std::cmp::Reverse(**id)));
            let next = next.map(|(id, _)| *id);
            self.use_now(id);
            let queue = self.queues.get_mut(&id).unwrap();
            if queue.single.is_some_and(|single| ids.contains(&single)) {
                queue.single = next;
            }
            if next.is_none() && queue.spec.auto_delete {
                self.drop_queue(id);
            }
        }
    }

    pub(in crate::tests) fn prefetch(&mut self, who: Who, count: u16, shared: bool) {
        let holder = self.holder(who);
        if shared {
            holder.shared = count;
        } else {
            (holder.shared, holder.prefetch) = (0, count);
        }
        self.tell(who.0, "PrefetchSet");
    }

    /// Whether a consumer can take a message.
    fn has_room(&self, id: u64) -> bool {
        let Consumer { who, no_ack, prefetch, .. } = self.consumers[&id];
        let holder = &self.holders[&who];
        let out = |of: &dyn Fn(u64) -> bool| {
            holder.out().filter(|each| each.consumer.is_some_and(of)).count()
        };
        let below = |count: usize, limit: u16| limit == 0 || count < usize::from(limit);
        !self.owes_too_much(who.0)
            && below(out(&|_| true), holder.shared)
            && (no_ack || below(out(&|each| each == id), prefetch))
    }

    /// The consumers of which one may have the next message of a queue.
    fn takers(&self, id: u64) -> Vec<u64> {
        let queue = &self.queues[&id];
        let single = |taker: u64| !queue.spec.single_active || queue.single == Some(taker);
        let mine = self.consumers.iter().filter(|(_, each)| each.queue == id);
        let able = mine.filter(|(taker, _)| single(**taker) && self.has_room(**taker));
        let able: Vec<(u64, i64)> = able.map(|(taker, each)| (*taker, each.priority)).collect();
        let highest = able.iter().map(|(_, priority)| *priority).max();
        let first = able.into_iter().filter(|(_, priority)| Some(*priority) == highest);
        first.map(|(taker, _)| taker).collect()
    }

    /// A message as it is delivered.
    pub(super) fn shown(&self, queue: u64, entry: &Entry) -> String {
        let queue = &self.queues[&queue];
        let counted = if queue.spec.quorum { entry.attempts } else { 0 };
        let again = entry.attempts > 0 || entry.durable && entry.position < queue.seen;
        format!("{} again={again} attempts={counted}", entry.letter.text())
    }

    pub(super) fn lease(&mut self, who: Who, lease: Lease, no_ack: bool) -> u64 {
        let queue = self.queues.get_mut(&lease.queue).unwrap();
        if lease.entry.durable && lease.entry.position >= queue.promised {
            queue.promised = lease.entry.position + PROMISED_MESSAGES;
        }
        let holder = self.holder(who);
        holder.last_lease += 1;
        if !no_ack {
            holder.leases.insert(holder.last_lease, lease);
        }
        holder.last_lease
    }

    /// Whether the next thing that a consumer's session hears is this delivery.
    fn hears(&self, consumer: u64, queue: u64, entry: &Entry) -> bool {
        let who = self.consumers[&consumer].who;
        let heard = self.heard.told.get(&who.0).and_then(|told| told.front());
        heard.is_some_and(|heard| {
            let number = self.holders[&who].last_lease + 1;
            heard.consumer == Some(consumer)
                && heard.text == format!("#{number} {}", self.shown(queue, entry))
        })
    }

    /// Delivers what can be delivered from these queues and ends what is too old or too much.
    pub(super) fn attend(&mut self, queues: &[u64]) {
        while self.wrong.is_none() {
            if self.deliver_one(queues) {
                continue;
            }
            let (mut ending, mut missed) = (Vec::new(), None);
            for id in queues {
                let Some(queue) = self.queues.get(id) else { continue };
                let Some(head) = queue.head() else { continue };
                let takers = self.takers(*id);
                let late = queue.spec.quorum || queue.excess;
                let drops = late && !queue.spec.rejects() && queue.over_limit(0, 0);
                if self.on_disk(*id, head) {
                    if drops || !takers.is_empty() || head.expires.is_some_and(|at| at <= self.now)
                    {
                        self.waits.insert(*id);
                    }
                    continue;
                }
                if takers.is_empty() || head.expires.is_some_and(|at| at < self.now) {
                    let old = head.expires.filter(|at| *at <= self.now);
                    if old.is_some() || drops {
                        ending.push((old, *id));
                    }
                } else {
                    missed = Some(format!("{takers:?} of {} miss {head:?}", queue.spec.name));
                }
            }
            ending.sort_unstable();
            if ending.is_empty() {
                return missed.into_iter().for_each(|what| self.wrong(|| what));
            }
            let (old, id) = ending[self.choices.choose(ending.len())];
            if old.is_some() { self.end_old(id) } else { self.trim(id) }
        }
    }

    /// Delivers the first message of one of these queues, as was heard. Those of the session that
    /// asks come first: no other one can make way for a second delivery of the same message.
    fn deliver_one(&mut self, queues: &[u64]) -> bool {
        for asking in [true, false] {
            for id in queues {
                let Some(queue) = self.queues.get(id) else { continue };
                let Some(head) = queue.head().cloned() else { continue };
                if self.on_disk(*id, &head) || head.expires.is_some_and(|at| at < self.now) {
                    continue;
                }
                for taker in self.takers(*id) {
                    let Consumer { who, no_ack, .. } = self.consumers[&taker];
                    if (who.0 == self.asking) == asking && self.hears(taker, *id, &head) {
                        self.queues.get_mut(id).unwrap().take();
                        let heard = self.heard.told.get_mut(&who.0).unwrap().pop_front().unwrap();
                        *self.owed.entry(who.0).or_default() += heard.bytes;
                        let lease = Lease { queue: *id, consumer: Some(taker), entry: head };
                        self.lease(who, lease, no_ack);
                        return true;
                    }
                }
            }
        }
        false
    }
}

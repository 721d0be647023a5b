//! Queues: what is in them, in which order, and for how long.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use super::{Answer, Dying, End, Entry, Holder, Lease, Plain, Queue, Who};

#[derive(Clone, Debug, Default)]
pub(in crate::tests) struct QueueSpec {
    pub(in crate::tests) name: &'static str,
    pub(in crate::tests) quorum: bool,
    pub(in crate::tests) lasting: bool,
    pub(in crate::tests) exclusive: bool,
    pub(in crate::tests) auto_delete: bool,
    pub(in crate::tests) ttl: Option<u64>,
    pub(in crate::tests) expires: Option<u64>,
    /// An exchange, and a key if it is not the message's own.
    pub(in crate::tests) dead_letter: Option<(&'static str, Option<&'static str>)>,
    pub(in crate::tests) max_length: Option<u64>,
    pub(in crate::tests) max_bytes: Option<u64>,
    pub(in crate::tests) overflow: Option<Overflow>,
    pub(in crate::tests) max_priority: Option<u8>,
    pub(in crate::tests) single_active: bool,
    pub(in crate::tests) delivery_limit: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::tests) enum Overflow {
    DropHead,
    Reject,
    RejectDeadLetter,
}

impl QueueSpec {
    pub(super) fn durable(&self) -> bool {
        self.lasting && !self.exclusive
    }

    pub(super) fn rejects(&self) -> bool {
        match self.overflow {
            Some(Overflow::Reject) => true,
            Some(Overflow::RejectDeadLetter) => !self.quorum,
            _ => false,
        }
    }

    pub(super) fn lane(&self, priority: Option<u8>) -> u8 {
        let most = match (self.quorum, self.max_priority) {
            (true, _) => 31,
            (false, None) => 0,
            (false, Some(most)) => most.max(1),
        };
        priority.unwrap_or(0).min(most)
    }

    /// How often a message may be given back, if not always.
    pub(super) fn limit(&self) -> Option<i64> {
        let limit = self.delivery_limit.unwrap_or(20);
        (self.quorum && limit >= 0).then_some(limit)
    }
}

impl Queue {
    fn new(spec: Rc<QueueSpec>, owner: Option<u64>, used: u64) -> Queue {
        let (ready, excess, single) = (Vec::new(), false, None);
        let (next, next_known, seen, promised) = (0, 0, 0, 0);
        Queue { spec, owner, ready, next, next_known, seen, promised, excess, used, single }
    }

    /// What is ready, in order.
    pub(super) fn in_order(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.ready.iter().collect();
        entries.sort_by_key(|entry| (Reverse(entry.lane), entry.position));
        entries
    }

    pub(super) fn head(&self) -> Option<&Entry> {
        self.ready.iter().min_by_key(|entry| (Reverse(entry.lane), entry.position))
    }

    pub(super) fn take(&mut self) -> Option<Entry> {
        let position = self.head()?.position;
        let index = self.ready.iter().position(|entry| entry.position == position)?;
        Some(self.ready.swap_remove(index))
    }

    /// Whether it holds more than it may, with this many messages and bytes more.
    pub(super) fn over_limit(&self, more: u64, more_bytes: u64) -> bool {
        let bytes: u64 = self.ready.iter().map(|entry| entry.letter.body.len() as u64).sum();
        self.spec.max_length.is_some_and(|max| self.ready.len() as u64 + more > max)
            || self.spec.max_bytes.is_some_and(|max| bytes + more_bytes > max)
    }
}

impl Plain {
    pub(in crate::tests) fn named(&self, name: &str) -> Option<u64> {
        let mut queues = self.queues.iter();
        queues.find(|(_, queue)| queue.spec.name == name).map(|(id, _)| *id)
    }

    /// The queue of that name, if this session may use it.
    pub(super) fn find(&self, who: Who, name: &str) -> Result<u64, String> {
        let Some(id) = self.named(name) else {
            return Err(format!("no queue '{name}' in vhost '/'"));
        };
        match self.queues[&id].owner {
            Some(owner) if owner != who.0 => Err(locked(name)),
            _ => Ok(id),
        }
    }

    pub(in crate::tests) fn declare(
        &mut self,
        who: Who,
        spec: &Rc<QueueSpec>,
        passive: bool,
        reply: bool,
    ) -> Answer {
        let known = self.named(spec.name);
        if passive {
            self.find(who, spec.name)?;
        }
        let owner = spec.exclusive.then_some(who.0);
        let id = match known {
            Some(id) if !passive && self.queues[&id].owner != owner => {
                return Err(locked(spec.name));
            }
            Some(id) => id,
            None => {
                self.last_queue += 1;
                let (spec, used) = (Rc::clone(spec), self.now);
                self.queues.insert(self.last_queue, Queue::new(spec, owner, used));
                self.last_queue
            }
        };
        self.end_old(id);
        self.must_not_wait(id, false);
        // An answer is a use of a classic queue.
        if reply && !spec.quorum {
            self.use_now(id);
        }
        let ready = self.queues[&id].ready.len();
        let consumers = self.consumers.values().filter(|each| each.queue == id).count();
        if reply {
            let name = spec.name;
            self.tell(who.0, format!("queue {name}: {ready} ready, {consumers} consumers"));
        }
        Ok(())
    }

    pub(super) fn use_now(&mut self, id: u64) {
        self.queues.get_mut(&id).unwrap().used = self.now;
    }

    pub(in crate::tests) fn delete(
        &mut self,
        who: Who,
        name: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Answer {
        let mut count = 0;
        if self.named(name).is_some() {
            let id = self.find(who, name)?;
            self.end_old(id);
            if if_empty {
                self.must_not_wait(id, false);
            }
            count = self.queues[&id].ready.len();
            if self.queues[&id].spec.quorum && (if_unused || if_empty) {
                let flag = if if_unused { "if-unused" } else { "if-empty" };
                return Err(format!(
                    "cannot delete queue '{name}' in vhost '/'. queue.delete operations with \
                     {flag} flag set are not supported by quorum queues"
                ));
            }
            if if_empty && count > 0 {
                return Err(format!("queue '{name}' in vhost '/' not empty"));
            }
            if if_unused && self.consumers.values().any(|each| each.queue == id) {
                return Err(format!("queue '{name}' in vhost '/' in use"));
            }
            self.drop_queue(id);
        }
        self.tell(who.0, format!("deleted {count}"));
        Ok(())
    }

    pub(super) fn drop_queue(&mut self, id: u64) {
        if let Some(queue) = self.queues.get(&id).filter(|queue| queue.spec.durable()) {
            // Its dead letters go first; those that they cause wait behind the others.
            let spec = Rc::clone(&queue.spec);
            let all = std::mem::take(&mut self.dying).into_iter();
            let (own, others) = all.partition(|dying| Rc::ptr_eq(&dying.spec, &spec));
            let own: VecDeque<Dying> = own;
            own.iter().for_each(|dying| self.send_letter(dying));
            let caused = std::mem::replace(&mut self.dying, others);
            self.dying.extend(caused);
        }
        self.queues.remove(&id);
        for consumer in self.consumers.keys().copied().collect::<Vec<_>>() {
            if self.consumers[&consumer].queue == id {
                let gone = self.consumers.remove(&consumer).unwrap();
                self.tell(gone.who.0, format!("lost {}", gone.tag));
            }
        }
        self.drop_bindings(|bound| bound.end == End::Queue(id));
    }

    pub(in crate::tests) fn purge(&mut self, who: Who, name: &str) -> Answer {
        let id = self.find(who, name)?;
        self.end_old(id);
        let count = std::mem::take(&mut self.queues.get_mut(&id).unwrap().ready).len();
        self.tell(who.0, format!("purged {count}"));
        Ok(())
    }

    pub(in crate::tests) fn get(&mut self, who: Who, name: &str, no_ack: bool) -> Answer {
        let id = self.find(who, name)?;
        self.end_old(id);
        self.must_not_wait(id, true);
        self.use_now(id);
        let unread = self.queues[&id].head().is_some_and(|head| self.on_disk(id, head));
        let queue = self.queues.get_mut(&id).unwrap();
        if queue.spec.quorum && queue.spec.single_active {
            return Err(format!(
                "cannot obtain access to locked queue '{name}' in vhost '/'. basic.get operations \
                 are not supported by <<\"quorum\">> queues with single active consumer"
            ));
        }
        let taken = if unread { None } else { queue.take() };
        let Some(entry) = taken else {
            self.tell(who.0, "GotNothing");
            return Ok(());
        };
        let left = queue.ready.len();
        let text = self.shown(id, &entry);
        let number = self.lease(who, Lease { queue: id, consumer: None, entry }, no_ack);
        self.tell(who.0, format!("got #{number} {text}, {left} left"));
        Ok(())
    }

    pub(super) fn on_disk(&self, id: u64, entry: &Entry) -> bool {
        self.disk.get(&id).is_some_and(|disk| disk.contains(&entry.position))
    }

    /// Whoever needs the first message, or needs to know whether it is too old, waits for it.
    fn must_not_wait(&mut self, id: u64, gets: bool) {
        let Some(head) = self.queues[&id].head() else { return };
        let needs = gets || head.expires.is_some_and(|at| at <= self.now);
        if needs && !self.leaving && self.on_disk(id, head) {
            let text = format!("{head:?} is answered for, and only on disk");
            self.wrong(|| text);
        }
    }

    /// A session waits for the first message of a queue, and the rest of its batch with it.
    pub(in crate::tests) fn stall(&mut self, who: Who, name: &str) {
        let Ok(id) = self.find(who, name) else {
            return self.wrong(|| format!("{who:?} waits for {name}, and there is no such queue"));
        };
        self.end_old(id);
        if !self.queues[&id].head().is_some_and(|head| self.on_disk(id, head)) {
            self.wrong(|| format!("{who:?} waits for {name} in vain"));
        }
    }

    /// Durable messages that have not ended, or transient ones; also those that are out.
    pub(in crate::tests) fn live(&self, durable: bool) -> BTreeSet<(u64, u64)> {
        let leases = self.holders.values().flat_map(Holder::out);
        let leases = leases.filter(|lease| self.queues.contains_key(&lease.queue));
        let leases = leases.map(|lease| (lease.queue, &lease.entry));
        let ready = self.queues.iter();
        let ready = ready.flat_map(|(id, queue)| queue.ready.iter().map(|each| (*id, each)));
        let live = ready.chain(leases).filter(|(_, entry)| entry.durable == durable);
        live.map(|(id, entry)| (id, entry.position)).collect()
    }

    /// The queues, by number.
    pub(in crate::tests) fn ids(&self) -> Vec<u64> {
        self.queues.keys().copied().collect()
    }

    /// Ends what is too old at the head of a queue.
    pub(super) fn end_old(&mut self, id: u64) {
        let (now, disk) = (self.now, self.disk.get(&id));
        let queue = self.queues.get_mut(&id).unwrap();
        let spec = Rc::clone(&queue.spec);
        let mut old = Vec::new();
        let here = |head: &Entry| !disk.is_some_and(|disk| disk.contains(&head.position));
        let ends = |head: &Entry| head.expires.is_some_and(|at| at <= now) && here(head);
        while queue.head().is_some_and(ends) {
            old.extend(queue.take());
        }
        old.iter().for_each(|entry| self.die(&spec, &entry.letter, "expired"));
    }

    /// Ends what a queue holds too much.
    pub(super) fn trim(&mut self, id: u64) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let spec = Rc::clone(&queue.spec);
        let disk = self.disk.get(&id);
        let here = |head: &Entry| !disk.is_some_and(|disk| disk.contains(&head.position));
        let mut ended = Vec::new();
        while queue.over_limit(0, 0)
            && queue.head().is_some_and(here)
            && let Some(entry) = queue.take()
        {
            ended.push(entry);
        }
        // The rest goes when the first is there.
        queue.excess |= queue.over_limit(0, 0) && !queue.ready.is_empty();
        ended.iter().for_each(|entry| self.die(&spec, &entry.letter, "maxlen"));
    }

    /// Deletes the queues that nobody has used for too long.
    pub(super) fn end_unused(&mut self) {
        for id in self.queues.keys().copied().collect::<Vec<_>>() {
            let queue = &self.queues[&id];
            let unused = !self.consumers.values().any(|each| each.queue == id);
            if unused && queue.spec.expires.is_some_and(|ms| queue.used + ms <= self.now) {
                self.drop_queue(id);
            }
        }
    }

    /// Messages of a queue that are out.
    fn leased(&self, id: u64) -> usize {
        let leases = self.holders.values().flat_map(Holder::out);
        leases.filter(|lease| lease.queue == id).count()
    }

    /// The queues in which something is ready.
    pub(in crate::tests) fn filled(&self) -> Vec<&'static str> {
        let filled = self.queues.values().filter(|queue| !queue.ready.is_empty());
        filled.map(|queue| queue.spec.name).collect()
    }

    /// Of each queue: its name, how many are out, and what is ready, in order.
    pub(in crate::tests) fn contents(&self) -> Vec<(String, usize, Vec<String>)> {
        let content = |(id, queue): (&u64, &Queue)| {
            let ready = queue.in_order().into_iter().map(|entry| entry.text()).collect();
            (queue.spec.name.to_owned(), self.leased(*id), ready)
        };
        self.queues.iter().map(content).collect()
    }
}

impl Entry {
    fn text(&self) -> String {
        let Entry { letter, position, lane, expires, attempts, durable } = self;
        format!(
            "{} at {position} in {lane} until {expires:?}, {attempts}, {durable}",
            letter.text()
        )
    }
}

fn locked(name: &str) -> String {
    format!(
        "cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not \
         match that of the original declaration."
    )
}

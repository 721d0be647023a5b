//! A broker so plain that it can be seen to be right: lists, and a look at every one of them for
//! every question. It says what each command is answered, and takes note of deliveries, each of
//! which it checks: which consumer has its turn is the engine's to decide, all else is not.

use std::collections::{BTreeMap, BTreeSet};

use leveret_model::limits::SESSION_OUTPUT_BYTES_MAX;

use super::world::Delivery;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) body: String,
    persistent: bool,
    redelivered: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Queue {
    /// Tells it from one of the same name that was deleted.
    id: u64,
    pub(super) durable: bool,
    auto_delete: bool,
    owner: Option<u64>,
    /// By position.
    ready: BTreeMap<u64, Message>,
    next: u64,
    pub(super) bindings: BTreeSet<(String, String)>,
}

#[derive(Debug)]
struct Consumer {
    session: u64,
    holder: u16,
    queue: String,
    tag: String,
    no_ack: bool,
    exclusive: bool,
    prefetch: u16,
}

#[derive(Debug)]
struct Lease {
    queue: String,
    id: u64,
    position: u64,
    consumer: Option<u64>,
    message: Message,
}

#[derive(Debug, Default)]
struct Holder {
    last_lease: u64,
    leases: BTreeMap<u64, Lease>,
    prefetch: u16,
    shared: u16,
    /// The number of the last message, if confirms are selected.
    published: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Plain {
    pub(super) queues: BTreeMap<String, Queue>,
    consumers: BTreeMap<u64, Consumer>,
    last_consumer: u64,
    last_queue: u64,
    holders: BTreeMap<(u64, u16), Holder>,
    /// Bytes that each session's client has not taken.
    pub(super) owed: BTreeMap<u64, usize>,
    /// What each session is to be told, deliveries aside.
    pub(super) told: BTreeMap<u64, Vec<String>>,
    /// Confirms that wait for the log.
    pub(super) durable: Vec<String>,
    /// Queue, position and consumer of each delivery of the step.
    delivered: Vec<(String, u64, u64)>,
}

/// Who asks.
pub(super) type Who = (u64, u16);
type Answer = Result<(), String>;

/// How a lease ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Gone,
    Back,
}

/// Something published, many times over.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Publish<'a> {
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    pub(super) bodies: &'a [String],
    pub(super) persistent: bool,
    pub(super) mandatory: bool,
}

impl Plain {
    fn tell(&mut self, session: u64, text: impl Into<String>) {
        self.told.entry(session).or_default().push(text.into());
    }

    pub(super) fn is_open(&self, who: Who) -> bool {
        self.holders.contains_key(&who)
    }

    /// The number of the holder's last lease.
    pub(super) fn last_lease(&self, who: Who) -> u64 {
        self.holders[&who].last_lease
    }

    fn holder(&mut self, who: Who) -> &mut Holder {
        self.holders.get_mut(&who).unwrap()
    }

    pub(super) fn open(&mut self, who: Who) {
        if self.is_open(who) {
            return self.finish(who, Err("second 'channel.open' seen".into()));
        }
        self.holders.insert(who, Holder::default());
        self.tell(who.0, "opened");
    }

    /// A refusal closes the holder.
    pub(super) fn finish(&mut self, who: Who, answer: Answer) {
        if let Err(text) = answer {
            self.end_holder(who);
            self.tell(who.0, format!("refused: {text}"));
        }
    }

    pub(super) fn close(&mut self, who: Who) {
        self.end_holder(who);
        self.tell(who.0, "closed");
    }

    fn end_holder(&mut self, who: Who) {
        if !self.is_open(who) {
            return;
        }
        for lease in self.leases_up_to(who, u64::MAX) {
            self.end_lease(who, lease, End::Back);
        }
        let mine = |each: &Consumer| (each.session, each.holder) == who;
        let ids: Vec<u64> =
            self.consumers.iter().filter(|(_, each)| mine(each)).map(|(id, _)| *id).collect();
        for id in ids {
            self.end_consumer(id);
        }
        self.holders.remove(&who);
    }

    pub(super) fn disconnect(&mut self, session: u64) {
        let holders: Vec<Who> =
            self.holders.keys().filter(|who| who.0 == session).copied().collect();
        for who in holders {
            self.end_holder(who);
        }
        self.queues.retain(|_, queue| queue.owner != Some(session));
        self.owed.remove(&session);
        self.tell(session, "Disconnected");
    }

    /// All is lost that is not durable.
    pub(super) fn crash(&mut self) {
        for who in self.holders.keys().copied().collect::<Vec<_>>() {
            for lease in self.leases_up_to(who, u64::MAX) {
                self.end_lease(who, lease, End::Back);
            }
        }
        self.queues.retain(|_, queue| queue.durable);
        for queue in self.queues.values_mut() {
            queue.ready.retain(|_, message| message.persistent);
            queue.ready.values_mut().for_each(|message| message.redelivered = false);
        }
        *self = Plain {
            queues: std::mem::take(&mut self.queues),
            last_queue: self.last_queue,
            ..Plain::default()
        };
    }

    pub(super) fn declare(
        &mut self,
        who: Who,
        name: &str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
    ) -> Answer {
        let owner = exclusive.then_some(who.0);
        match self.queues.get(name) {
            Some(queue) if queue.owner != owner => return Err(locked(name)),
            Some(_) => {}
            None => {
                self.last_queue += 1;
                let (id, ready, bindings) = (self.last_queue, BTreeMap::new(), BTreeSet::new());
                let queue = Queue { id, durable, auto_delete, owner, ready, next: 0, bindings };
                self.queues.insert(name.to_owned(), queue);
            }
        }
        let ready = self.queues[name].ready.len();
        let consumers = self.consumers.values().filter(|each| each.queue == name).count();
        self.tell(who.0, format!("queue {name}: {ready} ready, {consumers} consumers"));
        Ok(())
    }

    fn find(&mut self, who: Who, name: &str) -> Result<&mut Queue, String> {
        match self.queues.get_mut(name) {
            None => Err(format!("no queue '{name}' in vhost '/'")),
            Some(queue) if queue.owner.is_some_and(|owner| owner != who.0) => Err(locked(name)),
            Some(queue) => Ok(queue),
        }
    }

    pub(super) fn delete(&mut self, who: Who, name: &str) -> Answer {
        let mut count = 0;
        if self.queues.contains_key(name) {
            count = self.find(who, name)?.ready.len();
            self.drop_queue(name);
        }
        self.tell(who.0, format!("deleted {count}"));
        Ok(())
    }

    fn drop_queue(&mut self, name: &str) {
        self.queues.remove(name);
        let ids: Vec<u64> = self.consumers.keys().copied().collect();
        for id in ids {
            if self.consumers[&id].queue == name {
                let gone = self.consumers.remove(&id).unwrap();
                self.tell(gone.session, format!("lost {}", gone.tag));
            }
        }
    }

    pub(super) fn purge(&mut self, who: Who, name: &str) -> Answer {
        let ready = std::mem::take(&mut self.find(who, name)?.ready);
        self.tell(who.0, format!("purged {}", ready.len()));
        Ok(())
    }

    pub(super) fn bind(&mut self, who: Who, name: &str, exchange: &str, key: &str) -> Answer {
        let bound = (exchange.to_owned(), key.to_owned());
        self.find(who, name)?.bindings.insert(bound);
        self.tell(who.0, "Bound");
        Ok(())
    }

    pub(super) fn unbind(&mut self, who: Who, name: &str, exchange: &str, key: &str) -> Answer {
        if self.queues.contains_key(name) {
            let bound = (exchange.to_owned(), key.to_owned());
            self.find(who, name)?.bindings.remove(&bound);
        }
        self.tell(who.0, "Unbound");
        Ok(())
    }

    pub(super) fn select_confirms(&mut self, who: Who) {
        self.holder(who).published.get_or_insert(0);
        self.tell(who.0, "confirms");
    }

    pub(super) fn prefetch(&mut self, who: Who, count: u16, shared: bool) {
        let holder = self.holder(who);
        *(if shared { &mut holder.shared } else { &mut holder.prefetch }) = count;
        self.tell(who.0, "PrefetchSet");
    }

    pub(super) fn publish(&mut self, who: Who, publish: &Publish<'_>) {
        let &Publish { exchange, key, bodies, persistent, mandatory } = publish;
        let goes = |name: &String, queue: &Queue| match exchange {
            "" => name == key,
            "amq.fanout" => queue.bindings.iter().any(|(from, _)| from == exchange),
            "amq.direct" => queue.bindings.contains(&(exchange.to_owned(), key.to_owned())),
            other => panic!("{other}"),
        };
        let mut logged = false;
        let mut routed = false;
        for (name, queue) in &mut self.queues {
            if !goes(name, queue) {
                continue;
            }
            routed = true;
            logged |= persistent && queue.durable;
            for body in bodies {
                let persistent = persistent && queue.durable;
                let message = Message { body: body.clone(), persistent, redelivered: false };
                queue.ready.insert(queue.next, message);
                queue.next += 1;
            }
        }
        if mandatory && !routed {
            bodies.iter().for_each(|body| self.tell(who.0, format!("returned {body}")));
        }
        let Some(last) = &mut self.holder(who).published else { return };
        let first = *last + 1;
        *last += bodies.len() as u64;
        let last = *last;
        match logged {
            true => self.durable.push(format!("{}: {first}-{last}", who.1)),
            false => self.tell(who.0, format!("confirmed {first}-{last}")),
        }
    }

    pub(super) fn consume(
        &mut self,
        who: Who,
        name: &str,
        tag: &str,
        no_ack: bool,
        exclusive: bool,
    ) -> Answer {
        self.find(who, name)?;
        let mine =
            |each: &&Consumer| (each.session, each.holder, &*each.tag) == (who.0, who.1, tag);
        if self.consumers.values().find(mine).is_some() {
            return Err(format!("attempt to reuse consumer tag '{tag}'"));
        }
        let mut others = self.consumers.values().filter(|each| each.queue == name);
        if others.any(|other| exclusive || other.exclusive) {
            return Err(format!("queue '{name}' in vhost '/' in exclusive use"));
        }
        self.last_consumer += 1;
        let (session, holder) = who;
        let prefetch = self.holder(who).prefetch;
        let (queue, tag) = (name.to_owned(), tag.to_owned());
        self.tell(who.0, format!("consuming {tag}"));
        let consumer = Consumer { session, holder, queue, tag, no_ack, exclusive, prefetch };
        self.consumers.insert(self.last_consumer, consumer);
        Ok(())
    }

    pub(super) fn cancel(&mut self, who: Who, tag: &str) {
        let mine = |each: &Consumer| (each.session, each.holder, &*each.tag) == (who.0, who.1, tag);
        let found = self.consumers.iter().find(|(_, each)| mine(each)).map(|(id, _)| *id);
        match found {
            Some(id) => {
                self.end_consumer(id);
                self.tell(who.0, format!("cancelled {tag}"));
            }
            None => self.tell(who.0, format!("no consumer {tag}")),
        }
    }

    fn end_consumer(&mut self, id: u64) {
        let Some(gone) = self.consumers.remove(&id) else { return };
        let last = !self.consumers.values().any(|each| each.queue == gone.queue);
        if last && self.queues[&gone.queue].auto_delete {
            self.drop_queue(&gone.queue);
        }
    }

    pub(super) fn get(&mut self, who: Who, name: &str, no_ack: bool) -> Answer {
        let queue = self.find(who, name)?;
        let Some((position, message)) = queue.ready.pop_first() else {
            self.tell(who.0, "GotNothing");
            return Ok(());
        };
        let (id, left) = (queue.id, queue.ready.len());
        let again = if message.redelivered { " again" } else { "" };
        let body = message.body.clone();
        let queue = name.to_owned();
        let lease = Lease { queue, id, position, consumer: None, message };
        let number = self.lease(who, lease, no_ack);
        self.tell(who.0, format!("got #{number} {body}{again}, {left} left"));
        Ok(())
    }

    fn lease(&mut self, who: Who, lease: Lease, no_ack: bool) -> u64 {
        let holder = self.holder(who);
        holder.last_lease += 1;
        if !no_ack {
            holder.leases.insert(holder.last_lease, lease);
        }
        holder.last_lease
    }

    fn leases_up_to(&mut self, who: Who, last: u64) -> Vec<u64> {
        self.holder(who).leases.range(..=last).map(|(number, _)| *number).collect()
    }

    pub(super) fn settle(&mut self, who: Who, number: u64, multiple: bool, end: End) -> Answer {
        let all = multiple && number == 0;
        if !all && !self.holder(who).leases.contains_key(&number) {
            return Err(format!("unknown delivery tag {number}"));
        }
        let ended = match (multiple, number) {
            (true, 0) => self.leases_up_to(who, u64::MAX),
            (true, last) => self.leases_up_to(who, last),
            (false, one) => vec![one],
        };
        ended.into_iter().for_each(|number| self.end_lease(who, number, end));
        Ok(())
    }

    pub(super) fn recover(&mut self, who: Who) -> Answer {
        self.settle(who, 0, true, End::Back)?;
        self.tell(who.0, "Recovered");
        Ok(())
    }

    fn end_lease(&mut self, who: Who, number: u64, end: End) {
        let mut lease = self.holder(who).leases.remove(&number).unwrap();
        lease.message.redelivered = true;
        let queue = self.queues.get_mut(&lease.queue).filter(|queue| queue.id == lease.id);
        if let Some(queue) = queue
            && end == End::Back
        {
            assert!(queue.ready.insert(lease.position, lease.message).is_none());
        }
    }

    /// Checks a delivery that the engine made, and takes note of it.
    pub(super) fn deliver(&mut self, delivery: &Delivery) {
        let id = delivery.consumer;
        let consumer = self.consumers.get(&id).expect("a consumer that exists");
        let who = (consumer.session, consumer.holder);
        assert_eq!((delivery.session, delivery.holder), who, "whose consumer it is");
        assert!(self.has_room(id), "no room for {delivery:?}");
        let (name, no_ack) = (consumer.queue.clone(), consumer.no_ack);
        let queue = self.queues.get_mut(&name).unwrap();
        let found = queue.ready.iter().find(|(_, each)| each.body == delivery.body);
        let position = *found.expect("delivered, and not ready").0;
        let message = queue.ready.remove(&position).unwrap();
        assert_eq!(delivery.redelivered, message.redelivered, "{delivery:?}");
        self.delivered.push((name.clone(), position, id));
        let lease = Lease { queue: name, id: queue.id, position, consumer: Some(id), message };
        assert_eq!(self.lease(who, lease, no_ack), delivery.lease, "{delivery:?}");
        *self.owed.entry(who.0).or_default() += delivery.bytes;
    }

    /// Whether a consumer can take a message.
    fn has_room(&self, id: u64) -> bool {
        let consumer = &self.consumers[&id];
        let holder = &self.holders[&(consumer.session, consumer.holder)];
        let out = |of: &dyn Fn(u64) -> bool| {
            holder.leases.values().filter(|each| each.consumer.is_some_and(of)).count()
        };
        let below = |count: usize, limit: u16| limit == 0 || count < usize::from(limit);
        let owed = self.owed.get(&consumer.session).copied().unwrap_or_default();
        owed < SESSION_OUTPUT_BYTES_MAX
            && (consumer.no_ack
                || below(out(&|each| each == id), consumer.prefetch)
                    && below(out(&|_| true), holder.shared))
    }

    /// What is ready in a queue, in order.
    pub(super) fn ready(&self, name: &str) -> Vec<&str> {
        self.queues[name].ready.values().map(|message| &*message.body).collect()
    }

    /// Messages of a queue that are leased.
    pub(super) fn leased(&self, name: &str) -> usize {
        let id = self.queues[name].id;
        let leases = self.holders.values().flat_map(|holder| holder.leases.values());
        leases.filter(|lease| lease.id == id).count()
    }

    /// Ends a step: what was delivered was first, and nothing waits that someone could take.
    pub(super) fn end_step(&mut self) {
        let delivered = std::mem::take(&mut self.delivered);
        for (index, (name, position, consumer)) in delivered.iter().enumerate() {
            let first = self.queues[name].ready.keys().next();
            assert!(first.is_none_or(|first| position < first), "{first:?} was passed over");
            for (other, earlier, same) in &delivered[..index] {
                let in_order = other != name || same != consumer || earlier < position;
                assert!(in_order, "{name}: {position} was delivered after {earlier}");
            }
        }
        for (id, consumer) in &self.consumers {
            let waiting = self.ready(&consumer.queue);
            assert!(waiting.is_empty() || !self.has_room(*id), "{consumer:?} misses {waiting:?}");
        }
        self.told.clear();
        self.durable.clear();
    }

    /// What a restart would leave: of each durable queue, the durable messages in order.
    pub(super) fn survivors(&self) -> BTreeMap<String, Vec<String>> {
        let mut survivors = BTreeMap::new();
        for (name, queue) in self.queues.iter().filter(|(_, queue)| queue.durable) {
            let leases = self.holders.values().flat_map(|holder| holder.leases.values());
            let mut all: BTreeMap<u64, &Message> =
                queue.ready.iter().map(|(at, message)| (*at, message)).collect();
            let leased = leases.filter(|lease| lease.id == queue.id);
            all.extend(leased.map(|lease| (lease.position, &lease.message)));
            let bodies = all.values().filter(|message| message.persistent);
            survivors.insert(name.clone(), bodies.map(|message| message.body.clone()).collect());
        }
        survivors
    }
}

fn locked(name: &str) -> String {
    format!(
        "cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not \
         match that of the original declaration."
    )
}

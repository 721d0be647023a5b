//! A broker so plain that it can be seen to be right: lists, and a look at every one of them for
//! every question. It is told what was asked, and what the engine told everyone; whatever it has
//! to say itself must be the next thing that was heard. Which consumer has its turn, and which of
//! several queues is looked at first, is the engine's to decide; all else is not.

mod consumers;
mod exchanges;
mod letters;
mod queues;
mod settling;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use leveret_model::limits::SESSION_OUTPUT_BYTES_MAX;

pub(super) use consumers::Subscription;
pub(super) use exchanges::{Bound, End, ExchangeSpec, MATCHES};
pub(super) use letters::{Letter, Publish};
pub(super) use queues::{Overflow, QueueSpec};
pub(super) use settling::Outcome;

/// Who asks: a session and its holder.
pub(super) type Who = (u64, u16);
/// Positions by queue.
pub(super) type Disk = BTreeMap<u64, BTreeSet<u64>>;
type Answer = Result<(), String>;

/// One thing that a session was told.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// To whom it was delivered, if it was.
    pub(super) consumer: Option<u64>,
    pub(super) text: String,
    /// What it costs of the session's output credit.
    pub(super) bytes: usize,
}

/// All that was heard in one step.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    pub(super) told: BTreeMap<u64, VecDeque<Heard>>,
    /// Confirms that wait for the log.
    pub(super) durable: VecDeque<String>,
}

/// What was the engine's to decide, and nobody heard: tried out one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    taken: Vec<(usize, usize)>,
    next: usize,
}

impl Choices {
    fn choose(&mut self, of: usize) -> usize {
        if of < 2 {
            return 0;
        }
        if self.next == self.taken.len() {
            self.taken.push((0, of));
        }
        self.next += 1;
        self.taken[self.next - 1].0
    }

    /// The next way to decide; `None` if all were tried.
    pub(super) fn other(mut self) -> Option<Choices> {
        self.next = 0;
        while let Some((taken, of)) = self.taken.pop() {
            if taken + 1 < of {
                self.taken.push((taken + 1, of));
                return Some(self);
            }
        }
        None
    }
}

/// A message in a queue or out on a lease.
#[derive(Clone, Debug)]
struct Entry {
    letter: Rc<Letter>,
    position: u64,
    lane: u8,
    expires: Option<u64>,
    /// How often it was given back.
    attempts: u16,
    durable: bool,
}

#[derive(Clone, Debug)]
struct Queue {
    spec: Rc<QueueSpec>,
    owner: Option<u64>,
    /// In no order.
    ready: Vec<Entry>,
    next: u64,
    /// Where positions go on after a crash.
    next_known: u64,
    /// Durable messages below this one may have been delivered before the last crash.
    seen: u64,
    /// Durable messages below this one may have been delivered, as far as the log knows.
    promised: u64,
    /// Whether a crash has given it more than it may hold.
    excess: bool,
    /// When it was last of use.
    used: u64,
    /// Of a queue with a single active consumer, that one.
    single: Option<u64>,
}

#[derive(Clone, Debug)]
struct Consumer {
    who: Who,
    queue: u64,
    tag: String,
    no_ack: bool,
    exclusive: bool,
    priority: i64,
    prefetch: u16,
}

#[derive(Clone, Debug)]
struct Lease {
    queue: u64,
    consumer: Option<u64>,
    entry: Entry,
}

#[derive(Clone, Debug, Default)]
struct Transaction {
    published: Vec<(Rc<Letter>, Vec<u64>, bool)>,
    settled: Vec<(u64, Lease, Outcome)>,
}

#[derive(Clone, Debug, Default)]
struct Holder {
    last_lease: u64,
    leases: BTreeMap<u64, Lease>,
    prefetch: u16,
    shared: u16,
    /// The number of the last message, if confirms are selected.
    published: Option<u64>,
    transaction: Option<Transaction>,
}

impl Holder {
    /// What is out, also if a transaction is about to settle it.
    fn out(&self) -> impl Iterator<Item = &Lease> {
        let settled = self.transaction.iter().flat_map(|transaction| &transaction.settled);
        self.leases.values().chain(settled.map(|(_, lease, _)| lease))
    }
}

/// A message that ended in a queue which has an exchange for that.
#[derive(Clone, Debug)]
struct Dying {
    spec: Rc<QueueSpec>,
    letter: Rc<Letter>,
    reason: &'static str,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Plain {
    pub(super) now: u64,
    exchanges: BTreeMap<String, ExchangeSpec>,
    bindings: Vec<Bound>,
    /// By number, which tells a queue from one of the same name that was deleted.
    queues: BTreeMap<u64, Queue>,
    last_queue: u64,
    consumers: BTreeMap<u64, Consumer>,
    last_consumer: u64,
    holders: BTreeMap<Who, Holder>,
    /// Bytes that each session's client has not taken.
    pub(super) owed: BTreeMap<u64, usize>,
    dying: VecDeque<Dying>,
    /// Whose batch it is.
    asking: u64,
    /// Whether it has had to wait and is to end: then it waits no more.
    pub(super) leaving: bool,
    /// Whether others go on before anything is delivered.
    pub(super) hurried: bool,
    heard: Step,
    /// Messages that are only on disk in this step: positions by queue.
    disk: Disk,
    /// Queues that cannot go on without such a message.
    pub(super) waits: BTreeSet<u64>,
    pub(super) choices: Choices,
    /// The first thing that was not as it should be.
    pub(super) wrong: Option<String>,
}

impl Plain {
    pub(super) fn new() -> Plain {
        let exchanges = exchanges::predeclared().map(|spec| (spec.name.to_owned(), spec)).collect();
        Plain { exchanges, ..Plain::default() }
    }

    /// Begins a step in which this was heard.
    pub(super) fn begin(
        &mut self,
        (now, session): (u64, u64),
        heard: Step,
        disk: Disk,
        choices: Choices,
    ) {
        (self.now, self.asking, self.heard, self.choices) = (now, session, heard, choices);
        (self.disk, self.waits) = (disk, BTreeSet::new());
        self.end_unused();
    }

    /// Ends a step: all that could be delivered was, unless others go on first, and nothing else
    /// was heard.
    pub(super) fn end(&mut self) {
        loop {
            self.waits.clear();
            if !self.hurried {
                let all: Vec<u64> = self.queues.keys().copied().collect();
                self.attend(&all);
            }
            if self.dying.is_empty() {
                break;
            }
            self.bury();
        }
        let heard = std::mem::take(&mut self.heard);
        let (told, durable) = (heard.told.values().flatten().next(), heard.durable.front());
        if told.is_some() || durable.is_some() {
            self.wrong(|| format!("heard too much: {told:?} {durable:?}"));
        }
    }

    fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.wrong.get_or_insert_with(what);
    }

    fn tell(&mut self, session: u64, text: impl Into<String>) {
        let text = text.into();
        let heard = self.heard.told.get_mut(&session).and_then(VecDeque::pop_front);
        *self.owed.entry(session).or_default() += heard.as_ref().map_or(0, |heard| heard.bytes);
        if heard.as_ref().is_none_or(|heard| heard.consumer.is_some() || heard.text != text) {
            self.wrong(|| format!("session {session} is told\n{text}\nand hears\n{heard:?}"));
        }
    }

    fn tell_when_durable(&mut self, text: &str) {
        let heard = self.heard.durable.pop_front();
        if heard.as_deref() != Some(text) {
            self.wrong(|| format!("once durable: {text}, heard: {heard:?}"));
        }
    }

    pub(super) fn is_open(&self, who: Who) -> bool {
        self.holders.contains_key(&who)
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

    /// What was not committed has not happened; what is out goes back.
    fn end_holder(&mut self, who: Who) {
        if !self.is_open(who) {
            return;
        }
        self.put_back(who);
        self.holder(who).transaction = None;
        for (_, lease) in std::mem::take(&mut self.holder(who).leases) {
            self.end_lease(lease, Outcome::Requeued);
        }
        let mine = self.consumers.iter().filter(|(_, each)| each.who == who);
        self.end_consumers(&mine.map(|(id, _)| *id).collect::<Vec<_>>());
        self.holders.remove(&who);
    }

    pub(super) fn disconnect(&mut self, session: u64) {
        loop {
            let mine = self.holders.keys().filter(|who| who.0 == session);
            let mine: Vec<Who> = mine.copied().collect();
            if mine.is_empty() {
                break;
            }
            let next = self.choices.choose(mine.len());
            self.end_holder(mine[next]);
        }
        let owned = self.queues.iter().filter(|(_, queue)| queue.owner == Some(session));
        for id in owned.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.drop_queue(id);
        }
        self.tell(session, "Disconnected");
        self.owed.remove(&session);
    }

    /// The client has taken some of what it was given.
    pub(super) fn taken(&mut self, session: u64, bytes: usize) {
        let owed = self.owed.entry(session).or_default();
        *owed = owed.saturating_sub(bytes);
    }

    /// All is lost that is not durable, and what was out is back.
    pub(super) fn crash(&mut self, now: u64) {
        let mut queues = std::mem::take(&mut self.queues);
        queues.retain(|_, queue| queue.spec.durable());
        for lease in self.holders.values().flat_map(Holder::out) {
            if let Some(queue) = queues.get_mut(&lease.queue) {
                queue.ready.push(lease.entry.clone());
            }
        }
        for queue in queues.values_mut() {
            queue.ready.retain(|entry| entry.durable);
            queue.ready.iter_mut().for_each(|entry| entry.attempts = 0);
            (queue.used, queue.single) = (now, None);
            (queue.next, queue.seen) = (queue.next_known, queue.promised);
            queue.excess = queue.over_limit(0, 0);
        }
        let mut exchanges = std::mem::take(&mut self.exchanges);
        exchanges.retain(|_, exchange| exchange.durable);
        let mut bindings = std::mem::take(&mut self.bindings);
        bindings.retain(|bound| {
            exchanges.contains_key(&bound.source)
                && match &bound.end {
                    End::Queue(id) => queues.contains_key(id),
                    End::Exchange(name) => exchanges.contains_key(name),
                }
        });
        let last_queue = self.last_queue;
        *self = Plain { queues, last_queue, exchanges, bindings, ..Plain::default() };
    }

    /// A new segment of the log begins with all definitions.
    pub(super) fn segment(&mut self) {
        self.queues.values_mut().for_each(|queue| queue.next_known = queue.next);
    }

    fn owes_too_much(&self, session: u64) -> bool {
        self.owed.get(&session).is_some_and(|owed| *owed >= SESSION_OUTPUT_BYTES_MAX)
    }
}

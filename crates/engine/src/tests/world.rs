//! An engine with a log, and what it tells, as text. Every step is checked for what must always
//! hold: whole records, and pins that are the chunks in use.

use std::collections::{BTreeMap, HashMap};

use leveret_model::limits::SESSION_OUTPUT_BYTES_MAX;
use leveret_model::{Chunk, FieldTable, Lsn, Message, PackId, SessionId, ShortString, Time};
use leveret_record::{Record, Records};

use super::packs::Pack;
use super::tools::Seen;
use crate::command::{Binding, Consume, DeclareExchange, DeclareQueue, Destination};
use crate::queue::OVERHEAD_BYTES;
use crate::{
    Batch, Command, Effects, Engine, Item, Load, Operation, Outbound, Outcome, Reply, Token,
};

/// A message that a consumer was given.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Delivery {
    pub(super) session: u64,
    pub(super) holder: u16,
    pub(super) consumer: u64,
    pub(super) lease: u64,
    pub(super) body: String,
    pub(super) redelivered: bool,
    /// What it costs of the session's output credit.
    pub(super) bytes: usize,
}

pub(super) struct World {
    pub(super) engine: Engine,
    /// The records of each step, and where they begin.
    pub(super) log: Vec<(Lsn, Vec<u8>)>,
    /// Where the next step's records begin.
    pub(super) end: Lsn,
    /// The moment of the next step.
    pub(super) now: Time,
    /// What each session was told by the last step.
    pub(super) told: BTreeMap<u64, Vec<String>>,
    /// The deliveries among it.
    pub(super) delivered: Vec<Delivery>,
    /// All of it, as it was told.
    pub(super) outbound: Vec<Outbound>,
    /// The messages among it, as clients see them.
    pub(super) seen: Vec<Seen>,
    /// Confirms of the last step that wait for the log, as `holder: first-last`.
    pub(super) durable: Vec<String>,
    /// Whom the last step told something that waits for the log.
    pub(super) held_back: Vec<u64>,
    /// What each session's part of the last step costs of its output credit.
    pub(super) bytes: BTreeMap<u64, usize>,
    /// Addresses that the last step released.
    pub(super) released: Vec<Lsn>,
    /// Whether its publisher is asked to pause.
    pub(super) congested: bool,
    pub(super) pins: Vec<Lsn>,
    /// The body of the last message that was got.
    pub(super) last_got: Option<String>,
    pub(super) tags: HashMap<u64, String>,
    /// What was asked for of packs and has not come.
    pub(super) loads: Vec<Load>,
    /// The packs in use.
    pub(super) packs: BTreeMap<PackId, Pack>,
}

pub(super) fn name(text: &str) -> ShortString {
    ShortString::try_from(text).unwrap()
}

/// A message as it comes from a client, into the chunk.
pub(super) fn put(chunk: &mut Chunk, exchange: &str, key: &str, body: &str, persistent: bool) {
    let mut envelope = Vec::new();
    for part in [exchange, key] {
        envelope.push(u8::try_from(part.len()).unwrap());
        envelope.extend_from_slice(part.as_bytes());
    }
    let (properties, body) = (&[0, 0][..], body.as_bytes());
    chunk.push(Message { envelope: &envelope, properties, body, persistent }).unwrap();
}

/// A durable queue.
pub(super) fn queue(text: &str) -> DeclareQueue {
    DeclareQueue {
        name: name(text),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: FieldTable::new(),
        reply: true,
    }
}

/// A durable exchange.
pub(super) fn exchange(text: &str, kind: &str) -> DeclareExchange {
    DeclareExchange {
        name: name(text),
        kind: name(kind),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: FieldTable::new(),
        reply: true,
    }
}

pub(super) fn binding(queue: &str, exchange: &str, key: &str) -> Binding {
    Binding {
        destination: Destination::Queue(name(queue)),
        source: name(exchange),
        routing_key: name(key),
        arguments: FieldTable::new(),
        reply: true,
    }
}

pub(super) fn consume(queue: &str, tag: &str) -> Consume {
    Consume {
        queue: name(queue),
        tag: name(tag),
        no_ack: false,
        exclusive: false,
        arguments: FieldTable::new(),
        reply: true,
    }
}

pub(super) fn cancel(tag: &str) -> Operation {
    Operation::Cancel { tag: name(tag), reply: true }
}

pub(super) fn get(queue: &str) -> Operation {
    Operation::Get { queue: name(queue), no_ack: false }
}

pub(super) fn settle(lease: u64, outcome: Outcome) -> Operation {
    Operation::Settle { lease, multiple: false, outcome }
}

pub(super) fn settle_all(lease: u64, outcome: Outcome) -> Operation {
    Operation::Settle { lease, multiple: true, outcome }
}

pub(super) fn ack(lease: u64) -> Operation {
    settle(lease, Outcome::Accept)
}

pub(super) fn delete(queue: &str) -> Operation {
    Operation::DeleteQueue { name: name(queue), if_unused: false, if_empty: false, reply: true }
}

pub(super) fn purge(queue: &str) -> Operation {
    Operation::PurgeQueue { name: name(queue), reply: true }
}

impl From<DeclareQueue> for Operation {
    fn from(declare: DeclareQueue) -> Self {
        Operation::DeclareQueue(Box::new(declare))
    }
}

impl From<DeclareExchange> for Operation {
    fn from(declare: DeclareExchange) -> Self {
        Operation::DeclareExchange(Box::new(declare))
    }
}

impl From<Consume> for Operation {
    fn from(consume: Consume) -> Self {
        Operation::Consume(Box::new(consume))
    }
}

impl From<Binding> for Operation {
    fn from(binding: Binding) -> Self {
        Operation::Bind(Box::new(binding))
    }
}

impl World {
    /// An engine with nobody connected.
    pub(super) fn empty() -> World {
        World {
            engine: Engine::new([7; 16]),
            log: Vec::new(),
            end: Lsn(64),
            now: Time(1_000_000),
            told: BTreeMap::new(),
            delivered: Vec::new(),
            outbound: Vec::new(),
            seen: Vec::new(),
            durable: Vec::new(),
            held_back: Vec::new(),
            bytes: BTreeMap::new(),
            released: Vec::new(),
            congested: false,
            pins: Vec::new(),
            last_got: None,
            tags: HashMap::new(),
            loads: Vec::new(),
            packs: BTreeMap::new(),
        }
    }

    /// Sessions 1 to 3, each with the holder 1.
    pub(super) fn new() -> World {
        let mut world = World::empty();
        for session in 1..=3 {
            assert!(world.engine.connect(SessionId(session), b"/"));
            assert_eq!(world.asks(session, Operation::Open), ["opened"]);
        }
        world
    }

    /// Runs a batch.
    pub(super) fn step(&mut self, session: u64, chunk: Chunk, asked: Vec<(u16, Operation)>) {
        let commands = asked
            .into_iter()
            .map(|(holder, operation)| Command { holder, token: Token(5), operation })
            .collect();
        let address = self.end;
        let mut effects = Effects::default();
        let batch = Batch { session: SessionId(session), chunk, commands };
        self.engine.step(batch, self.now, address, &mut effects);
        self.carry_out(session, effects);
    }

    /// Goes on with a session that had to wait, and says which.
    pub(super) fn resume(&mut self) -> u64 {
        let session = self.engine.resumable[0].0;
        let mut effects = Effects::default();
        self.engine.resume_next(self.now, self.end, &mut effects);
        self.carry_out(session, effects);
        session
    }

    /// Carries out what a step wants done.
    pub(super) fn carry_out(&mut self, session: u64, mut effects: Effects) {
        let address = self.end;
        let records = Records::new(&effects.log).map(Result::unwrap).count();
        assert_eq!(records, effects.records as usize, "the number of records");
        self.end = address.advance(effects.log.len() as u64 + 16);
        self.log.push((address, std::mem::take(&mut effects.log)));
        self.pins.extend((0..effects.pinned).map(|_| address));
        for lsn in &effects.released {
            let index = self.pins.iter().position(|pin| pin == lsn);
            self.pins.remove(index.expect("released, and not pinned"));
        }
        let mut addresses: Vec<Lsn> = self.engine.addresses().collect();
        addresses.sort_unstable();
        assert_eq!(addresses, self.pins, "pins are the chunks with live durable messages");
        self.loads.append(&mut effects.loads);
        for pack in &effects.emptied {
            assert!(self.packs.remove(pack).is_some(), "{pack:?} is emptied once");
        }
        self.released = effects.released;
        self.congested = effects.congested;
        let durable = |each: &crate::DurableConfirm| {
            assert_eq!(each.session.0, session);
            format!("{}: {}-{}", each.holder, each.confirmed.first, each.confirmed.last)
        };
        self.durable = effects.confirms.iter().map(durable).collect();
        self.told.clear();
        self.delivered.clear();
        self.seen.clear();
        self.held_back.clear();
        self.bytes.clear();
        for outbound in &effects.outbound {
            self.hear(outbound);
        }
        self.outbound = effects.outbound;
    }

    /// What one session of the last step is told.
    fn hear(&mut self, outbound: &Outbound) {
        let session = outbound.session.0;
        // Everything before this step is durable.
        let step = self.log.last().map(|(address, _)| *address);
        if outbound.after_log || outbound.promise.is_some() && outbound.promise >= step {
            self.held_back.push(session);
        }
        let told_before = self.bytes.entry(session).or_default();
        let whole = *told_before == 0 || *told_before >= SESSION_OUTPUT_BYTES_MAX;
        assert!(whole, "a session is told things in one go, unless they are very many");
        *told_before += outbound.bytes;
        self.seen.extend(outbound.items.iter().filter_map(|item| Seen::of(outbound, item)));
        let mut texts = Vec::new();
        let body = |chunk: u32, message: u32| {
            let chunk = &outbound.chunks[chunk as usize];
            let body = String::from_utf8(chunk.get(message).body.to_vec()).unwrap();
            (body, chunk.message_len(message) + OVERHEAD_BYTES)
        };
        let again = |redelivered: bool| if redelivered { " again" } else { "" };
        for item in &outbound.items {
            texts.push(match *item {
                Item::Deliver { holder, redelivered, consumer, chunk, message, lease, .. } => {
                    let (body, bytes) = body(chunk, message);
                    let tag = &self.tags[&consumer];
                    let text = format!("{tag} #{lease} {body}{}", again(redelivered));
                    self.delivered.push(Delivery {
                        session,
                        holder,
                        consumer,
                        lease,
                        body,
                        redelivered,
                        bytes,
                    });
                    text
                }
                Item::Got { redelivered, chunk, message, lease, left, .. } => {
                    let (body, _) = body(chunk, message);
                    self.last_got = Some(body.clone());
                    format!("got #{lease} {body}{}, {left} left", again(redelivered))
                }
                Item::Returned { chunk, message, .. } => {
                    format!("returned {}", body(chunk, message).0)
                }
                Item::Confirmed { confirmed, .. } => {
                    format!("confirmed {}-{}", confirmed.first, confirmed.last)
                }
                Item::Rejected { confirmed, .. } => {
                    format!("rejected {}-{}", confirmed.first, confirmed.last)
                }
                Item::Reply { ref reply, .. } => {
                    if let Reply::Consuming { consumer, ref tag, .. } = **reply {
                        self.tags.insert(consumer, tag.to_string());
                    }
                    told(reply)
                }
            });
        }
        self.told.entry(session).or_default().extend(texts);
    }

    /// One command of the session's holder 1, and what the session is told.
    pub(super) fn asks(&mut self, session: u64, what: impl Into<Operation>) -> Vec<String> {
        self.asks_as(session, 1, what)
    }

    /// One command, and what the session is told.
    pub(super) fn asks_as(
        &mut self,
        session: u64,
        holder: u16,
        what: impl Into<Operation>,
    ) -> Vec<String> {
        self.step(session, Chunk::default(), vec![(holder, what.into())]);
        self.heard(session)
    }

    /// What the session was told by the last step.
    pub(super) fn heard(&self, session: u64) -> Vec<String> {
        self.told.get(&session).cloned().unwrap_or_default()
    }

    /// Session 1 publishes persistent messages.
    pub(super) fn publish(&mut self, exchange: &str, key: &str, bodies: &[&str]) -> Vec<String> {
        self.publish_with(exchange, key, bodies, true, false)
    }

    /// Session 1 publishes.
    pub(super) fn publish_with(
        &mut self,
        exchange: &str,
        key: &str,
        bodies: &[&str],
        persistent: bool,
        mandatory: bool,
    ) -> Vec<String> {
        let mut chunk = Chunk::default();
        for body in bodies {
            put(&mut chunk, exchange, key, body, persistent);
        }
        let count = u32::try_from(bodies.len()).unwrap();
        self.step(
            1,
            chunk,
            vec![(1, Operation::Publish { first: 0, count, mandatory, special: false })],
        );
        self.heard(1)
    }

    /// The records of the last step.
    pub(super) fn records(&self) -> Vec<Record<'_>> {
        let (_, bytes) = self.log.last().unwrap();
        Records::new(bytes).map(|record| record.unwrap().1).collect()
    }
}

/// A reply as text.
pub(super) fn told(reply: &Reply) -> String {
    match reply {
        Reply::Opened => "opened".to_owned(),
        Reply::Closed => "closed".to_owned(),
        Reply::QueueDeclared { name, messages, consumers } => {
            format!("queue {name}: {messages} ready, {consumers} consumers")
        }
        Reply::QueueDeleted(count) => format!("deleted {count}"),
        Reply::QueuePurged(count) => format!("purged {count}"),
        Reply::Consuming { tag, .. } => format!("consuming {tag}"),
        Reply::Cancelled { tag, consumer, .. } => match consumer {
            Some(_) => format!("cancelled {tag}"),
            None => format!("no consumer {tag}"),
        },
        Reply::ConsumerLost { tag, .. } => format!("lost {tag}"),
        Reply::Refused { refusal, token } => {
            assert_eq!(*token, Token(5));
            format!("refused: {refusal}")
        }
        Reply::ConfirmsSelected { .. } => "confirms".to_owned(),
        other => format!("{other:?}"),
    }
}

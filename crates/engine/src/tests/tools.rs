//! Messages with properties, things with arguments, and the passing of time.

use leveret_model::properties::Properties;
use leveret_model::{Chunk, FieldTable, FieldValue, Message, SessionId};

use super::recovering::world_of;
use super::world::*;
use crate::command::{Binding, Consume, DeclareQueue, Destination};
use crate::{Engine, Item, Operation, Outbound};

pub(super) type Arguments<'a> = &'a [(&'static str, FieldValue)];

/// A message as a client sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) exchange: String,
    pub(super) key: String,
    pub(super) properties: Properties,
    pub(super) body: String,
    pub(super) attempts: u16,
    pub(super) redelivered: bool,
}

impl Seen {
    /// The message that an item speaks of.
    pub(super) fn of(outbound: &Outbound, item: &Item) -> Option<Seen> {
        let (chunk, message, attempts, redelivered) = match *item {
            Item::Deliver { chunk, message, attempts, redelivered, .. }
            | Item::Got { chunk, message, attempts, redelivered, .. } => {
                (chunk, message, attempts, redelivered)
            }
            Item::Returned { chunk, message, .. } => (chunk, message, 0, false),
            _ => return None,
        };
        let message = outbound.chunks[chunk as usize].get(message);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Some(Seen {
            exchange: text(message.exchange()),
            key: text(message.routing_key()),
            properties: Properties::decode(message.properties).unwrap(),
            body: text(message.body),
            attempts,
            redelivered,
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<FieldValue> {
        self.properties.headers.as_ref()?.get(name).cloned()
    }

    /// What `x-death` tells, the newest first: reason, queue and count.
    pub(super) fn deaths(&self) -> Vec<String> {
        let Some(FieldValue::Array(deaths)) = self.header("x-death") else { return Vec::new() };
        let text = |death: &FieldTable, field| {
            String::from_utf8(death.get(field).unwrap().as_long_string().unwrap().to_vec()).unwrap()
        };
        let told = |death: &FieldValue| {
            let death = death.as_table().unwrap();
            let count = death.get("count").unwrap().as_integer().unwrap();
            format!("{} {} {count}", text(death, "reason"), text(death, "queue"))
        };
        deaths.iter().map(told).collect()
    }
}

pub(super) fn table(fields: &[(&str, FieldValue)]) -> FieldTable {
    fields.iter().map(|(key, value)| (name(key), value.clone())).collect()
}

pub(super) fn texts(all: &[&str]) -> FieldValue {
    FieldValue::Array(all.iter().map(|text| FieldValue::from(*text)).collect())
}

/// A durable queue with these arguments.
pub(super) fn queue_with(text: &str, arguments: &[(&str, FieldValue)]) -> DeclareQueue {
    DeclareQueue { arguments: table(arguments), ..queue(text) }
}

/// The arguments that send dead letters straight to a queue.
pub(super) fn dead_to(queue: &str) -> [(&'static str, FieldValue); 2] {
    [("x-dead-letter-exchange", "".into()), ("x-dead-letter-routing-key", queue.into())]
}

pub(super) fn and(
    some: &[(&'static str, FieldValue)],
    more: &[(&'static str, FieldValue)],
) -> Vec<(&'static str, FieldValue)> {
    [some, more].concat()
}

pub(super) fn consume_with(queue: &str, tag: &str, arguments: &[(&str, FieldValue)]) -> Consume {
    Consume { arguments: table(arguments), ..consume(queue, tag) }
}

/// A binding between exchanges.
pub(super) fn exchange_binding(to: &str, from: &str, key: &str) -> Binding {
    Binding { destination: Destination::Exchange(name(to)), ..binding("", from, key) }
}

pub(super) fn expiring_in(milliseconds: &str) -> Properties {
    Properties { expiration: Some(name(milliseconds)), ..Properties::default() }
}

pub(super) fn of_priority(priority: u8) -> Properties {
    Properties { priority: Some(priority), ..Properties::default() }
}

pub(super) fn with_headers(fields: &[(&str, FieldValue)]) -> Properties {
    Properties { headers: Some(table(fields)), ..Properties::default() }
}

/// A persistent message with these properties, into the chunk.
pub(super) fn put_with(chunk: &mut Chunk, to: (&str, &str), properties: &Properties, body: &str) {
    let mut envelope = Vec::new();
    for part in [to.0, to.1] {
        envelope.push(u8::try_from(part.len()).unwrap());
        envelope.extend_from_slice(part.as_bytes());
    }
    let mut raw = Vec::new();
    properties.encode(&mut raw);
    let persistent = properties.delivery_mode != Some(1);
    let message =
        Message { envelope: &envelope, properties: &raw, body: body.as_bytes(), persistent };
    chunk.push(message).unwrap();
}

impl World {
    /// Session 1 publishes one message with these properties; transient with delivery mode 1.
    pub(super) fn send(
        &mut self,
        exchange: &str,
        key: &str,
        properties: &Properties,
        body: &str,
    ) -> Vec<String> {
        self.send_as(1, (exchange, key), properties, body, false)
    }

    pub(super) fn send_as(
        &mut self,
        session: u64,
        to: (&str, &str),
        properties: &Properties,
        body: &str,
        mandatory: bool,
    ) -> Vec<String> {
        let mut chunk = Chunk::default();
        put_with(&mut chunk, to, properties, body);
        let publish = Operation::Publish { first: 0, count: 1, mandatory, special: true };
        self.step(session, chunk, vec![(1, publish)]);
        self.heard(session)
    }

    /// Time passes; the engine is stepped as it asks to be, and this is how often.
    pub(super) fn tick(&mut self, milliseconds: u64) -> usize {
        self.now = self.now.after(milliseconds);
        let mut steps = 0;
        while self.engine.deadline().is_some_and(|at| at <= self.now) {
            self.step(0, Chunk::default(), Vec::new());
            steps += 1;
            assert!(steps < 10_000, "it never ends");
        }
        steps
    }

    /// Takes out what is ready in a queue.
    pub(super) fn drain(&mut self, queue: &str) -> Vec<Seen> {
        let mut all = Vec::new();
        let holder = u16::MAX;
        assert_eq!(self.asks_as(3, holder, Operation::Open), ["opened"]);
        loop {
            let no_ack = Operation::Get { queue: name(queue), no_ack: true };
            self.asks_as(3, holder, no_ack);
            let seen = std::mem::take(&mut self.seen);
            self.asks_as(3, holder, Operation::Taken { bytes: usize::MAX });
            if seen.is_empty() {
                break;
            }
            all.extend(seen);
        }
        assert_eq!(self.asks_as(3, holder, Operation::Close), ["closed"]);
        all
    }

    /// The bodies of what is ready in a queue, which is taken out.
    pub(super) fn bodies(&mut self, queue: &str) -> Vec<String> {
        self.drain(queue).into_iter().map(|seen| seen.body).collect()
    }

    /// Messages ready in a queue.
    pub(super) fn ready(&self, queue: &str) -> usize {
        self.engine.queues().find(|each| each.name == *queue).expect("it exists").ready
    }

    pub(super) fn exists(&self, queue: &str) -> bool {
        self.engine.queues().any(|each| each.name == *queue)
    }

    /// The same after a crash: what the log says, and the sessions connected anew.
    pub(super) fn restart(&self) -> World {
        let mut engine = Engine::new([9; 16]);
        for (address, records) in &self.log {
            engine.restore(*address, records).unwrap();
        }
        engine.restored(self.now);
        let mut world = world_of(engine, self.end);
        world.now = self.now;
        world.log.clone_from(&self.log);
        for session in 1..=3 {
            assert!(world.engine.connect(SessionId(session), b"/"));
            assert_eq!(world.asks(session, Operation::Open), ["opened"]);
        }
        world
    }

    /// No message is anywhere, and nothing is kept of those there were.
    pub(super) fn assert_nothing_left(&mut self) {
        self.tick(1 << 40);
        assert_eq!((self.engine.memory(), self.engine.chunks.len()), (0, 0));
        assert!(self.pins.is_empty());
        assert!(self.engine.dying.is_empty() && self.engine.deadlines.is_empty());
        assert_eq!(self.engine.deadline(), None);
    }
}

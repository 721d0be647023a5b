//! What the engine tells and holds, in the plain model's words.

use std::cmp::Reverse;
use std::collections::VecDeque;

use leveret_model::{Chunk, FieldValue, Message, Position, Properties, Time};

use super::super::plain::{Heard, Step};
use super::super::world::{World, told};
use crate::effect::{Item, Outbound};
use crate::queue::{Entry, OVERHEAD_BYTES, Queue};
use crate::recovery::expires;

/// All that the world's last step told.
pub(super) fn heard(world: &World) -> Step {
    let mut step = Step { durable: one_by_one("", &world.durable), ..Step::default() };
    for outbound in &world.outbound {
        let told = step.told.entry(outbound.session.0).or_default();
        let from = told.len();
        outbound.items.iter().for_each(|item| hear(item, outbound, told));
        let bytes: usize = told.iter().skip(from).map(|heard| heard.bytes).sum();
        assert_eq!(bytes, outbound.bytes, "what is told costs");
    }
    step
}

fn hear(item: &Item, outbound: &Outbound, told_so_far: &mut VecDeque<Heard>) {
    let message = |chunk: u32, message: u32| {
        let chunk = &outbound.chunks[chunk as usize];
        (text(chunk, message), chunk.message_len(message) + OVERHEAD_BYTES)
    };
    let mut consumer_told = None;
    let (text, bytes) = match *item {
        Item::Deliver { redelivered, consumer, attempts, chunk, message: index, lease, .. } => {
            let (text, bytes) = message(chunk, index);
            consumer_told = Some(consumer);
            (format!("#{lease} {text} again={redelivered} attempts={attempts}"), bytes)
        }
        Item::Got { redelivered, attempts, chunk, message: index, lease, left, .. } => {
            let (text, bytes) = message(chunk, index);
            let text = format!("{text} again={redelivered} attempts={attempts}");
            (format!("got #{lease} {text}, {left} left"), bytes)
        }
        Item::Returned { chunk, message: index, .. } => {
            let (text, bytes) = message(chunk, index);
            (format!("returned {text}"), bytes)
        }
        Item::Confirmed { confirmed, .. } | Item::Rejected { confirmed, .. } => {
            let what =
                if matches!(item, Item::Confirmed { .. }) { "confirmed" } else { "rejected" };
            let single = |number| format!("{what} {number}");
            let texts = (confirmed.first..=confirmed.last).map(single);
            told_so_far.extend(texts.map(|text| Heard { consumer: None, text, bytes: 0 }));
            return;
        }
        Item::Reply { ref reply, .. } => (told(reply), OVERHEAD_BYTES),
    };
    told_so_far.push_back(Heard { consumer: consumer_told, text, bytes });
}

/// Runs of confirms as single ones: how they are joined is the engine's to decide.
fn one_by_one(what: &str, runs: &[String]) -> VecDeque<String> {
    let mut single = VecDeque::new();
    for run in runs {
        let (holder, run) = run.split_once(": ").unwrap();
        let (first, last) = run.split_once('-').unwrap();
        let numbers = first.parse::<u64>().unwrap()..=last.parse().unwrap();
        single.extend(numbers.map(|number| format!("{what}{holder}: {number}")));
    }
    single
}

/// A message as the model describes it.
fn text(chunk: &Chunk, index: u32) -> String {
    message_text(chunk.get(index))
}

fn message_text(message: Message<'_>) -> String {
    let lossy = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let properties = Properties::decode(message.properties).unwrap();
    let (shown, len) = (&message.body[..message.body.len().min(8)], message.body.len());
    let (shown, exchange, key) =
        (lossy(shown), lossy(message.exchange()), lossy(message.routing_key()));
    let mut text = format!("{shown} of {len} by {exchange:?} {key:?}");
    let expiration = properties.expiration.as_ref().map(ToString::to_string);
    text += &format!(" persistent={} ttl={expiration:?}", message.persistent);
    text += &format!(" priority={:?}", properties.priority);
    let headers = properties.headers.unwrap_or_default();
    let mut headers: Vec<String> =
        headers.iter().map(|(name, value)| format!(" {name}={}", plain_value(value))).collect();
    headers.sort();
    text + &headers.concat()
}

fn plain_value(value: &FieldValue) -> String {
    match value {
        FieldValue::LongString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        FieldValue::I64(number) => number.to_string(),
        FieldValue::Timestamp(seconds) => seconds.to_string(),
        FieldValue::Array(values) => {
            let values: Vec<String> = values.iter().map(plain_value).collect();
            format!("[{}]", values.join(","))
        }
        FieldValue::Table(table) => {
            let field = |(name, value)| format!("{name}={}", plain_value(value));
            let fields: Vec<String> =
                table.iter().map(|(name, value)| field((name, value))).collect();
            format!("{{{}}}", fields.join(","))
        }
        other => panic!("{other:?}"),
    }
}

/// Of each queue: its name, how many are out, and what is ready, in order, also what is only on
/// disk.
pub(super) fn contents(world: &World) -> Vec<(String, usize, Vec<String>)> {
    let engine = &world.engine;
    let mut queues: Vec<&Queue> = engine.queues.values().collect();
    queues.sort_by_key(|queue| queue.id);
    let content = |queue: &Queue| {
        let ready = queue.here().map(|entry| {
            let text = text(engine.chunks.get(entry.chunk), entry.message);
            let expires = (entry.expires != Time::NEVER).then_some(entry.expires.0);
            let Entry { position: Position(at), priority: lane, attempts, durable, .. } = *entry;
            let text = format!("{text} at {at} in {lane} until {expires:?}, {attempts}, {durable}");
            (Reverse(usize::from(lane)), at, text)
        });
        let cold = queue.cold().into_iter().map(|(lane, pack, position)| {
            let pack = &world.packs[&pack];
            let (written, durable) = (&pack.messages[&(queue.id, position)], pack.end.is_some());
            let (message, at) = (written.message(), position.0);
            let expires = expires(message, written.origin, queue.settings.ttl);
            let expires = (expires != Time::NEVER).then_some(expires.0);
            let text = message_text(message);
            let text = format!("{text} at {at} in {lane} until {expires:?}, 0, {durable}");
            (Reverse(lane), at, text)
        });
        let mut all: Vec<_> = ready.chain(cold).collect();
        // In memory each part is in order; how the parts go together is seen when it is delivered.
        all.sort();
        let all = all.into_iter().map(|(_, _, text)| text);
        (queue.name.to_string(), queue.leased as usize, all.collect())
    };
    queues.into_iter().map(content).collect()
}

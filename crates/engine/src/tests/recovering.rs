//! The same state from the log.

use std::collections::BTreeMap;

use super::world::*;
use crate::command::{DeclareExchange, DeclareQueue};
use crate::{Engine, Operation, Outcome};
use leveret_model::{Lsn, Position, SessionId, Time};
use leveret_record::{Record, Records};

/// An engine that has read this log.
pub(super) fn restored<'a>(log: impl IntoIterator<Item = &'a (Lsn, Vec<u8>)>) -> Engine {
    restored_at(log, Time(0))
}

/// An engine that has read this log at this moment.
pub(super) fn restored_at<'a>(
    log: impl IntoIterator<Item = &'a (Lsn, Vec<u8>)>,
    now: Time,
) -> Engine {
    let mut engine = Engine::new([8; 16]);
    for (address, records) in log {
        engine.restore(*address, records).unwrap();
    }
    engine.restored(now);
    engine
}

/// The durable definitions, in a fixed order. Where positions go on is left out.
pub(super) fn definitions(engine: &Engine) -> Vec<String> {
    let mut log = Vec::new();
    let count = engine.snapshot(&mut log);
    let text = |record: Record<'_>| match record {
        Record::DeclareQueue(mut queue) => {
            queue.next = Position(0);
            format!("{queue:?}")
        }
        other => format!("{other:?}"),
    };
    let mut texts: Vec<String> = Records::new(&log).map(|record| text(record.unwrap().1)).collect();
    assert_eq!(texts.len(), count as usize);
    texts.sort();
    texts
}

/// A world that goes on with this engine, at this place in the log.
pub(super) fn world_of(engine: Engine, end: Lsn) -> World {
    let mut pins: Vec<Lsn> = engine.addresses().collect();
    pins.sort_unstable();
    World { engine, end, pins, ..World::empty() }
}

/// What is ready in each queue, in order. Takes it out.
pub(super) fn contents(engine: Engine) -> BTreeMap<String, Vec<String>> {
    let mut world = world_of(engine, Lsn(1 << 40));
    assert!(world.engine.connect(SessionId(9), b"/"));
    world.asks(9, Operation::Open);
    let queues: Vec<String> = world.engine.queues().map(|queue| queue.name.to_string()).collect();
    let mut contents = BTreeMap::new();
    for queue in queues {
        let mut bodies: Vec<String> = Vec::new();
        loop {
            world.asks(9, Operation::Get { queue: name(&queue), no_ack: true });
            world.asks(9, Operation::Taken { bytes: usize::MAX });
            match world.last_got.take() {
                Some(body) => bodies.push(body),
                None => break,
            }
        }
        contents.insert(queue, bodies);
    }
    assert!(world.pins.is_empty(), "every chunk is released in the end");
    contents
}

fn ready(world: &World) -> BTreeMap<String, Vec<String>> {
    contents(restored(&world.log))
}

fn expect(queues: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let own = |bodies: &[&str]| bodies.iter().map(|body| (*body).to_owned()).collect();
    queues.iter().map(|(name, bodies)| ((*name).to_owned(), own(bodies))).collect()
}

/// Durable `q` and `r`, transient `t`, all bound to `amq.fanout`; messages in them.
fn full() -> World {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(1, queue("r"));
    world.asks(1, DeclareQueue { durable: false, ..queue("t") });
    for queue in ["q", "r", "t"] {
        world.asks(1, binding(queue, "amq.fanout", ""));
    }
    world.publish("amq.fanout", "", &["m1", "m2", "m3"]);
    world.publish_with("amq.fanout", "", &["transient"], false, false);
    world.publish("", "q", &["m4"]);
    world
}

#[test]
fn durable_messages_come_back_in_order() {
    let world = full();
    let expected = expect(&[("q", &["m1", "m2", "m3", "m4"]), ("r", &["m1", "m2", "m3"])]);
    assert_eq!(ready(&world), expected);
}

#[test]
fn what_is_settled_stays_away_and_what_is_leased_comes_back() {
    let mut world = full();
    world.asks(2, consume("q", "a"));
    world.asks(2, ack(2));
    world.asks(2, settle(1, Outcome::Requeue));
    world.asks(2, settle(3, Outcome::Discard));
    world.asks(1, purge("r"));
    assert_eq!(ready(&world), expect(&[("q", &["m1", "m4"]), ("r", &[])]));
}

#[test]
fn positions_are_not_used_again() {
    let mut world = full();
    world.asks(1, purge("q"));
    let mut later = world_of(restored(&world.log), world.end);
    assert!(later.engine.connect(SessionId(1), b"/"));
    later.asks(1, Operation::Open);
    later.publish("", "q", &["m5"]);
    let [Record::Publish { targets, .. }] = &later.records()[..] else { panic!() };
    assert_eq!({ *targets }.map(|(_, at)| at.0).collect::<Vec<_>>(), [5]);
    world.log.append(&mut later.log);
    assert_eq!(ready(&world)["q"], ["m5"]);
}

#[test]
fn a_queue_made_again_is_another() {
    let mut world = full();
    world.asks(1, delete("q"));
    world.asks(1, queue("q"));
    world.publish("amq.fanout", "", &["only r"]);
    world.publish("", "q", &["new"]);
    let expected = expect(&[("q", &["new"]), ("r", &["m1", "m2", "m3", "only r"])]);
    assert_eq!(ready(&world), expected);
}

#[test]
fn definitions_come_back() {
    let mut world = full();
    for (name, kind) in [("x", "topic"), ("y", "direct"), ("gone", "fanout")] {
        world.asks(1, exchange(name, kind));
        world.asks(1, binding("q", name, "a.*"));
    }
    world.asks(1, DeclareExchange { durable: false, ..exchange("transient", "direct") });
    world.asks(1, binding("q", "transient", ""));
    world.asks(1, DeclareExchange { internal: true, ..exchange("internal", "direct") });
    world.asks(1, Operation::Unbind(Box::new(binding("q", "y", "a.*"))));
    world.asks(1, Operation::DeleteExchange { name: name("gone"), if_unused: false, reply: true });
    let expected = definitions(&world.engine);
    assert_eq!(definitions(&restored(&world.log)), expected);
    let mut snapshot = Vec::new();
    world.engine.snapshot(&mut snapshot);
    assert_eq!(definitions(&restored(&[(Lsn(0), snapshot)])), expected);
}

#[test]
fn a_large_log_is_restored_in_many_chunks_each_released_once() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    let bodies: Vec<String> = (0..300).map(|n| format!("{n:0>1000}")).collect();
    let refs: Vec<&str> = bodies.iter().map(String::as_str).collect();
    world.publish("", "q", &refs);
    assert_eq!(world.pins.len(), 1);
    let engine = restored(&world.log);
    assert_eq!(engine.addresses().count(), 5, "64 KiB each");
    assert_eq!(contents(engine)["q"], bodies);
}

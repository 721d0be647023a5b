//! Queues whose messages are only in packs: who waits for them, and for how long.

use std::time::{Duration, Instant};

use leveret_model::{Chunk, FieldTable, FieldValue, Lsn, PackId, Position, QueueId, Time};
use leveret_record::{ExtentDefinition, PackDefinition, QueueDefinition};

use super::world::*;
use crate::command::{DeclareQueue, Operation};
use crate::{Engine, Loaded};

/// Messages that only a pack has.
fn publish_cold(world: &mut World, name: &str, bodies: &[&str], pack: u64) {
    world.engine.set_memory_target(0);
    let from = world.end;
    world.publish("", name, bodies);
    let part = from..world.end;
    let survey = world.engine.survey(&part);
    assert!(world.adopt(PackId(pack), &part, &survey));
}

#[test]
fn what_is_got_at_once_waits_for_the_promise_of_each() {
    for order in [["durable", "transient"], ["transient", "durable"]] {
        let mut world = World::new();
        world.asks(1, queue("durable"));
        world.asks(1, DeclareQueue { durable: false, ..queue("transient") });
        world.publish("", "durable", &["d"]);
        world.publish("", "transient", &["t"]);
        world.step(2, Chunk::default(), order.map(|name| (1, get(name))).into());
        assert_eq!(world.heard(2).len(), 2);
        assert_eq!(world.held_back, [2], "{order:?}");
    }
}

#[test]
fn only_what_is_needed_still_is_waited_for() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    publish_cold(&mut world, "q", &["m"], 1);
    assert!(world.asks(2, get("q")).is_empty());
    let load = world.loads[0].clone();
    assert!(world.engine.needs(&load));
    // Nobody finds it where it was: where it is now, it is found.
    let live = world.packs[&PackId(1)].messages.keys().copied().collect();
    assert!(world.merge(PackId(2), &[PackId(1)], &live));
    assert!(!world.engine.needs(&load));
    world.settle_loads();
    assert_eq!(world.last_got.as_deref(), Some("m"));
    assert!(!world.engine.needs(&load));
}

#[test]
fn a_message_that_is_damaged_is_passed_over() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    publish_cold(&mut world, "q", &["lost", "sound"], 1);
    assert!(world.asks(2, get("q")).is_empty());
    let load = world.loads.remove(0);
    let loaded = Loaded { load, messages: Vec::new(), damaged: true };
    world.step(0, Chunk::default(), vec![(0, Operation::Loaded(Box::new(loaded)))]);
    world.settle_loads();
    assert_eq!(world.last_got.as_deref(), Some("sound"));
    assert_eq!(world.engine.queues().map(|queue| queue.damaged).sum::<u64>(), 1);
}

#[test]
fn what_is_too_old_waits_while_the_log_is_behind() {
    let mut world = World::new();
    let mut arguments = FieldTable::new();
    arguments.insert(name("x-message-ttl"), FieldValue::I32(1_000));
    arguments.insert(name("x-dead-letter-exchange"), "");
    arguments.insert(name("x-dead-letter-routing-key"), "dead");
    world.asks(1, queue("dead"));
    world.asks(1, DeclareQueue { arguments, ..queue("q") });
    publish_cold(&mut world, "q", &["cold"], 1);
    world.publish("", "q", &["here"]);
    world.now = world.now.after(5_000);
    world.engine.set_log_behind(true);
    for _ in 0..3 {
        let end = world.end;
        world.step(0, Chunk::default(), Vec::new());
        while !world.loads.is_empty() {
            world.answer(0, usize::MAX);
        }
        assert!(world.log.iter().all(|(at, log)| *at < end || log.is_empty()));
        assert_eq!((world.ready("q"), world.ready("dead")), (2, 0));
        assert!(world.engine.deadline().is_some_and(|at| at <= world.now), "it is tried again");
    }
    world.engine.set_log_behind(false);
    for _ in 0..3 {
        world.step(0, Chunk::default(), Vec::new());
        world.settle_loads();
    }
    assert_eq!((world.ready("q"), world.ready("dead")), (0, 2));
}

#[test]
fn what_goes_to_several_queues_is_live_once() {
    const QUEUES: usize = 50;
    let mut world = World::new();
    for number in 0..QUEUES {
        let text = number.to_string();
        world.asks(1, queue(&text));
        world.asks(1, binding(&text, "amq.fanout", ""));
    }
    let from = world.end;
    let body = "x".repeat(1_000);
    world.publish("amq.fanout", "", &[&body]);
    let survey = world.engine.survey(&(from..world.end));
    assert_eq!(survey.live.len(), QUEUES);
    assert!((1_000..1_100).contains(&survey.bytes), "{} bytes", survey.bytes);
}

/// The records of a durable queue whose messages are as far apart as can be, all in one pack.
fn scattered(count: u64) -> Vec<u8> {
    let mut log = Vec::new();
    let definition = QueueDefinition {
        id: QueueId(1),
        vhost: name("/"),
        name: name("q"),
        auto_delete: false,
        arguments: FieldTable::new(),
        next: Position(1 << 40),
    };
    leveret_record::write_declare_queue(&mut log, &definition);
    let pack = PackDefinition { id: PackId(1), end: Lsn(0), replaces: Vec::new() };
    leveret_record::write_pack(&mut log, &pack);
    for number in 0..count {
        let extent = ExtentDefinition {
            pack: PackId(1),
            queue: QueueId(1),
            priority: 0,
            expires: None,
            body_bytes: 1,
            runs: vec![(Position(number * 1_000), 1)],
        };
        leveret_record::write_extent(&mut log, &extent);
    }
    log
}

#[test]
fn a_start_takes_no_longer_for_each_extent_if_there_are_many() {
    const COUNT: u64 = 60_000;
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut engine = Engine::new([7; 16]);
    let begun = Instant::now();
    let snapshot = scattered(COUNT);
    engine.restore(Lsn(64), &snapshot).unwrap();
    // All of it again, as a segment begins.
    engine.restore(Lsn(1 << 30), &snapshot).unwrap();
    let mut log = Vec::new();
    for number in 0..COUNT / 2 {
        leveret_record::write_settle(&mut log, QueueId(1), Position(number * 1_000), 1);
    }
    engine.restore(Lsn(1 << 31), &log).unwrap();
    // Of these the first and the last are left.
    let (first, last) = (COUNT / 2, COUNT - 1);
    let run = (Position(first * 1_000 + 1), (last - first) * 1_000 - 1);
    log.clear();
    leveret_record::write_settle(&mut log, QueueId(1), run.0, run.1);
    engine.restore(Lsn(1 << 32), &log).unwrap();
    engine.restored(Time(1));
    let left = engine.queues[&QueueId(1)].extents().filter_map(|(_, extent)| extent.live.first());
    assert_eq!(left.collect::<Vec<_>>(), [Position(first * 1_000), Position(last * 1_000)]);
    assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
}

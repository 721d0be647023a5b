//! Queues whose messages are only in packs: who waits for them, and for how long.

use std::time::{Duration, Instant};

use leveret_model::limits::LEASED_BYTES_MAX;
use leveret_model::{Chunk, FieldTable, FieldValue, Lsn, PackId, Position, QueueId, Time};
use leveret_record::{ExtentDefinition, PackDefinition, QueueDefinition};

use super::world::*;
use crate::command::{Consume, DeclareQueue, Operation};
use crate::{Engine, Loaded, Outcome};

/// Messages that only a pack has.
fn publish_cold(world: &mut World, name: &str, bodies: &[&str], pack: u64) {
    world.engine.set_memory_target(0);
    let from = world.end;
    world.publish("", name, bodies);
    let part = from..world.end;
    let survey = world.engine.survey(&part);
    assert!(world.adopt(PackId(pack), &part, &survey));
}

/// Goes on with all sessions that need not wait.
fn resume_all(world: &mut World) {
    while world.engine.can_resume() {
        world.resume();
    }
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
fn a_client_that_goes_does_not_wait_for_what_cannot_be_read() {
    let mut world = World::new();
    for name in ["q", "held", "consumed", "sent"] {
        world.asks(1, queue(name));
    }
    world.publish("", "held", &["m"]);
    assert_eq!(world.asks(2, get("held")), ["got #1 m, 0 left"]);
    world.asks(2, consume("consumed", "c"));
    publish_cold(&mut world, "q", &["cold"], 1);
    assert!(world.asks(2, get("q")).is_empty(), "it waits");
    let mut chunk = Chunk::default();
    put(&mut chunk, "", "sent", "s", true);
    let publish = Operation::Publish { first: 0, count: 1, mandatory: false, special: false };
    world.step(2, chunk, vec![(1, publish)]);
    world.asks(2, Operation::Disconnect);
    resume_all(&mut world);
    let counts = |world: &World| {
        ["q", "held", "sent"].map(|name| {
            let mut queues = world.engine.queues();
            let queue = queues.find(|queue| queue.name == name).expect("declared");
            (queue.ready, queue.unacknowledged)
        })
    };
    // What it sent before it went counts.
    assert_eq!(counts(&world), [(1, 0); 3]);
    assert!(world.engine.queues().all(|queue| queue.consumers == 0));
    // What was asked for may come still.
    world.settle_loads();
    assert_eq!(counts(&world), [(1, 0); 3]);
}

#[test]
fn a_client_that_asks_and_goes_at_once_does_not_wait() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    publish_cold(&mut world, "q", &["cold"], 1);
    world.step(2, Chunk::default(), vec![(1, get("q")), (0, Operation::Disconnect)]);
    assert!(world.heard(2).is_empty());
    resume_all(&mut world);
    assert_eq!(world.heard(2).last().map(String::as_str), Some("Disconnected"));
    assert_eq!(world.ready("q"), 1);
}

#[test]
fn nobody_waits_for_messages_that_are_to_go() {
    let mut world = World::new();
    for (pack, name) in [(1, "purged"), (2, "deleted")] {
        let mut arguments = FieldTable::new();
        arguments.insert(self::name("x-message-ttl"), FieldValue::I32(1_000));
        world.asks(1, DeclareQueue { arguments, ..queue(name) });
        publish_cold(&mut world, name, &["a", "b"], pack);
    }
    world.now = world.now.after(5_000);
    assert_eq!(world.asks(2, purge("purged")), ["purged 2"]);
    assert_eq!(world.asks(2, delete("deleted")), ["deleted 2"]);
    world.settle_loads();
    assert!(world.packs.is_empty());
    world.asks(1, delete("purged"));
    world.assert_nothing_left();
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

const LARGE_BYTES: usize = 64 * 1024;
const MEMORY_MAX: usize = 4 * 1024 * 1024;
/// What consumers without a prefetch may bring beyond that: what each may have anyway, a load that
/// was on its way, and what entries and chunks take besides content.
const BEYOND_MAX: usize = LEASED_BYTES_MAX + 512 * 1024;

/// A world with large messages that only packs have, and with little memory for them.
fn crowded(queues: &[&str], count: usize) -> World {
    let mut world = World::new();
    for (pack, name) in (1..).zip(queues) {
        world.asks(1, queue(name));
        publish_cold(&mut world, name, &vec![&*"x".repeat(LARGE_BYTES); count], pack);
    }
    world.engine.set_memory_max(MEMORY_MAX);
    world
}

/// Brings all that is asked for, to clients that take what they are told. Says how many messages
/// that are, and how much memory they took at the most.
fn bring_all(world: &mut World) -> (usize, usize) {
    let (mut count, mut most) = (0, 0);
    for _ in 0..10_000 {
        count += world.delivered.len();
        most = most.max(world.engine.memory());
        if world.engine.can_resume() {
            world.resume();
        } else if !world.loads.is_empty() {
            world.answer(0, usize::MAX);
        } else if let Some((session, bytes)) = world.bytes.pop_first().filter(|it| it.0 > 0) {
            let others = std::mem::take(&mut world.bytes);
            world.asks(session, Operation::Taken { bytes });
            world.bytes.extend(others);
        } else if world.engine.deadline() == Some(Time(0)) {
            world.step(0, Chunk::default(), Vec::new());
        } else {
            return (count, most);
        }
    }
    panic!("it never ends");
}

#[test]
fn a_consumer_that_acknowledges_nothing_does_not_fill_memory() {
    let mut world = crowded(&["q"], 200);
    world.asks(2, consume("q", "c"));
    let (count, most) = bring_all(&mut world);
    assert!(most > MEMORY_MAX && most < MEMORY_MAX + BEYOND_MAX, "{most} bytes");
    assert!(count >= MEMORY_MAX / LARGE_BYTES - 2, "it may take what is allowed: {count}");
    // It goes on as it settles them.
    let (mut all, mut last) = (count, 0);
    while all < 200 {
        last += 1;
        world.asks(2, ack(last));
        let (count, most) = bring_all(&mut world);
        assert!(most < MEMORY_MAX + BEYOND_MAX, "{most} bytes");
        all += count;
    }
    world.asks(2, settle_all(0, Outcome::Accept));
    assert!(world.packs.is_empty());
}

#[test]
fn others_go_on_beside_a_consumer_that_acknowledges_nothing() {
    let mut world = crowded(&["hoarded", "others"], 100);
    world.asks(2, consume("hoarded", "c"));
    bring_all(&mut world);
    let ready = world.ready("hoarded");
    assert!(ready > 0);
    // One message at a time, for who settles it.
    for _ in 0..5 {
        for name in ["hoarded", "others"] {
            let asked = Operation::Get { queue: self::name(name), no_ack: true };
            world.asks(3, asked);
            bring_all(&mut world);
        }
    }
    assert_eq!((world.ready("hoarded"), world.ready("others")), (ready - 5, 95));
    // Who says how much is enough gets as much.
    world.asks(3, Operation::Prefetch { count: 30, shared: false });
    world.asks(3, consume("others", "limited"));
    assert_eq!(bring_all(&mut world).0, 30);
    assert_eq!(world.ready("others"), 65);
    world.asks(3, cancel("limited"));
    world.asks(3, settle_all(0, Outcome::Accept));
    // And who settles all at once: of the same queue, too.
    for name in ["others", "hoarded"] {
        world.asks(3, Consume { no_ack: true, ..consume(name, name) });
        bring_all(&mut world);
        assert_eq!(world.ready(name), 0);
    }
}

/// The consumer has its prefetch free at once, and the messages are in memory still.
#[test]
fn rejected_messages_that_wait_for_the_log_do_not_fill_memory() {
    let mut world = World::new();
    let mut arguments = FieldTable::new();
    arguments.insert(name("x-dead-letter-exchange"), "");
    arguments.insert(name("x-dead-letter-routing-key"), "dead");
    world.asks(1, DeclareQueue { durable: false, ..queue("dead") });
    world.asks(1, DeclareQueue { arguments, ..queue("q") });
    publish_cold(&mut world, "q", &vec![&*"x".repeat(LARGE_BYTES); 200], 1);
    world.engine.set_memory_max(MEMORY_MAX);
    world.asks(2, Operation::Prefetch { count: 2, shared: false });
    world.asks(2, consume("q", "c"));
    let reject_all = |world: &mut World| {
        for _ in 0..1_000 {
            let bytes = world.bytes.get(&2).copied().unwrap_or(0);
            world.asks(2, Operation::Taken { bytes });
            world.asks(2, settle_all(0, Outcome::Discard));
            while !world.loads.is_empty() {
                world.answer(0, usize::MAX);
            }
        }
    };
    world.engine.set_log_behind(true);
    reject_all(&mut world);
    let memory = world.engine.memory();
    assert!(memory > MEMORY_MAX && memory < MEMORY_MAX + BEYOND_MAX, "{memory} bytes");
    assert!(world.ready("q") > 100 && world.ready("dead") == 0);
    // The dead ones take as much memory, and it goes on: it has a prefetch.
    world.engine.set_log_behind(false);
    reject_all(&mut world);
    assert_eq!((world.ready("q"), world.ready("dead")), (0, 200));
}

#[test]
fn a_consumer_goes_on_when_somebody_else_gives_memory_back() {
    let mut world = crowded(&["first", "second"], 200);
    world.asks(2, consume("first", "a"));
    bring_all(&mut world);
    world.asks(3, consume("second", "b"));
    let (count, most) = bring_all(&mut world);
    // Enough to be of use, and no more.
    assert_eq!(count, LEASED_BYTES_MAX.div_ceil(LARGE_BYTES));
    assert!(most < MEMORY_MAX + 2 * BEYOND_MAX, "{most} bytes");
    world.asks(2, cancel("a"));
    assert_eq!(bring_all(&mut world).0, 0);
    world.asks(2, settle_all(0, Outcome::Accept));
    let before = world.ready("second");
    bring_all(&mut world);
    assert!(world.ready("second") < before - 20, "{} wait", world.ready("second"));
}

#[test]
fn who_asks_for_one_message_has_it_before_consumers_have_the_others() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    publish_cold(&mut world, "q", &["m1", "m2", "m3", "m4"], 1);
    world.asks(1, consume("q", "c"));
    for session in [2, 3] {
        assert!(world.asks(session, get("q")).is_empty(), "it waits");
    }
    world.answer(0, 3);
    assert!(world.delivered.is_empty());
    world.resume();
    assert_eq!((world.heard(2), world.heard(1)), (vec!["got #1 m1, 3 left".into()], vec![]));
    world.resume();
    assert_eq!(world.heard(3), ["got #1 m2, 2 left"]);
    assert_eq!(world.heard(1), ["c #1 m3"]);
    world.settle_loads();
    assert_eq!(world.ready("q"), 0);
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

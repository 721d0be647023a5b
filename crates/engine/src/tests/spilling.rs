//! Transient messages that leave memory, and come back as all others do.

use leveret_model::limits::SESSION_OUTPUT_BYTES_MAX;
use leveret_model::properties::Properties;
use leveret_model::{Chunk, FieldValue, Lsn, PackId, Position};
use leveret_record::{Record, Records};

use super::tools::*;
use super::world::*;
use crate::command::{Consume, DeclareQueue};
use crate::{Load, Loaded, Operation, Outcome};

/// Above the numbers of other packs.
const SPILLED: u64 = 1 << 63;

impl World {
    /// Everything transient that may leave memory does.
    fn spill(&mut self) -> bool {
        let spill = self.engine.survey_transient(u64::MAX);
        let pack = self.packs.keys().next_back().map_or(0, |id| id.0).max(SPILLED) + 1;
        self.spilled(PackId(pack), &spill)
    }

    fn publish_transient(&mut self, queue: &str, bodies: &[&str]) {
        self.publish_with("", queue, bodies, false, false);
    }

    /// Takes out what is ready in a queue, wherever it is.
    fn fetched(&mut self, queue: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            self.asks(2, Operation::Get { queue: name(queue), no_ack: true });
            self.settle_loads();
            let Some(body) = self.last_got.take() else { return all };
            all.push(body);
            self.asks(2, Operation::Taken { bytes: usize::MAX });
            self.settle_loads();
        }
    }

    /// Makes a pack of everything in the log that is live.
    fn pack(&mut self, id: u64) {
        let part = Lsn(0)..self.end;
        let survey = self.engine.survey(&part);
        assert!(self.adopt(PackId(id), &part, &survey));
    }

    fn settles(&self) -> usize {
        let records = self.log.iter().flat_map(|(_, records)| Records::new(records));
        records.filter(|record| matches!(record, Ok((_, Record::Settle { .. })))).count()
    }
}

fn transient(properties: Properties) -> Properties {
    Properties { delivery_mode: Some(1), ..properties }
}

#[test]
fn what_is_in_memory_in_packs_and_spilled_comes_in_order() {
    for order in 0..4 {
        let mut world = World::new();
        world.asks(1, queue("q"));
        world.engine.set_memory_target(0);
        let mut expected = Vec::new();
        for round in 0..4 {
            for (number, persistent) in [true, false, false, true, false].into_iter().enumerate() {
                let body = format!("{round}.{number}");
                world.publish_with("", "q", &[&body], persistent, false);
                expected.push(body);
            }
            match (order, round) {
                (_, 3) => {}
                (0, _) | (2, 0) | (3, 1) => assert!(world.spill()),
                (1, _) | (2, 1) => world.pack(1 + round),
                _ => {
                    world.pack(1 + round);
                    assert!(world.spill());
                }
            }
        }
        assert_eq!(world.ready("q"), 20);
        assert_eq!(world.fetched("q"), expected, "{order}");
        assert!(world.packs.is_empty());
        world.assert_nothing_left();
    }
}

#[test]
fn memory_and_the_logs_segments_are_given_up() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    let mut chunk = Chunk::default();
    put(&mut chunk, "", "q", "durable", true);
    put(&mut chunk, "", "q", "transient", false);
    let publish = Operation::Publish { first: 0, count: 2, mandatory: false, special: false };
    world.step(1, chunk, vec![(1, publish)]);
    world.asks(2, Operation::Get { queue: name("q"), no_ack: true });
    assert_eq!(world.pins.len(), 1, "the other message keeps it");
    assert!(world.engine.memory() > 0);
    assert!(world.spill());
    assert_eq!((world.engine.memory(), world.pins.len()), (0, 0));
    assert!(!world.spill(), "there is nothing more");
    assert_eq!(world.ready("q"), 1);
    let settled = world.settles();
    assert_eq!(world.fetched("q"), ["transient"]);
    assert_eq!(world.settles(), settled, "the log never knew of it");
    world.assert_nothing_left();
}

#[test]
fn messages_come_by_priority() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-max-priority", FieldValue::I32(5))]));
    for round in 0..2 {
        for priority in [1, 5, 0, 5] {
            let body = format!("{priority}.{round}");
            world.send("", "q", &transient(of_priority(priority)), &body);
            world.send("", "q", &of_priority(priority), &format!("{body} durable"));
        }
        assert!(world.spill());
    }
    let expected = [
        "5.0",
        "5.0 durable",
        "5.0",
        "5.0 durable",
        "5.1",
        "5.1 durable",
        "5.1",
        "5.1 durable",
        "1.0",
        "1.0 durable",
        "1.1",
        "1.1 durable",
        "0.0",
        "0.0 durable",
        "0.1",
        "0.1 durable",
    ];
    assert_eq!(world.fetched("q"), expected);
    world.assert_nothing_left();
}

#[test]
fn they_become_too_old_in_time() {
    let mut world = World::new();
    world.asks(1, queue("dead"));
    let arguments = and(&dead_to("dead"), &[("x-message-ttl", FieldValue::I32(80))]);
    world.asks(1, queue_with("q", &arguments));
    world.send("", "q", &transient(expiring_in("50")), "first");
    world.now = world.now.after(10);
    world.send("", "q", &transient(Properties::default()), "second");
    let survey = world.engine.survey_transient(u64::MAX);
    world.now = world.now.after(7);
    assert!(world.spilled(PackId(1), &survey), "also when it takes a while");
    for (pause, left) in [(32, 2), (1, 1), (39, 1), (1, 0)] {
        world.tick(pause);
        world.settle_loads();
        assert_eq!(world.ready("q"), left);
    }
    let dead = world.drain("dead");
    assert_eq!(dead.iter().map(|seen| &seen.body).collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(dead[0].deaths(), ["expired q 1"]);
    assert!(world.packs.is_empty());
    world.assert_nothing_left();
}

#[test]
fn what_is_purged_or_deleted_leaves_no_pack_and_no_record() {
    let ends: [fn() -> Operation; 2] = [|| purge("q"), || delete("q")];
    for (end, told) in ends.into_iter().zip(["purged 3", "deleted 3"]) {
        let mut world = World::new();
        world.asks(1, queue("q"));
        world.publish_transient("q", &["1", "2"]);
        assert!(world.spill());
        world.publish_transient("q", &["3"]);
        assert!(world.spill());
        world.publish_transient("q", &["4"]);
        assert_eq!(world.packs.len(), 2);
        // One of them is out, and one is on its way in.
        assert!(world.asks(2, get("q")).is_empty());
        world.answer(0, 1);
        world.resume();
        assert_eq!(world.last_got.as_deref(), Some("1"));
        assert_eq!(world.asks(3, end()), [told]);
        assert_eq!(world.settles(), 0);
        world.settle_loads();
        world.asks(2, ack(1));
        assert!(world.packs.is_empty());
        assert_eq!(world.settles(), 0);
        world.assert_nothing_left();
    }
}

#[test]
fn a_queue_goes_with_its_session_and_its_packs() {
    let mut world = World::new();
    let exclusive = DeclareQueue { durable: false, exclusive: true, ..queue("q") };
    world.asks(1, exclusive);
    world.publish("", "q", &["1", "2"]);
    assert!(world.spill());
    world.asks(1, Operation::Disconnect);
    assert!(!world.exists("q") && world.packs.is_empty());
    world.assert_nothing_left();
}

#[test]
fn the_oldest_goes_though_it_is_on_disk() {
    let mut world = World::new();
    world.asks(1, queue("dead"));
    let arguments = and(&dead_to("dead"), &[("x-max-length", FieldValue::I32(2))]);
    world.asks(1, queue_with("q", &arguments));
    world.publish_transient("q", &["1", "2"]);
    assert!(world.spill());
    world.publish_transient("q", &["3"]);
    assert_eq!(world.ready("q"), 3, "until it is there");
    world.settle_loads();
    assert_eq!(world.bodies("dead"), ["1"]);
    assert_eq!(world.fetched("q"), ["2", "3"]);
    world.assert_nothing_left();
}

#[test]
fn who_needs_one_waits_for_it_and_what_is_given_back_stays_in_memory() {
    let mut world = World::new();
    world.asks(1, DeclareQueue { durable: false, ..queue("q") });
    world.publish("", "q", &["1", "2", "3"]);
    assert!(world.spill());
    assert!(world.asks(2, get("q")).is_empty());
    assert!(world.asks(2, get("q")).is_empty(), "behind the other");
    assert_eq!(world.loads.len(), 1);
    world.settle_loads();
    assert_eq!(world.last_got.as_deref(), Some("2"));
    world.asks(2, settle_all(2, Outcome::Requeue));
    assert!(!world.spill(), "the pack has them");
    assert_eq!(world.packs.len(), 1);
    let got = ["got #3 1 again, 2 left", "got #4 2 again, 1 left", "got #5 3, 0 left"];
    for told in got {
        assert_eq!(world.asks(2, get("q")), [told]);
    }
    world.asks(2, settle_all(4, Outcome::Accept));
    assert_eq!(world.packs.len(), 1);
    world.asks(2, ack(5));
    assert!(world.packs.is_empty());
    world.assert_nothing_left();
}

#[test]
fn a_restart_knows_nothing_of_them() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    for (body, persistent) in [("1", true), ("2", false), ("3", true), ("4", false)] {
        world.publish_with("", "q", &[body], persistent, false);
    }
    assert!(world.spill());
    let mut snapshot = Vec::new();
    world.engine.snapshot(&mut snapshot);
    let packs = |record: &Record<'_>| matches!(record, Record::Pack(_) | Record::Extent(_));
    assert!(!Records::new(&snapshot).any(|record| packs(&record.unwrap().1)));
    assert_eq!(world.engine.packs().count(), 0);
    let mut later = world.restart();
    assert_eq!(later.bodies("q"), ["1", "3"]);
    later.assert_nothing_left();
    assert_eq!(world.fetched("q"), ["1", "2", "3", "4"]);
}

#[test]
fn what_is_delivered_next_stays() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(2, Operation::Prefetch { count: 1, shared: false });
    world.asks(2, consume("q", "c"));
    let body = "x".repeat(10_000);
    for _ in 0..20 {
        world.publish_transient("q", &[&body]);
    }
    assert!(world.spill());
    let left = world.engine.queues.values().map(|queue| queue.here().count()).sum::<usize>();
    assert!((5..10).contains(&left), "{left}");
    assert!(!world.spill(), "again nothing of it goes");
    for lease in 1..=20 {
        world.asks(2, ack(lease));
        world.settle_loads();
    }
    assert!(world.packs.is_empty());
    world.asks(2, cancel("c"));
    world.assert_nothing_left();
}

#[test]
fn the_largest_queues_go_first_and_one_message_is_written_once() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.asks(1, DeclareQueue { durable: false, ..queue(name) });
        world.asks(1, Operation::Bind(Box::new(binding(name, "amq.fanout", ""))));
    }
    world.publish("amq.fanout", "", &["1", "2"]);
    world.publish("", "b", &["more"]);
    let small = world.engine.survey_transient(1);
    let first: Vec<_> = small.messages().collect();
    let b = world.engine.queues.values().find(|queue| queue.name == *"b").unwrap().id;
    assert!(first.len() == 1 && first[0].2[..] == [(b, Position(0))]);
    let all = world.engine.survey_transient(u64::MAX);
    let targets: Vec<usize> = all.messages().map(|(_, _, targets)| targets.len()).collect();
    assert_eq!(targets, [3, 3, 1]);
    assert!(world.spilled(PackId(1), &all));
    assert_eq!(world.engine.memory(), 0);
    assert!(!world.spilled(PackId(2), &small), "it came too late");
    for (name, bodies) in [("a", &["1", "2"][..]), ("b", &["1", "2", "more"]), ("c", &["1", "2"])] {
        assert_eq!(world.fetched(name), bodies);
    }
    world.assert_nothing_left();
}

#[test]
fn one_that_cannot_be_read_is_lost_and_the_log_not_told() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.publish_transient("q", &["1", "2"]);
    assert!(world.spill());
    assert!(world.asks(2, get("q")).is_empty());
    let load: Load = world.loads.remove(0);
    assert!(!load.durable);
    let operation = Loaded { load, messages: Vec::new(), damaged: true };
    let operation = Operation::Loaded(Box::new(operation));
    world.step(0, Chunk::default(), vec![(0, operation)]);
    world.settle_loads();
    assert_eq!(world.last_got.as_deref(), Some("2"));
    world.asks(2, ack(1));
    assert_eq!(world.settles(), 0);
    assert!(world.packs.is_empty());
    world.assert_nothing_left();
}

#[test]
fn direct_replies_stay_in_memory() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(1, Consume { no_ack: true, ..consume("amq.rabbitmq.reply-to", "r") });
    let reply_to = Some(name("amq.rabbitmq.reply-to"));
    world.send("", "q", &Properties { reply_to, ..Properties::default() }, "request");
    let to = world.drain("q").remove(0).properties.reply_to.unwrap().to_string();
    // As much as the session is told before it has taken some.
    let body = "x".repeat(SESSION_OUTPUT_BYTES_MAX);
    for _ in 0..3 {
        world.send_as(2, ("", &to), &Properties::default(), &body, false);
    }
    assert!(world.engine.memory() > 0 && !world.spill());
}

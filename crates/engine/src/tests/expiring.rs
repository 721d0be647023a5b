//! What time does to messages and queues.

use super::tools::*;
use super::world::*;
use crate::command::{Consume, DeclareQueue};
use crate::{Operation, Outcome};
use leveret_model::limits::STEP_WORK_BYTES_MAX;
use leveret_model::{Chunk, FieldValue, Time};
use leveret_record::Record;

fn ttl(milliseconds: i32) -> (&'static str, FieldValue) {
    ("x-message-ttl", FieldValue::I32(milliseconds))
}

/// Queue `q` with these arguments, whose dead letters go to `dead`.
fn world(arguments: &[(&'static str, FieldValue)]) -> World {
    let mut world = World::new();
    world.asks(1, queue("dead"));
    world.asks(1, queue_with("q", &and(&dead_to("dead"), arguments)));
    world
}

#[test]
fn a_message_lives_as_long_as_the_shorter_of_two_limits() {
    let cases: [(Option<i32>, Option<&str>, Option<u64>); 7] = [
        (None, None, None),
        (Some(50), None, Some(50)),
        (None, Some("50"), Some(50)),
        (Some(50), Some("80"), Some(50)),
        (Some(80), Some("50"), Some(50)),
        (None, Some("+007"), Some(7)),
        (None, Some("315360000000"), Some(315_360_000_000)),
    ];
    for restarts in [false, true] {
        for (queue_has, message_has, expected) in cases {
            let mut world = world(&queue_has.map(ttl).into_iter().collect::<Vec<_>>());
            let sent = message_has.map_or_else(Default::default, expiring_in);
            world.send("", "q", &sent, "m");
            let due = expected.map(|lives| world.now.after(lives));
            if restarts {
                world.now = world.now.after(3);
                world = world.restart();
            }
            assert_eq!(world.engine.deadline(), due);
            let Some(due) = due else { continue };
            world.now = Time(due.0 - 1);
            assert_eq!(world.tick(0), 0);
            assert_eq!(world.ready("q"), 1);
            world.tick(1);
            assert_eq!((world.ready("q"), world.ready("dead")), (0, 1));
            assert_eq!(world.drain("dead")[0].deaths(), ["expired q 1"]);
            world.assert_nothing_left();
        }
    }
}

#[test]
fn each_queue_of_a_fan_out_has_its_own_limit_also_after_a_restart() {
    let mut world = World::new();
    let queues: [(&str, &[_]); 3] = [("none", &[]), ("long", &[ttl(80)]), ("short", &[ttl(20)])];
    for (name, arguments) in queues {
        world.asks(1, queue_with(name, arguments));
        world.asks(1, binding(name, "amq.fanout", ""));
    }
    world.publish("amq.fanout", "", &["plain"]);
    world.send("amq.fanout", "", &expiring_in("50"), "special");
    world.now = world.now.after(10);
    world = world.restart();
    let mut counts = Vec::new();
    for _ in 0..8 {
        counts.push(["none", "long", "short"].map(|name| world.ready(name)));
        world.tick(10);
    }
    // At 10, 20 and so on. In `none` the second message waits behind one that does not expire.
    let expected =
        [[2, 2, 2], [2, 2, 0], [2, 2, 0], [2, 2, 0], [2, 2, 0], [2, 2, 0], [2, 2, 0], [2, 0, 0]];
    assert_eq!(counts, expected);
    world.asks(2, get("none"));
    assert_eq!(world.ready("none"), 0, "it had long been too old");
}

#[test]
fn time_to_live_zero_is_for_consumers_that_are_ready() {
    for ready in [true, false] {
        let mut world = world(&[ttl(0)]);
        world.asks(1, Operation::SelectConfirms { reply: false });
        world.asks(2, Operation::Prefetch { count: 1, shared: false });
        world.asks(2, consume("q", "a"));
        if !ready {
            world.publish("", "q", &["first"]);
        }
        world.publish("", "q", &["m"]);
        let number = if ready { 1 } else { 2 };
        assert_eq!(world.durable, [format!("1: {number}-{number}")]);
        let expected = if ready { vec!["a #1 m"] } else { vec![] };
        assert_eq!(world.heard(2), expected);
        assert_eq!((world.ready("q"), world.ready("dead")), (0, usize::from(!ready)));
        world.asks(2, ack(1));
        world.drain("dead");
        world.assert_nothing_left();
    }
}

#[test]
fn an_expiration_of_zero_does_the_same_in_any_queue() {
    let mut world = world(&[]);
    world.send("", "q", &expiring_in("0"), "m1");
    assert_eq!(world.bodies("dead"), ["m1"]);
    world.asks(2, Consume { no_ack: true, ..consume("q", "a") });
    world.send("", "q", &expiring_in("0"), "m2");
    assert_eq!(world.heard(2), ["a #1 m2"]);
    world.assert_nothing_left();
}

#[test]
fn a_message_expires_only_at_the_head_of_its_queue() {
    let mut world = world(&[]);
    world.send("", "q", &expiring_in("100"), "long");
    world.send("", "q", &expiring_in("10"), "short");
    world.tick(50);
    assert_eq!(world.ready("q"), 2);
    assert_eq!(world.asks(2, get("q")), ["got #1 long, 1 left"]);
    assert_eq!(world.bodies("dead"), ["short"]);
    world.asks(2, ack(1));
    world.assert_nothing_left();
}

#[test]
fn a_consumer_gets_no_message_that_is_too_old() {
    let mut world = world(&[]);
    world.asks(2, Operation::Prefetch { count: 1, shared: false });
    world.asks(2, consume("q", "a"));
    world.publish("", "q", &["m1"]);
    world.send("", "q", &expiring_in("10"), "old");
    world.publish("", "q", &["m2"]);
    world.now = world.now.after(11);
    assert_eq!(world.asks(2, ack(1)), ["a #2 m2"]);
    assert_eq!(world.bodies("dead"), ["old"]);
}

#[test]
fn what_is_leased_does_not_expire_until_it_is_given_back() {
    let mut world = world(&[ttl(10)]);
    world.publish("", "q", &["m1", "m2"]);
    world.asks(2, get("q"));
    world.asks(2, get("q"));
    world.tick(5);
    world.asks(2, settle(1, Outcome::Requeue));
    assert_eq!(world.engine.deadline(), Some(Time(1_000_010)), "since it was published");
    world.tick(100);
    assert_eq!(world.bodies("dead"), ["m1"]);
    world.asks(2, settle(2, Outcome::Requeue));
    assert_eq!(world.bodies("dead"), ["m2"], "too old already");
    world.assert_nothing_left();
}

#[test]
fn a_tick_tells_consumers_of_the_dead_letter() {
    let mut world = world(&[ttl(10)]);
    world.asks(2, consume("dead", "a"));
    world.publish("", "q", &["m"]);
    assert_eq!(world.engine.deadline(), Some(Time(1_000_010)));
    assert_eq!(world.tick(10), 1);
    assert_eq!(world.heard(2), ["a #1 m"]);
    let records = world.records();
    let [Record::Publish { .. }, Record::Delivered { .. }, Record::Settle { .. }] = records[..]
    else {
        panic!("{records:?}")
    };
    assert_eq!(world.restart().ready("dead"), 1);
    world.asks(2, ack(1));
    world.assert_nothing_left();
}

#[test]
fn counts_leave_out_what_is_too_old() {
    let mut world = world(&[ttl(10)]);
    world.publish("", "q", &["m1", "m2"]);
    world.now = world.now.after(5);
    world.publish("", "q", &["m3"]);
    world.now = world.now.after(5);
    let same = queue_with("q", &and(&dead_to("dead"), &[ttl(10)]));
    let passive = DeclareQueue { passive: true, ..same };
    assert_eq!(world.asks(2, passive), ["queue q: 1 ready, 0 consumers"]);
    world.now = world.now.after(5);
    assert_eq!(world.asks(2, purge("q")), ["purged 0"]);
    assert_eq!(world.bodies("dead"), ["m1", "m2", "m3"]);
}

/// Ticks with nothing to do, until the deadline is this many milliseconds from the start.
fn unused_until(world: &World, milliseconds: u64) -> bool {
    world.engine.deadline().is_some_and(|at| at <= Time(1_000_000 + milliseconds))
        && world.exists("e")
}

#[test]
fn a_queue_that_nobody_uses_goes_with_its_messages() {
    let mut world = World::new();
    world.asks(1, queue("dead"));
    let arguments = and(&dead_to("dead"), &[("x-expires", 100.into())]);
    world.asks(1, queue_with("e", &arguments));
    world.asks(1, binding("e", "amq.fanout", ""));
    world.publish("", "e", &["m"]);
    world.tick(99);
    assert!(world.exists("e"), "publishing is no use");
    world.tick(1);
    assert!(!world.exists("e"));
    let [Record::DeleteQueue { .. }] = world.records()[..] else { panic!() };
    assert_eq!(world.bodies("dead"), [""; 0], "no dead letters");
    assert!(!world.restart().exists("e"));
    world.publish("amq.fanout", "", &["m"]);
    world.assert_nothing_left();
}

#[test]
fn use_of_a_queue_puts_off_its_end() {
    let declare = || queue_with("e", &[("x-expires", FieldValue::I32(100))]);
    let uses: [fn() -> Operation; 3] = [
        || get("e"),
        || queue_with("e", &[("x-expires", FieldValue::I32(100))]).into(),
        || DeclareQueue { passive: true, ..queue("e") }.into(),
    ];
    for using in uses {
        let mut world = World::new();
        world.asks(1, declare());
        world.tick(60);
        world.asks(2, using());
        world.tick(60);
        assert!(unused_until(&world, 160));
        world.tick(39);
        assert!(world.exists("e"));
        world.tick(1);
        assert!(!world.exists("e"));
        world.assert_nothing_left();
    }
}

#[test]
fn a_queue_with_consumers_is_used() {
    let mut world = World::new();
    world.asks(1, queue_with("e", &[("x-expires", 100.into())]));
    world.asks(2, consume("e", "a"));
    world.asks(2, consume("e", "b"));
    world.publish("", "e", &["m"]);
    world.tick(500);
    world.asks(2, cancel("a"));
    world.tick(500);
    assert_eq!(world.engine.deadline(), None);
    world.asks(2, Operation::Close);
    world.tick(99);
    assert!(world.exists("e"));
    world.tick(1);
    assert!(!world.exists("e"), "since its last consumer went");
    world.assert_nothing_left();
}

#[test]
fn after_a_restart_a_queue_has_its_whole_time_again() {
    let mut world = World::new();
    world.asks(1, queue_with("e", &[("x-expires", 100.into())]));
    world.tick(90);
    let mut world = world.restart();
    world.tick(99);
    assert!(world.exists("e"));
    world.tick(1);
    assert!(!world.exists("e"));
}

#[test]
fn a_session_hears_nothing_when_its_exclusive_queue_expires() {
    let mut world = World::new();
    let declare = queue_with("e", &[("x-expires", 100.into())]);
    world.asks(1, DeclareQueue { exclusive: true, ..declare });
    world.tick(100);
    assert!(!world.exists("e"));
    assert_eq!(world.heard(1), [""; 0]);
    assert_eq!(world.asks(1, Operation::Disconnect), ["Disconnected"]);
    world.assert_nothing_left();
}

#[test]
fn a_hundred_thousand_at_once_take_several_steps_each_of_them_bounded() {
    for letters in [true, false] {
        let mut world = World::new();
        world.asks(1, queue("dead"));
        let more: &[_] = if letters { &dead_to("dead") } else { &[] };
        world.asks(1, queue_with("q", &and(more, &[ttl(10)])));
        let count = 100_000;
        let mut chunk = Chunk::default();
        for number in 0..count {
            put(&mut chunk, "", "q", &format!("{number:0>20}"), true);
        }
        let publish = Operation::Publish { first: 0, count, mandatory: false, special: false };
        world.step(1, chunk, vec![(1, publish)]);
        world.now = world.now.after(10);
        let (mut steps, mut left) = (0, count as usize);
        while left > 0 || world.ready("dead") < if letters { count as usize } else { 0 } {
            assert!(world.engine.deadline().is_some_and(|at| at <= world.now), "at once");
            world.step(0, Chunk::default(), Vec::new());
            assert!(left - world.ready("q") <= STEP_WORK_BYTES_MAX / 64, "in one step");
            assert!(world.log.last().unwrap().1.len() < 5 * STEP_WORK_BYTES_MAX);
            left = world.ready("q");
            steps += 1;
            assert!(steps < 1_000);
        }
        assert!(steps > 5, "{steps}");
        assert_eq!(world.engine.deadline(), None);
        if letters {
            world.asks(3, get("dead"));
            assert_eq!(world.seen[0].body, format!("{:0>20}", 0));
            world.asks(3, purge("dead"));
            world.asks(3, ack(1));
        }
        world.assert_nothing_left();
    }
}

/// What is left to do for expired messages does not keep a client from its answers.
#[test]
fn a_step_that_has_done_its_share_still_answers() {
    let mut world = world(&[ttl(10)]);
    let body = "x".repeat(STEP_WORK_BYTES_MAX);
    world.publish("", "q", &[&*body; 4]);
    world.now = world.now.after(10);
    world.asks(1, queue("other"));
    world.publish("", "other", &["m"]);
    assert_eq!(world.asks(2, get("other")), ["got #1 m, 0 left"]);
    world.tick(0);
    assert_eq!((world.ready("q"), world.ready("dead")), (0, 4));
}

#[test]
fn a_consumer_gets_what_is_fresh_behind_much_that_is_too_old() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    for _ in 0..STEP_WORK_BYTES_MAX / 64 + 1_000 {
        world.send("", "q", &expiring_in("10"), "old");
    }
    world.publish("", "q", &["fresh"]);
    world.now = world.now.after(11);
    world.asks(2, consume("q", "a"));
    assert_eq!(world.heard(2), ["consuming a"], "not all in one step");
    world.tick(0);
    assert_eq!(world.heard(2), ["a #1 fresh"]);
    world.asks(2, ack(1));
    world.assert_nothing_left();
}

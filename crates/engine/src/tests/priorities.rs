//! Who comes first: messages, and consumers.

use super::tools::*;
use super::world::*;
use crate::command::Consume;
use crate::{Operation, Outcome};
use leveret_model::FieldValue;

fn levels(max: i32) -> (&'static str, FieldValue) {
    ("x-max-priority", FieldValue::I32(max))
}

/// Queue `q` with these arguments, and messages named by their priority and number.
fn filled(arguments: &[(&str, FieldValue)], priorities: &[u8]) -> World {
    let mut world = World::new();
    world.asks(1, queue_with("q", arguments));
    for (priority, number) in priorities.iter().zip(1..) {
        world.send("", "q", &of_priority(*priority), &format!("{priority}.{number}"));
    }
    world
}

#[test]
fn messages_come_by_priority_and_then_in_order() {
    let quorum = ("x-queue-type", FieldValue::from("quorum"));
    let cases: [(Arguments<'_>, &[u8], &[&str]); 6] = [
        (&[], &[1, 9, 0], &["1.1", "9.2", "0.3"]),
        (&[levels(10)], &[1, 9, 0, 9, 1], &["9.2", "9.4", "1.1", "1.5", "0.3"]),
        (&[levels(2)], &[2, 9, 1, 2, 200], &["2.1", "9.2", "2.4", "200.5", "1.3"]),
        (&[levels(0)], &[0, 1, 5, 0], &["1.2", "5.3", "0.1", "0.4"]),
        (&[levels(255)], &[254, 255], &["255.2", "254.1"]),
        (&[quorum], &[5, 31, 0, 32, 4], &["31.2", "32.4", "5.1", "4.5", "0.3"]),
    ];
    for (arguments, published, expected) in cases {
        let mut world = filled(arguments, published);
        assert_eq!(world.restart().bodies("q"), expected, "after a restart, {arguments:?}");
        assert_eq!(world.bodies("q"), expected, "{arguments:?}");
        world.assert_nothing_left();
    }
}

#[test]
fn a_message_without_a_priority_has_the_lowest() {
    let mut world = filled(&[levels(5)], &[1]);
    world.publish("", "q", &["none"]);
    world.send("", "q", &of_priority(0), "zero");
    assert_eq!(world.bodies("q"), ["1.1", "none", "zero"]);
}

#[test]
fn a_requeued_message_returns_to_its_place_among_its_equals() {
    let mut world = filled(&[levels(5)], &[3, 3, 3, 1]);
    for _ in 0..3 {
        world.asks(2, get("q"));
    }
    world.send("", "q", &of_priority(3), "3.5");
    world.send("", "q", &of_priority(4), "4.6");
    world.asks(2, settle(2, Outcome::Requeue));
    world.asks(2, settle(1, Outcome::Requeue));
    assert_eq!(world.bodies("q"), ["4.6", "3.1", "3.2", "3.5", "1.4"]);
}

#[test]
fn a_full_queue_drops_the_first_of_the_highest() {
    let arguments = [levels(5), ("x-max-length", 3.into())];
    let mut world = filled(&arguments, &[1, 5, 5, 0]);
    assert_eq!(world.bodies("q"), ["5.3", "1.1", "0.4"]);
    world.assert_nothing_left();
}

#[test]
fn only_the_head_of_the_highest_expires() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[levels(5)]));
    let mut low = of_priority(1);
    low.expiration = Some(name("10"));
    world.send("", "q", &low, "low");
    world.send("", "q", &of_priority(2), "high");
    world.tick(20);
    assert_eq!(world.ready("q"), 2);
    assert_eq!(world.bodies("q"), ["high"]);
    world.assert_nothing_left();
}

#[test]
fn a_purge_takes_all_levels() {
    let mut world = filled(&[levels(5)], &[0, 1, 2, 3, 9]);
    assert_eq!(world.asks(2, purge("q")), ["purged 5"]);
    assert_eq!(world.bodies("q"), [""; 0]);
    world.send("", "q", &of_priority(2), "new");
    assert_eq!(world.bodies("q"), ["new"]);
    world.assert_nothing_left();
}

#[test]
fn a_dead_letter_keeps_its_priority() {
    let mut world = World::new();
    let arguments = and(&dead_to("dead"), &[("x-max-length", 0.into())]);
    world.asks(1, queue_with("q", &arguments));
    world.asks(1, queue_with("dead", &[levels(5)]));
    for priority in [1, 4, 2] {
        world.send("", "q", &of_priority(priority), &priority.to_string());
    }
    assert_eq!(world.restart().bodies("dead"), ["4", "2", "1"]);
    assert_eq!(world.bodies("dead"), ["4", "2", "1"]);
}

fn consumer(tag: &str, priority: i32) -> Consume {
    consume_with("q", tag, &[("x-priority", priority.into())])
}

fn one_at_a_time(world: &mut World, sessions: &[u64]) {
    for session in sessions {
        world.asks(*session, Operation::Prefetch { count: 1, shared: false });
    }
}

/// What all sessions were told by the last step.
fn all_told(world: &World) -> Vec<String> {
    world.told.values().flatten().cloned().collect()
}

#[test]
fn a_message_goes_to_the_highest_consumer_that_can_take_it() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    one_at_a_time(&mut world, &[1, 2, 3]);
    world.asks(1, consumer("low", -5));
    world.asks(2, consume("q", "none"));
    world.asks(3, consumer("high", 10));
    world.publish("", "q", &["1", "2", "3", "4"]);
    assert_eq!(all_told(&world), ["low #1 3", "none #1 2", "high #1 1"]);
    world.asks(1, ack(1));
    assert_eq!(all_told(&world), ["low #2 4"]);
    world.asks(2, ack(1));
    world.asks(3, ack(1));
    world.publish("", "q", &["5", "6"]);
    assert_eq!(all_told(&world), ["none #2 6", "high #2 5"]);
}

#[test]
fn the_highest_gets_all_as_long_as_it_takes_them() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(2, consumer("low", 1));
    world.asks(3, consumer("high", 2));
    world.publish("", "q", &["1", "2", "3"]);
    assert_eq!(all_told(&world), ["high #1 1", "high #2 2", "high #3 3"]);
    world.asks(3, cancel("high"));
    world.publish("", "q", &["4"]);
    assert_eq!(all_told(&world), ["low #1 4"]);
}

#[test]
fn equals_take_turns_whatever_a_higher_one_takes() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(1, consume("q", "a"));
    world.asks(2, consume("q", "b"));
    one_at_a_time(&mut world, &[3]);
    world.asks(3, consumer("high", 1));
    let mut got = [0, 0];
    for round in 1..=10 {
        world.publish("", "q", &["m", "m"]);
        got[0] += world.heard(1).len();
        got[1] += world.heard(2).len();
        assert_eq!(world.heard(3).len(), 1);
        world.asks(3, ack(round));
    }
    assert_eq!(got, [5, 5]);
}

#[test]
fn any_integer_is_a_consumers_priority() {
    for value in [FieldValue::I8(-1), FieldValue::U32(7), FieldValue::I64(i64::MIN)] {
        let mut world = World::new();
        world.asks(1, queue("q"));
        let told = world.asks(2, consume_with("q", "a", &[("x-priority", value)]));
        assert_eq!(told, ["consuming a"]);
    }
}

/// A queue with a single active consumer, and one of session 1, 2 and 3 each.
fn single(kind: &str) -> World {
    let mut world = World::new();
    let arguments = [("x-single-active-consumer", true.into()), ("x-queue-type", kind.into())];
    world.asks(1, queue_with("q", &arguments));
    for (session, tag) in [(1, "a"), (2, "b"), (3, "c")] {
        assert_eq!(world.asks(session, consume("q", tag)), [format!("consuming {tag}")]);
    }
    world
}

#[test]
fn one_consumer_at_a_time_is_active_and_the_next_follows() {
    for kind in ["classic", "quorum"] {
        let mut world = single(kind);
        world.publish("", "q", &["1", "2"]);
        assert_eq!(all_told(&world), ["a #1 1", "a #2 2"]);
        world.asks(1, cancel("a"));
        world.publish("", "q", &["3"]);
        assert_eq!(all_told(&world), ["b #1 3"], "what the first one has stays with it");
        world.asks(1, settle(1, Outcome::Requeue));
        assert_eq!(all_told(&world), ["b #2 1 again"]);
        world.asks(2, Operation::Disconnect);
        assert_eq!(world.heard(3), ["c #1 1 again", "c #2 3 again"]);
        world.asks(3, cancel("c"));
        world.publish("", "q", &["4"]);
        assert_eq!(all_told(&world), [""; 0]);
        assert_eq!(world.asks(3, consume("q", "d")), ["consuming d", "d #3 4"]);
    }
}

#[test]
fn the_others_wait_also_while_the_active_one_takes_nothing() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-single-active-consumer", true.into())]));
    one_at_a_time(&mut world, &[1]);
    world.asks(1, consume("q", "a"));
    world.asks(2, consumer("b", 10));
    world.publish("", "q", &["1", "2"]);
    assert_eq!(all_told(&world), ["a #1 1"], "a higher one does not drive it out");
    world.asks(1, ack(1));
    assert_eq!(all_told(&world), ["a #2 2"]);
}

#[test]
fn the_highest_of_those_that_wait_follows_and_then_the_first() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-single-active-consumer", true.into())]));
    for (tag, priority) in [("a", 0), ("b", 1), ("c", 7), ("d", 7), ("e", 1)] {
        world.asks(2, consumer(tag, priority));
    }
    let mut order = Vec::new();
    for tag in ["a", "c", "d", "b", "e"] {
        world.publish("", "q", &["m"]);
        order.push(all_told(&world)[0][..1].to_owned());
        world.asks(2, cancel(tag));
    }
    assert_eq!(order, ["a", "c", "d", "b", "e"]);
}

#[test]
fn a_consumer_that_waited_can_be_cancelled() {
    let mut world = single("classic");
    world.asks(2, cancel("b"));
    world.asks(1, Operation::Close);
    world.asks(1, Operation::Open);
    world.publish("", "q", &["1"]);
    assert_eq!(all_told(&world), ["c #1 1"]);
}

#[test]
fn no_consumer_is_exclusive_where_one_is_active_at_a_time() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-single-active-consumer", true.into())]));
    let told = world.asks(2, Consume { exclusive: true, ..consume("q", "a") });
    assert_eq!(told, ["refused: queue 'q' in vhost '/' in exclusive use"]);
}

#[test]
fn fetching_is_for_classic_queues_with_a_single_active_consumer() {
    for (kind, expected) in [
        ("classic", "got #1 m, 0 left"),
        (
            "quorum",
            "refused: cannot obtain access to locked queue 'q' in vhost '/'. basic.get \
             operations are not supported by <<\"quorum\">> queues with single active consumer",
        ),
    ] {
        let mut world = single(kind);
        one_at_a_time(&mut world, &[]);
        for session in [1, 2, 3] {
            world.asks(session, Operation::Close);
        }
        world.asks(1, Operation::Open);
        world.publish("", "q", &["m"]);
        assert_eq!(world.asks(1, get("q")), [expected]);
    }
}

#[test]
fn a_false_single_active_consumer_means_nothing() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-single-active-consumer", false.into())]));
    world.asks(2, consume("q", "a"));
    world.asks(3, consume("q", "b"));
    world.publish("", "q", &["1", "2"]);
    assert_eq!(all_told(&world), ["a #1 1", "b #1 2"]);
}

#[test]
fn an_active_consumer_that_took_nothing_more_is_followed_too() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-single-active-consumer", true.into())]));
    one_at_a_time(&mut world, &[1]);
    world.asks(1, consume("q", "a"));
    world.asks(2, consume("q", "b"));
    world.publish("", "q", &["1", "2"]);
    world.asks(1, cancel("a"));
    assert_eq!(world.heard(2), ["b #1 2"]);
    world.asks(1, ack(1));
    world.publish("", "q", &["3"]);
    assert_eq!(all_told(&world), ["b #2 3"]);
}

#[test]
fn a_consumer_that_can_take_again_stands_behind_its_equals() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    one_at_a_time(&mut world, &[1, 2, 3]);
    for (session, tag) in [(1, "a"), (2, "b"), (3, "c")] {
        world.asks(session, consume("q", tag));
    }
    world.publish("", "q", &["1", "2"]);
    world.asks(1, ack(1));
    world.publish("", "q", &["3", "4"]);
    assert_eq!(all_told(&world), ["a #2 4", "c #1 3"]);
}

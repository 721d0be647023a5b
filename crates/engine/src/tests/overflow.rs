//! Queues that are full: what goes, what is not taken, and who hears of it.

use super::tools::*;
use super::world::*;
use crate::{Operation, Outcome};
use leveret_model::properties::Properties;
use leveret_model::{Chunk, FieldValue};
use leveret_record::Record;

const LENGTH: &str = "x-max-length";
const BYTES: &str = "x-max-length-bytes";

/// Queue `q` with these arguments, whose dead letters go to `dead`.
fn world(arguments: Arguments<'_>) -> World {
    let mut world = World::new();
    world.asks(1, queue("dead"));
    world.asks(1, queue_with("q", &and(&dead_to("dead"), arguments)));
    world
}

fn rejecting(length: i32) -> Vec<(&'static str, FieldValue)> {
    vec![(LENGTH, length.into()), ("x-overflow", "reject-publish".into())]
}

fn confirms(world: &mut World) {
    world.asks(1, Operation::SelectConfirms { reply: false });
}

#[test]
fn the_oldest_goes_where_there_is_no_room() {
    // Limits, what is published at once, and what is left of it. The rest is dead-lettered.
    let cases: [(Arguments<'_>, &[&str], &[&str]); 8] = [
        (&[(LENGTH, FieldValue::I32(2))], &["1", "2", "3", "4"], &["3", "4"]),
        (&[(LENGTH, FieldValue::I32(0))], &["1", "2"], &[]),
        (&[(BYTES, FieldValue::I32(4))], &["aa", "bb", "c"], &["bb", "c"]),
        (&[(BYTES, FieldValue::I32(4))], &["aa", "bb"], &["aa", "bb"]),
        (&[(BYTES, FieldValue::I32(4))], &["a", "b", "c", "dddd"], &["dddd"]),
        (&[(BYTES, FieldValue::I32(4))], &["a", "eeeee"], &[]),
        (&[(BYTES, FieldValue::I32(0))], &["", "a", ""], &[""]),
        (
            &[(LENGTH, FieldValue::I32(2)), (BYTES, FieldValue::I32(4))],
            &["1", "2", "3", "444"],
            &["3", "444"],
        ),
    ];
    for (arguments, published, left) in cases {
        for kind in ["classic", "quorum"] {
            let mut world = world(&and(arguments, &[("x-queue-type", kind.into())]));
            confirms(&mut world);
            world.publish("", "q", published);
            assert_eq!(world.durable, [format!("1: 1-{}", published.len())], "all confirmed");
            assert_eq!(world.heard(1), [""; 0]);
            let again = world.restart().bodies("q");
            assert_eq!(again, left);
            assert_eq!(world.bodies("q"), left);
            let dead = world.drain("dead");
            let gone = &published[..published.len() - left.len()];
            assert_eq!(dead.iter().map(|each| &*each.body).collect::<Vec<_>>(), gone);
            assert!(dead.iter().all(|each| each.deaths() == ["maxlen q 1"]));
            world.assert_nothing_left();
        }
    }
}

#[test]
fn headers_and_keys_count_for_nothing() {
    let mut world = world(&[(BYTES, 4.into())]);
    let long = "x".repeat(200);
    let sent = Properties { message_id: Some(name(&long)), ..with_headers(&[("a", 1.into())]) };
    for body in ["ab", "cd"] {
        world.send("", "q", &sent, body);
    }
    assert_eq!(world.ready("q"), 2);
}

#[test]
fn no_message_is_settled_in_the_log_before_it_is_there() {
    for length in [0, 1, 2] {
        let mut world = world(&[(LENGTH, length.into())]);
        world.asks(1, binding("q", "amq.fanout", ""));
        world.asks(1, binding("dead", "amq.fanout", ""));
        world.publish("amq.fanout", "", &["1", "2", "3", "4"]);
        let mut known = Vec::new();
        let mut settled = 0;
        for record in world.records() {
            match record {
                Record::Publish { targets, .. } => known.extend(targets),
                Record::Settle { queue, first, count } => {
                    for at in first.0..first.0 + count {
                        let entry = (queue, leveret_model::Position(at));
                        assert!(known.contains(&entry), "{entry:?} is not there yet");
                        settled += 1;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(settled, 4 - usize::try_from(length).unwrap());
    }
}

#[test]
fn what_a_consumer_has_does_not_count() {
    for overflow in ["drop-head", "reject-publish"] {
        let mut world = world(&[(LENGTH, 1.into()), ("x-overflow", overflow.into())]);
        confirms(&mut world);
        world.asks(2, Operation::Prefetch { count: 2, shared: false });
        world.asks(2, consume("q", "a"));
        world.publish("", "q", &["1", "2", "3", "4"]);
        assert_eq!(world.heard(2), ["a #1 1", "a #2 2"], "{overflow}");
        let (left, rejected, dead): (_, &[&str], &[&str]) = match overflow {
            "drop-head" => ("4", &[], &["3"]),
            _ => ("3", &["rejected 4-4"], &[]),
        };
        assert_eq!(world.heard(1), rejected);
        assert_eq!(world.bodies("q"), [left]);
        assert_eq!(world.bodies("dead"), dead);
    }
}

#[test]
fn a_queue_of_no_length_hands_over_what_a_consumer_takes_at_once() {
    let mut world = world(&[(LENGTH, 0.into())]);
    world.asks(2, Operation::Prefetch { count: 1, shared: false });
    world.asks(2, consume("q", "a"));
    world.publish("", "q", &["1", "2"]);
    assert_eq!(world.heard(2), ["a #1 1"]);
    assert_eq!(world.bodies("dead"), ["2"]);
}

#[test]
fn a_queue_of_no_length_that_rejects_rejects_all() {
    let mut world = world(&rejecting(0));
    confirms(&mut world);
    world.asks(2, consume("q", "a"));
    assert_eq!(world.publish("", "q", &["1", "2"]), ["rejected 1-2"]);
    assert_eq!(world.heard(2), [""; 0]);
    assert!(world.records().is_empty());
    world.assert_nothing_left();
}

#[test]
fn rejections_keep_the_numbers_of_what_is_taken() {
    let mut world = world(&rejecting(2));
    confirms(&mut world);
    assert_eq!(world.publish("", "q", &["1", "2", "3", "4", "5"]), ["rejected 3-5"]);
    assert_eq!(world.durable, ["1: 1-2"]);
    assert_eq!(world.records().len(), 2);
    world.asks(2, get("q"));
    assert_eq!(world.publish("", "q", &["6", "7"]), ["rejected 7-7"]);
    assert_eq!(world.durable, ["1: 6-6"]);
    let mut chunk = Chunk::default();
    for (to, body) in [("q", "8"), ("dead", "9"), ("q", "10"), ("nowhere", "11"), ("q", "12")] {
        put(&mut chunk, "", to, body, to != "dead");
    }
    let publish = Operation::Publish { first: 0, count: 5, mandatory: false, special: false };
    world.step(1, chunk, vec![(1, publish)]);
    let told =
        ["rejected 8-8", "confirmed 9-9", "rejected 10-10", "confirmed 11-11", "rejected 12-12"];
    assert_eq!(world.heard(1), told);
}

#[test]
fn one_full_queue_rejects_and_the_others_keep_the_message() {
    let mut world = world(&rejecting(1));
    confirms(&mut world);
    for name in ["q", "dead"] {
        world.asks(1, binding(name, "amq.fanout", ""));
    }
    world.publish("amq.fanout", "", &["1"]);
    assert_eq!(world.publish_with("amq.fanout", "", &["2"], true, true), ["rejected 2-2"]);
    assert!(world.durable.is_empty());
    let [Record::Publish { targets, .. }] = world.records()[..] else { panic!() };
    assert_eq!(targets.into_iter().count(), 1);
    let mut again = world.restart();
    assert_eq!(
        (again.bodies("q"), again.bodies("dead")),
        (vec!["1".into()], vec!["1".to_owned(), "2".to_owned()])
    );
}

#[test]
fn who_wants_no_confirms_hears_of_no_rejection() {
    let mut world = world(&rejecting(0));
    assert_eq!(world.publish_with("", "q", &["1"], true, true), [""; 0]);
    world.assert_nothing_left();
}

#[test]
fn bodies_that_are_too_much_are_rejected() {
    let mut world = world(&[(BYTES, 4.into()), ("x-overflow", "reject-publish".into())]);
    confirms(&mut world);
    assert_eq!(
        world.publish("", "q", &["aaa", "bb", "c", "d", "eeeee"]),
        ["rejected 2-2", "rejected 4-5"]
    );
    assert_eq!(world.bodies("q"), ["aaa", "c"]);
}

#[test]
fn a_rejected_message_may_become_a_dead_letter() {
    let mut world = world(&[(LENGTH, 1.into()), ("x-overflow", "reject-publish-dlx".into())]);
    confirms(&mut world);
    assert_eq!(world.publish("", "q", &["1", "2", "3"]), ["rejected 2-3"]);
    assert_eq!(world.bodies("q"), ["1"]);
    let dead = world.drain("dead");
    assert_eq!(dead.iter().map(|each| &*each.body).collect::<Vec<_>>(), ["2", "3"]);
    assert_eq!(dead[0].deaths(), ["maxlen q 1"]);
    world.assert_nothing_left();
}

#[test]
fn without_an_exchange_for_letters_a_rejected_message_is_just_rejected() {
    let mut world = World::new();
    let arguments = [(LENGTH, 0.into()), ("x-overflow", "reject-publish-dlx".into())];
    world.asks(1, queue_with("q", &arguments));
    confirms(&mut world);
    assert_eq!(world.publish("", "q", &["1"]), ["rejected 1-1"]);
    world.assert_nothing_left();
}

#[test]
fn a_quorum_queue_drops_the_oldest_where_a_classic_one_would_write_letters() {
    let mut world = world(&[
        (LENGTH, 1.into()),
        ("x-overflow", "reject-publish-dlx".into()),
        ("x-queue-type", "quorum".into()),
    ]);
    confirms(&mut world);
    assert_eq!(world.publish("", "q", &["1", "2"]), [""; 0]);
    assert_eq!((world.bodies("q"), world.bodies("dead")), (vec!["2".into()], vec!["1".into()]));
}

#[test]
fn a_requeued_message_is_the_first_to_go() {
    let mut world = world(&[(LENGTH, 1.into())]);
    world.publish("", "q", &["1"]);
    world.asks(2, get("q"));
    world.publish("", "q", &["2"]);
    world.asks(2, settle(1, Outcome::Requeue));
    assert_eq!((world.bodies("q"), world.bodies("dead")), (vec!["2".into()], vec!["1".into()]));
    world.assert_nothing_left();
}

#[test]
fn a_requeued_message_is_never_rejected() {
    let mut world = world(&rejecting(1));
    confirms(&mut world);
    world.publish("", "q", &["1"]);
    world.asks(2, get("q"));
    world.publish("", "q", &["2"]);
    world.asks(2, settle(1, Outcome::Requeue));
    assert_eq!(world.ready("q"), 2);
    assert_eq!(world.publish("", "q", &["3"]), ["rejected 3-3"]);
    assert_eq!(world.bodies("q"), ["1", "2"]);
}

#[test]
fn bytes_are_counted_through_everything_that_can_happen() {
    let arguments = [(BYTES, 10.into()), ("x-overflow", "reject-publish".into())];
    /// Whether six bytes more are taken.
    fn takes_six(world: &mut World) -> bool {
        confirms(world);
        world.publish("", "q", &["abcdef"]).is_empty()
    }
    type Change = fn(&mut World);
    let cases: [(Change, bool); 8] = [
        (|_| {}, false),
        (|world| drop(world.asks(2, get("q"))), true),
        (
            |world| {
                world.asks(2, get("q"));
                world.asks(2, settle(1, Outcome::Requeue));
            },
            false,
        ),
        (
            |world| {
                world.asks(2, get("q"));
                *world = world.restart();
            },
            false,
        ),
        (|world| drop(world.asks(1, purge("q"))), true),
        (|world| drop(world.bodies("q")), true),
        (
            |world| {
                world.asks(2, consume("q", "a"));
                world.asks(2, Operation::Close);
            },
            false,
        ),
        (
            |world| {
                world.bodies("q");
                world.publish("", "q", &["abcde"]);
                *world = world.restart();
            },
            false,
        ),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let mut world = world(&arguments);
        world.publish("", "q", &["abcde"]);
        change(&mut world);
        assert_eq!(takes_six(&mut world), expected, "case {number}");
    }
}

#[test]
fn a_full_queue_takes_no_dead_letters_either() {
    for (kind, expected) in [("classic", 1), ("quorum", 2)] {
        let mut world = World::new();
        let kind = [("x-queue-type", kind.into())];
        world.asks(1, queue_with("dead", &and(&rejecting(1), &kind)));
        world.asks(1, queue_with("q", &and(&dead_to("dead"), &[(LENGTH, 0.into())])));
        confirms(&mut world);
        world.publish("", "q", &["1", "2"]);
        assert_eq!(world.durable, ["1: 1-2"], "their publisher has nothing to do with it");
        assert_eq!(world.drain("dead").len(), expected, "{kind:?}");
        world.assert_nothing_left();
    }
}

#[test]
fn what_is_too_old_takes_no_room() {
    for overflow in ["drop-head", "reject-publish"] {
        let mut world = world(&[
            (LENGTH, 1.into()),
            ("x-overflow", overflow.into()),
            ("x-message-ttl", 10.into()),
        ]);
        confirms(&mut world);
        world.publish("", "q", &["1"]);
        world.now = world.now.after(10);
        assert_eq!(world.publish("", "q", &["2"]), [""; 0], "{overflow}");
        assert_eq!(world.bodies("q"), ["2"]);
        assert_eq!(world.drain("dead")[0].deaths(), ["expired q 1"]);
    }
}

#[test]
fn a_queue_is_held_to_its_limit_again_after_a_restart() {
    for kind in ["classic", "quorum"] {
        let mut world = world(&[(LENGTH, 2.into()), ("x-queue-type", kind.into())]);
        world.asks(2, consume("q", "a"));
        world.publish("", "q", &["1", "2"]);
        world.asks(2, cancel("a"));
        world.publish("", "q", &["3", "4"]);
        assert_eq!(world.ready("q"), 2, "two more are out on leases");
        let mut world = world.restart();
        world.publish("", "q", &["5"]);
        assert_eq!(world.restart().bodies("q"), ["4", "5"]);
        assert_eq!(world.bodies("q"), ["4", "5"]);
        assert_eq!(world.bodies("dead"), ["1", "2", "3"]);
        world.assert_nothing_left();
    }
}

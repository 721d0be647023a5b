//! Quorum queues: how often a message may be given back, and what else is theirs.

use super::tools::*;
use super::world::*;
use crate::command::DeclareQueue;
use crate::{Operation, Outcome};
use leveret_model::FieldValue;
use leveret_model::properties::Properties;

const TYPE: &str = "x-queue-type";

/// Quorum queue `q` with these arguments, whose dead letters go to `dead`.
fn world(arguments: &[(&'static str, FieldValue)]) -> World {
    let mut world = World::new();
    world.asks(1, queue("dead"));
    let arguments = and(&and(&dead_to("dead"), arguments), &[(TYPE, "quorum".into())]);
    assert_eq!(world.asks(1, queue_with("q", &arguments)), ["queue q: 0 ready, 0 consumers"]);
    world
}

fn limit(value: impl Into<FieldValue>) -> [(&'static str, FieldValue); 1] {
    [("x-delivery-limit", value.into())]
}

#[test]
fn every_delivery_tells_how_often_the_message_was_given_back() {
    for fetched in [true, false] {
        let mut world = world(&[]);
        world.publish("", "q", &["m"]);
        if !fetched {
            world.asks(2, consume("q", "a"));
        }
        for attempts in 0..=20 {
            if fetched {
                world.asks(2, get("q"));
            }
            assert_eq!(world.seen.len(), 1);
            assert_eq!(world.seen[0].attempts, attempts);
            assert_eq!(world.seen[0].redelivered, attempts > 0);
            world.asks(2, settle_all(0, Outcome::Requeue));
        }
        let dead = world.drain("dead");
        assert_eq!(dead[0].deaths(), ["delivery_limit q 1"]);
        assert_eq!((dead[0].attempts, dead[0].redelivered), (0, false));
        world.assert_nothing_left();
    }
}

#[test]
fn a_message_is_delivered_once_more_often_than_it_may_be_given_back() {
    let cases: [(FieldValue, Option<usize>); 5] = [
        (0.into(), Some(1)),
        (1.into(), Some(2)),
        ("3".into(), Some(21)),
        ((-1).into(), None),
        (FieldValue::I64(100_000), None),
    ];
    for (value, expected) in cases {
        let mut world = world(&limit(value.clone()));
        world.publish("", "q", &["m"]);
        let mut deliveries = 0;
        while world.ready("q") > 0 && deliveries < 50 {
            world.asks(2, get("q"));
            world.asks(2, settle_all(0, Outcome::Requeue));
            deliveries += 1;
        }
        assert_eq!(deliveries, expected.unwrap_or(50), "{value:?}");
        assert_eq!(world.ready("dead"), usize::from(expected.is_some()));
    }
}

#[test]
fn every_way_back_counts() {
    type Way = fn(&mut World);
    let ways: [(Way, bool); 6] = [
        (|world| drop(world.asks(2, settle(1, Outcome::Requeue))), true),
        (|world| drop(world.asks(2, Operation::Recover { reply: true })), true),
        (|world| drop(world.asks(2, Operation::Close)), true),
        (|world| drop(world.asks(2, Operation::Disconnect)), true),
        (|world| drop(world.asks(2, get("no such queue"))), true),
        (|world| drop(world.asks(2, cancel("a"))), false),
    ];
    for (number, (way, counts)) in ways.into_iter().enumerate() {
        let mut world = world(&limit(0));
        world.publish("", "q", &["m"]);
        world.asks(2, consume("q", "a"));
        way(&mut world);
        assert_eq!(world.ready("dead"), usize::from(counts), "case {number}");
        if !counts {
            world.asks(2, ack(1));
        }
        world.drain("dead");
        world.assert_nothing_left();
    }
}

#[test]
fn without_an_exchange_for_letters_the_limit_drops() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &and(&limit(1), &[(TYPE, "quorum".into())])));
    world.publish("", "q", &["m"]);
    for _ in 0..2 {
        assert_eq!(world.asks(2, get("q")).len(), 1);
        world.asks(2, settle_all(0, Outcome::Requeue));
    }
    world.assert_nothing_left();
}

#[test]
fn a_classic_queue_neither_counts_nor_limits() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.publish("", "q", &["m"]);
    for round in 0..30 {
        world.asks(2, get("q"));
        assert_eq!((world.seen[0].attempts, world.seen[0].redelivered), (0, round > 0));
        world.asks(2, settle_all(0, Outcome::Requeue));
    }
    assert_eq!(world.ready("q"), 1);
}

#[test]
fn transient_messages_are_kept_as_well() {
    let transient = Properties { delivery_mode: Some(1), ..Properties::default() };
    let mut world = world(&[]);
    world.asks(1, queue("classic"));
    for name in ["q", "classic"] {
        world.asks(1, binding(name, "amq.fanout", ""));
    }
    world.asks(1, Operation::SelectConfirms { reply: false });
    world.publish_with("amq.fanout", "", &["1"], false, false);
    assert_eq!(world.durable, ["1: 1-1"]);
    world.send("amq.fanout", "", &transient, "2");
    let mut again = world.restart();
    assert_eq!(again.ready("classic"), 0);
    let seen = again.drain("q");
    assert_eq!(seen.iter().map(|each| &*each.body).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(seen[1].properties, transient, "as they were sent");
    again.assert_nothing_left();
    world.bodies("q");
    world.bodies("classic");
    world.assert_nothing_left();
}

#[test]
fn consumers_are_never_exclusive() {
    let mut world = world(&[]);
    let exclusive = |tag| crate::command::Consume { exclusive: true, ..consume("q", tag) };
    assert_eq!(world.asks(1, exclusive("a")), ["consuming a"]);
    assert_eq!(world.asks(2, exclusive("b")), ["consuming b"]);
}

#[test]
fn a_shared_prefetch_keeps_consumers_away_only_if_it_came_first() {
    let mut world = world(&[]);
    world.asks(1, Operation::Prefetch { count: 5, shared: true });
    let told = world.asks(1, consume("q", "a"));
    let text = "queue 'q' in vhost '/' does not support global qos";
    assert_eq!(told, [format!("refused: {text}")]);
    assert_eq!(world.asks(2, consume("q", "b")), ["consuming b"]);
    assert_eq!(world.asks(2, Operation::Prefetch { count: 5, shared: true }), ["PrefetchSet"]);
}

#[test]
fn it_cannot_be_deleted_on_a_condition() {
    for (if_unused, if_empty, flag) in [(true, false, "if-unused"), (false, true, "if-empty")] {
        let mut world = world(&[]);
        let what = Operation::DeleteQueue { name: name("q"), if_unused, if_empty, reply: true };
        let text = format!(
            "refused: cannot delete queue 'q' in vhost '/'. queue.delete operations with {flag} \
             flag set are not supported by quorum queues"
        );
        assert_eq!(world.asks(2, what), [text]);
    }
}

#[test]
fn it_must_be_durable_named_and_for_all() {
    let declare = || queue_with("new", &[(TYPE, "quorum".into())]);
    let cases = [
        (DeclareQueue { durable: false, ..declare() }, "invalid property 'non-durable' for"),
        (DeclareQueue { exclusive: true, ..declare() }, "invalid property 'exclusive-owner' for"),
        (DeclareQueue { auto_delete: true, ..declare() }, "invalid property 'auto-delete' for"),
    ];
    for (declare, text) in cases {
        let told = World::new().asks(1, declare);
        assert_eq!(told, [format!("refused: {text} queue 'new' in vhost '/'")]);
    }
    let told = World::new().asks(1, DeclareQueue { name: name(""), ..declare() });
    let text = "Cannot declare a server-named queue for type rabbit_quorum_queue";
    assert_eq!(told, [format!("refused: {text}")]);
}

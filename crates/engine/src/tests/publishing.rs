//! A message's way in: routing, the log, confirms and returns.

use super::world::*;
use crate::Operation;
use crate::command::{Consume, DeclareExchange, DeclareQueue};
use leveret_model::Chunk;
use leveret_record::Record;

/// Queues `d1` and `d2`, durable, and `t`, which is not, all bound to `amq.fanout`.
fn fan() -> World {
    let mut world = World::new();
    for name in ["d1", "d2"] {
        world.asks(1, queue(name));
    }
    world.asks(1, DeclareQueue { durable: false, ..queue("t") });
    for name in ["d1", "d2", "t"] {
        assert_eq!(world.asks(1, binding(name, "amq.fanout", "")), ["Bound"]);
    }
    world
}

fn ready(world: &World) -> Vec<(String, usize)> {
    let count = |queue: crate::QueueStatus| (queue.name.to_string(), queue.ready);
    let mut counts: Vec<_> = world.engine.queues().map(count).collect();
    counts.sort();
    counts
}

fn counts(expected: &[(&str, usize)]) -> Vec<(String, usize)> {
    expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn fan_out_is_logged_once_with_every_durable_queue() {
    let mut world = fan();
    world.publish("amq.fanout", "k", &["m1", "m2"]);
    assert_eq!(ready(&world), counts(&[("d1", 2), ("d2", 2), ("t", 2)]));
    let records = world.records();
    assert_eq!(records.len(), 2);
    for (record, position) in records.into_iter().zip(0..) {
        let Record::Publish { message, targets, .. } = record else { panic!("{record:?}") };
        assert!(message.persistent);
        let targets: Vec<_> = targets.map(|(queue, at)| (queue.0, at.0)).collect();
        assert_eq!(targets, [(1, position), (2, position)]);
    }
    assert_eq!(world.pins.len(), 1);
}

#[test]
fn transient_messages_and_queues_never_touch_the_log() {
    let mut world = fan();
    world.publish_with("amq.fanout", "", &["m"], false, false);
    world.publish("", "t", &["n"]);
    assert!(world.records().is_empty());
    assert!(world.pins.is_empty());
    world.publish("", "d1", &["o"]);
    let Record::Publish { targets, .. } = world.records()[0].clone() else { panic!() };
    assert_eq!(targets.map(|(_, at)| at.0).collect::<Vec<_>>(), [1], "positions count them all");
    world.asks(1, purge("d1"));
    assert_eq!(world.records().len(), 1, "only what the log knows is settled in it");
}

#[test]
fn durable_messages_are_confirmed_by_the_log_and_others_at_once() {
    let mut world = fan();
    let select = || Operation::SelectConfirms { reply: true };
    assert_eq!(world.asks(1, select()), ["confirms"]);
    assert_eq!(world.publish("amq.fanout", "", &["m1", "m2"]), [""; 0]);
    assert_eq!(world.durable, ["1: 1-2"]);
    let at_once = world.publish_with("amq.fanout", "", &["m3", "m4"], false, false);
    assert_eq!(at_once, ["confirmed 3-4"]);
    assert!(world.durable.is_empty());
    assert_eq!(world.publish("", "nowhere", &["m5"]), ["confirmed 5-5"]);
    assert_eq!(world.publish("", "t", &["m6"]), ["confirmed 6-6"]);
    assert_eq!(world.asks(1, select()), ["confirms"], "twice is once");
    world.publish("", "d1", &["m7"]);
    assert_eq!(world.durable, ["1: 7-7"]);
}

#[test]
fn a_mixed_batch_is_confirmed_message_by_message() {
    let mut world = fan();
    world.asks(1, Operation::SelectConfirms { reply: false });
    let mut chunk = Chunk::default();
    for (body, persistent) in [("m1", true), ("m2", false), ("m3", true), ("m4", true)] {
        put(&mut chunk, "", "d1", body, persistent);
    }
    let publish = Operation::Publish { first: 0, count: 4, mandatory: true, special: false };
    world.step(1, chunk, vec![(1, publish)]);
    assert_eq!(world.durable, ["1: 1-1", "1: 3-4"]);
    assert_eq!(world.heard(1), ["confirmed 2-2"]);
}

#[test]
fn unroutable_mandatory_messages_return_before_their_confirms() {
    let mut world = fan();
    world.asks(1, Operation::SelectConfirms { reply: true });
    let told = world.publish_with("", "nowhere", &["m1", "m2"], true, true);
    assert_eq!(told, ["returned m1", "returned m2", "confirmed 1-2"]);
    let routed = world.publish_with("", "t", &["m3"], true, true);
    assert_eq!(routed, ["confirmed 3-3"]);
}

#[test]
fn a_message_published_and_settled_in_one_step_needs_no_place_in_the_log_afterwards() {
    let mut world = fan();
    world.asks(2, Consume { no_ack: true, ..consume("d1", "a") });
    world.publish("", "d1", &["m1", "m2"]);
    assert_eq!(world.heard(2), ["a #1 m1", "a #2 m2"]);
    assert_eq!(world.released.len(), 1);
    let kinds: Vec<bool> =
        world.records().iter().map(|each| matches!(each, Record::Settle { .. })).collect();
    // What is delivered first of a queue is noted too.
    assert_eq!(kinds, [false, false, false, true]);
}

#[test]
fn a_queue_gets_a_message_once_however_often_it_is_bound() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    for key in ["a.*", "#", "a.b", "a.b"] {
        world.asks(1, binding("q", "amq.topic", key));
    }
    assert!(world.records().is_empty(), "a binding made twice is one");
    world.publish("amq.topic", "a.b", &["m"]);
    assert_eq!(ready(&world), counts(&[("q", 1)]));
    for key in ["#", "a.b", "a.b"] {
        world.asks(1, Operation::Unbind(Box::new(binding("q", "amq.topic", key))));
    }
    world.publish("amq.topic", "a.b", &["m"]);
    world.publish("amq.topic", "b", &["m"]);
    assert_eq!(ready(&world), counts(&[("q", 2)]), "one binding is left");
}

#[test]
fn exchanges_route_by_their_type() {
    let mut world = World::new();
    for (name, exchange, key) in
        [("d", "amq.direct", "k"), ("f", "amq.fanout", "other"), ("t", "amq.topic", "*.k")]
    {
        world.asks(1, queue(name));
        world.asks(1, binding(name, exchange, key));
    }
    let keys = ["k", "x.k", "x.x.k", "", "K"];
    for exchange in ["amq.direct", "amq.fanout", "amq.topic"] {
        for key in keys {
            world.publish(exchange, key, &["m"]);
        }
    }
    assert_eq!(ready(&world), counts(&[("d", 1), ("f", 5), ("t", 1)]));
}

#[test]
fn a_remembered_route_expires_with_every_change() {
    let mut world = World::new();
    world.asks(1, exchange("x", "direct"));
    world.asks(1, queue("q"));
    world.publish("x", "k", &["lost"]);
    world.asks(2, binding("q", "x", "k"));
    world.publish("x", "k", &["m1"]);
    world.asks(2, Operation::Unbind(Box::new(binding("q", "x", "k"))));
    world.publish("x", "k", &["lost"]);
    world.asks(2, binding("q", "x", "k"));
    world.asks(2, delete("q"));
    world.publish("x", "k", &["lost"]);
    world.asks(2, queue("q"));
    world.publish("x", "k", &["lost, the binding went with the queue"]);
    assert_eq!(ready(&world), counts(&[("q", 0)]));
    let gone = Operation::DeleteExchange { name: name("x"), if_unused: true, reply: true };
    assert_eq!(world.asks(2, gone), ["ExchangeDeleted"]);
    assert_eq!(world.publish("x", "k", &["m"]), ["refused: no exchange 'x' in vhost '/'"]);
}

#[test]
fn a_refused_message_takes_its_holder_but_not_what_came_before() {
    let mut world = fan();
    world.asks(1, Operation::SelectConfirms { reply: true });
    world.asks(1, DeclareExchange { internal: true, ..exchange("i", "fanout") });
    let mut chunk = Chunk::default();
    for (exchange, body) in [("amq.fanout", "m1"), ("i", "m2"), ("amq.fanout", "m3")] {
        put(&mut chunk, exchange, "", body, true);
    }
    let publish = Operation::Publish { first: 0, count: 3, mandatory: false, special: false };
    world.step(1, chunk, vec![(1, publish), (1, get("d1"))]);
    let refused = "refused: cannot publish to internal exchange 'i' in vhost '/'";
    assert_eq!(world.heard(1), [refused]);
    assert_eq!(world.durable, ["1: 1-1"]);
    assert_eq!(ready(&world), counts(&[("d1", 1), ("d2", 1), ("t", 1)]));
}

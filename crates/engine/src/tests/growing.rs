//! What the engine says will make the log larger is what does.

use super::tools::*;
use super::world::*;
use crate::command::{Binding, DeclareExchange, DeclareQueue};
use crate::{Operation, Outcome};
use leveret_model::SessionId;

/// Whether session 1 was told beforehand that this writes records; panics if that was wrong.
fn grows(world: &mut World, what: impl Into<Operation>) -> bool {
    let operation = what.into();
    let foretold = world.engine.adds_to_log(SessionId(1), 1, &operation);
    let text = format!("{operation:?}");
    let told = world.asks(1, operation);
    assert_eq!(!world.records().is_empty(), foretold, "{text}: {told:?}");
    foretold
}

#[test]
fn what_is_there_already_does_not_grow_the_log() {
    let mut world = World::new();
    assert!(grows(&mut world, queue("q")));
    assert!(!grows(&mut world, queue("q")));
    assert!(!grows(&mut world, DeclareQueue { passive: true, ..queue("q") }));
    assert!(!grows(&mut world, DeclareQueue { durable: false, ..queue("transient") }));
    assert!(!grows(&mut world, DeclareQueue { exclusive: true, ..queue("mine") }));
    assert!(grows(&mut world, exchange("x", "topic")));
    assert!(!grows(&mut world, exchange("x", "topic")));
    assert!(!grows(&mut world, DeclareExchange { passive: true, ..exchange("x", "") }));
    assert!(!grows(&mut world, DeclareExchange { durable: false, ..exchange("y", "fanout") }));

    assert!(grows(&mut world, binding("q", "x", "k")));
    assert!(!grows(&mut world, binding("q", "x", "k")));
    assert!(grows(&mut world, binding("q", "x", "")));
    let arguments = table(&[("a", 1.into())]);
    let with_arguments = || Binding { arguments: arguments.clone(), ..binding("q", "x", "k") };
    assert!(grows(&mut world, with_arguments()));
    assert!(!grows(&mut world, with_arguments()));
    assert!(!grows(&mut world, binding("transient", "x", "k")));
    assert!(!grows(&mut world, binding("q", "y", "k")), "one end of it is transient");
    assert!(grows(&mut world, exchange_binding("x", "amq.topic", "k")));
    assert!(!grows(&mut world, exchange_binding("x", "amq.topic", "k")));
}

#[test]
fn the_queue_declared_last_is_meant_by_no_name() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    assert!(grows(&mut world, binding("", "amq.direct", "")));
    assert!(!grows(&mut world, binding("q", "amq.direct", "q")), "the same one");
    assert!(!grows(&mut world, binding("", "amq.direct", "")));
    assert!(grows(&mut world, binding("", "amq.direct", "k")));
    assert!(!grows(&mut world, binding("q", "amq.direct", "k")));
}

#[test]
fn a_commit_grows_the_log_by_what_it_publishes() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.publish("", "q", &["1", "2"]);
    world.asks(1, get("q"));
    world.asks(1, Operation::SelectTransactions);
    let grows = |world: &World| world.engine.adds_to_log(SessionId(1), 1, &Operation::Commit);
    assert!(!grows(&world));
    world.asks(1, ack(1));
    assert!(!grows(&world), "acknowledgements alone");
    world.publish("", "q", &["3"]);
    assert!(grows(&world));
    world.asks(1, Operation::Rollback);
    assert!(!grows(&world));
}

#[test]
fn what_frees_the_log_does_not_count() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.publish("", "q", &["1"]);
    let publish = Operation::Publish { first: 0, count: 1, mandatory: false, special: false };
    let adds = |operation: &Operation| world.engine.adds_to_log(SessionId(1), 1, operation);
    assert!(adds(&publish));
    let unbind = Operation::Unbind(Box::new(binding("q", "amq.direct", "")));
    for operation in
        [get("q"), purge("q"), delete("q"), unbind, settle(1, Outcome::Discard), cancel("a")]
    {
        assert!(!adds(&operation), "{operation:?}");
    }
    // Nobody, and nobody's channel.
    assert!(!world.engine.adds_to_log(SessionId(77), 1, &publish));
    assert!(!world.engine.adds_to_log(SessionId(1), 9, &Operation::Commit));
}

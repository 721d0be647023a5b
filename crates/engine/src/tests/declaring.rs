//! Exchanges, queues and bindings: made, found, refused, deleted.

use super::world::*;
use crate::Operation;
use crate::command::{Binding, Consume, DeclareExchange, DeclareQueue};
use leveret_model::{FieldTable, FieldValue};

/// What session 2 is told by a world with durable `q` and `x`, and session 1's exclusive `mine`.
fn refused(what: impl Into<Operation>) -> String {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(1, exchange("x", "direct"));
    world.asks(1, DeclareQueue { exclusive: true, ..queue("mine") });
    let told = world.asks(2, what);
    let [text] = &told[..] else { panic!("{told:?}") };
    text.strip_prefix("refused: ").unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn delete_exchange(text: &str, if_unused: bool) -> Operation {
    Operation::DeleteExchange { name: name(text), if_unused, reply: true }
}

fn unbind(binding: Binding) -> Operation {
    Operation::Unbind(Box::new(binding))
}

const LOCKED: &str = "cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It \
    could be originally declared on another connection or the exclusive property value does not \
    match that of the original declaration.";

#[test]
fn refusals_have_rabbitmqs_texts() {
    let no_queue = "no queue 'no' in vhost '/'";
    assert_eq!(refused(get("no")), no_queue);
    assert_eq!(refused(consume("no", "")), no_queue);
    assert_eq!(refused(purge("no")), no_queue);
    assert_eq!(refused(DeclareQueue { passive: true, ..queue("no") }), no_queue);
    assert_eq!(refused(binding("no", "x", "")), no_queue);
    let no_exchange = "no exchange 'no' in vhost '/'";
    assert_eq!(refused(binding("q", "no", "")), no_exchange);
    assert_eq!(refused(DeclareExchange { passive: true, ..exchange("no", "") }), no_exchange);
    let undeclared = "no previously declared queue";
    for what in [get(""), purge(""), delete(""), consume("", "").into()] {
        assert_eq!(refused(what), undeclared);
    }
    assert_eq!(
        refused(queue("amq.mine")),
        "queue name 'amq.mine' contains reserved prefix 'amq.*'"
    );
    assert_eq!(
        refused(exchange("amq.mine", "topic")),
        "exchange name 'amq.mine' contains reserved prefix 'amq.*'"
    );
    assert_eq!(refused(exchange("new", "odd")), "unknown exchange type 'odd'");
    let default = "operation not permitted on the default exchange";
    assert_eq!(refused(exchange("", "direct")), default);
    assert_eq!(refused(delete_exchange("", false)), default);
    assert_eq!(refused(binding("q", "", "k")), default);
    assert_eq!(refused(unbind(binding("q", "", "k"))), default);
    assert_eq!(
        refused(delete_exchange("amq.direct", false)),
        "deletion of system exchange 'amq.direct' in vhost '/' not allowed"
    );
    assert_eq!(
        refused(delete_exchange("amq.no", false)),
        "deletion of system exchange 'amq.no' in vhost '/' not allowed"
    );
    assert_eq!(refused(Operation::Open), "second 'channel.open' seen");
}

#[test]
fn another_sessions_exclusive_queue_is_locked() {
    for what in [get("mine"), purge("mine"), delete("mine"), consume("mine", "").into()] {
        assert_eq!(refused(what), LOCKED);
    }
    assert_eq!(refused(binding("mine", "x", "")), LOCKED);
    assert_eq!(refused(unbind(binding("mine", "x", ""))), LOCKED);
    assert_eq!(refused(DeclareQueue { exclusive: true, ..queue("mine") }), LOCKED);
    assert_eq!(refused(DeclareQueue { passive: true, ..queue("mine") }), LOCKED);
    assert_eq!(
        refused(DeclareQueue { exclusive: true, ..queue("q") }),
        LOCKED.replace("mine", "q"),
        "what is shared cannot be made exclusive"
    );
}

#[test]
fn a_declaration_must_say_the_same_as_the_first() {
    let differs = |what, received, current, object| {
        format!(
            "inequivalent arg '{what}' for {object} in vhost '/': received '{received}' but \
             current is '{current}'"
        )
    };
    let queue_differs = |what| differs(what, what != "durable", what == "durable", "queue 'q'");
    let text = refused(DeclareQueue { durable: false, ..queue("q") });
    assert_eq!(text, queue_differs("durable"));
    let text = refused(DeclareQueue { auto_delete: true, ..queue("q") });
    assert_eq!(text, queue_differs("auto_delete"));
    let x = || exchange("x", "direct");
    let text = refused(exchange("x", "topic"));
    assert_eq!(
        text,
        "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'topic' but \
        current is 'direct'"
    );
    let text = refused(DeclareExchange { durable: false, ..x() });
    assert_eq!(text, differs("durable", false, true, "exchange 'x'"));
    let text = refused(DeclareExchange { auto_delete: true, ..x() });
    assert_eq!(text, differs("auto_delete", true, false, "exchange 'x'"));
    let text = refused(DeclareExchange { internal: true, ..x() });
    assert_eq!(text, differs("internal", true, false, "exchange 'x'"));
}

#[test]
fn declaring_again_finds_the_same_and_logs_nothing() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    assert_eq!(world.records().len(), 1);
    assert_eq!(world.held_back, [1], "told when the declaration is durable");
    world.publish("", "q", &["m1", "m2"]);
    world.asks(1, consume("q", "a"));
    world.publish("", "q", &["m3"]);
    assert_eq!(world.asks(2, queue("q")), ["queue q: 0 ready, 1 consumers"]);
    assert!(world.records().is_empty());
    assert_eq!(world.held_back, [2], "the first declaration may not be durable yet");
    assert_eq!(world.asks(2, DeclareQueue { reply: false, ..queue("q") }), [""; 0]);
    world.asks(1, DeclareQueue { durable: false, ..queue("t") });
    assert!(world.records().is_empty());
    assert!(world.held_back.is_empty());
}

#[test]
fn a_queue_may_have_a_name_made_up_which_an_empty_name_then_means() {
    let mut world = World::new();
    let told = world.asks(1, queue("")).remove(0);
    let made = told.strip_prefix("queue ").unwrap().split(':').next().unwrap().to_owned();
    assert_eq!(made.strip_prefix("amq.gen-").unwrap().len(), 22);
    world.publish("", &made, &["m"]);
    assert_eq!(world.asks(1, get("")), ["got #1 m, 0 left"]);
    let passive = || DeclareQueue { passive: true, ..queue(&made) };
    assert_eq!(world.asks(2, passive()), [format!("queue {made}: 0 ready, 0 consumers")]);
    assert_eq!(world.asks(2, purge("")), ["purged 0"], "a passive declaration counts");
}

#[test]
fn exclusive_queues_go_with_their_session_and_never_touch_the_log() {
    let mut world = World::new();
    world.asks(1, DeclareQueue { exclusive: true, ..queue("mine") });
    world.asks(1, binding("mine", "amq.fanout", ""));
    world.asks(1, consume("mine", "a"));
    world.publish("amq.fanout", "", &["m1"]);
    assert_eq!(world.heard(1), ["a #1 m1"]);
    assert_eq!(world.asks(1, Operation::Close), ["closed"]);
    assert_eq!(world.engine.queues().count(), 1, "it belongs to the session, not to a holder");
    assert_eq!(world.asks(1, Operation::Disconnect), ["Disconnected"]);
    assert_eq!(world.engine.queues().count(), 0);
    assert!(world.log.iter().all(|(_, records)| records.is_empty()));
    assert_eq!(world.asks(2, queue("mine")), ["queue mine: 0 ready, 0 consumers"]);
}

#[test]
fn purge_drops_what_is_ready_and_leaves_what_is_leased() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.publish("", "q", &["m1", "m2", "m3"]);
    world.asks(2, get("q"));
    assert_eq!(world.asks(1, purge("q")), ["purged 2"]);
    assert_eq!(world.records().len(), 1);
    assert_eq!(world.held_back, [1]);
    assert_eq!(world.asks(1, purge("q")), ["purged 0"]);
    world.asks(2, settle(1, crate::Outcome::Requeue));
    assert_eq!(world.asks(2, get("q")), ["got #2 m1 again, 0 left"]);
    world.asks(2, ack(2));
    assert!(world.pins.is_empty());
}

#[test]
fn deleting_a_queue_tells_its_consumers() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(2, consume("q", "a"));
    world.asks(3, Consume { exclusive: false, ..consume("q", "b") });
    let if_unused =
        Operation::DeleteQueue { name: name("q"), if_unused: true, if_empty: false, reply: true };
    assert_eq!(world.asks(1, if_unused), ["refused: queue 'q' in vhost '/' in use"]);
    world.asks(1, Operation::Open);
    assert_eq!(world.asks(1, delete("q")), ["deleted 0"]);
    assert_eq!((world.heard(2), world.heard(3)), (vec!["lost a".into()], vec!["lost b".into()]));
    assert_eq!(world.asks(2, cancel("a")), ["no consumer a"]);
    assert_eq!(world.asks(1, delete("q")), ["deleted 0"], "what is not there is deleted");
}

#[test]
fn a_queue_that_is_not_empty_can_be_spared() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.publish("", "q", &["m1", "m2"]);
    let if_empty = || Operation::DeleteQueue {
        name: name("q"),
        if_unused: false,
        if_empty: true,
        reply: true,
    };
    assert_eq!(world.asks(2, if_empty()), ["refused: queue 'q' in vhost '/' not empty"]);
    assert_eq!(world.asks(1, delete("q")), ["deleted 2"]);
    assert!(world.pins.is_empty());
}

#[test]
fn an_exchange_in_use_can_be_spared() {
    let mut world = World::new();
    world.asks(1, exchange("x", "topic"));
    world.asks(1, queue("q"));
    world.asks(1, binding("q", "x", "#"));
    let told = world.asks(2, delete_exchange("x", true));
    assert_eq!(told, ["refused: exchange 'x' in vhost '/' in use"]);
    assert_eq!(world.asks(1, delete_exchange("x", false)), ["ExchangeDeleted"]);
    assert_eq!(world.records().len(), 1, "its bindings go with it");
    assert_eq!(world.asks(1, delete_exchange("x", false)), ["ExchangeDeleted"]);
    assert!(world.records().is_empty());
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding() {
    for by_queue in [false, true] {
        let mut world = World::new();
        world.asks(1, DeclareExchange { auto_delete: true, ..exchange("x", "direct") });
        world.asks(1, queue("q"));
        world.asks(1, binding("q", "x", "a"));
        world.asks(1, binding("q", "x", "b"));
        world.asks(1, unbind(binding("q", "x", "a")));
        world.asks(1, unbind(binding("q", "x", "a")));
        let passive = || DeclareExchange { passive: true, ..exchange("x", "") };
        assert_eq!(world.asks(1, passive()), ["ExchangeDeclared"]);
        match by_queue {
            true => world.asks(1, delete("q")),
            false => world.asks(1, unbind(binding("q", "x", "b"))),
        };
        assert_eq!(world.asks(1, passive()), ["refused: no exchange 'x' in vhost '/'"]);
    }
}

#[test]
fn unbinding_what_is_not_there_is_no_error() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    for (queue, exchange) in [("q", "amq.direct"), ("no", "amq.direct"), ("q", "no")] {
        assert_eq!(world.asks(1, unbind(binding(queue, exchange, "k"))), ["Unbound"]);
        assert!(world.records().is_empty());
    }
}

#[test]
fn bindings_differ_by_their_arguments() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    let mut arguments = FieldTable::new();
    arguments.insert(name("n"), FieldValue::I32(1));
    world.asks(1, binding("q", "amq.direct", "k"));
    world.asks(1, Binding { arguments, ..binding("q", "amq.direct", "k") });
    assert_eq!(world.records().len(), 1);
    world.asks(1, unbind(binding("q", "amq.direct", "k")));
    world.publish("amq.direct", "k", &["m"]);
    assert_eq!(world.asks(1, get("q")), ["got #1 m, 0 left"]);
}

//! Direct replies: answers to a request, without a queue of one's own.

use super::tools::*;
use super::world::*;
use crate::Operation;
use crate::command::{Consume, DeclareQueue};
use leveret_model::properties::Properties;

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

fn listen(tag: &str) -> Consume {
    Consume { no_ack: true, ..consume(REPLY_TO, tag) }
}

fn asking() -> Properties {
    let correlation_id = Some(name("c"));
    Properties { reply_to: Some(name(REPLY_TO)), correlation_id, ..Properties::default() }
}

/// Session 1 listens, and has sent a request to queue `q`. Also where the answer goes.
fn world() -> (World, String) {
    let mut world = World::new();
    world.asks(1, queue("q"));
    assert_eq!(world.asks(1, listen("r")), ["consuming r"]);
    let to = request(&mut world);
    (world, to)
}

fn request(world: &mut World) -> String {
    assert_eq!(world.send("", "q", &asking(), "request"), [""; 0]);
    let seen = world.drain("q").remove(0);
    assert_eq!(seen.properties.correlation_id, Some(name("c")));
    seen.properties.reply_to.unwrap().to_string()
}

#[test]
fn an_answer_goes_to_who_asked() {
    let (mut world, to) = world();
    assert!(to.starts_with("amq.rabbitmq.reply-to.") && to.len() > 40, "{to}");
    assert_eq!(request(&mut world), to, "the same for all requests");
    world.asks(1, Operation::Prefetch { count: 1, shared: true });
    for number in 1..=2 {
        let answer = Properties { delivery_mode: Some(2), ..Properties::default() };
        assert_eq!(world.send_as(2, ("", &to), &answer, "answer", true), [""; 0]);
        assert_eq!(world.heard(1), [format!("r #{number} answer")]);
        assert_eq!((&*world.seen[0].exchange, &world.seen[0].key), ("", &to));
        assert!(!world.seen[0].redelivered);
        assert!(world.records().is_empty(), "it is not for the log");
    }
    assert_eq!(world.asks(1, ack(1)), ["refused: unknown delivery tag 1"]);
    world.assert_nothing_left();
}

#[test]
fn an_answer_is_confirmed_and_takes_a_number_of_deliveries() {
    let (mut world, to) = world();
    world.publish("", "q", &["m"]);
    assert_eq!(world.asks(1, get("q")), ["got #1 m, 0 left"]);
    world.asks(2, Operation::SelectConfirms { reply: false });
    assert_eq!(world.send_as(2, ("", &to), &Properties::default(), "a", false), ["confirmed 1-1"]);
    assert_eq!(world.heard(1), ["r #2 a"]);
    assert_eq!(world.asks(1, ack(1)), [""; 0]);
}

#[test]
fn an_answer_to_nobody_is_unroutable() {
    let ends: [fn(&mut World); 3] = [
        |world| drop(world.asks(1, cancel("r"))),
        |world| drop(world.asks(1, Operation::Close)),
        |world| drop(world.asks(1, Operation::Disconnect)),
    ];
    for end in ends {
        let (mut world, to) = world();
        end(&mut world);
        let told = world.send_as(2, ("", &to), &Properties::default(), "late", true);
        assert_eq!(told, ["returned late"]);
        world.assert_nothing_left();
    }
    let mut world = World::new();
    let to = "amq.rabbitmq.reply-to.odd";
    let told = world.send_as(2, ("", to), &Properties::default(), "lost", true);
    assert_eq!(told, ["returned lost"]);
}

#[test]
fn who_does_not_listen_cannot_ask() {
    let refused = ["refused: fast reply consumer does not exist"];
    let mut world = World::new();
    world.asks(1, queue("q"));
    assert_eq!(world.send("", "q", &asking(), "m"), refused);
    assert_eq!(world.ready("q"), 0);
    let (mut world, _) = self::world();
    assert_eq!(world.send_as(2, ("", "q"), &asking(), "m", false), refused, "only its own holder");
    world.asks(1, cancel("r"));
    assert_eq!(world.send("", "q", &asking(), "m"), refused);
}

#[test]
fn another_reply_to_passes_as_it_is() {
    let (mut world, to) = world();
    for reply_to in ["mine", "amq.rabbitmq.reply-to.odd", &to] {
        let sent = Properties { reply_to: Some(name(reply_to)), ..asking() };
        world.send("", "q", &sent, "m");
        assert_eq!(world.drain("q")[0].properties, sent);
    }
}

#[test]
fn there_is_one_listener_that_cannot_acknowledge() {
    let open = |world: &mut World| drop(world.asks(2, Operation::Open));
    let (mut world, to) = world();
    let told = world.asks(2, consume(REPLY_TO, "r"));
    assert_eq!(told, ["refused: reply consumer cannot acknowledge"]);
    open(&mut world);
    assert_eq!(world.asks(2, listen("")).len(), 1);
    assert_eq!(world.asks(2, listen("s")), ["refused: reply consumer already set"]);
    open(&mut world);
    world.asks(2, listen("r"));
    let told = world.asks(2, consume(REPLY_TO, "s"));
    assert_eq!(told, ["refused: reply consumer cannot acknowledge"], "that comes first");
    world.asks(1, cancel("r"));
    assert_eq!(world.asks(1, listen("again")), ["consuming again"]);
    let new = request(&mut world);
    assert_ne!(new, to, "another name");
    world.send_as(3, ("", &new), &Properties::default(), "a", true);
    assert_eq!(world.heard(1), ["again #1 a"]);
}

#[test]
fn its_name_can_be_declared_and_little_else() {
    let (mut world, to) = world();
    let declared = |name: &str| [format!("queue {name}: 0 ready, 1 consumers")];
    for passive in [true, false] {
        for text in [REPLY_TO, &to] {
            let declare = DeclareQueue { passive, exclusive: true, ..queue(text) };
            assert_eq!(world.asks(2, declare), declared(text));
        }
    }
    assert!(world.records().is_empty());
    assert!(!world.exists(&to), "it is no queue for people");
    let no_queue = format!("refused: no queue '{to}' in vhost '/'");
    let bare = format!("refused: no queue '{REPLY_TO}' in vhost '/'");
    let volatile = "refused: cannot bind or unbind to a volatile (direct reply-to) queue";
    let unbind = |queue: &str| Operation::Unbind(Box::new(binding(queue, "amq.direct", "k")));
    let cases: [(Operation, &str); 8] = [
        (get(&to), &no_queue),
        (purge(&to), &no_queue),
        (consume(&to, "x").into(), &no_queue),
        (delete(&to), "deleted 0"),
        (binding(&to, "amq.direct", "k").into(), volatile),
        (binding(&to, "no such exchange", "k").into(), volatile),
        (binding(REPLY_TO, "amq.direct", "k").into(), &bare),
        (unbind(&to), volatile),
    ];
    for (what, expected) in cases {
        let text = format!("{what:?}");
        assert_eq!(world.asks(2, what), [expected], "{text}");
        world.asks(2, Operation::Close);
        world.asks(2, Operation::Open);
    }
    world.asks(1, cancel("r"));
    assert_eq!(world.asks(2, queue(&to)), [no_queue]);
    world.asks(2, Operation::Open);
    assert_eq!(world.asks(2, queue(REPLY_TO)), declared(REPLY_TO), "always");
}

#[test]
fn an_answer_may_become_too_old_or_come_from_a_dead_letter() {
    let (mut world, to) = world();
    world.send_as(2, ("", &to), &expiring_in("0"), "at once", false);
    assert_eq!(world.heard(1), ["r #1 at once"]);
    let arguments = [("x-dead-letter-exchange", "".into()), ("x-message-ttl", 5.into())];
    let arguments = and(&arguments, &[("x-dead-letter-routing-key", (&*to).into())]);
    world.asks(1, queue_with("late", &arguments));
    world.publish("", "late", &["dead"]);
    world.tick(5);
    assert_eq!(world.heard(1), ["r #2 dead"]);
    world.assert_nothing_left();
}

#[test]
fn a_restart_knows_nothing_of_listeners() {
    let (world, to) = world();
    let mut world = world.restart();
    let told = world.send_as(2, ("", &to), &Properties::default(), "late", true);
    assert_eq!(told, ["returned late"]);
}

//! Arguments of queues, exchanges and consumers: which are taken, refused, and compared.

use super::tools::*;
use super::world::*;
use crate::Operation;
use crate::command::DeclareExchange;
use leveret_model::FieldValue as V;
use leveret_model::{FieldTable, FieldValue};

type Arguments<'a> = &'a [(&'a str, FieldValue)];

fn text(value: &str) -> FieldValue {
    value.into()
}

fn declared(arguments: Arguments<'_>) -> Result<(), String> {
    let told = World::new().asks(1, queue_with("q", arguments)).remove(0);
    told.strip_prefix("refused: ").map_or(Ok(()), |refusal| Err(refusal.to_owned()))
}

#[test]
fn arguments_that_make_no_sense_are_refused_with_rabbitmqs_words() {
    // Of a classic queue, then of a quorum queue.
    let natural = |key| {
        [
            (key, text("5"), "\"expected integer, got longstr\""),
            (key, V::Timestamp(5), "\"expected integer, got timestamp\""),
            (key, V::I64(-1), "{value_negative,-1}"),
        ]
    };
    let mut classic: Vec<(&str, FieldValue, &str)> = vec![
        ("x-queue-type", V::I32(1), "{unacceptable_type,signedint}"),
        ("x-queue-type", text("foo"), "\"unsupported queue type 'foo'\""),
        (
            "x-queue-type",
            text("rabbit_quorum_queue"),
            "\"unsupported queue type 'rabbit_quorum_queue'\"",
        ),
        ("x-expires", V::I32(0), "{value_zero,0}"),
        ("x-expires", V::I64(315_360_000_001), "{value_too_large,315360000001}"),
        ("x-message-ttl", V::I64(315_360_000_001), "{value_too_large,315360000001}"),
        ("x-dead-letter-routing-key", text("k"), "routing_key_but_no_dlx_defined"),
        ("x-dead-letter-routing-key", V::I32(1), "{unacceptable_type,signedint}"),
        ("x-max-priority", V::I32(256), "{max_value_exceeded,256}"),
        ("x-overflow", text("drop"), "invalid_overflow"),
        ("x-overflow", V::Bool(true), "{unacceptable_type,bool}"),
        ("x-queue-mode", text("fast"), "\"unsupported queue mode 'fast'\""),
        ("x-queue-version", V::I32(3), "\"unsupported queue version '3'\""),
        ("x-queue-version", V::I32(0), "\"unsupported queue version '0'\""),
        ("x-single-active-consumer", text("true"), "{unacceptable_type,longstr}"),
        ("x-single-active-consumer", V::Void, "{unacceptable_type,void}"),
        ("x-queue-leader-locator", text("near"), "invalid_queue_locator_arg"),
        ("x-queue-leader-locator", V::U8(1), "{unacceptable_type,unsignedbyte}"),
    ];
    for key in ["x-expires", "x-message-ttl", "x-max-length", "x-max-length-bytes"] {
        classic.extend(natural(key));
    }
    classic.extend(natural("x-max-priority"));
    let mut quorum: Vec<(&str, FieldValue, &str)> = vec![
        ("x-dead-letter-strategy", text("maybe"), "invalid_dlx_strategy"),
        ("x-dead-letter-strategy", V::I16(1), "{unacceptable_type,short}"),
        ("x-quorum-initial-group-size", V::I32(0), "{value_zero,0}"),
        ("x-overflow", text("drop"), "invalid_overflow"),
    ];
    for key in ["x-max-in-memory-length", "x-max-in-memory-bytes", "x-quorum-initial-group-size"] {
        quorum.extend(natural(key));
    }
    for (kind, cases) in [("classic", classic), ("quorum", quorum)] {
        for (argument, value, problem) in cases {
            let mut arguments = vec![(argument, value)];
            if argument != "x-queue-type" {
                arguments.push(("x-queue-type", kind.into()));
            }
            let text = format!("invalid arg '{argument}' for queue 'q' in vhost '/': {problem}");
            assert_eq!(declared(&arguments), Err(text), "{arguments:?}");
        }
    }
    assert_eq!(
        declared(&[("x-dead-letter-exchange", V::I32(1))]),
        Err("invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'"
            .to_owned())
    );
}

#[test]
fn arguments_that_make_sense_are_taken() {
    let quorum = || ("x-queue-type", text("quorum"));
    let mut cases: Vec<Vec<(&str, FieldValue)>> = vec![
        vec![("x-queue-type", text("classic"))],
        vec![("x-queue-type", text(""))],
        vec![("x-expires", V::I64(315_360_000_000))],
        vec![("x-message-ttl", V::U8(0))],
        vec![("x-max-length", V::I8(0)), ("x-max-length-bytes", V::I64(i64::MAX))],
        vec![("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(""))],
        vec![("x-queue-mode", text("lazy"))],
        vec![("x-queue-mode", text("default")), ("x-queue-version", V::I32(1))],
        vec![("x-queue-version", V::U16(2)), ("x-queue-master-locator", V::Void)],
        vec![("x-single-active-consumer", V::Bool(false))],
        vec![("x-max-priority", V::I32(255))],
        // No type of queue knows it.
        vec![("x-anything", V::Table(FieldTable::new())), ("y", V::Double(1.5))],
        vec![quorum(), ("x-delivery-limit", text("odd"))],
        vec![quorum(), ("x-dead-letter-strategy", text("at-least-once"))],
        vec![quorum(), ("x-quorum-initial-group-size", V::I32(3))],
    ];
    for overflow in ["drop-head", "reject-publish", "reject-publish-dlx"] {
        cases.push(vec![("x-overflow", text(overflow))]);
        cases.push(vec![("x-overflow", text(overflow)), quorum()]);
    }
    for locator in ["client-local", "balanced", "random", "least-leaders", "min-masters"] {
        cases.push(vec![("x-queue-leader-locator", text(locator))]);
    }
    for arguments in cases {
        assert_eq!(declared(&arguments), Ok(()), "{arguments:?}");
    }
}

#[test]
fn arguments_of_other_types_of_queues_are_refused() {
    let cases = [
        ("x-delivery-limit", V::I32(1), "classic"),
        ("x-dead-letter-strategy", text("odd"), "classic"),
        ("x-max-in-memory-length", text("odd"), "classic"),
        ("x-quorum-initial-group-size", V::I32(1), "classic"),
        ("x-max-age", text("1D"), "classic"),
        ("x-initial-cluster-size", V::I32(0), "classic"),
        ("x-max-priority", V::I32(5), "quorum"),
        ("x-queue-mode", text("lazy"), "quorum"),
        ("x-queue-version", V::I32(2), "quorum"),
        ("x-queue-master-locator", text("any"), "quorum"),
        ("x-stream-max-segment-size-bytes", V::I32(5), "quorum"),
    ];
    for (argument, value, kind) in cases {
        let text = format!(
            "invalid arg '{argument}' for queue 'q' in vhost '/' of queue type rabbit_{kind}_queue"
        );
        let arguments = [("x-queue-type", kind.into()), (argument, value)];
        assert_eq!(declared(&arguments), Err(text));
    }
}

#[test]
fn the_first_problem_in_rabbitmqs_order_is_the_one_told() {
    let arguments = [
        ("x-delivery-limit", V::I32(1)),
        ("x-max-length", V::I32(-1)),
        ("x-message-ttl", V::I32(-2)),
    ];
    let told = declared(&arguments).unwrap_err();
    assert!(told.contains("x-message-ttl"), "{told}");
    assert!(declared(&arguments[..2]).unwrap_err().contains("x-max-length"));
}

/// What is told of a second declaration; empty if it is the same.
fn again(first: Arguments<'_>, second: Arguments<'_>) -> String {
    let mut world = World::new();
    assert_eq!(world.asks(1, queue_with("q", first)), ["queue q: 0 ready, 0 consumers"]);
    let mut told = Vec::new();
    for mut world in [world.restart(), world] {
        let text = world.asks(2, queue_with("q", second)).remove(0);
        told.push(text.strip_prefix("refused: ").unwrap_or_default().to_owned());
        assert!(world.records().is_empty());
    }
    assert_eq!(told[0], told[1], "after a restart");
    told.remove(0)
}

#[test]
fn a_second_declaration_must_have_the_same_arguments() {
    let cases: [(Arguments<'_>, Arguments<'_>, &str); 12] = [
        (&[("x-message-ttl", V::I32(20))], &[("x-message-ttl", V::I64(20))], ""),
        (
            &[("x-message-ttl", V::I32(20))],
            &[("x-message-ttl", V::I64(10))],
            "'x-message-ttl': received '10' but current is '20'",
        ),
        (
            &[("x-message-ttl", V::I32(20))],
            &[],
            "'x-message-ttl': received none but current is the value '20' of type 'signedint'",
        ),
        (
            &[],
            &[("x-message-ttl", V::I64(10))],
            "'x-message-ttl': received the value '10' of type 'long' but current is none",
        ),
        (
            &[("x-overflow", text("drop-head"))],
            &[("x-overflow", text("reject-publish"))],
            "'x-overflow': received 'reject-publish' but current is 'drop-head'",
        ),
        (
            &[("x-single-active-consumer", V::Bool(true))],
            &[("x-single-active-consumer", V::Bool(false))],
            "'x-single-active-consumer': received 'false' but current is 'true'",
        ),
        (&[], &[("x-queue-type", text("classic"))], ""),
        (&[("x-queue-type", text("classic"))], &[], ""),
        (
            &[],
            &[("x-queue-type", text("quorum"))],
            "'x-queue-type': received 'quorum' but current is 'classic'",
        ),
        (
            &[("x-queue-type", text("quorum"))],
            &[],
            "'x-queue-type': received 'classic' but current is 'quorum'",
        ),
        // What its type does not know is not looked at, nor is what makes no sense.
        (&[("x-odd", V::I32(1))], &[("x-odd", V::I32(2)), ("x-delivery-limit", V::Void)], ""),
        (
            &[("x-expires", V::I32(50_000)), ("x-max-length", V::I32(5))],
            &[("x-max-length", V::I32(-6)), ("x-expires", V::I32(60_000))],
            "'x-expires': received '60000' but current is '50000'",
        ),
    ];
    for (first, second, expected) in cases {
        let expected = match expected.split_once(": ") {
            Some((argument, what)) => {
                format!("inequivalent arg {argument} for queue 'q' in vhost '/': {what}")
            }
            None => String::new(),
        };
        assert_eq!(again(first, second), expected);
    }
}

#[test]
fn an_alternate_exchange_is_an_argument_to_repeat() {
    let with = |value: Option<FieldValue>| {
        let arguments: Vec<_> =
            value.map(|value| ("alternate-exchange", value)).into_iter().collect();
        DeclareExchange { arguments: table(&arguments), ..exchange("x", "direct") }
    };
    let mut world = World::new();
    let odd = "refused: invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in \
               vhost '/'";
    assert_eq!(world.asks(2, with(Some(1.into()))), [odd]);
    world.asks(1, with(Some("a".into())));
    for (value, what) in [
        (Some("a".into()), None),
        (Some("b".into()), Some("received 'b' but current is 'a'")),
        (None, Some("received none but current is the value 'a' of type 'longstr'")),
    ] {
        let mut world = world.restart();
        let expected = what.map_or("ExchangeDeclared".to_owned(), |what| {
            let arg = "inequivalent arg 'alternate-exchange'";
            format!("refused: {arg} for exchange 'x' in vhost '/': {what}")
        });
        assert_eq!(world.asks(1, with(value)), [expected]);
    }
}

#[test]
fn consumers_have_arguments_too() {
    let cases: [(&str, FieldValue, &str); 6] = [
        ("x-priority", text("1"), ": \"expected integer, got longstr\""),
        ("x-priority", V::Bool(true), ": \"expected integer, got bool\""),
        ("x-stream-offset", text("first"), " of queue type rabbit_classic_queue"),
        ("x-stream-filter", text("f"), " of queue type rabbit_classic_queue"),
        ("x-stream-match-unfiltered", V::Bool(true), " of queue type rabbit_classic_queue"),
        ("x-cancel-on-ha-failover", V::Bool(true), ""),
    ];
    for (argument, value, problem) in cases {
        let mut world = World::new();
        world.asks(1, queue("q"));
        let told = world.asks(2, consume_with("q", "a", &[(argument, value)]));
        let expected = match problem.is_empty() {
            true => "consuming a".to_owned(),
            false => {
                format!("refused: invalid arg '{argument}' for queue 'q' in vhost '/'{problem}")
            }
        };
        assert_eq!(told, [expected]);
    }
}

#[test]
fn a_queue_that_is_not_empty_is_told_of_before_one_that_is_in_use() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(2, Operation::Prefetch { count: 1, shared: false });
    world.asks(2, consume("q", "a"));
    world.publish("", "q", &["1", "2"]);
    let both =
        Operation::DeleteQueue { name: name("q"), if_unused: true, if_empty: true, reply: true };
    assert_eq!(world.asks(1, both), ["refused: queue 'q' in vhost '/' not empty"]);
}

#[test]
fn a_tag_used_twice_is_told_of_before_a_queue_that_is_not_there() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(1, consume("q", "a"));
    let told = world.asks(1, consume("nowhere", "a"));
    assert_eq!(told, ["refused: attempt to reuse consumer tag 'a'"]);
}

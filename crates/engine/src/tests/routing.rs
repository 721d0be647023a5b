//! Ways from an exchange: to other exchanges, to alternates, by more keys, by headers.

use super::tools::*;
use super::world::*;
use crate::Operation;
use crate::command::{Binding, DeclareExchange};
use crate::refusal::{Class, Refusal};
use leveret_model::limits::{MORE_KEYS_MAX, SHORT_STRING_BYTES_MAX};
use leveret_model::properties::Properties;
use leveret_model::{FieldTable, FieldValue};

fn with_alternate(text: &str, kind: &str, alternate: &str) -> DeclareExchange {
    let arguments = table(&[("alternate-exchange", alternate.into())]);
    DeclareExchange { arguments, ..exchange(text, kind) }
}

fn unbind(binding: Binding) -> Operation {
    Operation::Unbind(Box::new(binding))
}

fn delete_exchange(text: &str) -> Operation {
    Operation::DeleteExchange { name: name(text), if_unused: false, reply: true }
}

/// Exchanges by name and type, the bindings between them, and a queue for each queue named.
fn world(exchanges: &[(&str, &str)], queues: &[&str]) -> World {
    let mut world = World::new();
    for (name, kind) in exchanges {
        assert_eq!(world.asks(1, exchange(name, kind)), ["ExchangeDeclared"]);
    }
    for name in queues {
        world.asks(1, queue(name));
    }
    world
}

/// Which of the queues have something; it is taken out.
fn taken(world: &mut World, queues: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for queue in queues {
        let bodies = world.bodies(queue);
        assert!(bodies.len() <= 1, "{queue} has it {} times", bodies.len());
        found.extend(bodies.first().map(|_| (*queue).to_owned()));
    }
    found
}

#[test]
fn exchanges_bound_to_exchanges_pass_messages_on_also_after_a_restart() {
    let all = ["direct", "topic", "both"];
    let mut world = world(&[("in", "topic"), ("mid", "direct"), ("out", "fanout")], &all);
    assert_eq!(world.asks(1, exchange_binding("mid", "in", "a.#")), ["ExchangeBound"]);
    assert_eq!(world.held_back, [1]);
    world.asks(1, exchange_binding("out", "mid", "a.b"));
    world.asks(1, binding("direct", "mid", "a.b"));
    world.asks(1, binding("topic", "in", "*.b"));
    world.asks(1, binding("both", "out", ""));
    world.asks(1, binding("both", "in", "a.*"));
    for mut world in [world.restart(), world] {
        for (key, expected) in
            [("a.b", &["direct", "topic", "both"][..]), ("a.c", &["both"]), ("x.b", &["topic"])]
        {
            world.publish("in", key, &["m"]);
            assert_eq!(taken(&mut world, &all), expected, "{key}");
        }
        assert_eq!(
            world.asks(1, unbind(exchange_binding("mid", "in", "a.#"))),
            ["ExchangeUnbound"]
        );
        world.publish("in", "a.b", &["m"]);
        assert_eq!(taken(&mut world, &all), ["topic", "both"]);
        assert_eq!(
            world.asks(1, unbind(exchange_binding("mid", "in", "a.#"))),
            ["ExchangeUnbound"]
        );
        let again = world.restart();
        assert_eq!(again.ready("direct"), 0);
    }
}

#[test]
fn circles_of_exchanges_end() {
    let mut world = world(&[("a", "fanout"), ("b", "fanout"), ("c", "fanout")], &["q"]);
    for (to, from) in [("b", "a"), ("c", "b"), ("a", "c"), ("a", "a")] {
        world.asks(1, exchange_binding(to, from, ""));
    }
    world.asks(1, binding("q", "c", ""));
    world.publish("a", "", &["m"]);
    assert_eq!(world.bodies("q"), ["m"], "once");
}

#[test]
fn bindings_of_exchanges_are_refused_where_an_end_is_missing() {
    let mut world = world(&[("x", "fanout")], &[]);
    let cases = [
        ("x", "no", "no exchange 'no' in vhost '/'"),
        ("no", "x", "no exchange 'no' in vhost '/'"),
        ("", "x", "operation not permitted on the default exchange"),
        ("x", "", "operation not permitted on the default exchange"),
    ];
    for (to, from, expected) in cases {
        let refused = [format!("refused: {expected}")];
        assert_eq!(world.asks(2, exchange_binding(to, from, "")), refused);
        world.asks(2, Operation::Open);
    }
    for (to, from) in [("x", "no"), ("no", "x"), ("x", "x")] {
        assert_eq!(world.asks(2, unbind(exchange_binding(to, from, ""))), ["ExchangeUnbound"]);
    }
}

#[test]
fn an_alternate_exchange_gets_what_finds_no_binding_also_after_a_restart() {
    let mut world = world(&[("last", "fanout")], &["bound", "caught"]);
    world.asks(1, with_alternate("mid", "direct", "last"));
    world.asks(1, with_alternate("in", "direct", "mid"));
    world.asks(1, binding("bound", "in", "k"));
    world.asks(1, binding("caught", "last", ""));
    for mut world in [world.restart(), world] {
        world.publish("in", "k", &["m"]);
        assert_eq!(taken(&mut world, &["bound", "caught"]), ["bound"]);
        let told = world.publish_with("in", "other", &["m"], true, true);
        assert_eq!(told, [""; 0], "it is not unroutable");
        assert_eq!(world.drain("caught")[0].exchange, "in", "where it was published");
    }
}

#[test]
fn an_alternate_exchange_may_be_missing_and_come_later() {
    let mut world = world(&[], &["q"]);
    world.asks(1, with_alternate("in", "direct", "later"));
    assert_eq!(world.publish_with("in", "k", &["m"], true, true), ["returned m"]);
    world.asks(1, exchange("later", "fanout"));
    world.asks(1, binding("q", "later", ""));
    world.publish("in", "k", &["m"]);
    assert_eq!(world.bodies("q"), ["m"]);
    world.asks(1, delete_exchange("later"));
    assert_eq!(world.publish_with("in", "k", &["m"], true, true), ["returned m"]);
}

#[test]
fn alternates_in_a_circle_end() {
    let mut world = world(&[], &[]);
    world.asks(1, with_alternate("a", "direct", "b"));
    world.asks(1, with_alternate("b", "direct", "a"));
    world.asks(1, with_alternate("self", "direct", "self"));
    for name in ["a", "self"] {
        assert_eq!(world.publish_with(name, "k", &["m"], true, true), ["returned m"]);
    }
}

#[test]
fn a_binding_that_leads_nowhere_is_a_binding() {
    let mut world = world(&[("dead end", "direct"), ("alt", "fanout")], &["q"]);
    world.asks(1, with_alternate("in", "direct", "alt"));
    world.asks(1, exchange_binding("dead end", "in", "k"));
    world.asks(1, binding("q", "alt", ""));
    assert_eq!(world.publish_with("in", "k", &["m"], true, true), ["returned m"]);
    assert_eq!(world.ready("q"), 0);
}

#[test]
fn each_exchange_on_the_way_has_its_own_alternate() {
    let mut world = world(&[("in", "fanout"), ("alt", "fanout")], &["q", "caught"]);
    world.asks(1, with_alternate("mid", "direct", "alt"));
    world.asks(1, exchange_binding("mid", "in", ""));
    world.asks(1, binding("q", "in", ""));
    world.asks(1, binding("caught", "alt", ""));
    world.publish("in", "k", &["m"]);
    assert_eq!(taken(&mut world, &["q", "caught"]), ["q", "caught"]);
}

#[test]
fn an_internal_exchange_takes_messages_from_exchanges_only() {
    let mut world = world(&[("in", "fanout")], &["q"]);
    world.asks(1, DeclareExchange { internal: true, ..exchange("i", "fanout") });
    world.asks(1, exchange_binding("i", "in", ""));
    world.asks(1, with_alternate("other", "direct", "i"));
    world.asks(1, binding("q", "i", ""));
    for name in ["in", "other"] {
        world.publish(name, "k", &["m"]);
        assert_eq!(world.bodies("q"), ["m"]);
    }
    let refused = ["refused: cannot publish to internal exchange 'i' in vhost '/'"];
    assert_eq!(world.publish("i", "k", &["m"]), refused);
    world.asks(1, Operation::Open);
    assert_eq!(world.send("i", "k", &of_priority(1), "m"), refused);
}

#[test]
fn exchanges_that_go_with_their_last_binding_take_others_along() {
    let auto = |text| DeclareExchange { auto_delete: true, ..exchange(text, "fanout") };
    let exists = |world: &mut World, text: &str| {
        let passive = DeclareExchange { passive: true, ..exchange(text, "") };
        let there = world.asks(3, passive) == ["ExchangeDeclared"];
        if !there {
            world.asks(3, Operation::Open);
        }
        there
    };
    let ends: [fn() -> Operation; 3] =
        [|| delete("q"), || unbind(binding("q", "c", "")), || delete_exchange("c")];
    for end in ends {
        let mut world = world(&[("stays", "fanout")], &["q"]);
        for name in ["a", "b", "c"] {
            world.asks(1, auto(name));
        }
        for (to, from) in [("b", "a"), ("c", "b"), ("b", "stays"), ("stays", "c")] {
            world.asks(1, exchange_binding(to, from, ""));
        }
        world.asks(1, binding("q", "c", ""));
        world.asks(1, unbind(exchange_binding("stays", "c", "")));
        for name in ["a", "b", "c"] {
            assert!(exists(&mut world, name), "{name}");
        }
        world.asks(1, end());
        for mut world in [world.restart(), world] {
            for (name, expected) in [("a", false), ("b", false), ("c", false), ("stays", true)] {
                assert_eq!(exists(&mut world, name), expected, "{name}");
            }
        }
    }
}

#[test]
fn a_message_goes_to_the_queues_of_all_its_keys_once() {
    let all = ["k", "cc", "bcc", "two"];
    let exchanges = ["", "amq.direct", "amq.topic"];
    let mut world = world(&[], &all);
    for exchange in &exchanges[1..] {
        for queue in all {
            world.asks(1, binding(queue, exchange, queue));
        }
        for key in ["k", "cc", "bcc"] {
            world.asks(1, binding("two", exchange, key));
        }
    }
    let odd = FieldValue::Array(vec!["cc".into(), 5.into(), "cc".into(), FieldValue::Void]);
    let cases: [(Arguments<'_>, &[&str]); 5] = [
        (&[], &["k"]),
        (&[("CC", odd)], &["k", "cc"]),
        (&[("BCC", texts(&["bcc"]))], &["k", "bcc"]),
        (&[("CC", texts(&["cc", "nowhere"])), ("BCC", texts(&["bcc"]))], &["k", "cc", "bcc"]),
        (&[("cc", texts(&["cc"]))], &["k"]),
    ];
    for (headers, expected) in cases {
        for exchange in exchanges {
            let mut expected = expected.to_vec();
            if !exchange.is_empty() {
                expected.push("two");
            }
            world.send(exchange, "k", &with_headers(headers), "m");
            assert_eq!(taken(&mut world, &all), expected, "{exchange} {headers:?}");
        }
    }
    world.assert_nothing_left();
}

#[test]
fn consumers_see_the_copies_but_not_the_blind_ones() {
    let mut world = world(&[], &["cc", "bcc"]);
    let headers = [("a", 1.into()), ("CC", texts(&["cc"])), ("BCC", texts(&["bcc"]))];
    let sent = Properties { kind: Some(name("t")), ..with_headers(&headers) };
    world.send("", "k", &sent, "m");
    for queue in ["cc", "bcc"] {
        let seen = world.restart().drain(queue).remove(0);
        assert_eq!((&*seen.key, &*seen.exchange), ("k", ""), "whichever key it was");
        let headers = Some(table(&headers[..2]));
        assert_eq!(
            seen.properties,
            Properties { headers, kind: Some(name("t")), ..seen.properties.clone() }
        );
    }
}

#[test]
fn a_returned_message_has_lost_its_blind_copies_and_is_returned_only_if_no_key_leads_on() {
    let mut world = world(&[], &["q"]);
    let cc = |key| with_headers(&[("CC", texts(&[key])), ("BCC", texts(&["no"]))]);
    assert_eq!(world.send_as(1, ("", "no"), &cc("q"), "m", true), [""; 0]);
    assert_eq!(world.send_as(1, ("", "no"), &cc("neither"), "m", true), ["returned m"]);
    assert_eq!(world.seen[0].key, "no");
    assert_eq!(world.seen[0].header("BCC"), None);
    assert_eq!(world.seen[0].header("CC"), Some(texts(&["neither"])));
}

#[test]
fn copies_must_be_lists() {
    let cases = [
        ("CC", FieldValue::from("k"), "longstr"),
        ("BCC", FieldValue::I32(1), "signedint"),
        ("CC", FieldValue::Void, "void"),
        ("BCC", FieldTable::new().into(), "table"),
    ];
    for (header, value, kind) in cases {
        let mut world = world(&[], &["q"]);
        let told = world.send("", "q", &with_headers(&[(header, value)]), "m");
        let text = format!("invalid message: {{unacceptable_type_in_header,\"{header}\",{kind}}}");
        assert_eq!(told, [format!("refused: {text}")]);
        assert_eq!(world.ready("q"), 0);
    }
    let mut world = world(&[], &["q"]);
    let both = [("BCC", 1.into()), ("CC", 1.into())];
    let told = world.send("", "q", &with_headers(&both), "m");
    assert!(told[0].contains("\"CC\""), "{told:?}");
}

#[test]
fn what_is_too_long_for_a_routing_key_is_none() {
    let key = |len: usize| format!("{}.tail", "x".repeat(len - 5));
    for (len, expected) in [(SHORT_STRING_BYTES_MAX, 1), (SHORT_STRING_BYTES_MAX + 1, 0)] {
        let mut world = world(&[], &["tail"]);
        world.asks(1, binding("tail", "amq.topic", "#.tail"));
        for header in ["CC", "BCC"] {
            let sent = with_headers(&[(header, texts(&[&key(len)]))]);
            assert_eq!(world.send("amq.topic", "k", &sent, "m"), [""; 0]);
            assert_eq!(world.bodies("tail").len(), expected, "{header} of {len}");
        }
        // Nor for a dead letter.
        world.asks(1, queue_with("k", &[("x-dead-letter-exchange", "amq.topic".into())]));
        let headers = with_headers(&[("CC", texts(&[&key(len)]))]);
        world.send("", "k", &Properties { expiration: Some(name("5")), ..headers }, "m");
        world.tick(5);
        assert_eq!((world.ready("k"), world.ready("tail")), (0, expected), "of {len}");
    }
}

#[test]
fn a_message_names_a_bounded_number_of_routing_keys() {
    let many = |count| texts(&vec!["q"; count]);
    let refused = [format!(
        "refused: invalid message: headers CC and BCC name more than {MORE_KEYS_MAX} routing keys"
    )];
    let cases = [
        (MORE_KEYS_MAX, 0, true),
        (0, MORE_KEYS_MAX, true),
        (MORE_KEYS_MAX - 7, 7, true),
        (MORE_KEYS_MAX + 1, 0, false),
        (0, MORE_KEYS_MAX + 1, false),
        (MORE_KEYS_MAX - 7, 8, false),
    ];
    for (cc, bcc, fits) in cases {
        let mut world = world(&[], &["q"]);
        let sent = with_headers(&[("CC", many(cc)), ("BCC", many(bcc))]);
        let told = world.send("", "", &sent, "m");
        assert_eq!((told.is_empty(), world.ready("q")), (fits, usize::from(fits)), "{cc} {bcc}");
        assert!(fits || told == refused, "{told:?}");
    }
    assert_eq!(Refusal::TooManyKeys(1).class(), Class::Precondition);
}

#[test]
fn blind_copies_named_twice_are_seen_by_nobody() {
    let mut world = world(&[], &["q"]);
    let blind = |key| ("BCC", texts(&[key]));
    let headers = [blind("q"), ("a", 1.into()), blind("secret"), blind("third")];
    world.send("", "k", &with_headers(&headers), "m");
    let seen = world.drain("q").remove(0);
    assert_eq!(seen.properties.headers, Some(table(&headers[1..2])));
}

#[test]
fn headers_exchanges_see_copies_and_no_blind_ones() {
    for (header, expected) in [("CC", 1), ("BCC", 0)] {
        let mut world = world(&[], &["q"]);
        let arguments = table(&[(header, FieldValue::Void)]);
        world.asks(1, Binding { arguments, ..binding("q", "amq.headers", "") });
        world.send("amq.headers", "", &with_headers(&[(header, texts(&["x"]))]), "m");
        assert_eq!(world.ready("q"), expected, "{header}");
    }
}

#[test]
fn headers_exchanges_match_message_by_message_and_over_restarts() {
    let mut world = world(&[], &["all", "any"]);
    let wanted: [(&str, FieldValue); 2] = [("a", 1.into()), ("b", "two".into())];
    for (queue, rule) in [("all", "all"), ("any", "any")] {
        let mut arguments = table(&wanted);
        arguments.insert(name("x-match"), rule);
        world.asks(1, Binding { arguments, ..binding(queue, "amq.headers", "") });
    }
    world = world.restart();
    let cases: [(Arguments<'_>, &[&str]); 5] = [
        (&[], &[]),
        (&[("a", FieldValue::I64(1))], &["any"]),
        (&[("b", "two".into()), ("a", FieldValue::U8(1))], &["all", "any"]),
        (&[("a", 2.into()), ("b", "three".into())], &[]),
        // The last of a name counts.
        (&[("a", 1.into()), ("a", 2.into())], &[]),
    ];
    for (headers, expected) in cases {
        let mut chunk = leveret_model::Chunk::default();
        // With the same envelope as others, and between them.
        for headers in [&[][..], headers, &[]] {
            put_with(&mut chunk, ("amq.headers", "k"), &with_headers(headers), "m");
        }
        let publish = Operation::Publish { first: 0, count: 3, mandatory: false, special: false };
        world.step(1, chunk, vec![(1, publish)]);
        assert_eq!(taken(&mut world, &["all", "any"]), expected, "{headers:?}");
    }
}

#[test]
fn a_match_that_means_nothing_is_refused() {
    let cases = [
        (
            FieldValue::from("most"),
            "Invalid x-match field value <<\"most\">>; expected all, any, all-with-x, or \
             any-with-x",
        ),
        (FieldValue::I32(5), "Invalid x-match field type signedint (value 5); expected longstr"),
    ];
    for (value, text) in cases {
        let mut world = world(&[], &["q"]);
        let arguments = table(&[("x-match", value)]);
        let bind =
            |exchange| Binding { arguments: arguments.clone(), ..binding("q", exchange, "") };
        assert_eq!(world.asks(1, bind("amq.direct")), ["Bound"], "no other type looks at it");
        assert_eq!(world.asks(1, bind("amq.headers")), [format!("refused: {text}")]);
    }
}

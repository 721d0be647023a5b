//! Dead letters: where they go, what they tell, and where their way ends.

use super::tools::*;
use super::world::*;
use crate::command::{DeclareExchange, DeclareQueue};
use crate::{Operation, Outcome};
use leveret_model::limits::STEP_WORK_BYTES_MAX;
use leveret_model::message::Past;
use leveret_model::properties::Properties;
use leveret_model::{FieldValue, ShortString};
use leveret_record::Record;

/// Queue `q`, whose dead letters go to the topic exchange `dlx`, to which `dead` is bound.
fn world() -> World {
    let mut world = World::new();
    world.asks(1, exchange("dlx", "topic"));
    world.asks(1, queue("dead"));
    world.asks(1, binding("dead", "dlx", "#"));
    world.asks(1, queue_with("q", &[("x-dead-letter-exchange", "dlx".into())]));
    world
}

/// Session 2 takes the first message of a queue and refuses it.
fn reject(world: &mut World, queue: &str) {
    assert!(world.asks(2, get(queue))[0].starts_with("got"));
    world.asks(2, settle_all(0, Outcome::Discard));
}

fn first(world: &mut World, queue: &str) -> Seen {
    world.drain(queue).into_iter().next().expect("a message")
}

#[test]
fn a_first_death_is_told_field_by_field() {
    let mut world = world();
    world.asks(1, binding("q", "amq.direct", "k"));
    let sent = Properties {
        content_type: Some(name("text/plain")),
        delivery_mode: Some(2),
        priority: Some(3),
        correlation_id: Some(name("c")),
        reply_to: Some(name("r")),
        expiration: Some(name("60000")),
        message_id: Some(name("m")),
        timestamp: Some(7),
        headers: Some(table(&[("a", 1.into()), ("CC", texts(&["cc"])), ("BCC", texts(&["b"]))])),
        ..Properties::default()
    };
    world.send("amq.direct", "k", &sent, "body");
    world.now = leveret_model::Time(1_005_999);
    reject(&mut world, "q");
    let dead = first(&mut world, "dead");
    assert_eq!((&*dead.exchange, &*dead.key, &*dead.body), ("dlx", "k", "body"));
    assert!(!dead.redelivered);
    let headers = dead.properties.headers.clone().unwrap();
    let death = table(&[
        ("original-expiration", "60000".into()),
        ("count", 1_i64.into()),
        ("reason", "rejected".into()),
        ("queue", "q".into()),
        ("time", FieldValue::Timestamp(1_005)),
        ("exchange", "amq.direct".into()),
        ("routing-keys", texts(&["k", "cc"])),
    ]);
    let mut expected = vec![
        ("a", 1.into()),
        ("CC", texts(&["cc"])),
        ("x-death", FieldValue::Array(vec![death.into()])),
    ];
    for which in ["x-first-death-", "x-last-death-"] {
        for (what, value) in [("exchange", "amq.direct"), ("queue", "q"), ("reason", "rejected")] {
            let name = name(&format!("{which}{what}"));
            assert_eq!(headers.get(&*name.to_str_lossy()), Some(&value.into()), "{name}");
        }
    }
    expected.retain(|(name, value)| headers.get(name) != Some(value));
    assert_eq!(expected, [], "not in {headers:?}");
    assert_eq!(headers.len(), 9);
    assert_eq!(headers.iter().next().unwrap().0, name("a"), "in the client's order");
    let other = Properties { headers: None, ..dead.properties };
    assert_eq!(other, Properties { headers: None, expiration: None, ..sent });
}

#[test]
fn every_end_has_its_reason() {
    let cases: [(&str, Arguments<'_>, &str); 4] = [
        ("rejected", &[], ""),
        ("expired", &[("x-message-ttl", FieldValue::I32(0))], ""),
        ("maxlen", &[("x-max-length", FieldValue::I32(0))], ""),
        ("delivery_limit", &[("x-delivery-limit", FieldValue::I32(0))], "quorum"),
    ];
    for (reason, arguments, kind) in cases {
        let mut world = World::new();
        let kind: &[_] = if kind.is_empty() { &[] } else { &[("x-queue-type", kind.into())] };
        world.asks(1, queue_with("q", &and(&and(&dead_to("dead"), arguments), kind)));
        world.asks(1, queue("dead"));
        world.send("", "q", &expiring_in("70000"), "m");
        match reason {
            "rejected" => reject(&mut world, "q"),
            "delivery_limit" => {
                world.asks(2, get("q"));
                world.asks(2, settle(1, Outcome::Requeue));
            }
            _ => {}
        }
        let dead = first(&mut world, "dead");
        assert_eq!(dead.deaths(), [format!("{reason} q 1")]);
        assert_eq!(dead.properties.expiration, None, "{reason}");
        assert_eq!(dead.header("x-first-death-reason"), Some(reason.into()));
        assert_eq!(dead.header("x-last-death-exchange"), Some("".into()));
        world.assert_nothing_left();
    }
}

/// The usual way to try again later: refused, it waits in `wait` and comes back.
fn with_retry() -> World {
    let mut world = World::new();
    world.asks(1, queue_with("q", &dead_to("wait")));
    world.asks(1, queue_with("wait", &and(&dead_to("q"), &[("x-message-ttl", 1_000.into())])));
    world
}

#[test]
fn deaths_are_counted_over_many_rounds() {
    let mut world = with_retry();
    world.send("", "q", &with_headers(&[("CC", texts(&["other"]))]), "m");
    for round in 1..=3 {
        reject(&mut world, "q");
        assert_eq!(world.ready("wait"), 1);
        world.tick(1_000);
        assert_eq!(world.asks(2, get("q")).len(), 1);
        let seen = world.seen.pop().unwrap();
        assert_eq!(seen.deaths(), [format!("expired wait {round}"), format!("rejected q {round}")]);
        assert_eq!(seen.header("x-first-death-queue"), Some("q".into()));
        assert_eq!(seen.header("x-last-death-queue"), Some("wait".into()));
        let Some(FieldValue::Array(deaths)) = seen.header("x-death") else { panic!() };
        let times = deaths.iter().map(|death| death.as_table().unwrap().get("time").unwrap());
        let first = [FieldValue::Timestamp(1_001), FieldValue::Timestamp(1_000)];
        assert_eq!(times.cloned().collect::<Vec<_>>(), first, "the time of the first");
        let keys = deaths[1].as_table().unwrap().get("routing-keys");
        assert_eq!(keys, Some(&texts(&["q", "other"])), "the keys of the first");
        world.asks(2, settle_all(0, Outcome::Requeue));
    }
    reject(&mut world, "q");
    assert_eq!(first(&mut world, "wait").deaths(), ["rejected q 4", "expired wait 3"]);
    world.assert_nothing_left();
}

#[test]
fn the_history_survives_a_restart() {
    let mut world = with_retry();
    world.publish("", "q", &["m"]);
    for round in 1..=3 {
        reject(&mut world, "q");
        world = world.restart();
        assert_eq!((world.ready("q"), world.ready("wait")), (0, 1));
        world.tick(1_000);
        world = world.restart();
        assert_eq!((world.ready("q"), world.ready("wait")), (1, 0));
        assert_eq!(world.asks(2, get("q")).len(), 1);
        let expected = [format!("expired wait {round}"), format!("rejected q {round}")];
        assert_eq!(world.seen[0].deaths(), expected);
        world.asks(2, settle_all(0, Outcome::Requeue));
    }
}

#[test]
fn what_a_client_says_of_a_death_counts_for_nothing() {
    let forged = table(&[
        ("count", 9_i64.into()),
        ("reason", "expired".into()),
        ("queue", "dead".into()),
        ("time", FieldValue::Timestamp(1)),
    ]);
    let sent = with_headers(&[
        ("x-death", FieldValue::Array(vec![forged.into()])),
        ("x-first-death-queue", "forged".into()),
    ]);
    for again in [false, true] {
        let mut world = World::new();
        world.asks(1, queue_with("q", &and(&dead_to("dead"), &[("x-message-ttl", 5.into())])));
        world.asks(1, queue("dead"));
        world.send("", "q", &sent, "m");
        if again {
            world = world.restart();
        }
        world.asks(2, get("q"));
        assert_eq!(world.seen[0].properties, sent, "before its first death it passes on");
        world.asks(2, settle(1, Outcome::Requeue));
        world.tick(5);
        let dead = first(&mut world, "dead");
        assert_eq!(dead.deaths(), ["expired q 1"]);
        assert_eq!(dead.header("x-first-death-queue"), Some("q".into()));
    }
}

#[test]
fn circles_that_nobody_breaks_are_cut() {
    // Which queues expire into which, and where the message is in the end.
    type Ways<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Ways<'_>, &[&str]); 3] = [
        (&[("q", "q")], &[]),
        (&[("q", "b"), ("b", "q")], &[]),
        (&[("q", "b"), ("b", "end"), ("end", "")], &["end"]),
    ];
    for (queues, expected) in cases {
        let mut world = World::new();
        for (from, to) in queues {
            let ttl = [("x-message-ttl", 10.into())];
            match to.is_empty() {
                true => world.asks(1, queue(from)),
                false => world.asks(1, queue_with(from, &and(&dead_to(to), &ttl))),
            };
        }
        world.publish("", "q", &["m"]);
        for _ in 0..5 {
            world.tick(10);
        }
        let holds = |(queue, _): &&(&str, &str)| world.ready(queue) > 0;
        let at: Vec<&str> = queues.iter().filter(holds).map(|(queue, _)| *queue).collect();
        assert_eq!(at, expected, "{queues:?}");
        for queue in expected {
            world.drain(queue);
        }
        world.assert_nothing_left();
    }
}

#[test]
fn a_cut_circle_leaves_the_other_queues_their_letter() {
    let mut world = World::new();
    let arguments =
        [("x-dead-letter-exchange", "amq.fanout".into()), ("x-max-length", FieldValue::I32(0))];
    world.asks(1, queue_with("q", &arguments));
    world.asks(1, queue("other"));
    for queue in ["q", "other"] {
        world.asks(1, binding(queue, "amq.fanout", ""));
    }
    world.publish("", "q", &["m"]);
    assert_eq!(world.drain("other")[0].deaths(), ["maxlen q 1"]);
    world.assert_nothing_left();
}

#[test]
fn a_refused_message_may_come_back_as_often_as_it_is_refused() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-dead-letter-exchange", "".into())]));
    world.publish("", "q", &["m"]);
    for round in 1..=4 {
        reject(&mut world, "q");
        world.asks(2, get("q"));
        assert_eq!(world.seen[0].deaths(), [format!("rejected q {round}")]);
        assert!(!world.seen[0].redelivered);
        world.asks(2, settle_all(0, Outcome::Requeue));
    }
}

#[test]
fn an_exchange_that_is_not_there_takes_nothing() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-dead-letter-exchange", "later".into())]));
    world.asks(1, queue("dead"));
    world.publish("", "q", &["m1", "m2"]);
    reject(&mut world, "q");
    world.asks(1, exchange("later", "fanout"));
    world.asks(1, binding("dead", "later", ""));
    reject(&mut world, "q");
    assert_eq!(world.bodies("dead"), ["m2"]);
    world.assert_nothing_left();
}

#[test]
fn a_queue_without_such_an_exchange_drops_what_is_refused() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.publish("", "q", &["m"]);
    reject(&mut world, "q");
    world.assert_nothing_left();
}

#[test]
fn letters_keep_all_their_keys_unless_the_queue_has_one_for_them() {
    let cases: [(Option<&str>, &str, &[&str]); 2] =
        [(None, "k", &["by cc", "by k"]), (Some("new"), "new", &["by new"])];
    for (key, delivered, expected) in cases {
        let mut world = World::new();
        let mut arguments = vec![("x-dead-letter-exchange", "amq.direct".into())];
        arguments.extend(key.map(|key| ("x-dead-letter-routing-key", key.into())));
        world.asks(1, queue_with("q", &arguments));
        world.asks(1, exchange("in", "fanout"));
        world.asks(1, binding("q", "in", ""));
        for key in ["k", "cc", "bcc", "new"] {
            world.asks(1, queue(&format!("by {key}")));
            world.asks(1, binding(&format!("by {key}"), "amq.direct", key));
        }
        let headers = [("CC", texts(&["cc"])), ("BCC", texts(&["bcc"]))];
        world.send("in", "k", &with_headers(&headers), "m");
        reject(&mut world, "q");
        for queue in ["by k", "by cc", "by bcc", "by new"] {
            let seen = world.drain(queue);
            assert_eq!(seen.len(), usize::from(expected.contains(&queue)), "{queue}");
            for each in seen {
                assert_eq!((&*each.exchange, &*each.key), ("amq.direct", delivered));
                assert_eq!(each.header("CC"), Some(texts(&["cc"])), "it stays");
            }
        }
    }
}

#[test]
fn keys_that_a_queue_has_replaced_do_not_come_back_with_the_next_death() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &dead_to("second")));
    world.asks(1, queue_with("second", &[("x-dead-letter-exchange", "amq.direct".into())]));
    world.asks(1, queue("by cc"));
    world.asks(1, binding("by cc", "amq.direct", "cc"));
    world.send("", "q", &with_headers(&[("CC", texts(&["cc"]))]), "m");
    reject(&mut world, "q");
    reject(&mut world, "second");
    assert_eq!(world.bodies("by cc"), [""; 0]);
}

#[test]
fn an_internal_exchange_and_an_alternate_one_take_letters() {
    let mut world = World::new();
    let arguments = table(&[("alternate-exchange", "amq.fanout".into())]);
    let dlx = exchange("dlx", "direct");
    world.asks(1, DeclareExchange { internal: true, arguments, ..dlx });
    world.asks(1, queue_with("q", &[("x-dead-letter-exchange", "dlx".into())]));
    world.asks(1, queue("dead"));
    world.asks(1, binding("dead", "amq.fanout", ""));
    world.publish("", "q", &["m"]);
    reject(&mut world, "q");
    let dead = first(&mut world, "dead");
    assert_eq!((&*dead.exchange, &*dead.key), ("dlx", "q"));
}

#[test]
fn headers_exchanges_see_what_is_told_of_a_death() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-dead-letter-exchange", "amq.headers".into())]));
    world.asks(1, queue("dead"));
    let arguments =
        table(&[("x-match", "all-with-x".into()), ("x-first-death-reason", "rejected".into())]);
    world.asks(1, crate::command::Binding { arguments, ..binding("dead", "amq.headers", "") });
    world.publish("", "q", &["m"]);
    reject(&mut world, "q");
    assert_eq!(world.bodies("dead"), ["m"]);
}

#[test]
fn a_letter_is_in_the_log_where_it_went_before_it_is_gone_where_it_was() {
    let mut world = world();
    world.publish("", "q", &["m1", "m2", "m3"]);
    world.asks(2, consume("q", "a"));
    world.asks(2, settle_all(3, Outcome::Discard));
    let records = world.records();
    let [Record::Publish { origin, .. }, _, _, Record::Settle { count: 3, .. }] = records[..]
    else {
        panic!("{records:?}")
    };
    assert_eq!(origin.past, Past::Died);
    assert_eq!(world.bodies("dead"), ["m1", "m2", "m3"], "in order");
    world.assert_nothing_left();
}

#[test]
fn a_transient_message_stays_transient() {
    let mut world = world();
    world.publish_with("", "q", &["m"], false, false);
    reject(&mut world, "q");
    assert!(world.records().is_empty());
    assert_eq!(world.bodies("dead"), ["m"]);
}

#[test]
fn a_deleted_or_purged_queue_writes_no_letters() {
    let mut world = world();
    world.publish("", "q", &["m1", "m2"]);
    world.asks(1, purge("q"));
    world.publish("", "q", &["m3"]);
    world.asks(1, delete("q"));
    assert_eq!(world.bodies("dead"), [""; 0]);
    world.assert_nothing_left();
}

#[test]
fn a_long_chain_of_letters_neither_nests_nor_holds_up_a_step() {
    let mut world = World::new();
    let links = 500;
    for link in 0..links {
        let arguments = [("x-max-length", FieldValue::I32(0))];
        let declare =
            queue_with(&format!("q{link}"), &and(&dead_to(&format!("q{}", link + 1)), &arguments));
        world.asks(1, DeclareQueue { durable: false, ..declare });
    }
    world.asks(1, queue(&format!("q{links}")));
    world.publish("", "q0", &["m"]);
    world.tick(0);
    let end = first(&mut world, &format!("q{links}"));
    assert_eq!(end.deaths().len(), links);
    assert_eq!(end.header("x-first-death-queue"), Some("q0".into()));
    world.assert_nothing_left();
}

#[test]
fn what_one_step_does_for_letters_is_bounded_and_a_restart_loses_none() {
    let mut world = world();
    let body = "x".repeat(STEP_WORK_BYTES_MAX / 10);
    world.publish("", "q", &[&*body; 35]);
    for _ in 0..5 {
        world.asks(2, Operation::Taken { bytes: usize::MAX });
        world.asks(2, consume("q", "a"));
        world.asks(2, cancel("a"));
    }
    assert_eq!(world.ready("q"), 0);
    world.asks(2, settle_all(0, Outcome::Discard));
    let after_one = world.ready("dead");
    assert!((1..15).contains(&after_one), "{after_one}");
    assert_eq!(world.engine.deadline(), Some(leveret_model::Time(0)), "at once");
    let mut again = world.restart();
    assert_eq!(again.ready("dead") + again.ready("q"), 35);
    again.asks(2, Operation::Taken { bytes: usize::MAX });
    assert!(world.tick(0) >= 2);
    assert_eq!(world.ready("dead"), 35);
    assert_eq!(world.drain("dead").len(), 35);
    world.assert_nothing_left();
}

#[test]
fn a_queue_deleted_while_its_letters_wait_sends_them_all_the_same() {
    let mut world = world();
    let body = "x".repeat(STEP_WORK_BYTES_MAX);
    world.publish("", "q", &[&*body; 3]);
    for _ in 0..3 {
        world.asks(2, get("q"));
    }
    world.asks(2, settle_all(0, Outcome::Discard));
    assert_eq!(world.ready("dead"), 1);
    world.asks(1, delete("q"));
    world.tick(0);
    assert_eq!(world.drain("dead").len(), 3);
    world.assert_nothing_left();
}

#[test]
fn an_expiration_is_told_as_the_number_it_is() {
    for sent in ["+70000", "0070000"] {
        let mut world = world();
        world.send("", "q", &expiring_in(sent), "m");
        reject(&mut world, "q");
        let Some(FieldValue::Array(deaths)) = first(&mut world, "dead").header("x-death") else {
            panic!()
        };
        let (field, value) = deaths[0].as_table().unwrap().iter().next().unwrap();
        assert_eq!(*field, ShortString::from_static("original-expiration"));
        assert_eq!(*value, "70000".into());
    }
}

#[test]
fn a_full_queue_takes_what_must_not_be_lost() {
    let mut world = World::new();
    let full = [("x-max-length", 1.into()), ("x-overflow", "reject-publish".into())];
    world.asks(1, queue_with("full", &full));
    let mut arguments = dead_to("full").to_vec();
    arguments.push(("x-queue-type", "quorum".into()));
    world.asks(1, queue_with("loses", &arguments));
    arguments.push(("x-dead-letter-strategy", "at-least-once".into()));
    world.asks(1, queue_with("keeps", &arguments));
    world.publish("", "full", &["first"]);
    for queue in ["loses", "keeps"] {
        world.publish("", queue, &[queue]);
        reject(&mut world, queue);
    }
    assert_eq!(world.bodies("full"), ["first", "keeps"]);
}

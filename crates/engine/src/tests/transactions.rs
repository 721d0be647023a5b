//! Transactions: nothing before the commit, everything with it, nothing after a rollback.

use super::tools::*;
use super::world::*;
use crate::command::{DeclareExchange, DeclareQueue};
use crate::{Operation, Outcome};
use leveret_model::Chunk;
use leveret_model::limits::TRANSACTION_BYTES_MAX;
use leveret_record::Record;

/// Queue `q`, and session 1 in transactions.
fn world() -> World {
    let mut world = World::new();
    world.asks(1, queue("q"));
    assert_eq!(world.asks(1, Operation::SelectTransactions), ["TransactionsSelected"]);
    world
}

fn commit(world: &mut World) -> Vec<String> {
    world.asks(1, Operation::Commit)
}

fn rollback(world: &mut World) -> Vec<String> {
    world.asks(1, Operation::Rollback)
}

#[test]
fn what_is_published_is_there_with_the_commit_and_in_one_piece() {
    let mut world = world();
    world.asks(2, consume("q", "a"));
    for body in ["1", "2"] {
        assert_eq!(world.publish("", "q", &[body]), [""; 0]);
        assert!(world.records().is_empty() && world.heard(2).is_empty());
    }
    assert_eq!(world.restart().ready("q"), 0);
    assert_eq!(commit(&mut world), ["Committed"]);
    assert_eq!(world.heard(2), ["a #1 1", "a #2 2"]);
    assert_eq!(world.records().len(), 3, "two messages, and that they are delivered");
    assert_eq!(world.held_back, [1, 2], "told when it is durable");
    assert_eq!(world.restart().bodies("q"), ["1", "2"]);
    assert_eq!(commit(&mut world), ["Committed"], "there may be nothing to do");
    assert!(world.records().is_empty());
    world.asks(2, settle_all(0, Outcome::Accept));
    world.assert_nothing_left();
}

#[test]
fn acknowledgements_and_messages_are_committed_together() {
    let mut world = world();
    world.asks(1, queue("in"));
    world.publish("", "in", &["1", "2", "3"]);
    commit(&mut world);
    world.asks(1, consume("in", "a"));
    world.asks(1, ack(2));
    world.publish("", "q", &["out"]);
    world.asks(1, ack(1));
    assert!(world.records().is_empty());
    let before = world.restart();
    assert_eq!((before.ready("in"), before.ready("q")), (3, 0));
    assert_eq!(commit(&mut world), ["Committed"]);
    let [Record::Publish { .. }, Record::Settle { .. }, Record::Settle { .. }] =
        world.records()[..]
    else {
        panic!("{:?}", world.records())
    };
    let mut after = world.restart();
    assert_eq!((after.bodies("in"), after.bodies("q")), (vec!["3".into()], vec!["out".into()]));
}

#[test]
fn a_rollback_forgets_what_was_published() {
    let mut world = world();
    world.publish("", "q", &["1"]);
    assert_eq!(rollback(&mut world), ["RolledBack"]);
    assert_eq!(commit(&mut world), ["Committed"]);
    assert_eq!(world.ready("q"), 0);
    world.publish("", "q", &["2"]);
    commit(&mut world);
    assert_eq!(world.bodies("q"), ["2"], "another transaction has begun");
    world.assert_nothing_left();
}

#[test]
fn a_rollback_has_all_leases_out_again_in_their_order() {
    let mut world = world();
    world.publish("", "q", &["1", "2", "3", "4", "5"]);
    commit(&mut world);
    world.asks(1, consume("q", "a"));
    for what in [ack(4), settle(2, Outcome::Requeue), settle(5, Outcome::Discard)] {
        assert_eq!(world.asks(1, what), [""; 0]);
    }
    assert_eq!(rollback(&mut world), ["RolledBack"], "nothing is delivered again");
    assert_eq!(world.asks(1, settle_all(3, Outcome::Requeue)), [""; 0]);
    assert_eq!(commit(&mut world)[..2], ["Committed", "a #6 1 again"]);
    assert_eq!(world.heard(1).len(), 4);
    assert_eq!(world.asks(1, settle_all(5, Outcome::Accept)), [""; 0]);
    commit(&mut world);
    assert_eq!(world.restart().bodies("q"), ["1", "2", "3"]);
    assert_eq!(world.asks(1, ack(4)), ["refused: unknown delivery tag 4"]);
    assert_eq!(world.bodies("q"), ["1", "2", "3"]);
    world.assert_nothing_left();
}

#[test]
fn a_lease_settled_in_a_transaction_is_settled_for_its_holder() {
    let mut world = world();
    world.publish("", "q", &["1", "2"]);
    commit(&mut world);
    world.asks(1, consume("q", "a"));
    world.asks(1, ack(1));
    assert_eq!(world.asks(1, ack(1)), ["refused: unknown delivery tag 1"]);
    assert_eq!(world.bodies("q"), ["1", "2"], "and what was not committed has not happened");
    world.assert_nothing_left();
}

#[test]
fn a_holder_that_closes_takes_its_transaction_back() {
    let ends: [fn(&mut World) -> Vec<String>; 3] = [
        |world| world.asks(1, Operation::Close),
        |world| world.asks(1, Operation::Disconnect),
        |world| world.asks(1, get("nowhere")),
    ];
    for end in ends {
        let mut world = world();
        world.publish("", "q", &["1", "2", "3"]);
        commit(&mut world);
        world.asks(1, consume("q", "a"));
        world.publish("", "q", &["lost"]);
        world.asks(1, ack(2));
        world.asks(1, settle(1, Outcome::Discard));
        end(&mut world);
        assert_eq!(world.bodies("q"), ["1", "2", "3"]);
        world.assert_nothing_left();
    }
}

#[test]
fn room_for_deliveries_is_made_by_the_commit() {
    for shared in [false, true] {
        let mut world = world();
        world.publish("", "q", &["1", "2"]);
        commit(&mut world);
        world.asks(1, Operation::Prefetch { count: 1, shared });
        world.asks(1, consume("q", "a"));
        assert_eq!(world.asks(1, ack(1)), [""; 0]);
        assert_eq!(rollback(&mut world), ["RolledBack"]);
        assert_eq!(world.asks(1, ack(1)), [""; 0]);
        assert_eq!(commit(&mut world), ["Committed", "a #2 2"], "shared {shared}");
    }
}

#[test]
fn messages_are_routed_when_they_are_published() {
    let mut world = world();
    world.asks(1, queue("r"));
    world.asks(1, binding("q", "amq.direct", "k"));
    world.publish("amq.direct", "k", &["1"]);
    world.asks(2, Operation::Unbind(Box::new(binding("q", "amq.direct", "k"))));
    world.asks(2, binding("r", "amq.direct", "k"));
    world.publish("amq.direct", "k", &["2"]);
    commit(&mut world);
    assert_eq!((world.bodies("q"), world.bodies("r")), (vec!["1".into()], vec!["2".into()]));
}

#[test]
fn a_queue_deleted_before_the_commit_gets_nothing() {
    let mut world = world();
    world.publish_with("", "q", &["1"], true, true);
    world.asks(2, delete("q"));
    assert_eq!(commit(&mut world), ["Committed"], "it was routed");
    world.assert_nothing_left();
}

#[test]
fn unroutable_messages_return_before_the_commit_is_answered() {
    let mut world = world();
    assert_eq!(world.publish_with("", "nowhere", &["1"], true, true), [""; 0]);
    world.publish("", "q", &["2"]);
    world.publish_with("", "nowhere", &["3"], true, true);
    assert_eq!(commit(&mut world), ["returned 1", "returned 3", "Committed"]);
    assert_eq!(world.seen[0].key, "nowhere");
}

#[test]
fn what_cannot_be_published_is_refused_at_once() {
    let mut world = world();
    world.asks(1, DeclareExchange { internal: true, ..exchange("i", "fanout") });
    world.publish("", "q", &["lost"]);
    let refused = "refused: cannot publish to internal exchange 'i' in vhost '/'";
    assert_eq!(world.publish("i", "", &["m"]), [refused]);
    assert_eq!(world.ready("q"), 0);
    world.assert_nothing_left();
}

#[test]
fn confirms_and_transactions_exclude_each_other() {
    let confirms = || Operation::SelectConfirms { reply: true };
    let mut world = world();
    assert_eq!(world.asks(1, Operation::SelectTransactions), ["TransactionsSelected"]);
    assert_eq!(world.asks(1, confirms()), ["refused: cannot switch from tx to confirm mode"]);
    assert_eq!(world.asks(2, confirms()), ["confirms"]);
    let told = world.asks(2, Operation::SelectTransactions);
    assert_eq!(told, ["refused: cannot switch from confirm to tx mode"]);
    for what in [Operation::Commit, Operation::Rollback] {
        world.asks(3, Operation::Open);
        world.asks(3, Operation::Close);
        world.asks(3, Operation::Open);
        assert_eq!(world.asks(3, what), ["refused: channel is not transactional"]);
    }
}

#[test]
fn selecting_again_keeps_what_is_there() {
    let mut world = world();
    world.publish("", "q", &["1"]);
    world.asks(1, Operation::SelectTransactions);
    commit(&mut world);
    assert_eq!(world.bodies("q"), ["1"]);
}

/// `q` takes two messages, or three bytes, and rejects others.
fn rejecting() -> World {
    let mut world = World::new();
    let arguments = [
        ("x-max-length", 2.into()),
        ("x-max-length-bytes", 3.into()),
        ("x-overflow", "reject-publish".into()),
    ];
    world.asks(1, queue_with("q", &arguments));
    world.asks(1, queue("r"));
    world.publish("", "r", &["in"]);
    world.asks(1, Operation::SelectTransactions);
    world
}

#[test]
fn a_commit_that_a_full_queue_would_refuse_in_part_is_refused_as_a_whole() {
    let refused =
        ["refused: the transaction is refused as a whole: queue 'q' in vhost '/' is full"];
    for bodies in [&["1", "2", "3"][..], &["aa", "bb"][..]] {
        let mut world = rejecting();
        assert_eq!(world.asks(1, get("r")), ["got #1 in, 0 left"]);
        assert_eq!(world.asks(1, ack(1)), [""; 0]);
        world.publish("", "r", &["out"]);
        for body in bodies {
            world.publish("", "q", &[body]);
        }
        assert_eq!(commit(&mut world), refused);
        assert!(world.records().is_empty());
        assert_eq!((world.ready("q"), world.bodies("r")), (0, vec!["in".to_owned()]));
        world.assert_nothing_left();
    }
}

#[test]
fn a_commit_that_fits_exactly_is_not_refused() {
    let mut world = rejecting();
    world.publish("", "q", &["aa", "b"]);
    assert_eq!(commit(&mut world), ["Committed"]);
    assert_eq!(world.ready("q"), 2);
}

#[test]
fn a_transaction_has_a_limit() {
    let mut world = world();
    let body = "x".repeat(TRANSACTION_BYTES_MAX / 8 - 1_000);
    for _ in 0..8 {
        assert_eq!(world.publish("", "q", &[&body]), [""; 0]);
    }
    let refused = [format!("refused: the transaction exceeds {TRANSACTION_BYTES_MAX} bytes")];
    assert_eq!(world.publish("", "q", &[&body]), refused);
    assert_eq!(world.ready("q"), 0);
    world.asks(1, Operation::Open);
    world.asks(1, Operation::SelectTransactions);
    world.publish("", "q", &["small"]);
    assert_eq!(commit(&mut world), ["Committed"]);
    assert_eq!(world.bodies("q"), ["small"]);
}

#[test]
fn many_messages_of_nothing_have_a_limit_too() {
    let mut world = world();
    let count = 100_000;
    let mut published = 0;
    loop {
        let mut chunk = Chunk::default();
        for _ in 0..count {
            put(&mut chunk, "", "q", "", false);
        }
        let publish = Operation::Publish { first: 0, count, mandatory: false, special: false };
        world.step(1, chunk, vec![(1, publish)]);
        if !world.heard(1).is_empty() {
            break;
        }
        published += count as usize;
        assert!(published * 64 < TRANSACTION_BYTES_MAX, "{published} of them");
    }
}

#[test]
fn time_to_live_begins_with_the_commit_and_demands_are_kept() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-max-priority", 5.into())]));
    world.asks(1, Operation::SelectTransactions);
    world.send("", "q", &expiring_in("10"), "short");
    world.send("", "q", &of_priority(3), "high");
    world.tick(10);
    commit(&mut world);
    assert_eq!(world.restart().bodies("q"), ["high", "short"]);
    assert_eq!(world.asks(2, get("q")), ["got #1 high, 1 left"]);
    world.tick(9);
    assert_eq!(world.ready("q"), 1);
    world.tick(1);
    assert_eq!(world.ready("q"), 0);
}

#[test]
fn other_keys_and_direct_replies_are_kept_too() {
    let mut world = world();
    world.asks(1, queue("cc"));
    let headers = with_headers(&[("CC", texts(&["cc"])), ("BCC", texts(&["q"]))]);
    world.send("", "nowhere", &headers, "m");
    commit(&mut world);
    assert_eq!((world.bodies("q"), world.bodies("cc")), (vec!["m".into()], vec!["m".into()]));
    world.assert_nothing_left();
}

#[test]
fn refused_messages_of_a_transaction_become_dead_letters_in_its_step() {
    let mut world = World::new();
    world.asks(1, queue("dead"));
    world.asks(1, queue_with("q", &dead_to("dead")));
    world.publish("", "q", &["1", "2"]);
    world.asks(1, Operation::SelectTransactions);
    world.asks(1, consume("q", "a"));
    world.asks(1, settle_all(0, Outcome::Discard));
    assert_eq!(world.ready("dead"), 0);
    assert_eq!(commit(&mut world), ["Committed"]);
    assert_eq!(world.records().len(), 3);
    assert_eq!(world.bodies("dead"), ["1", "2"]);
    world.assert_nothing_left();
}

/// As in RabbitMQ, where it is no part of a transaction.
#[test]
fn a_commit_puts_no_dead_letter_off_however_many_it_has() {
    const COUNT: usize = 3_000;
    let mut world = world();
    world.asks(1, queue_with("in", &dead_to("q")));
    let bodies: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    world.publish("", "in", &bodies.iter().map(String::as_str).collect::<Vec<_>>());
    commit(&mut world);
    world.asks(1, consume("in", "a"));
    world.asks(1, settle_all(0, Outcome::Discard));
    assert_eq!(world.restart().ready("in"), COUNT);
    assert_eq!(commit(&mut world), ["Committed"]);
    let mut after = world.restart();
    assert_eq!((after.ready("in"), after.bodies("q")), (0, bodies));
}

#[test]
fn recover_does_not_wait_for_the_commit() {
    let mut world = world();
    world.publish("", "q", &["1", "2"]);
    commit(&mut world);
    world.asks(1, consume("q", "a"));
    world.asks(1, ack(1));
    let told = world.asks(1, Operation::Recover { reply: true });
    assert_eq!(told, ["Recovered", "a #3 2 again"]);
    assert_eq!(rollback(&mut world), ["RolledBack"]);
    assert_eq!(world.asks(1, ack(1)), [""; 0]);
    commit(&mut world);
    assert_eq!(world.restart().bodies("q"), ["2"]);
}

#[test]
fn transient_queues_and_messages_are_committed_without_a_record() {
    let mut world = world();
    world.asks(1, DeclareQueue { durable: false, ..queue("t") });
    world.publish("", "t", &["1"]);
    world.publish_with("", "q", &["2"], false, false);
    assert_eq!(commit(&mut world), ["Committed"]);
    assert!(world.records().is_empty());
    assert_eq!((world.ready("q"), world.ready("t")), (1, 1));
}

#[test]
fn leases_end_in_the_order_in_which_they_were_settled() {
    let mut world = World::new();
    world.asks(1, queue("dead"));
    world.asks(1, queue_with("q", &dead_to("dead")));
    world.publish("", "q", &["1", "2", "3", "4"]);
    world.asks(1, Operation::SelectTransactions);
    world.asks(1, consume("q", "a"));
    world.asks(1, settle(3, Outcome::Discard));
    world.asks(1, ack(2));
    world.asks(1, settle_all(0, Outcome::Discard));
    commit(&mut world);
    assert_eq!(world.bodies("dead"), ["3", "1", "4"]);
    world.assert_nothing_left();
}

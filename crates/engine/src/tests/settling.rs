//! Leases: how they end, one, many and all of them.

use super::world::*;
use crate::{Operation, Outcome};

/// A queue whose messages m1 to m5 are leased by session 2's consumer `a`, as 1 to 5.
fn leased() -> World {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(2, consume("q", "a"));
    world.publish("", "q", &["m1", "m2", "m3", "m4", "m5"]);
    assert_eq!(world.heard(2).len(), 5);
    world
}

fn counts(world: &World) -> (usize, usize) {
    let queue = world.engine.queues().find(|queue| queue.name == "q").unwrap();
    (queue.ready, queue.unacknowledged)
}

#[test]
fn one_lease_ends_once() {
    let mut world = leased();
    assert_eq!(world.asks(2, ack(3)), [""; 0]);
    assert_eq!(counts(&world), (0, 4));
    assert_eq!(world.asks(2, ack(3)), ["refused: unknown delivery tag 3"]);
    assert_eq!(counts(&world), (4, 0), "a refusal closes the holder");
}

#[test]
fn unknown_leases_are_refused() {
    for lease in [0, 6, u64::MAX] {
        let refused = [format!("refused: unknown delivery tag {lease}")];
        assert_eq!(leased().asks(2, ack(lease)), refused);
        assert_eq!(leased().asks(2, settle(lease, Outcome::Requeue)), refused);
        if lease > 0 {
            assert_eq!(leased().asks(2, settle_all(lease, Outcome::Accept)), refused);
        }
    }
}

#[test]
fn many_leases_end_with_one_command() {
    let mut world = leased();
    world.asks(2, ack(2));
    assert_eq!(world.asks(2, settle_all(3, Outcome::Accept)), [""; 0]);
    assert_eq!(counts(&world), (0, 2));
    world.asks(2, ack(5));
    assert_eq!(world.asks(2, settle_all(0, Outcome::Accept)), [""; 0]);
    assert_eq!(counts(&world), (0, 0));
    assert!(world.pins.is_empty());
    assert_eq!(world.asks(2, settle_all(0, Outcome::Accept)), [""; 0], "none is all, too");
}

#[test]
fn neighbours_are_one_record() {
    let mut world = leased();
    world.asks(2, settle_all(3, Outcome::Accept));
    assert_eq!(world.records().len(), 1);
    world.step(2, leveret_model::Chunk::default(), vec![(1, ack(4)), (1, ack(5))]);
    assert_eq!(world.records().len(), 1);
}

#[test]
fn requeued_messages_return_to_their_places() {
    let mut world = leased();
    world.asks(2, cancel("a"));
    world.publish("", "q", &["m6"]);
    world.asks(2, settle(4, Outcome::Requeue));
    world.asks(2, settle(2, Outcome::Requeue));
    world.asks(2, settle_all(0, Outcome::Discard));
    assert_eq!(counts(&world), (3, 0));
    let all = ["consuming b", "b #1 m2 again", "b #2 m4 again", "b #3 m6"];
    assert_eq!(world.asks(3, consume("q", "b")), all);
}

#[test]
fn a_requeued_message_goes_to_the_next_consumer() {
    let mut world = leased();
    world.asks(3, consume("q", "b"));
    world.asks(2, settle_all(2, Outcome::Requeue));
    assert_eq!(world.heard(2), ["a #6 m1 again"]);
    assert_eq!(world.heard(3), ["b #1 m2 again"]);
}

#[test]
fn recover_delivers_everything_again() {
    let mut world = leased();
    world.asks(2, ack(1));
    let again = world.asks(2, Operation::Recover { reply: true });
    assert_eq!(again[..2], ["Recovered", "a #6 m2 again"]);
    assert_eq!(again.len(), 5);
    assert_eq!(world.asks(2, ack(2)), ["refused: unknown delivery tag 2"]);
}

#[test]
fn what_a_closing_holder_has_goes_back() {
    let mut world = leased();
    assert_eq!(world.asks(2, Operation::Close), ["closed"]);
    assert_eq!(counts(&world), (5, 0));
    assert_eq!(world.asks(2, Operation::Close), ["closed"], "closed by a refusal, as far as known");
    assert_eq!(world.asks(2, Operation::Open), ["opened"]);
    assert_eq!(world.asks(2, get("q")), ["got #1 m1 again, 4 left"], "numbers begin again");
}

#[test]
fn what_a_lost_client_has_goes_to_others_in_order() {
    let mut world = leased();
    world.asks(3, consume("q", "b"));
    world.asks(2, ack(2));
    assert_eq!(world.asks(2, Operation::Disconnect), ["Disconnected"]);
    assert_eq!(
        world.heard(3),
        ["b #1 m1 again", "b #2 m3 again", "b #3 m4 again", "b #4 m5 again"]
    );
    assert_eq!(world.asks(2, get("q")), [""; 0], "nobody is there");
}

#[test]
fn a_deleted_queue_leaves_leases_that_come_to_nothing() {
    for outcome in [Outcome::Accept, Outcome::Requeue, Outcome::Discard] {
        let mut world = leased();
        assert_eq!(world.asks(1, delete("q")), ["deleted 0"]);
        assert_eq!(world.heard(2), ["lost a"]);
        assert_eq!(world.pins.len(), 1, "clients may still look at the messages");
        assert_eq!(world.asks(2, settle_all(4, outcome)), [""; 0]);
        assert_eq!(world.asks(2, settle(5, outcome)), [""; 0]);
        assert!(world.pins.is_empty(), "or their segment is kept for ever");
        assert!(world.records().is_empty());
    }
}

#[test]
fn a_chunk_is_released_with_its_last_message() {
    let mut world = leased();
    let address = world.pins[0];
    world.asks(2, settle_all(4, Outcome::Accept));
    assert_eq!(world.released, []);
    world.asks(2, settle(5, Outcome::Requeue));
    assert_eq!(world.released, []);
    world.asks(2, ack(6));
    assert_eq!(world.released, [address]);
}

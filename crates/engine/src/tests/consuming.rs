//! Deliveries: to whom, in which order, how many at a time.

use super::tools::*;
use super::world::*;
use crate::command::{Consume, DeclareQueue};
use crate::{Batch, Command, Effects, Operation, Outcome, Token};
use leveret_model::limits::{CONGESTED_QUEUE_BYTES, SESSION_OUTPUT_BYTES_MAX};
use leveret_model::{Chunk, SessionId};

fn prefetch(count: u16, shared: bool) -> Operation {
    Operation::Prefetch { count, shared }
}

fn with_queue() -> World {
    let mut world = World::new();
    assert_eq!(world.asks(1, queue("q")), ["queue q: 0 ready, 0 consumers"]);
    world
}

#[test]
fn consumers_take_turns() {
    let mut world = with_queue();
    for (session, tag) in [(1, "a"), (2, "b"), (3, "c")] {
        assert_eq!(world.asks(session, consume("q", tag)), [format!("consuming {tag}")]);
    }
    world.publish("", "q", &["m1", "m2", "m3", "m4"]);
    assert_eq!(world.heard(1), ["a #1 m1", "a #2 m4"]);
    assert_eq!(world.heard(2), ["b #1 m2"]);
    assert_eq!(world.heard(3), ["c #1 m3"]);
    world.publish("", "q", &["m5", "m6"]);
    assert_eq!(world.heard(2), ["b #2 m5"], "the turn passes from step to step");
    assert_eq!(world.heard(3), ["c #2 m6"]);
}

#[test]
fn the_answer_to_consume_comes_before_the_first_delivery() {
    let mut world = with_queue();
    world.publish("", "q", &["m1", "m2"]);
    assert_eq!(world.asks(2, consume("q", "a")), ["consuming a", "a #1 m1", "a #2 m2"]);
}

#[test]
fn prefetch_limits_each_consumer_started_after_it() {
    let mut world = with_queue();
    world.asks(2, consume("q", "free"));
    assert_eq!(world.asks(2, prefetch(1, false)), ["PrefetchSet"]);
    world.asks(2, consume("q", "one"));
    world.publish("", "q", &["m1", "m2", "m3", "m4"]);
    assert_eq!(world.heard(2), ["free #1 m1", "one #2 m2", "free #3 m3", "free #4 m4"]);
    world.publish("", "q", &["m5"]);
    assert_eq!(world.heard(2), ["free #5 m5"]);
    world.asks(2, ack(2));
    world.publish("", "q", &["m6", "m7", "m8"]);
    assert_eq!(world.heard(2), ["free #6 m6", "one #7 m7", "free #8 m8"]);
}

#[test]
fn a_shared_prefetch_limits_all_consumers_of_a_holder_together() {
    let mut world = with_queue();
    world.asks(1, queue("r"));
    world.asks(2, prefetch(2, true));
    world.asks(2, consume("q", "a"));
    world.asks(2, consume("r", "b"));
    world.publish("", "q", &["m1", "m2", "m3"]);
    world.publish("", "r", &["n1"]);
    assert_eq!(world.heard(2), [""; 0]);
    let mut next = [world.asks(2, ack(1)), world.asks(2, ack(2))].concat();
    next.sort();
    assert!(["a #3 m3, b #4 n1", "a #4 m3, b #3 n1"].contains(&&*next.join(", ")), "{next:?}");
    world.publish("", "q", &["m4"]);
    assert_eq!(world.asks(2, prefetch(0, true)), ["PrefetchSet", "a #5 m4"], "no limit any more");
}

/// A backlog in one queue must not keep a client from another queue.
#[test]
fn what_little_room_there_is_goes_to_every_queue() {
    let body = "x".repeat(SESSION_OUTPUT_BYTES_MAX / 2);
    let bodies = [&*body; 40];
    for shared in [true, false] {
        let mut world = with_queue();
        world.asks(1, queue("r"));
        world.publish("", "q", &bodies);
        world.publish("", "r", &bodies);
        world.asks(2, prefetch(u16::from(shared), true));
        world.asks(2, consume("q", "a"));
        world.asks(2, consume("r", "b"));
        let mut given = [0, 0];
        for lease in 1..=40 {
            if shared {
                world.asks(2, Operation::Taken { bytes: usize::MAX });
                world.asks(2, ack(lease));
            } else {
                world.asks(2, Operation::Taken { bytes: usize::MAX });
            }
            let is_a = |each: &&Delivery| world.tags[&each.consumer] == "a";
            let of_a = world.delivered.iter().filter(is_a).count();
            given[0] += of_a;
            given[1] += world.delivered.len() - of_a;
        }
        assert!(given[0] > 4 && given[1] > 4, "shared {shared}: {given:?}");
    }
}

#[test]
fn a_get_does_not_count_towards_prefetch() {
    let mut world = with_queue();
    world.publish("", "q", &["m1"]);
    world.asks(2, prefetch(1, true));
    assert_eq!(world.asks(2, get("q")), ["got #1 m1, 0 left"]);
    world.asks(2, consume("q", "a"));
    world.publish("", "q", &["m2", "m3"]);
    assert_eq!(world.heard(2), ["a #2 m2"]);
}

#[test]
fn prefetch_does_not_bind_those_who_settle_on_delivery() {
    let mut world = with_queue();
    world.asks(2, prefetch(1, false));
    world.asks(2, prefetch(1, true));
    world.asks(2, Consume { no_ack: true, ..consume("q", "a") });
    world.publish("", "q", &["m1", "m2"]);
    assert_eq!(world.heard(2), ["a #1 m1", "a #2 m2"]);
    assert_eq!(world.asks(2, ack(1)), ["refused: unknown delivery tag 1"]);
    assert!(world.pins.is_empty());
}

#[test]
fn get_takes_one_message_at_a_time() {
    let mut world = with_queue();
    assert_eq!(world.asks(2, get("q")), ["GotNothing"]);
    world.publish("", "q", &["m1", "m2", "m3"]);
    assert_eq!(world.asks(2, get("q")), ["got #1 m1, 2 left"]);
    let no_ack = Operation::Get { queue: name("q"), no_ack: true };
    assert_eq!(world.asks(2, no_ack), ["got #2 m2, 1 left"]);
    assert_eq!(world.asks(2, ack(2)), ["refused: unknown delivery tag 2"]);
    assert_eq!(world.asks(3, get("q")), ["got #1 m1 again, 1 left"], "the holder was closed");
}

#[test]
fn a_cancelled_consumer_gets_nothing_and_keeps_what_it_has() {
    let mut world = with_queue();
    world.asks(2, consume("q", "a"));
    world.publish("", "q", &["m1", "m2"]);
    assert_eq!(world.asks(2, cancel("a")), ["cancelled a"]);
    assert_eq!(world.publish("", "q", &["m3"]), [""; 0]);
    assert_eq!(world.heard(2), [""; 0]);
    assert_eq!(world.asks(2, ack(1)), [""; 0]);
    world.asks(2, settle(2, Outcome::Requeue));
    assert_eq!(world.asks(3, get("q")), ["got #1 m2 again, 1 left"]);
    assert_eq!(world.asks(2, cancel("a")), ["no consumer a"]);
}

#[test]
fn an_exclusive_consumer_keeps_others_out_until_it_goes() {
    let refused = ["refused: queue 'q' in vhost '/' in exclusive use"];
    let mut world = with_queue();
    let alone = || Consume { exclusive: true, ..consume("q", "a") };
    assert_eq!(world.asks(1, alone()), ["consuming a"]);
    assert_eq!(world.asks(2, consume("q", "b")), refused);
    world.asks(1, cancel("a"));
    assert_eq!(world.asks(3, consume("q", "c")), ["consuming c"]);
    assert_eq!(world.asks(1, alone()), refused);
}

#[test]
fn a_consumer_may_have_a_name_made_up() {
    let mut world = with_queue();
    let texts = [world.asks(1, consume("", "")), world.asks(1, consume("q", ""))];
    for text in &texts {
        let tag = text[0].strip_prefix("consuming amq.ctag-").unwrap();
        assert_eq!(tag.len(), 22);
    }
    assert_ne!(texts[0], texts[1]);
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let mut world = World::new();
    world.asks(1, DeclareQueue { auto_delete: true, ..queue("q") });
    world.publish("", "q", &["m1"]);
    world.asks(1, consume("q", "a"));
    world.asks(2, consume("q", "b"));
    world.asks(1, cancel("a"));
    assert_eq!(world.engine.queues().count(), 1);
    world.asks(2, Operation::Close);
    assert_eq!(world.engine.queues().count(), 0);
    world.asks(1, ack(1));
    assert!(world.pins.is_empty());
}

#[test]
fn a_client_that_does_not_read_gets_a_megabyte() {
    let mut world = with_queue();
    let body = "x".repeat(SESSION_OUTPUT_BYTES_MAX / 4);
    world.asks(2, consume("q", "a"));
    world.publish("", "q", &[&*body; 10]);
    let given = world.delivered.iter().map(|each| each.bytes).sum::<usize>();
    assert_eq!(world.delivered.len(), 4);
    world.asks(3, consume("q", "b"));
    assert_eq!(world.delivered.len(), 4, "one slow client does not hold up another");
    world.asks(2, Operation::Taken { bytes: given });
    assert_eq!(world.delivered.len(), 2, "what was left");
    world.asks(2, Operation::Taken { bytes: usize::MAX });
    assert_eq!(world.delivered, []);
}

#[test]
fn a_client_that_takes_a_little_gets_a_little() {
    let mut world = with_queue();
    let body = "x".repeat(SESSION_OUTPUT_BYTES_MAX / 2);
    world.publish("", "q", &[&*body; 4]);
    // Two queues and two holders wait for the same credit.
    world.asks(2, consume("q", "a"));
    assert_eq!(world.delivered.len(), 2);
    let one = world.delivered[0].bytes;
    world.asks_as(2, 2, Operation::Open);
    world.asks(1, queue("r"));
    world.publish("", "r", &["small"]);
    world.asks_as(2, 2, consume("r", "b"));
    assert_eq!(world.delivered, []);
    let mut later = Vec::new();
    for _ in 0..3 {
        world.asks(2, Operation::Taken { bytes: one });
        later.extend(world.delivered.iter().map(|each| each.body.len()));
    }
    later.sort_unstable();
    assert_eq!(later, [5, body.len(), body.len()]);
}

#[test]
fn answers_cost_credit_too() {
    let mut world = with_queue();
    let mut effects = Effects::default();
    let commands = vec![Command { holder: 1, token: Token(0), operation: get("q") }];
    let batch = Batch { session: SessionId(2), chunk: Chunk::default(), commands };
    world.engine.step(batch, world.now, world.end, &mut effects);
    assert!(effects.outbound[0].bytes > 0, "or a client that asks and never reads fills memory");
}

#[test]
fn a_publisher_is_slowed_only_where_consumers_are_far_behind() {
    let mut world = with_queue();
    let body = "x".repeat(CONGESTED_QUEUE_BYTES as usize / 4);
    let five = [body.as_str(); 5];
    world.publish("", "q", &five);
    assert!(!world.congested, "nobody consumes, so there is nobody to wait for");
    world.asks_as(2, 2, Operation::Open);
    world.asks_as(2, 2, prefetch(1, false));
    world.asks_as(2, 2, consume("q", "slow"));
    assert!(!world.congested, "who brings nothing has nothing to slow down");
    world.publish("", "q", &["more"]);
    assert!(world.congested);
    world.asks(1, purge("q"));
    world.publish("", "q", &["more"]);
    assert!(!world.congested, "little waits");
}

#[test]
fn dead_letters_of_a_deleted_queue_find_no_consumer_that_is_going_too() {
    let mut world = World::new();
    let limits = and(&dead_to("q"), &[("x-max-length", 1.into())]);
    world.asks(1, DeclareQueue { auto_delete: true, ..queue_with("first", &limits) });
    world.asks(1, queue_with("q", &[("x-max-length", 0.into())]));
    world.asks(2, consume("first", "a"));
    world.asks(2, consume("q", "b"));
    world.publish("", "first", &["m1", "m2"]);
    // Both come back, one too many; `first` goes, and so does what was to go to `q`.
    assert_eq!(world.asks(2, Operation::Close), ["closed"]);
    assert!(!world.exists("first") && world.ready("q") == 0);
    world.assert_nothing_left();
}

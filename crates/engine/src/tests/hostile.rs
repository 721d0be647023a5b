//! What a client must not be able to do to the others.

use super::tools::*;
use super::world::*;
use crate::{Batch, Command, Effects, Operation, Outcome, Token};
use leveret_model::limits::{
    DELETED_LETTERS_BYTES_MAX, STEP_WORK_BYTES_MAX, TRANSACTION_BYTES_MAX,
};
use leveret_model::{Chunk, SessionId};

/// More messages than a step would send on their way as dead letters.
const MANY: usize = STEP_WORK_BYTES_MAX / 1024 + 1_000;

/// Queue `q`, whose dead letters go to `dead`, and many messages in it.
fn world() -> World {
    let mut world = World::new();
    world.asks(1, queue("dead"));
    world.asks(1, queue_with("q", &dead_to("dead")));
    let bodies: Vec<String> = (0..MANY).map(|number| number.to_string()).collect();
    world.publish("", "q", &bodies.iter().map(String::as_str).collect::<Vec<_>>());
    world.asks(2, consume("q", "a"));
    while world.ready("q") > 0 {
        world.asks(2, Operation::Taken { bytes: usize::MAX });
    }
    world
}

#[test]
fn a_queue_that_is_deleted_sends_its_dead_letters_on_their_way_first() {
    const { assert!(MANY * 100 < DELETED_LETTERS_BYTES_MAX) };
    let mut world = world();
    let nothing = Chunk::default();
    let asked = vec![(1, settle_all(0, Outcome::Discard)), (1, delete("q"))];
    world.step(2, nothing, asked);
    assert!(!world.exists("q"));
    assert_eq!(world.restart().ready("dead"), MANY);
    assert_eq!(world.ready("dead"), MANY);
}

#[test]
fn nobody_gets_what_is_too_old_however_much_of_it_there_is() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    for _ in 0..STEP_WORK_BYTES_MAX / 64 + 1_000 {
        world.send("", "q", &expiring_in("10"), "old");
    }
    world.publish("", "q", &["fresh"]);
    world.now = world.now.after(11);
    assert_eq!(world.asks(2, get("q")), ["got #1 fresh, 0 left"]);
    world.asks(2, ack(1));
    world.assert_nothing_left();
}

#[test]
fn a_transaction_counts_what_its_messages_take_in_queues() {
    let mut world = World::new();
    for number in 0..100 {
        world.asks(1, queue(&format!("q{number}")));
        world.asks(1, binding(&format!("q{number}"), "amq.fanout", ""));
    }
    world.asks(1, Operation::SelectTransactions);
    let (mut sent, before) = (0, world.engine.memory());
    while world.publish("amq.fanout", "", &[""; 100]).is_empty() {
        sent += 100;
        assert!(sent * 100 * 128 <= TRANSACTION_BYTES_MAX);
    }
    assert!(world.heard(1)[0].starts_with("refused: the transaction exceeds"));
    assert_eq!(world.engine.memory(), before, "it is given up");
}

#[test]
fn a_commit_does_not_write_dead_letters_without_end() {
    let mut world = World::new();
    world.asks(1, queue("dead"));
    world.asks(1, queue_with("q", &dead_to("dead")));
    let body = "x".repeat(TRANSACTION_BYTES_MAX / 8);
    for _ in 0..9 {
        world.publish("", "q", &[&*body]);
    }
    world.asks(2, Operation::SelectTransactions);
    for _ in 0..9 {
        world.asks(2, get("q"));
    }
    world.asks(2, settle_all(0, Outcome::Discard));
    let heard = world.asks(2, Operation::Commit);
    assert!(heard[0].starts_with("refused: the transaction exceeds"), "{heard:?}");
    assert_eq!((world.ready("q"), world.ready("dead")), (9, 0));
}

#[test]
fn a_restart_holds_queues_to_their_limit() {
    let mut world = World::new();
    world.asks(1, queue_with("q", &[("x-max-length", 2_i64.into())]));
    world.asks(2, consume("q", "a"));
    world.publish("", "q", &["1", "2"]);
    world.asks(2, cancel("a"));
    world.publish("", "q", &["3", "4"]);
    assert_eq!((world.ready("q"), world.restart().bodies("q")), (2, vec!["3".into(), "4".into()]));
}

#[test]
fn names_that_are_made_up_tell_nothing_of_the_next() {
    let mut world = World::new();
    let made_up = |world: &mut World| world.asks(1, queue(""))[0].clone();
    let mut names: Vec<String> = (0..100).map(|_| made_up(&mut world)).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 100);
    // The same commands with another seed: not one name is the same.
    let mut other = World::empty();
    other.engine = crate::Engine::new([8; 16]);
    assert!(other.engine.connect(SessionId(1), b"/"));
    other.asks(1, Operation::Open);
    assert!((0..100).all(|_| !names.contains(&made_up(&mut other))));
}

#[test]
fn who_is_told_little_keeps_little_in_memory() {
    let mut world = World::new();
    world.asks(1, queue("q"));
    world.asks(2, consume("q", "a"));
    let mut chunk = Chunk::default();
    put(&mut chunk, "", "nowhere", &"x".repeat(100_000), false);
    put(&mut chunk, "", "q", "small", false);
    put(&mut chunk, "", "q", "other", false);
    let publish = Operation::Publish { first: 0, count: 3, mandatory: false, special: false };
    let commands = vec![Command { holder: 1, token: Token(5), operation: publish }];
    let mut effects = Effects::default();
    let batch = Batch { session: SessionId(1), chunk, commands };
    world.engine.step(batch, world.now, world.end, &mut effects);
    let [outbound] = &mut effects.outbound[..] else { panic!("{:?}", effects.outbound) };
    let texts = |outbound: &crate::Outbound| -> Vec<String> {
        let body = |item: &crate::Item| match *item {
            crate::Item::Deliver { chunk, message, .. } => {
                let chunk = &outbound.chunks[chunk as usize];
                String::from_utf8(chunk.get(message).body.to_vec()).unwrap()
            }
            ref other => panic!("{other:?}"),
        };
        outbound.items.iter().map(body).collect()
    };
    assert_eq!(texts(outbound), ["small", "other"]);
    outbound.compact();
    assert_eq!(texts(outbound), ["small", "other"]);
    assert!(outbound.chunks.iter().map(|chunk| chunk.memory()).sum::<usize>() < 1_000);
}

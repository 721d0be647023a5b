use std::collections::BTreeMap;

use leveret_amqp_wire::{Method, frame};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// An answer as a client sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen {
    Ack(u64),
    AckTo(u64),
    Nack(u64),
}

use Seen::{Ack, AckTo, Nack};

fn answers(confirms: &mut Confirms) -> Vec<Seen> {
    let mut out = Vec::new();
    confirms.write(1, &mut out);
    let mut rest = &out[..];
    let mut answers = Vec::new();
    while let Some((frame, used)) = frame::parse(rest, 4096).unwrap() {
        answers.push(match Method::decode(frame.payload).unwrap() {
            Method::BasicAck(ack) if ack.multiple => AckTo(ack.delivery_tag),
            Method::BasicAck(ack) => Ack(ack.delivery_tag),
            Method::BasicNack(nack) if !nack.multiple => Nack(nack.delivery_tag),
            other => panic!("{other:?}"),
        });
        rest = &rest[used..];
    }
    answers
}

fn run(confirms: &mut Confirms, first: u64, last: u64) {
    confirms.confirmed(Confirmed { publisher: 7, first, last });
}

fn reject(confirms: &mut Confirms, first: u64, last: u64) {
    confirms.rejected(Confirmed { publisher: 7, first, last });
}

#[test]
fn neighbours_are_one_ack() {
    let mut confirms = Confirms::new(7);
    run(&mut confirms, 1, 1);
    assert_eq!(answers(&mut confirms), [Ack(1)]);
    run(&mut confirms, 2, 5);
    run(&mut confirms, 6, 9);
    assert_eq!(answers(&mut confirms), [AckTo(9)]);
    assert_eq!(answers(&mut confirms), []);
}

#[test]
fn no_ack_covers_an_open_message() {
    let mut confirms = Confirms::new(7);
    run(&mut confirms, 3, 4);
    assert_eq!(answers(&mut confirms), [Ack(3), Ack(4)]);
    run(&mut confirms, 1, 1);
    run(&mut confirms, 6, 6);
    assert_eq!(answers(&mut confirms), [Ack(1), Ack(6)]);
    run(&mut confirms, 2, 2);
    assert_eq!(answers(&mut confirms), [Ack(2)]);
    run(&mut confirms, 8, 9);
    run(&mut confirms, 5, 5);
    run(&mut confirms, 7, 7);
    // 6 was acked before; 9 was not, and everything below it is safe.
    assert_eq!(answers(&mut confirms), [AckTo(9)]);
}

#[test]
fn a_hole_filled_before_the_write_needs_one_ack() {
    let mut confirms = Confirms::new(7);
    run(&mut confirms, 2, 3);
    run(&mut confirms, 1, 1);
    assert_eq!(answers(&mut confirms), [AckTo(3)]);
}

#[test]
fn what_an_earlier_publisher_sent_is_not_confirmed_to_this_one() {
    let mut confirms = Confirms::new(8);
    run(&mut confirms, 1, 9);
    reject(&mut confirms, 10, 12);
    assert_eq!(answers(&mut confirms), []);
}

#[test]
fn a_rejected_message_divides_the_acks() {
    let mut confirms = Confirms::new(7);
    run(&mut confirms, 1, 4);
    reject(&mut confirms, 5, 6);
    run(&mut confirms, 7, 9);
    assert_eq!(answers(&mut confirms), [AckTo(4), Nack(5), Nack(6), AckTo(9)]);
}

#[test]
fn a_message_rejected_early_divides_the_acks_too() {
    let mut confirms = Confirms::new(7);
    reject(&mut confirms, 3, 3);
    assert_eq!(answers(&mut confirms), [Nack(3)]);
    run(&mut confirms, 4, 5);
    run(&mut confirms, 1, 2);
    assert_eq!(answers(&mut confirms), [AckTo(2), AckTo(5)]);
    reject(&mut confirms, 6, 6);
    assert_eq!(answers(&mut confirms), [Nack(6)]);
    run(&mut confirms, 7, 7);
    assert_eq!(answers(&mut confirms), [Ack(7)]);
}

/// A client that forgets what was answered, and ignores what names something it has forgotten.
#[derive(Default)]
struct Forgetful {
    open: BTreeMap<u64, ()>,
    seen: BTreeMap<u64, bool>,
}

/// A client that looks at answers in the order of their numbers.
struct Orderly {
    next: u64,
    early: BTreeMap<u64, bool>,
    seen: BTreeMap<u64, bool>,
}

impl Forgetful {
    fn hear(&mut self, answer: Seen) {
        let (number, safe) = match answer {
            Ack(number) | AckTo(number) => (number, true),
            Nack(number) => (number, false),
        };
        assert!(self.open.contains_key(&number), "{answer:?} is of something answered before");
        let first = if matches!(answer, AckTo(_)) { 1 } else { number };
        for number in first..=number {
            if self.open.remove(&number).is_some() {
                self.seen.insert(number, safe);
            }
        }
    }
}

impl Orderly {
    fn hear(&mut self, answer: Seen) {
        match answer {
            AckTo(number) => {
                for number in self.next..=number {
                    self.seen.insert(number, true);
                }
                self.next = self.next.max(number + 1);
            }
            Ack(number) => drop(self.early.insert(number, true)),
            Nack(number) => drop(self.early.insert(number, false)),
        }
        while let Some(safe) = self.early.remove(&self.next) {
            self.seen.insert(self.next, safe);
            self.next += 1;
        }
    }
}

/// Runs of messages, each with whether it is safe, and when it is told and when written.
fn runs() -> impl Strategy<Value = Vec<(u64, bool, u32, bool)>> {
    vec((1..5_u64, prop::bool::weighted(0.7), any::<u32>(), any::<bool>()), 0..40)
}

proptest! {
    #[test]
    fn each_message_is_answered_once_and_rightly(runs in runs()) {
        let mut wanted = BTreeMap::new();
        let mut told = Vec::new();
        let mut next = 1;
        for (len, safe, order, write) in runs {
            wanted.extend((next..next + len).map(|number| (number, safe)));
            told.push((order, next, next + len - 1, safe, write));
            next += len;
        }
        told.sort_unstable();
        let mut confirms = Confirms::new(7);
        let open = wanted.keys().map(|number| (*number, ())).collect();
        let mut forgetful = Forgetful { open, ..Forgetful::default() };
        let mut orderly = Orderly { next: 1, early: BTreeMap::new(), seen: BTreeMap::new() };
        let mut noted = BTreeMap::new();
        for (_, first, last, safe, write) in told {
            match safe {
                true => run(&mut confirms, first, last),
                false => reject(&mut confirms, first, last),
            }
            noted.extend((first..=last).map(|number| (number, safe)));
            if write {
                for answer in answers(&mut confirms) {
                    forgetful.hear(answer);
                    orderly.hear(answer);
                }
                // Nothing is held back, and nothing is said too early.
                prop_assert_eq!(&forgetful.seen, &noted);
            }
        }
        for answer in answers(&mut confirms) {
            forgetful.hear(answer);
            orderly.hear(answer);
        }
        prop_assert_eq!(&forgetful.seen, &wanted);
        prop_assert_eq!(&orderly.seen, &wanted);
    }
}

//! The checks find what they are for.

use super::body::{Id, body};
use super::fault::Kind;
use super::ledger::{Found, Ledger};
use super::plan::{ORDERS, PRODUCERS, QUEUES, REFUSED};
use lapin::types::{AMQPValue, FieldTable};
use std::array;

const SEED: u64 = 1;
const LETTERS: usize = 10;
const SHORT_LIVED: usize = 11;
const DEAD: usize = 16;
const DEAD_COPY: usize = 17;
/// Producers.
const LETTER: usize = 7;
const MORTAL: usize = 8;

/// All queues, of which some hold something that has died so many times.
fn holding(held: &[(usize, Id, u64)]) -> [Vec<Found>; QUEUES.len()] {
    array::from_fn(|queue| {
        let here = held.iter().filter(|(at, _, _)| *at == queue);
        here.map(|(_, id, deaths)| Found { id: *id, deaths: *deaths }).collect()
    })
}

fn kinds(ledger: &Ledger) -> Vec<Kind> {
    ledger.faults().iter().map(|fault| fault.kind).collect()
}

/// Publishes one message of each producer, confirms some, and compares.
fn compared(producers: &[usize], confirmed: &[Id], held: &[(usize, Id, u64)]) -> Vec<Kind> {
    let mut ledger = Ledger::new(SEED);
    for producer in producers {
        ledger.attempt(*producer);
    }
    for id in confirmed {
        ledger.confirm(*id);
    }
    ledger.compare(&holding(held));
    kinds(&ledger)
}

fn at(producer: usize, number: usize) -> Id {
    Id { producer, number }
}

#[test]
fn the_ledger_sees_every_kind_of_fault() {
    let compared = |confirmed: &[Id], held: &[_]| compared(&[0, 0, 0, 4], confirmed, held);
    let copies = [(3, at(4, 0), 0), (4, at(4, 0), 0), (5, at(4, 0), 0)];
    let fine = [[(0, at(0, 0), 0), (0, at(0, 1), 0)].as_slice(), &copies].concat();
    assert_eq!(compared(&[at(0, 0), at(0, 1), at(4, 0)], &fine), []);
    assert_eq!(compared(&[at(0, 2)], &fine), [Kind::Lost]);
    assert_eq!(compared(&[], &[(0, at(0, 1), 0), (0, at(0, 0), 0)]), [Kind::Misordered]);
    assert_eq!(compared(&[], &[(0, at(0, 0), 0), (0, at(0, 0), 0)]), [Kind::Phantom]);
    assert_eq!(compared(&[], &copies[1..]), [Kind::Torn]);
    assert_eq!(compared(&[at(4, 0)], &copies[1..]), [Kind::Lost]);

    let mut ledger = Ledger::new(SEED);
    let id = ledger.attempt(0);
    let body = body(id, SEED);
    assert_eq!(ledger.receive(0, &body, None), Some(Found { id, deaths: 0 }));
    assert_eq!(ledger.receive(1, &body, None), None);
    assert_eq!(ledger.receive(0, &body[1..], None), None);
    ledger.compare(&holding(&[]));
    // It was not there and comes back.
    assert_eq!(ledger.receive(0, &body, None), None);
    assert_eq!(kinds(&ledger), [Kind::Phantom, Kind::Damaged, Kind::Phantom]);
}

#[test]
fn an_acknowledgement_excuses_until_it_is_seen_to_be_lost() {
    let mut ledger = Ledger::new(SEED);
    let id = ledger.attempt(0);
    ledger.confirm(id);
    ledger.settle(0, id);
    ledger.compare(&holding(&[(0, id, 0)]));
    assert_eq!(kinds(&ledger), []);
    ledger.compare(&holding(&[]));
    assert_eq!(kinds(&ledger), [Kind::Lost]);
}

#[test]
fn the_ledger_follows_dead_letters() {
    let compared = |held: &[_]| compared(&[LETTER, MORTAL], &[at(LETTER, 0), at(MORTAL, 0)], held);
    let mortal = (SHORT_LIVED, at(MORTAL, 0), 0);
    let letter = at(LETTER, 0);
    assert_eq!(compared(&[mortal, (LETTERS, letter, 0)]), []);
    assert_eq!(compared(&[mortal, (DEAD, letter, 1)]), []);
    assert_eq!(compared(&[mortal]), [Kind::Lost]);
    assert_eq!(compared(&[mortal, (LETTERS, letter, 0), (DEAD, letter, 1)]), [Kind::Phantom]);
    // Both copies, or none.
    let dead = [(DEAD, at(MORTAL, 0), 1), (DEAD_COPY, at(MORTAL, 0), 1), (DEAD, letter, 1)];
    assert_eq!(compared(&dead), []);
    assert_eq!(compared(&dead[1..]), [Kind::Lost]);

    let mut ledger = Ledger::new(SEED);
    let id = ledger.attempt(LETTER);
    let body = body(id, SEED);
    let (died, strange) = (headers("letters", "rejected", 1), headers("letters", "expired", 1));
    // Nobody has rejected it.
    assert_eq!(ledger.receive(DEAD, &body, Some(&died)), None);
    ledger.reject(id);
    assert_eq!(ledger.receive(DEAD, &body, Some(&died)), Some(Found { id, deaths: 1 }));
    assert_eq!(ledger.receive(LETTERS, &body, Some(&died)), None);
    assert_eq!(ledger.receive(DEAD, &body, None), None);
    assert_eq!(ledger.receive(DEAD, &body, Some(&strange)), None);
    let twice = headers("letters", "rejected", 2);
    assert_eq!(ledger.receive(DEAD, &body, Some(&twice)), None);
    assert_eq!(kinds(&ledger), [Kind::Mislabelled; 5]);
    // What has died does not come back to life.
    ledger.compare(&holding(&[(DEAD, id, 1)]));
    assert_eq!(ledger.receive(LETTERS, &body, None), None);
    assert_eq!(kinds(&ledger)[5..], [Kind::Phantom]);
}

fn headers(queue: &str, reason: &str, count: i64) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut death = FieldTable::default();
    death.insert("queue".into(), text(queue));
    death.insert("reason".into(), text(reason));
    death.insert("count".into(), AMQPValue::LongLongInt(count));
    let mut headers = FieldTable::default();
    let deaths = vec![AMQPValue::FieldTable(death)];
    headers.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
    headers.insert("x-first-death-queue".into(), text(queue));
    headers.insert("x-first-death-reason".into(), text(reason));
    headers
}

/// A transaction with two orders, of which it refuses the second, and two parts; both orders have
/// been confirmed.
fn moved(commit: bool, held: &[(usize, Id, u64)]) -> Vec<Kind> {
    let mut ledger = Ledger::new(SEED);
    let orders = [ledger.attempt(6), ledger.attempt(6)];
    for id in orders {
        ledger.confirm(id);
    }
    let (number, parts) = ledger.begin(0, &[(orders[0], false), (orders[1], true)], 1);
    assert_eq!(parts, [at(PRODUCERS, 0), at(PRODUCERS + 1, 0)]);
    if commit {
        ledger.committed(number);
    }
    ledger.compare(&holding(held));
    kinds(&ledger)
}

#[test]
fn the_ledger_sees_half_a_transaction() {
    let orders = [(ORDERS, at(6, 0), 0), (ORDERS, at(6, 1), 0)];
    let parts = [(8, at(PRODUCERS, 0), 0), (9, at(PRODUCERS + 1, 0), 0)];
    let refused = (REFUSED, at(6, 1), 1);
    let all = [parts[0], parts[1], refused];
    assert_eq!(moved(true, &all), []);
    assert_eq!(moved(false, &all), []);
    assert_eq!(moved(false, &orders), []);
    assert_eq!(moved(true, &orders), [Kind::Lost, Kind::Lost, Kind::Half]);
    // One of the parts, no part, all parts without an acknowledgement, or without a rejection.
    assert_eq!(moved(false, &all[1..]), [Kind::Half]);
    assert_eq!(moved(false, &[refused]), [Kind::Half]);
    assert_eq!(moved(false, &[orders[0], parts[0], parts[1], refused]), [Kind::Half]);
    assert_eq!(moved(true, &[orders[1], parts[0], parts[1]]), [Kind::Half]);

    let mut ledger = Ledger::new(SEED);
    let order = ledger.attempt(6);
    let (number, parts) = ledger.begin(0, &[(order, false)], 1);
    ledger.roll_back(number);
    let part = body(parts[0], SEED);
    assert_eq!(ledger.receive(8, &part, None), None);
    assert_eq!(kinds(&ledger), [Kind::Phantom]);
}

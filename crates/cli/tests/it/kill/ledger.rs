//! What the test knows to have happened, kept outside the broker.

use super::body::{Id, id_of};
use std::fmt;

pub(super) const QUEUES: [&str; 6] = ["work-0", "work-1", "work-2", "copy-0", "copy-1", "copy-2"];

/// The exchange that copies.
pub(super) const FANOUT: &str = "copies";

/// The queues that each producer's messages go to: to one directly, to several by the exchange.
pub(super) const PRODUCERS: [&[usize]; 6] = [&[0], &[0], &[1], &[2], &[3, 4, 5], &[3, 4, 5]];

/// What is known of a message.
#[derive(Default, Clone)]
struct Fate {
    /// The broker has confirmed it.
    confirmed: bool,
    /// By queue: we have sent an acknowledgement. It may have been lost on its way.
    settled: [bool; QUEUES.len()],
    /// By queue: it was not there at an inspection.
    gone: [bool; QUEUES.len()],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Confirmed, not acknowledged, not there.
    Lost,
    /// There, but never sent, or not to this queue, or gone before.
    Phantom,
    /// Behind a later message of its producer, or there twice.
    Misordered,
    /// With a wrong body.
    Damaged,
    /// In one queue of the fanout and not in another one.
    Torn,
}

/// Something that must not be.
pub(super) struct Fault {
    kind: Kind,
    queue: usize,
    id: Option<Id>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}: {:?}", self.kind, QUEUES[self.queue], self.id)
    }
}

pub(super) struct Ledger {
    seed: u64,
    /// By producer and number.
    fates: Vec<Vec<Fate>>,
    faults: Vec<Fault>,
}

impl Ledger {
    pub(super) fn new(seed: u64) -> Ledger {
        Ledger { seed, fates: vec![Vec::new(); PRODUCERS.len()], faults: Vec::new() }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// A message is about to be published.
    pub(super) fn attempt(&mut self, producer: usize) -> Id {
        let fates = &mut self.fates[producer];
        fates.push(Fate::default());
        Id { producer, number: fates.len() - 1 }
    }

    /// The broker has confirmed the message.
    pub(super) fn confirm(&mut self, id: Id) {
        self.fates[id.producer][id.number].confirmed = true;
    }

    /// An acknowledgement is about to be sent.
    pub(super) fn settle(&mut self, queue: usize, id: Id) {
        self.fates[id.producer][id.number].settled[queue] = true;
    }

    /// A delivery has come; gives its id if it may be there.
    pub(super) fn receive(&mut self, queue: usize, body: &[u8]) -> Option<Id> {
        let Some(id) = id_of(body, self.seed) else {
            self.fault(Kind::Damaged, queue, None);
            return None;
        };
        let fate = self.fates.get(id.producer).and_then(|fates| fates.get(id.number));
        let expected = PRODUCERS.get(id.producer).is_some_and(|queues| queues.contains(&queue));
        if !expected || fate.is_none_or(|fate| fate.gone[queue]) {
            self.fault(Kind::Phantom, queue, Some(id));
            return None;
        }
        Some(id)
    }

    /// Compares what the queues hold after a restart, each in its order, with what they must.
    pub(super) fn compare(&mut self, contents: &[Vec<Id>; QUEUES.len()]) {
        for (queue, ids) in contents.iter().enumerate() {
            self.compare_order(queue, ids);
        }
        for (producer, queues) in PRODUCERS.iter().enumerate() {
            // Whether each message is there, by queue; looking it up in a list would take ages.
            let mut there = vec![[false; QUEUES.len()]; self.fates[producer].len()];
            for &queue in *queues {
                for id in contents[queue].iter().filter(|id| id.producer == producer) {
                    there[id.number][queue] = true;
                }
            }
            for (number, there) in there.into_iter().enumerate() {
                self.compare_fate(Id { producer, number }, queues, there);
            }
        }
    }

    fn compare_order(&mut self, queue: usize, ids: &[Id]) {
        let mut last = [None; PRODUCERS.len()];
        for &id in ids {
            let before = &mut last[id.producer];
            if *before >= Some(id.number) {
                self.fault(Kind::Misordered, queue, Some(id));
            } else {
                *before = Some(id.number);
            }
        }
    }

    fn compare_fate(&mut self, id: Id, queues: &[usize], there: [bool; QUEUES.len()]) {
        let fate = &mut self.fates[id.producer][id.number];
        let mut faults = Vec::new();
        // Where we have acknowledged it, it may be there or not.
        let open = |queue: &&usize| !fate.settled[**queue];
        let copies = queues.iter().filter(open).filter(|queue| there[**queue]).count();
        for &queue in queues.iter().filter(open).filter(|queue| !there[**queue]) {
            if fate.confirmed {
                faults.push((Kind::Lost, queue));
            } else if copies > 0 {
                faults.push((Kind::Torn, queue));
            }
        }
        for &queue in queues {
            fate.gone[queue] |= !there[queue];
        }
        for (kind, queue) in faults {
            self.fault(kind, queue, Some(id));
        }
    }

    fn fault(&mut self, kind: Kind, queue: usize, id: Option<Id>) {
        self.faults.push(Fault { kind, queue, id });
    }

    pub(super) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    pub(super) fn confirmed(&self) -> usize {
        self.fates.iter().flatten().filter(|fate| fate.confirmed).count()
    }

    pub(super) fn summary(&self) -> String {
        let published: usize = self.fates.iter().map(Vec::len).sum();
        let confirmed = self.confirmed();
        let count = |kind| self.faults.iter().filter(|fault| fault.kind == kind).count();
        format!(
            "{published} messages, {confirmed} confirmed, {} lost, {} phantom, {} misordered, \
             {} damaged, {} torn",
            count(Kind::Lost),
            count(Kind::Phantom),
            count(Kind::Misordered),
            count(Kind::Damaged),
            count(Kind::Torn),
        )
    }
}

/// The checks find what they are for.
#[test]
fn the_ledger_sees_every_kind_of_fault() {
    let at = |producer, number| Id { producer, number };
    let kinds = |confirmed: &[Id], contents: [Vec<Id>; 6]| {
        let mut ledger = Ledger::new(1);
        for producer in [0, 0, 0, 4] {
            ledger.attempt(producer);
        }
        for id in confirmed {
            ledger.confirm(*id);
        }
        ledger.compare(&contents);
        ledger.faults.iter().map(|fault| fault.kind).collect::<Vec<_>>()
    };
    let none = Vec::new;
    let first = || vec![at(0, 0), at(0, 1)];
    let copy = || vec![at(4, 0)];
    let fine = [first(), none(), none(), copy(), copy(), copy()];
    assert_eq!(kinds(&[at(0, 0), at(0, 1), at(4, 0)], fine.clone()), []);
    assert_eq!(kinds(&[at(0, 2)], fine), [Kind::Lost]);
    let turned = vec![at(0, 1), at(0, 0)];
    let turned = [turned, none(), none(), none(), none(), none()];
    assert_eq!(kinds(&[], turned), [Kind::Misordered]);
    let torn = [none(), none(), none(), copy(), none(), copy()];
    assert_eq!(kinds(&[], torn), [Kind::Torn]);

    let mut ledger = Ledger::new(1);
    let id = ledger.attempt(0);
    let body = super::body::body(id, 1);
    assert_eq!(ledger.receive(0, &body), Some(id));
    assert_eq!(ledger.receive(1, &body), None);
    assert_eq!(ledger.receive(0, &body[1..]), None);
    ledger.compare(&[const { Vec::new() }; 6]);
    // It was not there and comes back.
    assert_eq!(ledger.receive(0, &body), None);
    let kinds: Vec<_> = ledger.faults.iter().map(|fault| fault.kind).collect();
    assert_eq!(kinds, [Kind::Phantom, Kind::Damaged, Kind::Phantom]);
}

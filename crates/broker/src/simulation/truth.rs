//! What must be so after a restart, from what clients have seen.
//!
//! Everything happens in order, and each thing that may be written has a number. A confirm says
//! that its message is durable, and so is all that was asked for before: the log has one order.

use std::collections::{BTreeMap, BTreeSet};

/// A message in a queue.
pub(super) type Place = (usize, u64);

#[derive(Debug, Default)]
pub(super) struct Truth {
    messages: BTreeMap<u64, Message>,
    next: u64,
    /// What was asked for up to this number is durable.
    durable: u64,
    /// What is out, or was: who takes it has seen it.
    seen: BTreeSet<Place>,
    /// When a message was settled.
    settled: BTreeMap<Place, u64>,
    /// Whether the disk is damaged.
    pub(super) damaged: bool,
    /// How many messages could not be read.
    pub(super) lost: u64,
}

#[derive(Debug)]
struct Message {
    queues: Vec<usize>,
    persistent: bool,
    /// Asked for with others that come with it or not at all: the number all of them have.
    asked: u64,
}

/// A message that came from a queue.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) id: u64,
    pub(super) redelivered: bool,
}

impl Truth {
    /// A number for what is asked for next.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A message is published. Its number may be that of others, with which it stands or falls.
    pub(super) fn publish(&mut self, queues: &[usize], persistent: bool, asked: u64) -> u64 {
        let id = self.number();
        self.messages.insert(id, Message { queues: queues.to_vec(), persistent, asked });
        id
    }

    /// The publisher was told that it is safe.
    pub(super) fn confirm(&mut self, id: u64) {
        let message = &self.messages[&id];
        if message.persistent {
            self.durable = self.durable.max(message.asked);
        }
    }

    /// What was asked for with this number is durable, and all before.
    pub(super) fn is_durable(&mut self, asked: u64) {
        self.durable = self.durable.max(asked);
    }

    /// Somebody was given it, and a restart will know.
    pub(super) fn see(&mut self, place: Place) {
        self.seen.insert(place);
    }

    /// It was acknowledged, or refused.
    pub(super) fn settle(&mut self, place: Place) {
        let asked = self.number();
        self.settled.insert(place, asked);
    }

    /// The process has ended, and another one began; this is what it has in its queues.
    pub(super) fn restarted(&mut self, found: &[Vec<Came>]) {
        let mut there = BTreeSet::new();
        for (queue, found) in found.iter().enumerate() {
            let mut last = 0;
            for Came { id, redelivered } in found {
                let place = (queue, *id);
                assert!(*id > last, "{place:?} comes after {last}");
                last = *id;
                let message = self.messages.get(id).expect("it was published once");
                assert!(message.queues.contains(&queue), "{place:?} is in a wrong queue");
                assert!(message.persistent, "{place:?} is transient");
                let seen = self.seen.contains(&place);
                assert!(*redelivered || !seen, "{place:?} was seen before, and nobody says so");
                there.insert(place);
            }
        }
        self.check_missing(&there);
        self.check_halves(&there);
        for (place, asked) in &self.settled {
            let durable = *asked <= self.durable;
            assert!(!durable || !there.contains(place), "{place:?} was settled for good");
        }
        // What is not there is gone, and what is there is safe, settled before or not.
        for (id, message) in &mut self.messages {
            message.queues.retain(|queue| there.contains(&(*queue, *id)));
            message.asked = 0;
        }
        self.messages.retain(|_, message| !message.queues.is_empty());
        self.settled.clear();
        self.seen.retain(|place| there.contains(place));
        self.durable = self.next;
    }

    fn check_missing(&mut self, there: &BTreeSet<Place>) {
        for (id, message) in self.messages.iter().filter(|(_, it)| it.persistent) {
            if message.asked > self.durable {
                continue;
            }
            for place in message.queues.iter().map(|queue| (*queue, *id)) {
                if !there.contains(&place) && !self.settled.contains_key(&place) {
                    let told = self.lost.checked_sub(1).filter(|_| self.damaged);
                    self.lost = told.unwrap_or_else(|| panic!("{place:?} is lost"));
                }
            }
        }
    }

    /// What was asked for together is there, or nothing of it is.
    fn check_halves(&self, there: &BTreeSet<Place>) {
        let mut whole: BTreeMap<u64, bool> = BTreeMap::new();
        for (id, message) in self.messages.iter().filter(|(_, it)| it.persistent) {
            if message.asked <= self.durable {
                continue;
            }
            let places = message.queues.iter().map(|queue| (*queue, *id));
            for place in places.filter(|place| !self.settled.contains_key(place)) {
                let is_there = there.contains(&place);
                let same = *whole.entry(message.asked).or_insert(is_there) == is_there;
                assert!(same, "{place:?} and what came with it are not together");
            }
        }
    }
}

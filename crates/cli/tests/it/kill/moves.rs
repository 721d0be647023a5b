//! Transactions that move work: all of it, or nothing.

use super::body::Id;
use super::fault::Kind;
use super::ledger::{Ledger, There};
use super::plan::{ORDERS, outputs};
use std::collections::BTreeMap;
use std::fmt;

/// What one transaction does.
#[derive(Default)]
pub(super) struct Move {
    acknowledged: Vec<Id>,
    rejected: Vec<Id>,
    pub(super) published: Vec<Id>,
    committed: bool,
}

/// All transactions.
#[derive(Default)]
pub(super) struct Moves {
    begun: usize,
    /// Since the last inspection, by number.
    open: BTreeMap<usize, Move>,
    pub(super) committed: usize,
    rolled_back: usize,
    /// Cut short by a kill, and there after the restart.
    there: usize,
    /// Cut short by a kill, and not there after the restart.
    not_there: usize,
}

impl fmt::Display for Moves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moves { begun, committed, rolled_back, there, not_there, .. } = self;
        write!(
            f,
            "{begun} transactions ({committed} committed, {rolled_back} rolled back, cut short \
             {there} there and {not_there} not)"
        )
    }
}

impl Ledger {
    /// A transaction is about to begin: it takes orders, each with whether it refuses it, and
    /// publishes so many messages to each of its queues. Gives its number and the messages.
    pub(super) fn begin(
        &mut self,
        mover: usize,
        orders: &[(Id, bool)],
        count: usize,
    ) -> (usize, Vec<Id>) {
        let mut new = Move::default();
        for (id, refused) in orders {
            if *refused {
                self.reject(*id);
                new.rejected.push(*id);
            } else {
                self.settle(ORDERS, *id);
                new.acknowledged.push(*id);
            }
        }
        for _ in 0..count {
            let made = outputs(mover).map(|producer| self.attempt(producer));
            new.published.extend(made);
        }
        let (number, published) = (self.moves.begun, new.published.clone());
        self.moves.begun += 1;
        self.moves.open.insert(number, new);
        (number, published)
    }

    /// The broker has said that the transaction is committed.
    pub(super) fn committed(&mut self, number: usize) {
        self.moves.committed += 1;
        let Some(open) = self.moves.open.get_mut(&number) else { return };
        open.committed = true;
        for id in open.published.clone() {
            self.confirm(id);
        }
    }

    /// The transaction is about to be rolled back, or given up: nothing of it may ever be seen.
    pub(super) fn roll_back(&mut self, number: usize) {
        self.moves.rolled_back += 1;
        let Some(open) = self.moves.open.remove(&number) else { return };
        for id in open.published {
            self.fate(id).ended = true;
        }
        for id in open.acknowledged {
            self.fate(id).settled = 0;
        }
        for id in open.rejected {
            self.fate(id).rejections -= 1;
        }
    }

    /// Looks at what is there of each transaction, after all messages were compared.
    pub(super) fn compare_moves(&mut self, there: &dyn Fn(Id) -> There) {
        for one in std::mem::take(&mut self.moves.open).into_values() {
            let signs = self.signs(&one, there);
            let (done, undone) = (signs.contains(&true), signs.contains(&false));
            if undone && (done || one.committed) {
                self.fault(Kind::Half, ORDERS, one.published.first().copied());
            }
            if !one.committed {
                self.moves.there += usize::from(done);
                self.moves.not_there += usize::from(undone);
            }
        }
    }

    /// For each part of a transaction whether it was done, where that can be said.
    fn signs(&mut self, one: &Move, there: &dyn Fn(Id) -> There) -> Vec<bool> {
        let mut signs = Vec::new();
        for id in &one.published {
            // Consumers may have taken it, before it was anywhere to stay.
            if there(*id).anywhere() || self.fate(*id).settled == 0 {
                signs.push(there(*id).anywhere());
            }
        }
        for id in &one.acknowledged {
            // It may be that even its publisher has never heard of it.
            if there(*id).anywhere() || self.fate(*id).known() {
                signs.push(!there(*id).anywhere());
            }
        }
        for id in &one.rejected {
            if there(*id).anywhere() {
                signs.push(there(*id).deaths > 0);
            }
        }
        signs
    }
}

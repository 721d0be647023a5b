//! What must not be.

use super::body::Id;
use super::plan::QUEUES;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Confirmed, not acknowledged, not there.
    Lost,
    /// There, but never sent, or not to this queue, or gone before, or there twice.
    Phantom,
    /// A transaction of which some is there and some is not.
    Half,
    /// Behind a later message of its producer.
    Misordered,
    /// With a wrong body.
    Damaged,
    /// In one queue of the fanout and not in another one.
    Torn,
    /// With a history that is not its own.
    Mislabelled,
}

impl Kind {
    pub(super) const ALL: [Kind; 7] = [
        Kind::Lost,
        Kind::Phantom,
        Kind::Half,
        Kind::Misordered,
        Kind::Damaged,
        Kind::Torn,
        Kind::Mislabelled,
    ];
}

/// Something that must not be.
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) queue: usize,
    pub(super) id: Option<Id>,
    /// What else is known.
    pub(super) note: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { kind, queue, id, note } = self;
        write!(f, "{kind:?} in {}: {id:?} {note}", QUEUES[*queue])
    }
}

/// How many of each kind: `lost 0, phantom 0, ...`.
pub(super) fn tally(faults: &[Fault]) -> String {
    let count = |kind| faults.iter().filter(|fault| fault.kind == kind).count();
    let tell = |kind| format!("{kind:?} {}", count(kind)).to_lowercase();
    Kind::ALL.map(tell).join(", ")
}

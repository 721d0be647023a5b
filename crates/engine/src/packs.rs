//! Packs, as far as the engine knows them: how many live messages each holds.

use leveret_model::{Lsn, PackId};
use rustc_hash::FxHashMap;

#[derive(Debug, Default)]
pub(crate) struct Packs {
    held: FxHashMap<PackId, Held>,
    /// Those that have lost their last message, for the runtime to delete.
    emptied: Vec<PackId>,
    highest: PackId,
    /// Those that the replay passed over, and where the parts of the log ended that they were made
    /// of. A later replay must not take them for packs.
    passed_over: Vec<(PackId, Lsn)>,
    /// Counts how often the log mentions packs.
    mentions: u64,
}

#[derive(Debug)]
struct Held {
    live: u64,
    /// Where the part of the log ended that it was made of.
    end: Lsn,
    /// When the log mentioned it last.
    mention: u64,
}

impl Packs {
    /// The log has told of a pack.
    pub(crate) fn note(&mut self, pack: PackId) {
        self.highest = self.highest.max(pack);
    }

    /// A replay finds the messages of a pack in the log.
    pub(crate) fn pass_over(&mut self, pack: PackId, end: Lsn) {
        self.passed_over.push((pack, end));
    }

    /// Those passed over that were made of what ends here; they are of no use any more.
    pub(crate) fn take_passed_over(&mut self, end: Lsn) -> Vec<PackId> {
        let own = self.passed_over.extract_if(.., |(_, other)| *other == end);
        own.map(|(pack, _)| pack).collect()
    }

    /// The highest one that the log has told of.
    pub(crate) fn highest(&self) -> PackId {
        self.highest
    }

    /// A pack exists from now on, or is mentioned again. It holds nothing yet.
    pub(crate) fn mention(&mut self, pack: PackId, end: Lsn) {
        self.mentions += 1;
        self.held.insert(pack, Held { live: 0, end, mention: self.mentions });
    }

    /// When the log mentioned it last, if it exists.
    pub(crate) fn mentioned(&self, pack: PackId) -> Option<u64> {
        self.held.get(&pack).map(|held| held.mention)
    }

    /// So many live messages more.
    pub(crate) fn gain(&mut self, pack: PackId, count: u64) {
        if let Some(held) = self.held.get_mut(&pack) {
            held.live += count;
        }
    }

    /// So many live messages fewer. With the last one the pack is gone.
    pub(crate) fn lose(&mut self, pack: PackId, count: u64) {
        if let Some(held) = self.held.get_mut(&pack) {
            debug_assert!(held.live >= count, "a pack loses what it does not hold");
            held.live = held.live.saturating_sub(count);
            if held.live == 0 {
                self.held.remove(&pack);
                self.emptied.push(pack);
            }
        }
    }

    /// Forgets a pack whose messages are elsewhere.
    pub(crate) fn forget(&mut self, pack: PackId) {
        self.held.remove(&pack);
    }

    /// Forgets packs that hold nothing.
    pub(crate) fn forget_empty(&mut self) {
        self.held.retain(|_, held| held.live > 0);
        self.emptied.clear();
    }

    /// The packs that have become empty since the last call.
    pub(crate) fn take_emptied(&mut self) -> Vec<PackId> {
        std::mem::take(&mut self.emptied)
    }

    /// The packs there are, and where the parts of the log ended that they were made of.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PackId, Lsn)> {
        self.held.iter().map(|(pack, held)| (*pack, held.end))
    }
}

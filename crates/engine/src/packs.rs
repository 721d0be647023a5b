//! Packs, as far as the engine knows them: how many live messages each holds.

use leveret_model::{Lsn, PackId};
use rustc_hash::FxHashMap;

use crate::merging::PackUse;

#[derive(Debug, Default)]
pub(crate) struct Packs {
    held: FxHashMap<PackId, Held>,
    /// Those that have lost their last message, for the runtime to delete.
    emptied: Vec<PackId>,
    highest: PackId,
    /// Those that the replay had no need of. They are gone, but the log still names them.
    ignored: Vec<PackId>,
    /// Counts how often the log mentions packs.
    mentions: u64,
}

#[derive(Debug)]
struct Held {
    live: u64,
    /// Where the part of the log ended that it was made of. None if its messages were never there,
    /// and the log knows nothing of it.
    end: Option<Lsn>,
    /// When the log mentioned it last.
    mention: u64,
}

impl Packs {
    /// The log has told of a pack.
    pub(crate) fn note(&mut self, pack: PackId) {
        self.highest = self.highest.max(pack);
    }

    /// The highest one that the log has told of.
    pub(crate) fn highest(&self) -> PackId {
        self.highest
    }

    /// A pack exists from now on, or is mentioned again. It holds nothing yet.
    pub(crate) fn mention(&mut self, pack: PackId, end: Lsn) {
        self.mentions += 1;
        self.held.insert(pack, Held { live: 0, end: Some(end), mention: self.mentions });
    }

    /// A pack exists that the log does not know. It holds nothing yet.
    pub(crate) fn spill(&mut self, pack: PackId) {
        self.held.insert(pack, Held { live: 0, end: None, mention: 0 });
    }

    /// The log names a pack whose messages are in the part of it that is replayed.
    pub(crate) fn ignore(&mut self, pack: PackId) {
        if !self.ignored.contains(&pack) {
            self.ignored.push(pack);
        }
    }

    /// The packs that were ignored, for the next one to take their place: the log may begin behind
    /// their messages when it is replayed again.
    pub(crate) fn take_ignored(&mut self) -> Vec<PackId> {
        std::mem::take(&mut self.ignored)
    }

    /// When the log mentioned it last, if it exists.
    pub(crate) fn mentioned(&self, pack: PackId) -> Option<u64> {
        self.held.get(&pack).map(|held| held.mention)
    }

    /// How often the log has mentioned packs.
    pub(crate) fn mentions(&self) -> u64 {
        self.mentions
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

    /// A pack's messages are in another one from now on; `false` if there is no such pack.
    pub(crate) fn replace(&mut self, pack: PackId) -> bool {
        let known = self.held.remove(&pack).is_some();
        if known {
            self.emptied.push(pack);
        }
        known
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

    /// How many live messages each holds.
    #[cfg(test)]
    pub(crate) fn live(&self) -> std::collections::BTreeMap<PackId, u64> {
        self.held.iter().map(|(pack, held)| (*pack, held.live)).collect()
    }

    /// What is needed of each pack that the log knows.
    pub(crate) fn uses(&self) -> impl Iterator<Item = PackUse> {
        let uses = self.held.iter();
        uses.filter_map(|(&pack, held)| Some(PackUse { pack, live: held.live, end: held.end? }))
    }

    /// The packs that the log knows, and where the parts of it ended that they were made of.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PackId, Lsn)> {
        self.held.iter().filter_map(|(pack, held)| Some((*pack, held.end?)))
    }
}

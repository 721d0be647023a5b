//! The packs that are open: opening one means reading two headers and a directory.

use std::collections::VecDeque;
use std::sync::Arc;

use leveret_model::PackId;

use super::data::Data;
use super::index::Index;

/// How many packs are kept open; each has two files.
const OPEN_PACKS_MAX: usize = 64;
/// How much memory the directories of open packs may take, in bytes; the last one stays, however
/// large it is.
const DIRECTORY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The two files of a pack. They stay readable when they are renamed or deleted.
#[derive(Debug)]
pub(super) struct OpenPack {
    pub(super) index: Index,
    pub(super) data: Data,
}

/// Packs that are open, the last used first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    packs: VecDeque<(PackId, Arc<OpenPack>)>,
    removals: u64,
}

impl Cache {
    pub(super) fn get(&mut self, id: PackId) -> Option<Arc<OpenPack>> {
        let at = self.packs.iter().position(|(each, _)| *each == id)?;
        let (id, pack) = self.packs.remove(at)?;
        self.packs.push_front((id, Arc::clone(&pack)));
        Some(pack)
    }

    /// How often packs have been removed.
    pub(super) fn removals(&self) -> u64 {
        self.removals
    }

    /// Keeps a pack that was opened after there had been that many removals. If there has been one
    /// since, its files may be deleted, and keeping them open would keep their space.
    pub(super) fn insert(&mut self, id: PackId, pack: &Arc<OpenPack>, removals: u64) {
        let known = self.packs.iter().any(|(each, _)| *each == id);
        if known || removals != self.removals {
            return;
        }
        self.packs.push_front((id, Arc::clone(pack)));
        let mut bytes = 0;
        let fits = |(_, pack): &&(PackId, Arc<OpenPack>)| {
            bytes += pack.index.directory_bytes();
            bytes <= DIRECTORY_BYTES_MAX
        };
        let kept = self.packs.iter().take(OPEN_PACKS_MAX).take_while(fits).count().max(1);
        self.packs.truncate(kept);
    }

    pub(super) fn forget(&mut self, packs: &[PackId]) {
        self.removals += 1;
        self.packs.retain(|(id, _)| !packs.contains(id));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.packs.len()
    }
}

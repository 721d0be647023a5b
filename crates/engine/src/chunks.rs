//! The chunks that hold the content of live messages, how many live messages each holds, and where
//! else these are: in the log, or in packs.
//!
//! Queues refer to a chunk by slot. The count is the engine's own, so no atomic is touched per
//! message.

use std::ops::Range;
use std::sync::Arc;

use leveret_model::{Chunk, Lsn};

use crate::holder::Lease;
use crate::packs::Packs;
use crate::queue::Entry;

/// What an entry takes, in bytes: as much as on a lease, and again as much that is free when the
/// ring it is in has just grown.
pub(crate) const ENTRY_BYTES: usize = 2 * size_of::<(u64, Option<Lease>)>();

#[derive(Debug, Default)]
pub(crate) struct Chunks {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// What the chunks take, in bytes.
    bytes: usize,
    /// Entries that refer to them.
    live: usize,
    pub(crate) packs: Packs,
}

#[derive(Debug, Default)]
struct Slot {
    chunk: Arc<Chunk>,
    /// Entries in queues and leases that refer to it.
    live: u32,
    home: Home,
}

/// Where the durable messages of a chunk are on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Home {
    /// It has none.
    #[default]
    Nowhere,
    /// In the log, at this address or after it, written by one step.
    Log(Lsn),
    /// In packs. The queues know in which.
    Packs,
    /// Nowhere: its messages are transient ones, and come from packs that the log does not know.
    Spilled,
}

impl Chunks {
    /// Takes a chunk in. It stays until [`Chunks::release`] has taken back what
    /// [`Chunks::retain`] counted.
    pub(crate) fn insert(&mut self, chunk: Arc<Chunk>) -> u32 {
        self.bytes += chunk.memory();
        let slot = Slot { chunk, live: 0, home: Home::Nowhere };
        match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer chunks than 2^32 fit in memory")
            }
        }
    }

    pub(crate) fn get(&self, slot: u32) -> &Arc<Chunk> {
        &self.slots[slot as usize].chunk
    }

    pub(crate) fn retain(&mut self, slot: u32, count: u32) {
        self.live += count as usize;
        self.slots[slot as usize].live += count;
    }

    /// Notes that durable messages of the chunk are in the log at `address` or after it. Says
    /// whether that is news.
    pub(crate) fn pin(&mut self, slot: u32, address: Lsn) -> bool {
        let home = &mut self.slots[slot as usize].home;
        let news = *home == Home::Nowhere;
        if news {
            *home = Home::Log(address);
        }
        news
    }

    /// Where the durable messages of a chunk are.
    #[inline]
    pub(crate) fn home(&self, slot: u32) -> Home {
        self.slots[slot as usize].home
    }

    /// Whether packs hold a message too.
    #[inline]
    pub(crate) fn is_packed(&self, entry: &Entry) -> bool {
        match self.home(entry.chunk) {
            Home::Packs => entry.durable,
            Home::Spilled => true,
            Home::Nowhere | Home::Log(_) => false,
        }
    }

    /// The messages of a chunk come from packs: all of them durable ones, or all transient ones.
    pub(crate) fn set_packed(&mut self, slot: u32, durable: bool) {
        self.slots[slot as usize].home = if durable { Home::Packs } else { Home::Spilled };
    }

    /// The durable messages of chunks in this part of the log are in packs from now on.
    pub(crate) fn pack(&mut self, part: &Range<Lsn>) {
        for slot in &mut self.slots {
            if matches!(slot.home, Home::Log(address) if part.contains(&address)) {
                slot.home = Home::Packs;
            }
        }
    }

    /// Gives up one live message; the last one gives up the chunk, and its address goes to
    /// `released`.
    pub(crate) fn release(&mut self, slot: u32, released: &mut Vec<Lsn>) {
        self.live -= 1;
        let entry = &mut self.slots[slot as usize];
        entry.live -= 1;
        if entry.live == 0 {
            self.remove(slot, released);
        }
    }

    /// Puts the content into a slot that was reserved with an empty chunk.
    pub(crate) fn fill(&mut self, slot: u32, chunk: Arc<Chunk>) {
        self.bytes += chunk.memory();
        self.bytes -= self.slots[slot as usize].chunk.memory();
        self.slots[slot as usize].chunk = chunk;
    }

    fn remove(&mut self, slot: u32, released: &mut Vec<Lsn>) {
        let entry = std::mem::take(&mut self.slots[slot as usize]);
        self.bytes -= entry.chunk.memory();
        if let Home::Log(address) = entry.home {
            released.push(address);
        }
        self.free.push(slot);
    }

    /// What chunks and the entries that refer to them take, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.bytes + self.live * ENTRY_BYTES
    }

    /// The body of a message in a queue, in bytes.
    pub(crate) fn body_len(&self, entry: &Entry) -> u64 {
        self.get(entry.chunk).body_len(entry.message) as u64
    }

    /// How many chunks there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The address of every chunk whose durable messages are in the log.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Lsn> {
        self.slots.iter().filter_map(|slot| match slot.home {
            Home::Log(address) => Some(address),
            Home::Nowhere | Home::Packs | Home::Spilled => None,
        })
    }
}

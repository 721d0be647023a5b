//! What a file holds, in the kernel's memory and on the disk.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::random::Random;

const SECTOR_BYTES: usize = 512;

/// A file, whatever its name is.
#[derive(Debug, Clone, Default)]
pub(super) struct Inode(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
pub(super) struct Content {
    /// As it is read.
    cached: Vec<u8>,
    /// As it is on the disk.
    durable: Vec<u8>,
    /// What was done since the last sync.
    pending: Vec<Pending>,
    /// Where on the disk it was written to last.
    last: Range<usize>,
    /// A sync failed, and what it should have written is still read.
    forgotten: bool,
}

#[derive(Debug)]
enum Pending {
    Write { at: usize, bytes: Vec<u8> },
    Len(usize),
}

/// What becomes of all that is pending in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    Each,
}

impl Inode {
    pub(super) fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    /// What is read.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.cached
    }

    pub(super) fn durable_len(&self) -> u64 {
        self.durable.len() as u64
    }

    pub(super) fn write(&mut self, bytes: &[u8], at: usize) {
        write(&mut self.cached, bytes, at);
        self.pending.push(Pending::Write { at, bytes: bytes.to_vec() });
    }

    pub(super) fn set_len(&mut self, bytes: usize) {
        self.cached.resize(bytes, 0);
        self.pending.push(Pending::Len(bytes));
    }

    pub(super) fn sync(&mut self) {
        for pending in self.pending.drain(..) {
            match pending {
                Pending::Write { at, bytes } => {
                    write(&mut self.durable, &bytes, at);
                    self.last = at..at + bytes.len();
                }
                Pending::Len(len) => self.durable.resize(len, 0),
            }
        }
    }

    /// A sync that fails: the kernel forgets what it should have written, which it goes on showing
    /// or not.
    pub(super) fn fail_to_sync(&mut self, random: &mut Random) {
        self.keep_some(random);
        self.forgotten = random.chance(0.5);
        if !self.forgotten {
            self.cached.clone_from(&self.durable);
        }
    }

    pub(super) fn lose_power(&mut self, random: &mut Random) {
        if self.forgotten || !self.pending.is_empty() {
            self.keep_some(random);
            self.cached.clone_from(&self.durable);
            self.forgotten = false;
        }
    }

    /// Flips a bit on the disk, anywhere or in what was written last, and returns where.
    pub(super) fn flip_bit(&mut self, random: &mut Random, last: bool) -> u64 {
        let all = 0..self.durable.len();
        let place = if last && !self.last.is_empty() { self.last.clone() } else { all };
        let at = place.start + random.below(place.len() as u64) as usize;
        let bit = 1 << random.below(8);
        for bytes in [&mut self.durable, &mut self.cached] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bit;
            }
        }
        at as u64
    }

    /// Any part of what is pending gets to the disk.
    fn keep_some(&mut self, random: &mut Random) {
        let fate = [Fate::Kept, Fate::Lost, Fate::Each, Fate::Each][random.below(4) as usize];
        for pending in self.pending.drain(..) {
            let fates = [Fate::Kept, Fate::Lost, Fate::Each];
            let fate = if fate == Fate::Each { fates[random.below(3) as usize] } else { fate };
            match pending {
                Pending::Write { at, bytes } => match fate {
                    Fate::Kept => write(&mut self.durable, &bytes, at),
                    Fate::Lost => grow(&mut self.durable, at + bytes.len(), random),
                    Fate::Each => tear(&mut self.durable, &bytes, at, random),
                },
                Pending::Len(len) if fate == Fate::Kept => self.durable.resize(len, 0),
                Pending::Len(len) => grow(&mut self.durable, len, random),
            }
        }
    }
}

fn write(file: &mut Vec<u8>, bytes: &[u8], at: usize) {
    let end = at + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[at..end].copy_from_slice(bytes);
}

/// Writes any of the sectors.
fn tear(file: &mut Vec<u8>, mut bytes: &[u8], mut at: usize, random: &mut Random) {
    grow(file, at + bytes.len(), random);
    while !bytes.is_empty() {
        let to_boundary = SECTOR_BYTES - at % SECTOR_BYTES;
        let (sector, others) = bytes.split_at(to_boundary.min(bytes.len()));
        if random.chance(0.5) {
            write(file, sector, at);
        }
        at += sector.len();
        bytes = others;
    }
}

/// The length of a file may get to the disk without what was written there.
fn grow(file: &mut Vec<u8>, len: usize, random: &mut Random) {
    if let Some(more) = len.checked_sub(file.len()) {
        let more = random.prefix(more as u64) as usize;
        file.resize(file.len() + more, 0);
    }
}

//! Reading a data directory as far as it can be read, damaged or not, and without a lock.
//!
//! What is opened here is never written to. Nothing that a file claims is believed before a
//! checksum says so, with one exception: a data file that was written as a pack has its checksums
//! in its index, so that without one its records count if they can be read.
//!
//! - `segments`: the frames of segments, those behind damage too
//! - `packs`: the messages of packs, each on its own; `unindexed`: where there is no index
//! - `seed`: what the checksums of a segment begin from, where its header does not say

mod packs;
mod seed;
mod segments;
#[cfg(test)]
mod tests;
mod unindexed;

use std::fmt;
use std::path::PathBuf;

pub use packs::{Found, Pack, PackFiles, pack_of, packs};
pub use segments::{Frame, Piece, Segment, Tail, read, segment, segments};

/// A part of a file that cannot be read or does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// The first byte.
    pub start: u64,
    /// The byte after the last; the same if nobody can tell.
    pub end: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.file.display())?;
        if self.end > self.start {
            write!(f, "bytes {} to {}", self.start, self.end - 1)?;
        } else {
            write!(f, "at byte {}", self.start)?;
        }
        write!(f, ": {}", self.what)
    }
}

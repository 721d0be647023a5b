//! The write-ahead log: one log on local disk, with group commit, for everything durable; and
//! packs, which keep messages out of it.
//!
//! An engine appends records, which lie in memory in the *open frame*. A thread of its own seals
//! the frame, writes it and syncs it, then says up to which address everything is durable; what
//! was appended meanwhile is the next frame. Nothing may be confirmed before that.
//!
//! ```text
//! <data>/LOCK                          held as long as the log is open; says by which process
//! <data>/wal/00000000000000000000.wal  a segment: a header of 4 KiB, then frames; named after the
//!                                      address of its first frame
//! <data>/wal/00000001.free             a file to make the next segment of; two are kept ready
//! <data>/pack/…                        messages that are kept out of the log: see `pack`
//! ```
//!
//! An address ([`leveret_model::Lsn`]) counts the bytes of frames, their headers and padding
//! included and the headers of segments not, from the first frame ever written.
//!
//! The log itself knows nothing of what records say. What it needs to know in order to recycle
//! segments it is told: how many live things a segment holds (its *pins*), and, at the beginning of
//! each segment, it is given every definition there is, so that no older one is needed.
//!
//! Messages that stay would keep their segment, and all behind it. So a *pack* takes them over: the
//! caller has one made of a sealed segment ([`Packs::adopt`] in place, [`Packs::rewrite`] by
//! copying), appends records that name it, and retires the segment ([`Log::retire`]). Until another
//! segment has begun behind these records, which proves them, it stays, and a restart finds the
//! messages there; after that, in the pack.
//!
//! A full disk stops the log and not the process: before a frame is written there is room for it,
//! and the commit thread waits until there is ([`Log::is_out_of_space`]). Any other failure to
//! write or sync the log ends the process.
//!
//! - `log`: the handle; `writer`: the commit thread's hand on the disk
//! - `commit`, `pins`: who is in which frame, what is durable, what may go; no I/O, no clock
//! - `frame`, `segment`: the bytes; `files`: spare, recycled and retired segment files
//! - `space`: room on the disk, and waiting for it
//! - `recovery`: what a restart finds, what it mends, what it refuses; `scan`: reading segments
//! - `disk`: the file system below all this; `simulated`: one that loses, tears and fails
//! - `salvage`: reading what is damaged, as far as it can be read
//! - `pack`: making, reading and removing packs, which takes a look into records
//! - `fuzzing`: files that hold anything, for tests

mod commit;
mod disk;
mod error;
mod files;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod lock;
mod log;
mod pack;
mod pins;
mod recovery;
pub mod salvage;
mod scan;
mod segment;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;
mod space;
#[cfg(test)]
mod testing;
mod writer;

pub use disk::{Disk, DiskFile, Guard, RealDisk};
pub use error::{OpenError, ReplayError};
pub use lock::Hold;
pub use log::{Log, LogOptions, OnDurable, Replay, Slot, Stepper};
pub use pack::{Loaded, PackError, PackSize, Packs, Spilled, Wanted};
pub use pins::Contents;
pub use segment::Sealed;

//! The write-ahead log: one log on local disk, with group commit, for everything durable.
//!
//! An engine appends records, which lie in memory in the *open frame*. A thread of its own seals
//! the frame, writes it and syncs it, then says up to which address everything is durable; what
//! was appended meanwhile is the next frame. Nothing may be confirmed before that.
//!
//! ```text
//! <data>/LOCK                          held as long as the log is open; says by which process
//! <data>/wal/00000000000000000000.wal  a segment: a header of 4 KiB, then frames; named after the
//!                                      address of its first frame
//! <data>/wal/00000001.free             a file to make the next segment of
//! ```
//!
//! An address ([`leveret_model::Lsn`]) counts the bytes of frames, their headers and padding
//! included and the headers of segments not, from the first frame ever written.
//!
//! The log knows nothing of what records say. What it needs to know in order to recycle segments
//! it is told: how many live things a segment holds (its *pins*), and, at the beginning of each
//! segment, it is given every definition there is, so that no older one is needed.
//!
//! - `log`: the handle; `writer`: the commit thread's hand on the disk
//! - `commit`, `pins`: who is in which frame, what is durable, what may go; no I/O, no clock
//! - `frame`, `segment`: the bytes; `files`: spare and recycled segment files
//! - `recovery`: what a restart finds, what it mends, what it refuses; `scan`: reading segments

mod commit;
mod error;
mod files;
mod frame;
mod lock;
mod log;
mod pack;
mod pins;
mod recovery;
mod scan;
mod segment;
mod space;
#[cfg(test)]
mod testing;
mod writer;

pub use error::{OpenError, ReplayError};
pub use log::{Log, LogOptions, OnDurable, Replay, Slot};
pub use pack::{Loaded, PackError, Packs, Wanted};
pub use segment::Sealed;

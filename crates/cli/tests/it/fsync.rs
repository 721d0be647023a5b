//! What the broker promises about the disk: no answer that says "durable" precedes its sync, a
//! sync that fails ends the process and loses nothing, a disk that stalls stops only those who
//! need it.
//!
//! Seen from outside: `strace` shows in which order the real broker writes, syncs and answers;
//! `fsync/disk.c` is a disk that fails on command, or kills.

mod checks;
mod client;
pub(crate) mod disk;
mod failing;
mod full;
mod ledger;
mod load;
mod order;
mod promises;
mod stall;
mod trace;

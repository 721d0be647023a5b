//! The runtime around the engine: sessions, the log, and who waits for what.
//!
//! A front door opens a [`Session`] for each connection, submits batches of commands and polls for
//! what it is told. Whichever thread brings a batch runs the engine (see `combiner`); what the
//! engine wants written goes to the log, what it wants told goes to the sessions' outboxes, some of
//! it only once the log is durable (see `waiters`). If only time passes, a thread brings batches of
//! nothing (see `clock`); if messages take too much memory, or too little of the disk is free (see
//! `disk`), publishers wait (see `memory`). What stays long leaves the log and memory (see
//! `packer`, and `spill` for transient messages), and comes back when it is needed (see `loader`).
//!
//! A broker in memory has no log and none of these threads; time is up to its owner (see `ticker`).

mod broker;
mod clock;
mod combiner;
mod core;
mod disk;
mod loader;
mod memory;
mod merger;
mod outbox;
mod packer;
mod progress;
mod session;
mod spill;
mod ticker;
mod users;
mod waiters;
mod worker;

pub use broker::{Broker, OpenError, Options};
pub use disk::{Disk, DiskOptions, Probe, Space};
pub use memory::{Memory, Shortage};
pub use session::Session;
pub use ticker::Ticker;
pub use users::{LoginError, User};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use leveret_engine as engine;

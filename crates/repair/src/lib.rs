//! Looking into data directories, and saving what can be read of damaged ones.
//!
//! Neither writes to the directory it reads. The engine is not asked: it expects a log without
//! holes, and here there may be some. So what the log says is put together in a model of its own,
//! from which a new directory is written.
//!
//! - `inspect`: shows what is there
//! - `repair`: saves what can be read; `output`: the new directory; `report`: what was lost
//! - `model`: what the log says of definitions, positions and packs; `runs`: sets of positions
//! - `describe`: records as lines

mod describe;
mod inspect;
mod model;
mod output;
mod repair;
mod report;
mod runs;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use leveret_storage::OpenError;

pub use inspect::{Inspect, inspect};
pub use repair::{Repair, repair};
pub use report::Report;

/// Why a directory could be neither shown nor repaired.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its files cannot be opened, or others not be written.
    #[error(transparent)]
    Storage(#[from] OpenError),
    /// What was found cannot be printed.
    #[error("cannot write to the standard output: {0}")]
    Output(#[from] io::Error),
    /// No directory that leveret has written.
    #[error("{} is not a data directory: it has no folder named wal or pack", .0.display())]
    NoData(PathBuf),
    /// No file of a data directory.
    #[error("{} is neither a segment (.wal) nor part of a pack (.pack, .idx)", .0.display())]
    NoFile(PathBuf),
    /// What is to be written is there already.
    #[error(
        "{} exists already; name another directory with --to, or remove it if it is not needed",
        .0.display()
    )]
    Exists(PathBuf),
}

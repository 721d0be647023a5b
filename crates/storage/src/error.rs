//! What opening a log may answer, and what becomes of errors after that.

use std::io;
use std::path::{Path, PathBuf};

use leveret_model::Lsn;

/// Why the caller could not make sense of a frame's records.
pub type ReplayError = Box<dyn std::error::Error + Send + Sync>;

/// Why a log could not be opened. Nothing has been changed on disk that a second try would miss.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the directory.
    #[error(
        "data directory {} is in use by {}",
        directory.display(),
        pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The data directory.
        directory: PathBuf,
        /// The process, if it could be learned.
        pid: Option<u32>,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// Data that had been confirmed cannot be read any more.
    #[error(
        "the log is damaged: {} at byte {offset}: {what}, and {proof}. Confirmed data is lost or \
         unreadable, so the broker does not start on it. Check the disk, keep a copy of the \
         directory, and restore {} from a backup if there is one; or save what can be read, by \
         leveret repair",
        file.display(),
        file.display()
    )]
    Damaged {
        /// The segment file.
        file: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
        /// What shows that there was confirmed data.
        proof: String,
    },
    /// There is no log, but there is what only a log can have named.
    #[error(
        "the log is lost: there is no frame of it in {}, and {} holds packs that it named. \
         Confirmed data is lost or unreadable, so the broker does not start on it. Check the disk, \
         keep a copy of the directory, and restore {} from a backup if there is one; or save what \
         can be read, by leveret repair",
        wal.display(),
        packs.display(),
        wal.display()
    )]
    Lost {
        /// Where segments should be.
        wal: PathBuf,
        /// Where the packs are.
        packs: PathBuf,
    },
    /// A segment file of another format.
    #[error(
        "{} has format version {version}, this build reads version {}",
        file.display(),
        crate::segment::VERSION
    )]
    UnknownVersion {
        /// The segment file.
        file: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A segment file that another broker wrote.
    #[error("{} belongs to the log of another broker than {}", file.display(), other.display())]
    Foreign {
        /// The segment file.
        file: PathBuf,
        /// The first one of the directory.
        other: PathBuf,
    },
    /// The frame is whole but the caller refused its records.
    #[error("cannot replay the frame at address {lsn} ({}): {source}", file.display())]
    Replay {
        /// The address of the frame's first record.
        lsn: Lsn,
        /// The segment file.
        file: PathBuf,
        /// The caller's reason.
        source: ReplayError,
    },
}

impl OpenError {
    /// For `map_err`: what was tried on which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Io { action, path: path.to_owned(), source }
    }
}

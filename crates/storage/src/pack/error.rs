//! What can be wrong with a pack.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use leveret_model::{Position, QueueId};

use crate::space;

/// Why a pack could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The operating system refused; a file that is not there is among this.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged at byte {offset}: {what}{}", file.display(), Of(*message))]
    Damaged {
        /// The segment, data file or index.
        file: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
        /// Which message it is about, if it is about one.
        message: Option<(QueueId, Position)>,
    },
    /// A message is not where it should be.
    #[error("{} does not have message {position} of queue {queue}", file.display())]
    Missing {
        /// The segment or index that should have it.
        file: PathBuf,
        /// The queue.
        queue: QueueId,
        /// The message.
        position: Position,
    },
    /// A file of another format.
    #[error(
        "{} has format version {version}, this build reads version {}",
        file.display(),
        crate::segment::VERSION
    )]
    UnknownVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A data file must be smaller than 4 GiB, or its index could not say where messages are.
    #[error("{} has {bytes} bytes: too large for a pack", file.display())]
    TooLarge {
        /// The segment, or the data file that was about to be written.
        file: PathBuf,
        /// How large it is, or would be at least.
        bytes: u64,
    },
}

impl PackError {
    /// Whether there was no room on the disk, so that the same may succeed later.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, PackError::Io { source, .. } if space::is_full(source))
    }

    /// Whether the same may succeed later: the operating system refused, and not because a file is
    /// not there.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, PackError::Io { .. }) && !self.is_gone()
    }

    /// Whether a file is not there. It may have gone a moment ago, with its last message.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, PackError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// For `map_err`: what was tried on which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PackError {
        move |source| PackError::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn damaged(file: &Path, offset: u64, what: &'static str) -> PackError {
        PackError::Damaged { file: file.to_owned(), offset, what, message: None }
    }

    /// The same damage, about this message.
    pub(super) fn of(self, queue: QueueId, position: Position) -> PackError {
        match self {
            PackError::Damaged { file, offset, what, .. } => {
                PackError::Damaged { file, offset, what, message: Some((queue, position)) }
            }
            other => other,
        }
    }
}

/// Names the message an error is about.
struct Of(Option<(QueueId, Position)>);

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((queue, position)) => write!(f, " (message {position} of queue {queue})"),
            None => Ok(()),
        }
    }
}

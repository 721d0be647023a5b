//! Room on the disk: reserving it, and what to do when there is none.
//!
//! A full disk is the one failure that passes by itself, and before a frame is written nothing has
//! been promised: so the commit thread asks for the room first, and waits until it gets it. A write
//! or a sync that fails after that is another matter.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};

use crate::error::fatal;

/// How long to wait before asking for room again.
const RETRY: Duration = Duration::from_millis(100);
/// How long a log that is being closed waits for room.
const CLOSING: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 5_000 });

/// What the threads of a log know about the room on its disk.
#[derive(Debug, Default)]
pub(crate) struct Space {
    is_out: AtomicBool,
    closing: AtomicBool,
    /// Lets a test fill the disk.
    #[cfg(test)]
    pub(crate) full: AtomicBool,
}

impl Space {
    /// Whether the commit thread waits for room.
    pub(crate) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Relaxed)
    }

    /// The log is being closed: there is no point in waiting for ever.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether nothing will be written soon.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Gives a file at least `bytes` bytes, which can be written without running out of space.
    /// False if the file system cannot promise that; it can still grow the file.
    pub(crate) fn reserve(&self, file: &File, bytes: u64) -> io::Result<bool> {
        self.pretend()?;
        match retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What `attempt` gives, which is tried for as long as nothing but room is missing. Every other
    /// error ends the process. None if the log is being closed and no room was found in time.
    pub(crate) fn wait_for<T>(
        &self,
        action: &str,
        path: &Path,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> Option<T> {
        let mut closing_since = None;
        loop {
            match attempt() {
                Ok(done) => {
                    if self.is_out.swap(false, Ordering::Relaxed) {
                        tracing::info!("there is room in {} again", path.display());
                    }
                    return Some(done);
                }
                Err(error) if is_full(&error) => {
                    if !self.is_out.swap(true, Ordering::Relaxed) {
                        let path = path.display();
                        tracing::error!(%error, "no room to {action} in {path}: waiting for some");
                    }
                }
                Err(error) => fatal(action, path, &error),
            }
            if self.is_closing() {
                let since = closing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= CLOSING {
                    return None;
                }
            }
            thread::sleep(RETRY);
        }
    }

    /// Fails as a full disk does while a test wants that.
    fn pretend(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// Whether an error says that there is no room, on the disk or for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

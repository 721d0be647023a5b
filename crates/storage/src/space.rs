//! Room on the disk: reserving it, and what to do when there is none.
//!
//! A full disk passes by itself, and before a frame is written nothing has been promised: so the
//! commit thread asks for the room first, and waits until it gets it. So do too many open files
//! pass, and then nothing has been done yet. A write or a sync that fails is another matter.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use crate::disk::{Disk, DiskFile};

/// How long to wait before asking for room again.
const RETRY: Duration = Duration::from_millis(100);
/// How long a log that is being closed waits for room.
const CLOSING: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 5_000 });

/// What the threads of a log know about the room on its disk.
#[derive(Debug)]
pub(crate) struct Space {
    disk: Arc<dyn Disk>,
    /// Whoever wants room asks again by himself, and is not kept waiting before the log is closed.
    stepped: bool,
    is_out: AtomicBool,
    closing: AtomicBool,
    /// Lets a test fill the disk.
    #[cfg(test)]
    pub(crate) full: AtomicBool,
}

impl Space {
    pub(crate) fn new(disk: Arc<dyn Disk>, stepped: bool) -> Self {
        Space {
            disk,
            stepped,
            is_out: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            #[cfg(test)]
            full: AtomicBool::new(false),
        }
    }

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

    /// As [`DiskFile::reserve`].
    pub(crate) fn reserve(&self, file: &dyn DiskFile, bytes: u64) -> io::Result<bool> {
        self.pretend()?;
        file.reserve(bytes)
    }

    /// What `attempt` gives, which is tried for as long as nothing but room is missing, or too many
    /// files are open. Every other error ends the process. None if the log is being closed and it
    /// did not pass in time, or if it goes by steps and is so now.
    pub(crate) fn wait_for<T>(
        &self,
        action: &str,
        path: &Path,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> Option<T> {
        let mut waited = Duration::ZERO;
        loop {
            match attempt() {
                Ok(done) => {
                    if self.is_out.swap(false, Ordering::Relaxed) {
                        tracing::info!("there is room in {} again", path.display());
                    }
                    return Some(done);
                }
                Err(error) if passes(&error) => {
                    if !self.is_out.swap(true, Ordering::Relaxed) {
                        let path = path.display();
                        tracing::error!(%error, "no room to {action} in {path}: waiting for some");
                    }
                }
                Err(error) => self.disk.fatal(action, path, &error),
            }
            if self.is_closing() {
                if waited >= CLOSING {
                    return None;
                }
                waited += RETRY;
            } else if self.stepped {
                return None;
            }
            self.disk.sleep(RETRY);
        }
    }

    /// What `attempt` gives, which opens a file and is tried for as long as too many are open; if
    /// the log is being closed, only for a while.
    pub(crate) fn open<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut waited = Duration::ZERO;
        loop {
            match attempt() {
                Err(error) if are_too_many_open(&error) && waited < CLOSING => {}
                result => return result,
            }
            waited += if self.is_closing() { RETRY } else { Duration::ZERO };
            self.disk.sleep(RETRY);
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

/// Whether an error says that this process, or all of them together, have too many files open.
fn are_too_many_open(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Whether the same may succeed later, and nothing has been done.
pub(crate) fn passes(error: &io::Error) -> bool {
    is_full(error) || are_too_many_open(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated::SimulatedDisk;

    fn space() -> (SimulatedDisk, Space) {
        let disk = SimulatedDisk::new(1);
        (disk.clone(), Space::new(Arc::new(disk), false))
    }

    #[test]
    fn too_many_open_files_are_waited_for() {
        for errno in [Errno::MFILE, Errno::NFILE] {
            let (disk, space) = space();
            let attempt = |left: &mut u32| {
                *left = left.saturating_sub(1);
                if *left > 0 { Err(io::Error::from(errno)) } else { Ok(()) }
            };
            let (mut some, mut others) = (4, 4);
            assert_eq!(space.wait_for("test", Path::new("/"), || attempt(&mut some)), Some(()));
            space.open(|| attempt(&mut others)).unwrap();
            assert_eq!(disk.now(), 6 * RETRY);
        }
    }

    #[test]
    fn a_log_that_is_being_closed_does_not_wait_for_ever() {
        let (disk, space) = space();
        space.close();
        let error = space.open(|| Err::<(), _>(io::Error::from(Errno::MFILE))).unwrap_err();
        assert!(are_too_many_open(&error));
        assert_eq!(disk.now(), CLOSING);
    }
}

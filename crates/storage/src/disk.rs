//! The file system as the log and packs see it. All they do to a disk goes through here, so that a
//! simulation can put one below them that loses, tears and fails (`simulated`).

use std::any::Any;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::OpenError;
use crate::lock::DirectoryLock;

/// Keeps others off a directory until dropped.
pub type Guard = Box<dyn Any + Send + Sync>;

/// What the log and packs need of a file system; and time and chance, which they get from the same
/// place.
///
/// What a method here changes in a directory is durable after [`Disk::sync_directory`].
#[expect(clippy::missing_errors_doc, reason = "whatever the operating system says")]
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file that exists, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a file that does not exist.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, of which a file that has it is bereft.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// All that is in a directory, in no order.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes a directory and those it is in, unless it is there.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Locks a data directory against all others.
    fn lock(&self, directory: &Path) -> Result<Guard, OpenError>;

    /// Waits, for room or for whatever else may come.
    fn sleep(&self, time: Duration);

    /// What the clock on the wall shows.
    fn wall_clock(&self) -> SystemTime;

    /// Sixteen bytes that nobody else draws.
    fn random(&self) -> io::Result<[u8; 16]>;

    /// Ends the process: after a failed write or sync nobody knows what the disk holds, and the
    /// kernel has forgotten which pages were not written, so that trying again would succeed and
    /// prove nothing. A restart reads what is really there.
    fn fatal(&self, action: &str, path: &Path, error: &io::Error) -> !;
}

/// An open file. It stays readable and writable when it is renamed or removed.
#[expect(clippy::missing_errors_doc, reason = "whatever the operating system says")]
#[expect(clippy::len_without_is_empty, reason = "nobody asks")]
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Reads bytes from `at` on, maybe fewer than fit; none at the end of the file.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `bytes` from `at` on. If it fails, any part of them may have been written.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes what was written durable, and the file's length.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes all there is to know of the file durable, but for its name.
    fn sync_all(&self) -> io::Result<()>;

    /// Cuts the file off, or makes it longer.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// How long it is, in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Gives the file at least `bytes` bytes, which can be written without running out of space.
    /// False if the file system cannot promise that; it can still grow the file.
    fn reserve(&self, bytes: u64) -> io::Result<bool>;

    /// Fills `buffer` with what is from `at` on.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => {
                    buffer = &mut buffer[bytes..];
                    at += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::create_new(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn lock(&self, directory: &Path) -> Result<Guard, OpenError> {
        Ok(Box::new(DirectoryLock::take(directory)?))
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        getrandom(&mut bytes[..], GetRandomFlags::empty())?;
        Ok(bytes)
    }

    fn fatal(&self, action: &str, path: &Path, error: &io::Error) -> ! {
        let file = path.display();
        tracing::error!(%file, %error, "cannot {action}: the broker stops here");
        if error.kind() == io::ErrorKind::StorageFull {
            tracing::error!(%file, "the disk is full: make room, then start again");
        }
        std::process::abort()
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn reserve(&self, bytes: u64) -> io::Result<bool> {
        match retry_on_intr(|| fallocate(self, FallocateFlags::empty(), 0, bytes)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

//! One process to a data directory.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::OpenError;

/// Keeps brokers off a directory until dropped, without writing to it.
#[derive(Debug)]
pub struct Hold {
    _file: Option<File>,
}

impl Hold {
    /// Keeps brokers off `directory`. Without a lock file there is none, nor has there been.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if one runs there.
    pub fn take(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join("LOCK");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Hold { _file: None }),
            Err(error) => return Err(OpenError::io("open", &path)(error)),
        };
        lock(directory, &path, &mut file)?;
        Ok(Hold { _file: Some(file) })
    }
}

/// Holds `<data>/LOCK` until dropped. The kernel lets go of it when the process ends, however it
/// ends; the file itself stays, since removing it would race with the next to lock it.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Locks `directory`, which exists.
    pub(crate) fn take(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join("LOCK");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(OpenError::io("open", &path))?;
        lock(directory, &path, &mut file)?;
        file.set_len(0).map_err(OpenError::io("write", &path))?;
        writeln!(file, "{}", std::process::id()).map_err(OpenError::io("write", &path))?;
        Ok(DirectoryLock { _file: file })
    }
}

fn lock(directory: &Path, path: &Path, file: &mut File) -> Result<(), OpenError> {
    match flock(&*file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let pid = holder(file);
            Err(OpenError::Locked { directory: directory.to_owned(), pid })
        }
        Err(error) => Err(OpenError::io("lock", path)(error.into())),
    }
}

/// The process id the holder has written, if it got that far.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

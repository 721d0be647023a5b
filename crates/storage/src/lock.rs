//! One process to a data directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::OpenError;

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
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = holder(&mut file);
                return Err(OpenError::Locked { directory: directory.to_owned(), pid });
            }
            Err(error) => return Err(OpenError::io("lock", &path)(error.into())),
        }
        file.set_len(0).map_err(OpenError::io("write", &path))?;
        writeln!(file, "{}", std::process::id()).map_err(OpenError::io("write", &path))?;
        Ok(DirectoryLock { _file: file })
    }
}

/// The process id the holder has written, if it got that far.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

//! The simulated disk as the log and packs see it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Call, Change, Inode, SimulatedDisk, State, broken, done_unless, stop};
use crate::disk::{Disk, DiskFile, Guard};
use crate::error::OpenError;

/// When simulations begin: some day in 2020.
const BEGINNING: Duration = Duration::from_secs(1_600_000_000);

/// A file that a process has open.
#[derive(Debug)]
struct OpenFile {
    disk: SimulatedDisk,
    path: PathBuf,
    inode: Inode,
    process: u64,
}

/// Frees the lock, unless the process that had it is gone.
#[derive(Debug)]
struct Lock {
    disk: SimulatedDisk,
    process: u64,
}

impl SimulatedDisk {
    fn opened(&self, state: &State, path: &Path, inode: Inode) -> Arc<dyn DiskFile> {
        let (disk, path, process) = (self.clone(), path.to_owned(), state.process);
        Arc::new(OpenFile { disk, path, inode, process })
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.call(Call::Open, path, |state, fails| {
            state.may_open()?;
            done_unless(fails)?;
            let inode = state.file(path)?.clone();
            Ok(self.opened(state, path, inode))
        })
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.call(Call::Write, path, |state, fails| {
            state.may_open()?;
            done_unless(fails)?;
            state.has_place(path)?;
            if state.file(path).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = Inode::default();
            state.change(Change::Create(path.to_owned(), inode.clone()));
            Ok(self.opened(state, path, inode))
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::Write, from, |state, fails| {
            done_unless(fails)?;
            state.file(from)?;
            state.has_place(to)?;
            state.change(Change::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(Call::Write, path, |state, fails| {
            done_unless(fails)?;
            state.file(path)?;
            state.change(Change::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.call(Call::Open, directory, |state, fails| {
            done_unless(fails)?;
            if !state.tree.directories.contains(directory) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let all = state.tree.files.keys().chain(&state.tree.directories);
            Ok(all.filter(|path| path.parent() == Some(directory)).cloned().collect())
        })
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        if self.lock().tree.directories.contains(path) {
            return Ok(());
        }
        self.call(Call::Write, path, |state, fails| {
            done_unless(fails)?;
            let mut missing: Vec<_> = path.ancestors().collect();
            missing.retain(|path| !state.tree.directories.contains(*path));
            for path in missing.into_iter().rev() {
                state.change(Change::Directory(path.to_owned()));
            }
            Ok(())
        })
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.call(Call::Sync, path, |state, fails| {
            state.may_open()?;
            done_unless(fails)?;
            state.sync_directory(path);
            Ok(())
        })
    }

    fn lock(&self, directory: &Path) -> Result<Guard, OpenError> {
        let mut state = SimulatedDisk::lock(self);
        let pid = Some(state.process as u32);
        if state.locked.is_some() {
            return Err(OpenError::Locked { directory: directory.to_owned(), pid });
        }
        state.locked = Some(directory.to_owned());
        Ok(Box::new(Lock { disk: self.clone(), process: state.process }))
    }

    fn sleep(&self, time: Duration) {
        self.advance(time);
    }

    fn wall_clock(&self) -> SystemTime {
        UNIX_EPOCH + BEGINNING + self.now()
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let random = &mut SimulatedDisk::lock(self).random;
        let (one, other) = (u128::from(random.next()), u128::from(random.next()));
        Ok((one << 64 | other).to_le_bytes())
    }

    fn fatal(&self, action: &str, path: &Path, error: &io::Error) -> ! {
        let why = format!("cannot {action} {}: {error}", path.display());
        SimulatedDisk::lock(self).stopped = Some(why.clone());
        stop(why)
    }
}

impl OpenFile {
    /// As [`SimulatedDisk::call`], in the process that has the file open.
    fn call<T>(
        &self,
        call: Call,
        act: impl FnOnce(&mut State, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        if SimulatedDisk::lock(&self.disk).process != self.process {
            return Err(broken());
        }
        self.disk.call(call, &self.path, act)
    }

    /// Writes as much as there is room for.
    fn write(&self, state: &State, bytes: &[u8], at: u64) -> io::Result<()> {
        let end = at + bytes.len() as u64;
        let len = self.inode.lock().bytes().len() as u64;
        let fits = match end.saturating_sub(len) {
            0 => bytes.len(),
            more => (bytes.len() as u64 - more.saturating_sub(state.room())) as usize,
        };
        if fits > 0 {
            self.inode.lock().write(&bytes[..fits], at as usize);
        }
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        self.call(Call::Sync, |state, fails| {
            let mut content = self.inode.lock();
            match fails {
                true => content.fail_to_sync(&mut state.random),
                false => content.sync(),
            }
            done_unless(fails)
        })
    }
}

impl DiskFile for OpenFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.call(Call::Read, |_, fails| {
            done_unless(fails)?;
            let content = self.inode.lock();
            let rest = content.bytes().get(at as usize..).unwrap_or_default();
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        })
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.call(Call::Write, |state, fails| {
            let part = state.random.prefix(bytes.len() as u64) as usize;
            self.write(state, if fails { &bytes[..part] } else { bytes }, at)?;
            done_unless(fails)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.call(Call::Write, |_, fails| {
            done_unless(fails)?;
            self.inode.lock().set_len(bytes as usize);
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.call(Call::Read, |_, _| Ok(self.inode.lock().bytes().len() as u64))
    }

    fn reserve(&self, bytes: u64) -> io::Result<bool> {
        self.call(Call::Write, |state, fails| {
            done_unless(fails)?;
            let more = bytes.saturating_sub(self.inode.lock().bytes().len() as u64);
            if more > state.room() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if more > 0 {
                self.inode.lock().set_len(bytes as usize);
            }
            Ok(true)
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = SimulatedDisk::lock(&self.disk);
        if state.process == self.process {
            state.locked = None;
        }
    }
}

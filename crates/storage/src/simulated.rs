//! A disk in memory that loses what was not synced, tears, fails, fills up, stalls and flips bits,
//! all of it by a seed; and that can stop the process at any call. For simulations.
//!
//! What a power cut leaves ([`SimulatedDisk::crash`]):
//!
//! - Of each write since the file's last good sync all, nothing, or any of its sectors of 512
//!   bytes, each write on its own; a file that grew has any length up to what it was.
//! - Of what was done to directories since their last sync, in all directories together, a part
//!   from the beginning. Syncing a directory makes everything durable that was done up to its last
//!   change, as a file system with an ordered journal does.
//! - That a file is synced does not make its name durable.
//!
//! A sync that fails drops what was not written from the kernel's memory, or leaves it to be read
//! and never writes it.

mod disk;
mod file;
#[cfg(test)]
mod lives_tests;
mod random;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use file::Inode;
pub use random::Random;

/// The longest a call stalls.
const STALL_MAX: Duration = Duration::from_secs(30);

/// A simulated disk. All clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

/// What goes wrong: probabilities for each call, from 0 to 1. By default, nothing.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// That writing fails, after any part was written; or changing a file's length or a directory.
    pub write_error: f64,
    /// That syncing a file or a directory fails.
    pub sync_error: f64,
    /// That reading fails.
    pub read_error: f64,
    /// That opening a file or listing a directory fails.
    pub open_error: f64,
    /// That too many files are open for another one, or for syncing a directory.
    pub too_many_open: f64,
    /// That a call takes up to half a minute.
    pub stall: f64,
    /// How large the files may be in all, in bytes; what is reserved counts.
    pub capacity: Option<u64>,
}

/// What a panic carries that stands for the end of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedStop {
    /// What ended it.
    pub why: String,
}

/// What a call does, which decides how it may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Open,
    Read,
    Write,
    Sync,
}

struct State {
    random: Random,
    faults: Faults,
    now: Duration,
    /// Mutating calls so far.
    calls: u64,
    /// In how many of them the process stops.
    stop_in: Option<u64>,
    /// Why the process is over, from when it stops until the next begins.
    stopped: Option<String>,
    /// Which process this is. Files that an earlier one opened are closed.
    process: u64,
    locked: Option<PathBuf>,
    /// The directories as they seem.
    tree: Tree,
    /// The directories as they are on the disk.
    durable: Tree,
    /// What makes the one of the other.
    journal: Vec<Change>,
}

#[derive(Debug, Clone, Default)]
struct Tree {
    files: BTreeMap<PathBuf, Inode>,
    directories: BTreeSet<PathBuf>,
}

/// A change of directories.
#[derive(Debug, Clone)]
enum Change {
    Create(PathBuf, Inode),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Directory(PathBuf),
}

impl SimulatedDisk {
    /// An empty disk. All that is left to chance follows from `seed`, and from the calls.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: Random::new(seed),
            faults: Faults::default(),
            now: Duration::ZERO,
            calls: 0,
            stop_in: None,
            stopped: None,
            process: 0,
            locked: None,
            tree: Tree::default(),
            durable: Tree::default(),
            journal: Vec::new(),
        };
        SimulatedDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Power is lost: of what was not synced, any part survives. The process ends, and the next may
    /// begin: files that are open are closed, the lock is free, and no stop is planned.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.lose_power();
        state.begin_process();
    }

    /// The process ends, and the next may begin. What it wrote is not lost.
    pub fn kill(&self) {
        self.lock().begin_process();
    }

    /// Flips a bit of what lies on the disk, in a file with content whose name ends with `suffix`.
    /// Returns which file, and the byte in it; none if there is no such file.
    pub fn flip_bit(&self, suffix: &str) -> Option<(PathBuf, u64)> {
        let state = &mut *self.lock();
        let fits = |(path, file): &(&PathBuf, &Inode)| {
            path.to_string_lossy().ends_with(suffix) && file.lock().durable_len() > 0
        };
        let files: Vec<_> = state.tree.files.iter().filter(fits).collect();
        let (path, file) = files.get(state.random.below(files.len() as u64) as usize)?;
        let at = file.lock().flip_bit(&mut state.random, false);
        Some(((*path).clone(), at))
    }

    /// The same in what was written last to the last of these files, by name.
    pub fn flip_last_bit(&self, suffix: &str) -> Option<(PathBuf, u64)> {
        let state = &mut *self.lock();
        let mut files = state.tree.files.iter().rev();
        let (path, file) = files.find(|(path, _)| path.to_string_lossy().ends_with(suffix))?;
        let mut file = file.lock();
        let some = file.durable_len() > 0;
        some.then(|| (path.clone(), file.flip_bit(&mut state.random, true)))
    }

    /// The time that sleeping and stalling took so far.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.lock().now
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.lock().now += time;
    }

    /// Stops the process at the `calls`-th mutating call from now on (write, sync, rename, create,
    /// remove, change of length), before it or right after it: with a panic that carries a
    /// [`SimulatedStop`]. After that every call does, until a [`SimulatedDisk::crash`] or
    /// [`SimulatedDisk::kill`].
    pub fn stop_after(&self, calls: Option<u64>) {
        self.lock().stop_in = calls;
    }

    /// Mutating calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// All files and how long each is, in order of their paths.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.lock();
        let files = state.tree.files.iter();
        files.map(|(path, file)| (path.clone(), file.lock().bytes().len() as u64)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a call, unless something goes wrong. `act` is told whether it is to fail.
    fn call<T>(
        &self,
        call: Call,
        path: &Path,
        act: impl FnOnce(&mut State, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.lock();
        if let Some(why) = state.stopped.clone() {
            drop(state);
            // Something that is dropped while the process ends cannot end it again.
            return if thread::panicking() { Err(broken()) } else { stop(why) };
        }
        let fails = state.disturb(call);
        let planned = matches!(call, Call::Write | Call::Sync) && state.count();
        if planned {
            state.stopped = Some(format!("stopped at a {call:?} of {}", path.display()));
        }
        let skipped = planned && state.random.chance(0.5);
        let result = if skipped { Err(broken()) } else { act(&mut state, fails) };
        let stopped = state.stopped.clone();
        drop(state);
        match stopped {
            Some(why) => stop(why),
            None => result,
        }
    }
}

/// Ends the process, without a word from the panic hook.
fn stop(why: String) -> ! {
    resume_unwind(Box::new(SimulatedStop { why }))
}

/// What a disk says that fails.
fn broken() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

fn done_unless(fails: bool) -> io::Result<()> {
    if fails { Err(broken()) } else { Ok(()) }
}

impl State {
    /// Lets a call stall. Returns whether it is to fail.
    fn disturb(&mut self, call: Call) -> bool {
        if self.random.chance(self.faults.stall) {
            self.now += STALL_MAX.mul_f64(self.random.part());
        }
        self.random.chance(match call {
            Call::Open => self.faults.open_error,
            Call::Read => self.faults.read_error,
            Call::Write => self.faults.write_error,
            Call::Sync => self.faults.sync_error,
        })
    }

    /// Opens something, unless too many files are open.
    fn may_open(&mut self) -> io::Result<()> {
        match self.random.chance(self.faults.too_many_open) {
            true => Err(rustix::io::Errno::MFILE.into()),
            false => Ok(()),
        }
    }

    /// Counts a mutating call. Returns whether the process is to stop there.
    fn count(&mut self) -> bool {
        self.calls += 1;
        let left = self.stop_in.take().map(|left| left.saturating_sub(1));
        self.stop_in = left.filter(|left| *left > 0);
        left == Some(0)
    }

    fn begin_process(&mut self) {
        self.process += 1;
        (self.stopped, self.stop_in, self.locked) = (None, None, None);
    }

    fn lose_power(&mut self) {
        let kept = self.random.prefix(self.journal.len() as u64) as usize;
        for change in self.journal.drain(..).take(kept) {
            self.durable.apply(change);
        }
        for file in self.durable.files.values() {
            file.lock().lose_power(&mut self.random);
        }
        self.tree = self.durable.clone();
    }

    /// How much may be added to the files.
    fn room(&self) -> u64 {
        let Some(capacity) = self.faults.capacity else { return u64::MAX };
        let used = self.tree.files.values().map(|file| file.lock().bytes().len() as u64);
        capacity.saturating_sub(used.sum())
    }

    fn change(&mut self, change: Change) {
        self.tree.apply(change.clone());
        self.journal.push(change);
    }

    /// Makes everything durable up to the last change of a directory.
    fn sync_directory(&mut self, directory: &Path) {
        let last = self.journal.iter().rposition(|change| change.is_in(directory));
        for change in self.journal.drain(..last.map_or(0, |last| last + 1)) {
            self.durable.apply(change);
        }
    }

    fn file(&self, path: &Path) -> io::Result<&Inode> {
        self.tree.files.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether something may be made at `path`.
    fn has_place(&self, path: &Path) -> io::Result<()> {
        match path.parent().is_some_and(|parent| self.tree.directories.contains(parent)) {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Tree {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Create(path, file) => drop(self.files.insert(path, file)),
            Change::Rename(from, to) => {
                if let Some(file) = self.files.remove(&from) {
                    self.files.insert(to, file);
                }
            }
            Change::Remove(path) => drop(self.files.remove(&path)),
            Change::Directory(path) => drop(self.directories.insert(path)),
        }
    }
}

impl Change {
    fn is_in(&self, directory: &Path) -> bool {
        let is_in = |path: &PathBuf| path.parent() == Some(directory);
        match self {
            Change::Rename(from, to) => is_in(from) || is_in(to),
            Change::Create(path, _) | Change::Remove(path) | Change::Directory(path) => is_in(path),
        }
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedDisk").finish_non_exhaustive()
    }
}

//! How much of the disk is free, and when that is too little.
//!
//! There are two marks. Below the low one publishers wait, below the critical one everything that
//! makes the log larger: what is left is for acknowledgements, so that consumers can free some. A
//! thread looks every second, and more often near a mark. Who waits, and how, is up to `memory`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use leveret_model::limits::{
    DISK_CRITICAL_BYTES_MIN, DISK_FILL_BYTES_PER_SECOND, DISK_LOOK_MAX, DISK_LOOK_MIN,
    DISK_LOW_BYTES_MAX, DISK_LOW_BYTES_MIN, DISK_RESUME_PERCENT,
};

use crate::memory::Budget;
use crate::packer::Packer;

/// What the low mark is of a disk where nobody said so.
const LOW_PERCENT: u64 = 5;
/// The low mark is no larger part of a disk than this, or a small one could never be used.
const LOW_PART: u64 = 8;
/// What the free space is while nobody knows it.
const UNKNOWN: u64 = u64::MAX;

/// A file system's size, and what of it is free for this process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What may still be written.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// What tells how much is free.
#[derive(Clone)]
pub struct Probe(Arc<dyn Fn() -> io::Result<Space> + Send + Sync>);

/// When too little of the disk is free.
#[derive(Debug, Clone, Default)]
pub struct DiskOptions {
    /// Publishers wait when less is free, in bytes. None: what suits the disk.
    pub low: Option<u64>,
    /// Everything that makes the log larger waits when less is free, in bytes. None: what suits
    /// the low mark.
    pub critical: Option<u64>,
    /// What tells how much is free. None: the file system of the data directory.
    pub probe: Option<Probe>,
}

/// How much of the disk is free, and how much must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// What is free, in bytes; none if the system does not tell.
    pub free: Option<u64>,
    /// Publishers wait when less is free.
    pub low: u64,
    /// Everything that makes the log larger waits when less is free.
    pub critical: u64,
    /// Whether publishers wait because there was less.
    pub publishers_wait: bool,
}

/// How much is free, compared with the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Level {
    Enough,
    Low,
    Critical,
}

/// Below which free space what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks {
    low: u64,
    critical: u64,
}

/// The watch over one data directory's disk.
pub(crate) struct Watch {
    sight: Arc<Sight>,
    /// What looks, until it is started.
    seeing: Mutex<Option<(Seeing, Probe)>>,
    /// The thread, which ends when this sender does.
    running: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

/// What the thread has seen.
struct Sight {
    directory: PathBuf,
    marks: Marks,
    free: AtomicU64,
    /// A [`Level`].
    level: AtomicU8,
}

impl DiskOptions {
    /// For a broker that uses none: there is always enough.
    pub(crate) fn none() -> Self {
        let probe = Probe::new(|| Ok(Space { free: UNKNOWN, total: UNKNOWN }));
        DiskOptions { low: Some(0), critical: Some(0), probe: Some(probe) }
    }
}

impl Probe {
    /// Asks `free` whenever it is looked at.
    pub fn new(free: impl Fn() -> io::Result<Space> + Send + Sync + 'static) -> Self {
        Probe(Arc::new(free))
    }

    /// The file system that a directory is on.
    fn of(directory: PathBuf) -> Self {
        Probe::new(move || {
            let found = rustix::fs::statvfs(&directory)?;
            if found.f_blocks == 0 {
                // Some that are no disks know nothing of sizes.
                return Err(io::ErrorKind::Unsupported.into());
            }
            let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
            Ok(Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
        })
    }

    fn look(&self) -> io::Result<Space> {
        (self.0)()
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl Marks {
    /// Those that are asked for, or those that suit a disk of this size, if that is known.
    fn of(options: &DiskOptions, total: Option<u64>) -> Self {
        let suitable = || {
            let Some(total) = total else { return DISK_LOW_BYTES_MIN };
            let part = total / 100 * LOW_PERCENT;
            part.clamp(DISK_LOW_BYTES_MIN, DISK_LOW_BYTES_MAX).min(total / LOW_PART)
        };
        let low = options.low.unwrap_or_else(suitable);
        let suitable = || (low / 4).max(DISK_CRITICAL_BYTES_MIN).min(low / 2);
        let critical = options.critical.unwrap_or_else(suitable);
        // Where things that grow the log wait, publishers wait.
        Marks { low: low.max(critical), critical }
    }

    /// A mark that was passed counts until there is some more, so that who waits does not go on
    /// and stop in turns.
    fn judge(self, before: Level, free: u64) -> Level {
        let below = |mark, passed| free < if passed { resume(mark) } else { mark };
        if below(self.critical, before == Level::Critical) {
            Level::Critical
        } else if below(self.low, before != Level::Enough) {
            Level::Low
        } else {
            Level::Enough
        }
    }

    /// When to look again: half of the time in which the next mark could be reached.
    fn pause(self, level: Level, free: u64) -> Duration {
        let mark = match level {
            Level::Enough => self.low,
            Level::Low => self.critical,
            Level::Critical => 0,
        };
        let left = free.saturating_sub(mark) as f64 / DISK_FILL_BYTES_PER_SECOND as f64;
        Duration::from_secs_f64(left / 2.0).clamp(DISK_LOOK_MIN, DISK_LOOK_MAX)
    }
}

/// Where a mark that was passed counts no longer.
fn resume(mark: u64) -> u64 {
    mark.saturating_add(mark / 100 * (DISK_RESUME_PERCENT - 100))
}

impl Watch {
    /// Looks for the first time.
    pub(crate) fn new(
        options: &DiskOptions,
        directory: &Path,
        budget: &Arc<Budget>,
        packer: &Arc<Packer>,
    ) -> Watch {
        let own = || Probe::of(directory.to_owned());
        let probe = options.probe.clone().unwrap_or_else(own);
        let first = probe.look();
        let total = first.as_ref().ok().map(|space| space.total);
        let sight = Arc::new(Sight {
            directory: directory.to_owned(),
            marks: Marks::of(options, total),
            free: AtomicU64::new(UNKNOWN),
            level: AtomicU8::new(Level::Enough as u8),
        });
        let (level, told) = (Level::Enough, false);
        let (budget, packer) = (Arc::clone(budget), Arc::clone(packer));
        let mut seeing = Seeing { sight: Arc::clone(&sight), budget, packer, level, told };
        seeing.see(first);
        let (seeing, running) = (Mutex::new(Some((seeing, probe))), Mutex::new(None));
        Watch { sight, seeing, running }
    }

    /// Begins to watch.
    pub(crate) fn start(&self) -> io::Result<()> {
        let seeing = self.seeing.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((seeing, probe)) = seeing else { return Ok(()) };
        let (stop, stopped) = mpsc::channel();
        let builder = thread::Builder::new().name("disk-watch".to_owned());
        let handle = builder.spawn(move || seeing.run(&probe, &stopped))?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop, handle));
        Ok(())
    }

    pub(crate) fn disk(&self) -> Disk {
        let Marks { low, critical } = self.sight.marks;
        let free = self.sight.free.load(Ordering::Acquire);
        let publishers_wait = self.sight.level.load(Ordering::Relaxed) != Level::Enough as u8;
        Disk { free: (free != UNKNOWN).then_some(free), low, critical, publishers_wait }
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, handle)) = running {
            drop(stop);
            // A panic of it was told by the panic itself.
            let _ = handle.join();
        }
    }
}

/// The thread's own.
struct Seeing {
    sight: Arc<Sight>,
    budget: Arc<Budget>,
    /// It may be able to make room.
    packer: Arc<Packer>,
    level: Level,
    /// Whether it was told already that nothing is to be seen.
    told: bool,
}

impl Seeing {
    fn run(mut self, probe: &Probe, stopped: &Receiver<()>) {
        loop {
            let free = self.sight.free.load(Ordering::Relaxed);
            let pause = self.sight.marks.pause(self.level, free);
            let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) else { return };
            self.see(probe.look());
        }
    }

    fn see(&mut self, found: io::Result<Space>) {
        let Space { free, .. } = match found {
            Ok(space) => space,
            Err(error) => {
                self.sight.free.store(UNKNOWN, Ordering::Relaxed);
                if !std::mem::replace(&mut self.told, true) {
                    let directory = self.sight.directory.display();
                    tracing::warn!(
                        %directory, %error,
                        "cannot tell how much is free on the disk of the data directory: nobody is \
                         stopped, or let go on, for it"
                    );
                }
                return;
            }
        };
        self.told = false;
        let level = self.sight.marks.judge(self.level, free);
        if level != self.level {
            self.tell(level, free);
            self.level = level;
            self.sight.level.store(level as u8, Ordering::Relaxed);
            self.budget.set_disk(level);
            self.packer.wake();
        }
        // Last: who sees it sees what follows from it.
        self.sight.free.store(free, Ordering::Release);
    }

    fn tell(&self, level: Level, free: u64) {
        let Marks { low, critical } = self.sight.marks;
        let directory = self.sight.directory.display();
        match (self.level, level) {
            (_, Level::Enough) => tracing::info!(
                free, low, %directory,
                "enough is free on the disk of the data directory again: publishers go on"
            ),
            (Level::Critical, Level::Low) => tracing::info!(
                free, critical, low, %directory,
                "some is free on the disk of the data directory again: publishers wait still"
            ),
            (_, Level::Low) => tracing::warn!(
                free, low, %directory,
                "too little is free on the disk of the data directory: publishers wait until \
                 consumers, or whoever else fills it, make room"
            ),
            (_, Level::Critical) => tracing::warn!(
                free, critical, %directory,
                "next to nothing is free on the disk of the data directory: all that makes the log \
                 larger waits until consumers, or whoever else fills it, make room"
            ),
        }
    }
}

#[cfg(test)]
mod tests;

//! Files for segments to come: written ahead of time or left over from segments nobody needs. And
//! what becomes of segments that the log does not need: those, or the data file of a pack.
//!
//! Overwriting blocks that have been written before makes a sync markedly cheaper than a growing
//! file (no allocation to journal), so a thread of low priority fills a spare file with zeros, and
//! segments that are done with become spares. A file gets the name of a segment only when its
//! header is durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leveret_model::{Lsn, PackId};

use crate::disk::{Disk, DiskFile};
use crate::pack::Packs;
use crate::pins::Retired;
use crate::recovery::Recovered;
use crate::segment::{self, Sealed};
use crate::space::{self, Space};

/// How many files wait to become a segment: also space for when the disk is full.
pub(crate) const SPARES_MAX: usize = 2;
const ZEROS_BYTES: usize = 1024 * 1024;
/// How much is written before it is synced, so that a commit never waits behind much of it.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;
/// How much lower than the other threads the keeper ranks for the processor.
const KEEPER_NICENESS: i32 = 10;
/// How long the keeper waits before it tries again to prepare what it could not.
const PREPARE_AGAIN: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1_000 });

/// The spare files of a `wal` directory, shared by the commit thread and the keeper.
#[derive(Debug)]
pub(crate) struct Spares {
    disk: Arc<dyn Disk>,
    wal: PathBuf,
    file_bytes: u64,
    space: Arc<Space>,
    ready: Mutex<Vec<PathBuf>>,
    next_name: AtomicU64,
    /// Where the oldest segment begins that a restart would find.
    oldest: AtomicU64,
}

/// How much time there is to prepare a spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// None: one that has its space is enough. Zeros would be written to the disk at the side of
    /// what fills it so fast; and if segments are recycled, in vain.
    Busy,
    /// Nothing else happened for a while.
    Idle,
}

/// What the commit thread asks of the keeper.
#[derive(Debug)]
pub(crate) enum Job {
    /// A spare has been used.
    Prepare,
    /// The log needs these segments no more, the oldest first.
    Retire(Vec<Retired>),
    /// Nothing lives in these packs any more.
    Remove(Vec<PackId>),
}

impl Spares {
    /// Takes the spare files over that a restart has found; those above the limit are removed.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        wal: &Path,
        segment_bytes: u64,
        space: Arc<Space>,
        recovered: &mut Recovered,
    ) -> io::Result<Self> {
        let mut found = std::mem::take(&mut recovered.spares);
        let names = found.iter().filter_map(|path| spare_number(path));
        let next_name = AtomicU64::new(names.max().map_or(0, |highest| highest.wrapping_add(1)));
        for path in found.drain(SPARES_MAX.min(found.len())..) {
            disk.remove(&path)?;
        }
        let file_bytes = segment_bytes + segment::HEADER_BYTES as u64;
        let (wal, ready) = (wal.to_owned(), Mutex::new(found));
        let oldest = recovered.segments.first().copied().unwrap_or(recovered.end);
        let oldest = AtomicU64::new(oldest.0);
        Ok(Spares { disk, wal, file_bytes, space, ready, next_name, oldest })
    }

    /// No restart finds anything of the log before this address.
    pub(crate) fn oldest(&self) -> Lsn {
        Lsn(self.oldest.load(Ordering::Acquire))
    }

    /// A file to make a segment of, and its present name. Takes a prepared one, or makes one now,
    /// with its space allocated but not written.
    pub(crate) fn take(&self) -> io::Result<(Arc<dyn DiskFile>, PathBuf)> {
        let ready = self.lock().pop();
        if let Some(path) = ready {
            // It stays ready if it cannot be opened now.
            let opened = self.disk.open(&path).inspect_err(|_| self.lock().push(path.clone()));
            return Ok((opened?, path));
        }
        let path = self.new_name("free");
        let file = self.disk.create(&path)?;
        if let Err(error) = self.space.reserve(&*file, self.file_bytes) {
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        Ok((file, path))
    }

    fn is_full(&self) -> bool {
        self.count() >= SPARES_MAX
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Makes a spare, under a name that a restart throws away until it is done.
    fn prepare(&self, haste: Haste) -> io::Result<()> {
        let unfinished = self.new_name("tmp");
        let result = self.make(&unfinished, haste);
        if result.is_err() {
            let _ = self.disk.remove(&unfinished);
            return result;
        }
        let path = unfinished.with_extension("free");
        self.disk.rename(&unfinished, &path)?;
        self.lock().push(path);
        Ok(())
    }

    fn make(&self, path: &Path, haste: Haste) -> io::Result<()> {
        let file = self.disk.create(path)?;
        // Fails at once where there is no room, and not after having taken all that is left.
        self.space.reserve(&*file, self.file_bytes)?;
        if haste == Haste::Busy {
            return Ok(());
        }
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = 0;
        while at < self.file_bytes {
            let bytes = (self.file_bytes - at).min(ZEROS_BYTES as u64);
            file.write_all_at(&zeros[..bytes as usize], at)?;
            at += bytes;
            if at % SYNC_BYTES == 0 {
                file.sync_data()?;
            }
        }
        file.sync_all()
    }

    /// Prepares spares until there are enough for now. False if some are missing still.
    fn fill(&self, haste: Haste, warned: &mut bool) -> bool {
        let enough = || match haste {
            Haste::Idle => self.is_full(),
            Haste::Busy => !self.lock().is_empty(),
        };
        while !enough() && !self.space.is_closing() {
            // What room there is, the commit thread has a better use for.
            if self.space.is_out() {
                return false;
            }
            if let Err(error) = self.prepare(haste) {
                if !std::mem::replace(warned, true) {
                    let wal = self.wal.display();
                    tracing::warn!(%error, "cannot prepare the next log segment in {wal} yet");
                }
                // Whatever else it is, the commit thread will say so.
                return !space::passes(&error);
            }
            *warned = false;
        }
        self.is_full()
    }

    /// Takes what the log needs no more away from it. The directory is synced each time: the log
    /// loses its segments in order, also in the eyes of a restart.
    fn retire(&self, packs: &Packs, Retired { segment, pack }: Retired) {
        match pack {
            Some(pack) => self.become_pack(packs, segment, pack),
            None => self.recycle(segment.first),
        }
        self.oldest.store(segment.end.0, Ordering::Release);
    }

    /// Makes a segment the data file of a pack, without what was only reserved.
    fn become_pack(&self, packs: &Packs, segment: Sealed, pack: PackId) {
        let path = segment::path(&self.wal, segment.first);
        let rename = || -> io::Result<()> {
            let file = self.space.open(|| self.disk.open(&path))?;
            file.set_len(segment.file_bytes())?;
            file.sync_all()?;
            self.disk.rename(&path, &packs.data_path(pack))?;
            self.space.open(|| self.disk.sync_directory(packs.directory()))?;
            self.space.open(|| self.disk.sync_directory(&self.wal))
        };
        let fatal = |error| self.disk.fatal("make a pack of log segment", &path, &error);
        rename().unwrap_or_else(fatal);
    }

    /// Makes a segment a spare, or removes it.
    fn recycle(&self, first: Lsn) {
        let path = segment::path(&self.wal, first);
        let result = if self.is_full() {
            self.disk.remove(&path).map(|()| None)
        } else {
            let spare = self.new_name("free");
            self.disk.rename(&path, &spare).map(|()| Some(spare))
        };
        let result = result.and_then(|spare| {
            self.space.open(|| self.disk.sync_directory(&self.wal))?;
            Ok(spare)
        });
        let fatal = |error| self.disk.fatal("recycle log segment", &path, &error);
        // Only now: whoever writes to it before that may write to a segment of the log.
        self.lock().extend(result.unwrap_or_else(fatal));
    }

    fn new_name(&self, extension: &str) -> PathBuf {
        let number = self.next_name.fetch_add(1, Ordering::Relaxed);
        self.wal.join(format!("{number:08}.{extension}"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what the commit thread asks for, and sees to it that there are spares.
#[derive(Debug)]
pub(crate) struct Keeper {
    spares: Arc<Spares>,
    packs: Packs,
    jobs: Receiver<Job>,
    haste: Haste,
    /// There are as many spares as there should be.
    filled: bool,
    warned: bool,
}

impl Keeper {
    pub(crate) fn new(spares: Arc<Spares>, packs: Packs, jobs: Receiver<Job>) -> Self {
        // At the start there is nothing yet that writing zeros could disturb.
        Keeper { spares, packs, jobs, haste: Haste::Idle, filled: true, warned: false }
    }

    /// The keeper thread: does its jobs until the commit thread is gone.
    pub(crate) fn run(mut self) {
        // On Linux this is the niceness of the calling thread alone.
        if let Err(error) = rustix::process::nice(KEEPER_NICENESS) {
            tracing::debug!(%error, "the log's keeper runs at normal priority");
        }
        loop {
            let job = match self.filled {
                true => self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => self.jobs.recv_timeout(PREPARE_AGAIN),
            };
            match job {
                Ok(job) => self.work(Some(job)),
                Err(RecvTimeoutError::Timeout) => self.work(None),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does a job that waits, or else prepares spares. False if there was nothing to do, or no room
    /// to do it.
    pub(crate) fn step(&mut self) -> bool {
        let job = self.jobs.try_recv().ok();
        let before = (job.is_some(), self.spares.count());
        if job.is_some() || !self.filled {
            self.work(job);
        }
        before != (false, self.spares.count())
    }

    /// Does a job; none if there was none for a while.
    fn work(&mut self, job: Option<Job>) {
        match job {
            Some(Job::Retire(segments)) => {
                segments.into_iter().for_each(|retired| self.spares.retire(&self.packs, retired));
            }
            Some(Job::Remove(removed)) => self.packs.remove(&removed),
            Some(Job::Prepare) => {}
            None => self.haste = Haste::Idle,
        }
        self.filled = self.spares.fill(self.haste, &mut self.warned);
        self.haste = Haste::Busy;
    }
}

fn spare_number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::simulated::SimulatedDisk;

    /// Its old name might come back with what was written to it since.
    #[test]
    fn a_segment_is_a_spare_when_its_name_is_durable() {
        let (disk, wal) = (SimulatedDisk::new(1), Path::new("/wal"));
        disk.create_directory(wal).unwrap();
        disk.create(&segment::path(wal, Lsn(0))).unwrap();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let space = Arc::new(Space::new(Arc::clone(&shared), true));
        let mut recovered = Recovered {
            node: [0; 16],
            epoch: 0,
            end: Lsn(0),
            prev_crc: 0,
            segments: Vec::new(),
            spares: Vec::new(),
        };
        let spares = Spares::new(shared, wal, 4096, space, &mut recovered).unwrap();
        // The first call is the rename, the second the sync.
        disk.stop_after(Some(2));
        assert!(catch_unwind(AssertUnwindSafe(|| spares.recycle(Lsn(0)))).is_err());
        assert!(disk.files()[0].0.ends_with("00000000.free"));
        assert_eq!(spares.count(), 0);
    }
}

//! Files for segments to come: written ahead of time or left over from segments nobody needs.
//!
//! Overwriting blocks that have been written before makes a sync markedly cheaper than a growing
//! file (no allocation to journal), so a thread of low priority fills a spare file with zeros, and
//! segments that are done with become spares. A file gets the name of a segment only when its
//! header is durable.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use leveret_model::Lsn;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::error::fatal;
use crate::segment;

/// How many files wait to become a segment.
pub(crate) const SPARES_MAX: usize = 2;
const ZEROS_BYTES: usize = 1024 * 1024;
/// How much is written before it is synced, so that a commit never waits behind much of it.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;
/// How much lower than the other threads the keeper ranks for the processor.
const KEEPER_NICENESS: i32 = 10;

/// The spare files of a `wal` directory, shared by the commit thread and the keeper.
#[derive(Debug)]
pub(crate) struct Spares {
    wal: PathBuf,
    file_bytes: u64,
    ready: Mutex<Vec<PathBuf>>,
    next_name: AtomicU64,
}

/// What the commit thread asks of the keeper.
#[derive(Debug)]
pub(crate) enum Job {
    /// A spare has been used.
    Prepare,
    /// These segments are needed no more, the oldest first.
    Recycle(Vec<Lsn>),
}

impl Spares {
    /// `found` are the spare files of the directory; those above the limit are removed.
    pub(crate) fn new(wal: &Path, segment_bytes: u64, mut found: Vec<PathBuf>) -> io::Result<Self> {
        let names = found.iter().filter_map(|path| spare_number(path));
        let next_name = AtomicU64::new(names.max().map_or(0, |highest| highest.wrapping_add(1)));
        for path in found.drain(SPARES_MAX.min(found.len())..) {
            fs::remove_file(path)?;
        }
        let file_bytes = segment_bytes + segment::HEADER_BYTES as u64;
        Ok(Spares { wal: wal.to_owned(), file_bytes, ready: Mutex::new(found), next_name })
    }

    /// A file to make a segment of, and its present name. Takes a prepared one, or makes one now,
    /// with its space allocated but not written.
    pub(crate) fn take(&self) -> io::Result<(File, PathBuf)> {
        if let Some(path) = self.lock().pop() {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            return Ok((file, path));
        }
        let path = self.new_name("free");
        let file = File::create_new(&path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.file_bytes) {
            // A file system that cannot is still one that can grow a file.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok((file, path)),
            Err(error) => Err(error.into()),
        }
    }

    fn is_full(&self) -> bool {
        self.lock().len() >= SPARES_MAX
    }

    /// Writes a spare full of zeros, under a name that a restart throws away until it is done.
    fn prepare(&self) -> io::Result<()> {
        let unfinished = self.new_name("tmp");
        let result = self.write_zeros(&unfinished);
        if result.is_err() {
            let _ = fs::remove_file(&unfinished);
            return result;
        }
        let path = unfinished.with_extension("free");
        fs::rename(&unfinished, &path)?;
        self.lock().push(path);
        Ok(())
    }

    fn write_zeros(&self, path: &Path) -> io::Result<()> {
        let file = File::create_new(path)?;
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

    /// Makes a segment a spare, or removes it. The directory is synced each time: the log loses
    /// its segments in order, also in the eyes of a restart.
    fn recycle(&self, first: Lsn) {
        let path = segment::path(&self.wal, first);
        let result = if self.is_full() {
            fs::remove_file(&path)
        } else {
            let spare = self.new_name("free");
            fs::rename(&path, &spare).map(|()| self.lock().push(spare))
        };
        let result = result.and_then(|()| sync_directory(&self.wal));
        result.unwrap_or_else(|error| fatal("recycle log segment", &path, &error));
    }

    fn new_name(&self, extension: &str) -> PathBuf {
        let number = self.next_name.fetch_add(1, Ordering::Relaxed);
        self.wal.join(format!("{number:08}.{extension}"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keeper thread: does its jobs until the commit thread is gone.
pub(crate) fn keep(spares: &Arc<Spares>, jobs: &Receiver<Job>) {
    // On Linux this is the niceness of the calling thread alone.
    if let Err(error) = rustix::process::nice(KEEPER_NICENESS) {
        tracing::debug!(%error, "the log's keeper runs at normal priority");
    }
    for job in jobs {
        match job {
            Job::Recycle(segments) => segments.into_iter().for_each(|first| spares.recycle(first)),
            // One is enough to stay ahead; a second comes from recycling.
            Job::Prepare if spares.lock().is_empty() => {
                if let Err(error) = spares.prepare() {
                    let wal = spares.wal.display();
                    tracing::warn!(%error, "cannot prepare the next log segment in {wal}");
                }
            }
            Job::Prepare => {}
        }
    }
}

/// Makes creations, renames and removals in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn spare_number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

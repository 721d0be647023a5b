//! Packs: messages that are kept out of the log, and how they are found there.
//!
//! ```text
//! <data>/pack/00000000000000000007.pack  the data file: whole records of messages, each of them
//!                                        once; a former segment, or written as a pack
//! <data>/pack/00000000000000000007.idx   the index: where in it each message of each queue is
//! ```
//!
//! Packs of transient messages are never finished, as far as the next opening is concerned:
//!
//! ```text
//! <data>/pack/09223372036854775808.pack.tmp  the same two files, not synced; their ids begin at
//! <data>/pack/09223372036854775808.idx.tmp   2⁶³
//! ```
//!
//! The data file of a segment that was taken over lies in `wal/` under its old name until the log
//! has done with it. Which packs count is for the log to say: one that no record names may be
//! there because of a crash, and goes when the log is opened.
//!
//! - `build`: finding the wanted messages of a segment; `copy`: writing them to a new file
//! - `index`, `data`: the two files, byte by byte
//! - `spill`: writing transient messages
//! - `read`: loading messages; `cache`: the packs that are open
//! - `settle`: tidying up after a replay

mod build;
mod cache;
mod copy;
#[cfg(test)]
mod damage_tests;
pub(crate) mod data;
mod error;
pub(crate) mod index;
mod read;
mod settle;
mod spill;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leveret_model::{PackId, Position, PositionSet, QueueId};

use crate::disk::Disk;
use crate::error::OpenError;
use crate::segment::{self, Sealed};
use cache::{Cache, OpenPack};
use copy::Source;
pub use error::PackError;
pub use read::Loaded;
pub use spill::Spilled;

/// Live positions by queue: what a pack is to hold. In a queue the sets are in order and disjoint.
pub type Wanted = BTreeMap<QueueId, Vec<PositionSet>>;

/// What is behind [`Packs`] in the names of files that are not finished.
const UNFINISHED: &str = "tmp";
/// Packs of transient messages have ids from here on.
const SPILLED: u64 = 1 << 63;

/// The packs of a data directory. Cheap to clone; all clones are the same.
///
/// Nothing here waits for the log, and every method may be called from any thread. Files are
/// durable when a method that writes some returns, but for [`Packs::spill`]; if it fails it leaves
/// nothing behind that the next opening does not remove.
#[derive(Debug, Clone)]
pub struct Packs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    wal: PathBuf,
    directory: PathBuf,
    /// The id the next pack gets.
    next: AtomicU64,
    /// The same for those of transient messages.
    next_spilled: AtomicU64,
    cache: Mutex<Cache>,
}

/// How large a pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackSize {
    /// Messages in it; one of several queues counts for each.
    pub messages: u64,
    /// What its data file takes, in bytes.
    pub bytes: u64,
}

/// A message in a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) place: Place,
}

/// A record in a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where it begins, in bytes from the start of the file.
    pub(crate) offset: u32,
    /// How many bytes it has.
    pub(crate) len: u32,
    /// Its crc32c.
    pub(crate) crc: u32,
}

/// Entries by queue, in order of queue and position.
pub(crate) type Entries = Vec<(QueueId, Vec<Entry>)>;

impl Packs {
    /// Finds the packs of a data directory, and removes files that were not finished.
    pub(crate) fn open(disk: Arc<dyn Disk>, data: &Path) -> Result<Packs, OpenError> {
        let directory = data.join("pack");
        disk.create_directory(&directory).map_err(OpenError::io("create", &directory))?;
        let mut next = 0;
        for path in disk.list(&directory).map_err(OpenError::io("list", &directory))? {
            let Some((PackId(id), kind)) = parse_name(&path) else { continue };
            if !is_spilled(PackId(id)) {
                next = next.max(id.saturating_add(1));
            }
            if kind == UNFINISHED {
                disk.remove(&path).map_err(OpenError::io("remove", &path))?;
            }
        }
        let (wal, next) = (data.join("wal"), AtomicU64::new(next));
        let (next_spilled, cache) = (AtomicU64::new(SPILLED), Mutex::new(Cache::default()));
        Ok(Packs { inner: Arc::new(Inner { disk, wal, directory, next, next_spilled, cache }) })
    }

    /// No pack gets an id up to this one from now on: for the ids that a replay finds in the log,
    /// whose files may be gone.
    pub fn reserve_above(&self, id: PackId) {
        if is_spilled(id) {
            return;
        }
        self.inner.next.fetch_max(id.0.saturating_add(1), Ordering::Relaxed);
    }

    /// Takes a sealed segment over in place: writes its index. Its data file is still
    /// `wal/<first>.wal` until [`crate::Log::retire`] has moved it, and messages can be loaded
    /// from either. The caller holds a pin of the segment meanwhile.
    ///
    /// # Errors
    /// [`PackError`]; among others if a wanted message is not there, or if the segment is not
    /// smaller than 4 GiB.
    pub fn adopt(&self, segment: Sealed, wanted: &Wanted) -> Result<PackId, PackError> {
        let found = build::find(self.disk(), &self.inner.wal, segment, wanted)?;
        let id = self.new_id()?;
        let header = index::Header {
            pack: id,
            data: found.header.segment,
            segment: Some(segment.first),
            data_bytes: segment.file_bytes(),
        };
        self.write_index(&header, &found.entries)?;
        Ok(id)
    }

    /// Copies what is wanted of a sealed segment into a new pack, queue by queue in order of
    /// position. A message of several queues is copied once. The caller holds a pin of the segment
    /// meanwhile.
    ///
    /// # Errors
    /// [`PackError`]; among others if a wanted message is not there.
    pub fn rewrite(&self, segment: Sealed, wanted: &Wanted) -> Result<PackId, PackError> {
        let build::Found { data, entries, .. } =
            build::find(self.disk(), &self.inner.wal, segment, wanted)?;
        self.write(copy::plan([(Source::Segment(data), entries)])?)
    }

    /// Copies what is wanted of packs into a new one, in the same order. The same message of a
    /// queue is in one of them only.
    ///
    /// # Errors
    /// [`PackError`]; among others if a wanted message is not there, or if the new pack would not
    /// be smaller than 4 GiB.
    pub fn merge(&self, packs: &[(PackId, Wanted)]) -> Result<PackId, PackError> {
        let mut sources = Vec::with_capacity(packs.len());
        for (id, wanted) in packs {
            self.reserve_above(*id);
            let pack = self.get(*id)?;
            let entries = pack.index.entries(wanted)?;
            sources.push((Source::Pack(pack), entries));
        }
        self.write(copy::plan(sources)?)
    }

    /// How much a pack takes and holds, whatever of it is still needed.
    ///
    /// # Errors
    /// [`PackError`] if its index cannot be read.
    pub fn size(&self, pack: PackId) -> Result<PackSize, PackError> {
        let index = index::Index::open(self.disk(), &self.index_path(pack), pack)?;
        Ok(PackSize { messages: index.len(), bytes: index.header.data_bytes })
    }

    /// Writes transient messages to a new pack, for as long as the process lives: nothing is
    /// synced, and the next opening removes it without a look.
    ///
    /// # Errors
    /// [`PackError`] if the disk fails, or if the pack would not be smaller than 4 GiB.
    pub fn spill<'a>(
        &self,
        messages: impl IntoIterator<Item = Spilled<'a>>,
    ) -> Result<PackId, PackError> {
        let id = PackId(self.inner.next_spilled.fetch_add(1, Ordering::Relaxed));
        let (data, index) = (self.data_path(id), self.index_path(id));
        let written = spill::write(self.disk(), &data, &index, id, messages);
        if written.is_err() {
            let _ = self.disk().remove(&index);
            let _ = self.disk().remove(&data);
        }
        written.map(|()| id)
    }

    /// Reads messages of a queue, in the order of `runs` (a first position and how many), until
    /// the next would make it more than `bytes_max` bytes of records; but at least one.
    ///
    /// # Errors
    /// [`PackError`] if one of these messages is not there or damaged, or if the disk fails.
    pub fn load(
        &self,
        pack: PackId,
        queue: QueueId,
        runs: &[(Position, u64)],
        bytes_max: usize,
    ) -> Result<Loaded, PackError> {
        let pack = self.get(pack)?;
        read::load(&pack, queue, runs, bytes_max)
    }

    /// Deletes the files of packs that no longer hold anything. Missing ones are fine; errors are
    /// logged, and the next opening of the log tries again.
    pub fn remove(&self, packs: &[PackId]) {
        for &id in packs {
            self.reserve_above(id);
            // The index first: without it the data file is nothing.
            for path in [self.index_path(id), self.data_path(id)] {
                match self.disk().remove(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(file = %path.display(), %error, "cannot delete a pack");
                    }
                    _ => {}
                }
            }
        }
        self.cache().forget(packs);
    }

    /// To be called after a replay: `live` are the packs that hold messages. Checks that each has
    /// its two files with sound headers that belong together; then deletes the files of all others.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is deleted if a live pack is missing or damaged.
    pub fn settle(&self, live: &[PackId]) -> Result<(), OpenError> {
        live.iter().for_each(|&id| self.reserve_above(id));
        settle::settle(self, live)
    }

    /// To be called if there is no log: only a log can have given finished files their names.
    pub(crate) fn expect_none(&self) -> Result<(), OpenError> {
        let Inner { disk, directory, wal, .. } = &*self.inner;
        let all = disk.list(directory).map_err(OpenError::io("list", directory))?;
        let finished = |path| parse_name(path).is_some_and(|(_, kind)| kind != UNFINISHED);
        match all.iter().any(|path| finished(path)) {
            true => Err(OpenError::Lost { wal: wal.clone(), packs: directory.clone() }),
            false => Ok(()),
        }
    }

    fn disk(&self) -> &dyn Disk {
        &*self.inner.disk
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// The data file of a pack, once the log has done with it.
    pub(crate) fn data_path(&self, id: PackId) -> PathBuf {
        self.path(id, "pack")
    }

    fn index_path(&self, id: PackId) -> PathBuf {
        self.path(id, "idx")
    }

    fn path(&self, id: PackId, kind: &str) -> PathBuf {
        let name = match is_spilled(id) {
            true => format!("{:020}.{kind}.{UNFINISHED}", id.0),
            false => format!("{:020}.{kind}", id.0),
        };
        self.inner.directory.join(name)
    }

    /// An id that no pack ever had.
    fn new_id(&self) -> Result<PackId, PackError> {
        let next = &self.inner.next;
        let following = |id: u64| Some(id + 1).filter(|_| !is_spilled(PackId(id)));
        let id = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, following);
        let none_left = |_| io::Error::other("there are no numbers left for packs");
        id.map(PackId).map_err(none_left).map_err(PackError::io("name a pack in", self.directory()))
    }

    /// A pack, open; one of those opened last if possible.
    fn get(&self, id: PackId) -> Result<Arc<OpenPack>, PackError> {
        let removals = {
            let mut cache = self.cache();
            if let Some(pack) = cache.get(id) {
                return Ok(pack);
            }
            cache.removals()
        };
        let pack = Arc::new(self.open_pack(id)?);
        self.cache().insert(id, &pack, removals);
        Ok(pack)
    }

    fn open_pack(&self, id: PackId) -> Result<OpenPack, PackError> {
        let index = index::Index::open(self.disk(), &self.index_path(id), id)?;
        let packed = self.data_path(id);
        let mut names = vec![packed.clone()];
        if let Some(first) = index.header.segment {
            // It may be moved between the two looks.
            names.extend([segment::path(&self.inner.wal, first), packed]);
        }
        let data = data::Data::open(self.disk(), &names, &index.header)?;
        Ok(OpenPack { index, data })
    }

    /// Writes a pack of its own: the data file, then the index.
    fn write(&self, plan: copy::Plan) -> Result<PackId, PackError> {
        let id = self.new_id()?;
        let path = self.data_path(id);
        let unfinished = path.with_extension("pack.tmp");
        let written = copy::write(self.disk(), &unfinished, id, plan).and_then(|written| {
            self.publish(&unfinished, &path)?;
            Ok(written)
        });
        let written = written.and_then(|(header, entries)| self.write_index(&header, &entries));
        if written.is_err() {
            let _ = self.disk().remove(&unfinished);
            let _ = self.disk().remove(&path);
        }
        written.map(|()| id)
    }

    fn write_index(&self, header: &index::Header, entries: &Entries) -> Result<(), PackError> {
        let path = self.index_path(header.pack);
        let unfinished = path.with_extension("idx.tmp");
        let written = index::write(self.disk(), &unfinished, header, entries)
            .map_err(PackError::io("write", &unfinished))
            .and_then(|()| self.publish(&unfinished, &path));
        if written.is_err() {
            let _ = self.disk().remove(&unfinished);
            let _ = self.disk().remove(&path);
        }
        written
    }

    /// Gives a file that is synced its name.
    fn publish(&self, unfinished: &Path, path: &Path) -> Result<(), PackError> {
        self.disk().rename(unfinished, path).map_err(PackError::io("rename to", path))?;
        let synced = self.disk().sync_directory(self.directory());
        synced.map_err(PackError::io("sync", self.directory()))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pack a file in `pack/` belongs to and what kind of file it is; none if it is not ours.
pub(crate) fn parse_name(path: &Path) -> Option<(PackId, &str)> {
    let (digits, kind) = path.file_name()?.to_str()?.split_once('.')?;
    let kind = match kind {
        "pack.tmp" | "idx.tmp" => UNFINISHED,
        kind => kind,
    };
    let ours = digits.len() == 20
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && ["pack", "idx", UNFINISHED].contains(&kind);
    digits.parse().ok().filter(|_| ours).map(|id| (PackId(id), kind))
}

/// Whether it is a pack of transient messages.
fn is_spilled(id: PackId) -> bool {
    id.0 >= SPILLED
}

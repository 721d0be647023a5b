//! Writing packs: messages are copied, queue by queue in order of position, to a new data file.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_model::{PackId, QueueId};

use super::cache::OpenPack;
use super::data::{self, Data};
use super::{Entries, Entry, PackError, Place, index};
use crate::disk::{Disk, DiskFile};
use crate::segment::Uuid;

/// How much is written at once, in bytes.
const WRITE_BYTES: usize = 1024 * 1024;
/// How much is written before it is synced, so that a commit never waits behind much of it.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// Where messages are copied from.
#[derive(Debug)]
pub(super) enum Source {
    Segment(Data),
    Pack(Arc<OpenPack>),
}

/// Which messages to copy.
#[derive(Debug)]
pub(super) struct Plan {
    sources: Vec<Source>,
    queues: BTreeMap<QueueId, Vec<Planned>>,
}

/// A message to copy, and the number of its source.
#[derive(Debug, Clone, Copy)]
struct Planned {
    source: usize,
    entry: Entry,
}

/// A data file that is being written.
pub(super) struct Output<'a> {
    file: Arc<dyn DiskFile>,
    path: &'a Path,
    /// Whether it is to survive a crash.
    durable: bool,
    /// How much of the file is written.
    written: u64,
    /// What comes behind that.
    buffer: Vec<u8>,
    /// How much of what is written may not be on the disk yet.
    unsynced: u64,
    /// Where the records lie that have been copied and that other queues may want too.
    shared: HashMap<(usize, u32), Place>,
}

/// Brings what is wanted of several sources in order.
pub(super) fn plan(
    sources: impl IntoIterator<Item = (Source, Entries)>,
) -> Result<Plan, PackError> {
    let mut plan = Plan { sources: Vec::new(), queues: BTreeMap::new() };
    for (index, (source, entries)) in sources.into_iter().enumerate() {
        for (queue, entries) in entries {
            let planned = entries.into_iter().map(|entry| Planned { source: index, entry });
            plan.queues.entry(queue).or_default().extend(planned);
        }
        plan.sources.push(source);
    }
    for (queue, planned) in &mut plan.queues {
        let position = |planned: &Planned| planned.entry.position;
        planned.sort_by_key(position);
        let twice = planned.windows(2).find(|two| position(&two[0]) == position(&two[1]));
        if let Some(Planned { source, entry }) = twice.map(|two| two[1]) {
            let path = plan.sources[source].data().path();
            let offset = u64::from(entry.place.offset);
            let error = PackError::damaged(path, offset, "a message is there twice");
            return Err(error.of(*queue, entry.position));
        }
    }
    Ok(plan)
}

/// Writes the data file of a pack and syncs it. Returns what its index is to say.
pub(super) fn write(
    disk: &dyn Disk,
    path: &Path,
    pack: PackId,
    plan: Plan,
) -> Result<(index::Header, Entries), PackError> {
    let (mut output, uuid) = Output::create(disk, path, pack, true)?;
    let mut entries = Vec::with_capacity(plan.queues.len());
    for (queue, planned) in plan.queues {
        let mut copied = Vec::with_capacity(planned.len());
        for planned in planned.chunk_by(|a, b| a.source == b.source) {
            output.copy(queue, &plan.sources, planned, &mut copied)?;
        }
        copied.sort_by_key(|entry| entry.position);
        entries.push((queue, copied));
    }
    let data_bytes = output.finish()?;
    Ok((index::Header { pack, data: uuid, segment: None, data_bytes }, entries))
}

impl Source {
    fn data(&self) -> &Data {
        match self {
            Source::Segment(data) => data,
            Source::Pack(pack) => &pack.data,
        }
    }
}

impl<'a> Output<'a> {
    /// The beginning of a new file, and its uuid.
    pub(super) fn create(
        disk: &dyn Disk,
        path: &'a Path,
        pack: PackId,
        durable: bool,
    ) -> Result<(Self, Uuid), PackError> {
        let uuid = disk.random().map_err(PackError::io("draw a random id for", path))?;
        let output = Output {
            file: disk.create(path).map_err(PackError::io("create", path))?,
            path,
            durable,
            written: 0,
            buffer: data::header(pack, uuid),
            unsynced: 0,
            shared: HashMap::new(),
        };
        Ok((output, uuid))
    }

    /// Copies messages of one queue that have one source, but for those copied before.
    fn copy(
        &mut self,
        queue: QueueId,
        sources: &[Source],
        planned: &[Planned],
        copied: &mut Vec<Entry>,
    ) -> Result<(), PackError> {
        let Some(source) = planned.first().map(|planned| planned.source) else { return Ok(()) };
        let mut fresh = Vec::with_capacity(planned.len());
        for Planned { entry, .. } in planned {
            match self.shared.get(&(source, entry.place.offset)) {
                Some(&place) => copied.push(Entry { place, ..*entry }),
                None => fresh.push(*entry),
            }
        }
        sources[source].data().read(queue, &fresh, |entry, publish, record| {
            let place = Place { offset: self.push(record)?, ..entry.place };
            copied.push(Entry { place, ..*entry });
            if publish.targets.len() > 1 {
                self.shared.insert((source, entry.place.offset), place);
            }
            Ok(())
        })
    }

    /// Appends a record and returns where it lies.
    pub(super) fn push(&mut self, record: &[u8]) -> Result<u32, PackError> {
        let at = self.written + self.buffer.len() as u64;
        let end = at + record.len() as u64;
        if end > u64::from(u32::MAX) {
            return Err(PackError::TooLarge { file: PathBuf::from(self.path), bytes: end });
        }
        self.buffer.extend_from_slice(record);
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(at as u32)
    }

    fn flush(&mut self) -> Result<(), PackError> {
        let written = self.file.write_all_at(&self.buffer, self.written);
        written.map_err(PackError::io("write", self.path))?;
        self.written += self.buffer.len() as u64;
        self.unsynced += self.buffer.len() as u64;
        self.buffer.clear();
        if self.durable && self.unsynced >= SYNC_BYTES {
            self.file.sync_data().map_err(PackError::io("sync", self.path))?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Writes what is left, and syncs it if it is to last. Returns the size of the file.
    pub(super) fn finish(mut self) -> Result<u64, PackError> {
        self.flush()?;
        if self.durable {
            self.file.sync_all().map_err(PackError::io("sync", self.path))?;
        }
        Ok(self.written)
    }
}

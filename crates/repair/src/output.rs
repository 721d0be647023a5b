//! The new data directory: a fresh log.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use leveret_model::{Lsn, Message, PackId, Position, QueueId};
use leveret_record::{Destination, ExtentDefinition, Origin, PackDefinition};
use leveret_storage::{Log, LogOptions};

use crate::Error;
use crate::model::Model;
use crate::repair::io;

/// How much is appended at once, in bytes.
const FRAME_BYTES: usize = 256 * 1024;
/// How much may wait for the disk, in bytes.
const BACKLOG_BYTES: usize = 8 * 1024 * 1024;
/// How long to wait for it before looking again.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) struct Output {
    log: Log,
    /// What each segment begins with.
    snapshot: Vec<u8>,
    snapshot_records: u32,
    pending: Vec<u8>,
    pending_records: u32,
    directory: PathBuf,
    /// The address after the last record.
    end: Lsn,
    /// The disk had no room: what was to be written since is not.
    full: bool,
}

impl Output {
    /// An empty log in a new directory.
    pub(crate) fn create(directory: &Path) -> Result<Output, Error> {
        fs::create_dir_all(directory).map_err(io("create", directory))?;
        let options = LogOptions { realtime: false, ..LogOptions::default() };
        let log = Log::open(directory, options, &mut |_, _| Ok(()), Box::new(|_| {}))?;
        Ok(Output {
            log,
            snapshot: Vec::new(),
            snapshot_records: 0,
            pending: Vec::new(),
            pending_records: 0,
            directory: directory.to_owned(),
            end: Lsn(0),
            full: false,
        })
    }

    /// Writes all definitions, and what packs hold.
    pub(crate) fn begin(
        &mut self,
        model: &Model,
        packs: &BTreeMap<PackId, Vec<ExtentDefinition>>,
    ) -> Result<(), Error> {
        let log = &mut self.snapshot;
        let mut records = 0;
        for exchange in model.exchanges.values() {
            leveret_record::write_declare_exchange(log, exchange);
            records += 1;
        }
        for queue in model.queues.values() {
            let Some(definition) = queue.definition.as_ref().filter(|_| !queue.gone) else {
                continue;
            };
            let mut definition = definition.clone();
            definition.next = queue.next();
            leveret_record::write_declare_queue(log, &definition);
            records += 1;
            if queue.delivered > Position(0) {
                leveret_record::write_delivered(log, definition.id, queue.delivered);
                records += 1;
            }
        }
        for binding in model.bindings.values() {
            let known = match &binding.destination {
                Destination::Queue(id) => model.queues.get(id).is_some_and(|queue| !queue.gone),
                Destination::Exchange(_) => true,
            };
            if known {
                leveret_record::write_bind(log, binding);
                records += 1;
            }
        }
        // The highest number must not be given again, whether that pack is left or not.
        if model.last_pack > PackId(0) && !packs.contains_key(&model.last_pack) {
            let none = PackDefinition { id: model.last_pack, end: Lsn(0), replaces: Vec::new() };
            leveret_record::write_pack(log, &none);
            records += 1;
        }
        for (id, extents) in packs {
            let definition = PackDefinition { id: *id, end: Lsn(0), replaces: Vec::new() };
            leveret_record::write_pack(log, &definition);
            extents.iter().for_each(|extent| leveret_record::write_extent(log, extent));
            records += 1 + extents.len() as u32;
        }
        self.snapshot_records = records;
        self.flush();
        Ok(())
    }

    /// A live message, and where it goes.
    pub(crate) fn publish(
        &mut self,
        message: Message<'_>,
        origin: Origin,
        targets: &[(QueueId, Position)],
    ) {
        leveret_record::write_publish(&mut self.pending, message, origin, targets);
        self.pending_records += 1;
        if self.pending.len() >= FRAME_BYTES {
            self.flush();
        }
    }

    /// Makes all of it durable.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.flush();
        self.wait(0);
        self.log.close();
        if self.full {
            let full = std::io::ErrorKind::StorageFull.into();
            return Err(io("write to", &self.directory)(full).into());
        }
        Ok(())
    }

    /// Waits until no more than so much is not durable. The log itself would wait for room.
    fn wait(&mut self, backlog_bytes: usize) {
        let done = |log: &Log, end| log.durable() >= end || log.backlog() <= backlog_bytes;
        while !done(&self.log, self.end) && !self.full {
            self.full = self.log.is_out_of_space();
            thread::sleep(PAUSE);
        }
    }

    fn flush(&mut self) {
        self.wait(BACKLOG_BYTES);
        if self.full {
            self.pending.clear();
            return;
        }
        let mut slot = self.log.reserve();
        if slot.new_segment() {
            slot.append(&self.snapshot, self.snapshot_records, 0);
        }
        // Each counts as live for ever: nothing of this is recycled.
        self.end = slot.append(&self.pending, self.pending_records, self.pending_records);
        self.pending.clear();
        self.pending_records = 0;
    }
}

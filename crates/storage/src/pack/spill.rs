//! Writing transient messages, which come from memory and are of no use after a restart.

use std::collections::BTreeMap;
use std::path::Path;

use leveret_model::{Message, PackId, Position, QueueId};
use leveret_record::Origin;

use super::copy::Output;
use super::{Entry, PackError, Place, index};
use crate::disk::Disk;

/// What was published, how, and where it waits.
pub type Spilled<'a> = (Message<'a>, Origin, Vec<(QueueId, Position)>);

/// Writes both files of a pack.
pub(super) fn write<'a>(
    disk: &dyn Disk,
    data: &Path,
    index: &Path,
    pack: PackId,
    messages: impl IntoIterator<Item = Spilled<'a>>,
) -> Result<(), PackError> {
    let (mut output, uuid) = Output::create(disk, data, pack, false)?;
    let mut entries: BTreeMap<QueueId, Vec<Entry>> = BTreeMap::new();
    let mut record = Vec::new();
    for (message, origin, targets) in messages {
        record.clear();
        leveret_record::write_publish(&mut record, message, origin, &targets);
        let offset = output.push(&record)?;
        let place = Place { offset, len: record.len() as u32, crc: crc32c::crc32c(&record) };
        for (queue, position) in targets {
            entries.entry(queue).or_default().push(Entry { position, place });
        }
    }
    for own in entries.values_mut() {
        own.sort_by_key(|entry| entry.position);
    }
    let data_bytes = output.finish()?;
    let header = index::Header { pack, data: uuid, segment: None, data_bytes };
    let bytes = index::encode(&header, &entries.into_iter().collect());
    let written = disk.create(index).and_then(|file| file.write_all_at(&bytes, 0));
    written.map_err(PackError::io("write", index))
}

//! Finding the wanted messages of a segment: one pass over its frames.

use std::path::Path;

use leveret_model::{Lsn, Position, PositionSet, QueueId};
use leveret_record::{Record, RecordError, Records};

use super::data::Data;
use super::{Entries, Entry, PackError, Place, Wanted};
use crate::disk::{Disk, DiskFile};
use crate::frame;
use crate::scan::{Expected, Scan};
use crate::segment::{self, BadHeader, Sealed};

/// The wanted messages of a segment.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: segment::Header,
    pub(super) data: Data,
    pub(super) entries: Entries,
}

/// Finds all wanted messages of a segment, whose frames and records are checked on the way.
pub(super) fn find(
    disk: &dyn Disk,
    wal: &Path,
    segment: Sealed,
    wanted: &Wanted,
) -> Result<Found, PackError> {
    let path = segment::path(wal, segment.first);
    let file_bytes = segment.file_bytes();
    if file_bytes > u64::from(u32::MAX) {
        return Err(PackError::TooLarge { file: path, bytes: file_bytes });
    }
    let file = disk.open(&path).map_err(PackError::io("open", &path))?;
    let header = header(&*file, &path, segment.first)?;
    let expected = Expected { segment: header.first, seed: header.seed(), epoch: header.epoch };
    let mut scan = Scan::new(file, expected).map_err(PackError::io("read", &path))?;
    let mut search = Search::new(wanted);
    let (mut at, mut prev_crc) = (segment.first, header.prev_crc);
    while at < segment.end {
        let (frame, crc) = next_frame(&mut scan, &path, at, prev_crc)?;
        if frame.end() > segment.end {
            let what = "a frame goes beyond the segment's end";
            return Err(PackError::damaged(&path, scan.offset(at), what));
        }
        let offset = scan.offset(frame.payload());
        let records = scan.payload(&frame).map_err(PackError::io("read", &path))?;
        search.frame(records, offset).map_err(|error| {
            let (RecordError::Truncated { offset: record }
            | RecordError::UnknownType { offset: record, .. }
            | RecordError::Malformed { offset: record, .. }) = error;
            PackError::damaged(&path, offset + record as u64, "a record cannot be read")
        })?;
        (at, prev_crc) = (frame.end(), crc);
    }
    let entries = search.finish(&path)?;
    let data = Data::of_segment(scan.into_file(), path, file_bytes);
    Ok(Found { header, data, entries })
}

fn header(file: &dyn DiskFile, path: &Path, first: Lsn) -> Result<segment::Header, PackError> {
    let mut bytes = vec![0; segment::HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(PackError::io("read", path))?;
    match segment::Header::decode(&bytes) {
        Ok(header) if header.first == first => Ok(header),
        Err(BadHeader::Version(version)) => {
            Err(PackError::UnknownVersion { file: path.to_owned(), version })
        }
        Ok(_) | Err(BadHeader::Broken) => {
            Err(PackError::damaged(path, 0, "the segment's header is broken or belongs elsewhere"))
        }
    }
}

/// The frame at `at`, which follows the one with that checksum.
fn next_frame(
    scan: &mut Scan,
    path: &Path,
    at: Lsn,
    prev_crc: u32,
) -> Result<(frame::Header, u32), PackError> {
    let frame = scan.frame(at).map_err(PackError::io("read", path))?;
    let follows = frame.filter(|(frame, _)| frame.prev_crc == prev_crc);
    let none = || PackError::damaged(path, scan.offset(at), "there is no sound frame");
    follows.ok_or_else(none)
}

/// What is looked for, and what has been found.
struct Search<'a> {
    /// In order of their ids.
    queues: Vec<Queue<'a>>,
    /// The one a message was found for last: the next is likely to be for the same.
    last: usize,
}

struct Queue<'a> {
    id: QueueId,
    sets: Vec<&'a PositionSet>,
    /// The set in which a message was looked for last.
    last: usize,
    found: Vec<Entry>,
}

impl<'a> Search<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        let queues = wanted.iter().map(|(&id, sets)| {
            let sets = sets.iter().filter(|set| !set.is_empty()).collect();
            Queue { id, sets, last: 0, found: Vec::new() }
        });
        Search { queues: queues.collect(), last: 0 }
    }

    /// Looks at the records of a frame, which begin at that byte of a file below 4 GiB.
    fn frame(&mut self, bytes: &[u8], offset: u64) -> Result<(), RecordError> {
        let mut records = Records::new(bytes).peekable();
        while let Some((at, record)) = records.next().transpose()? {
            let Record::Publish { targets, .. } = record else { continue };
            // A record ends where the next begins; what is wrong with that one is for later.
            let end = match records.peek() {
                Some(Ok((next, _))) => *next,
                Some(Err(error)) => return Err(*error),
                None => bytes.len(),
            };
            let mut place = None;
            for (queue, position) in targets {
                let Some(found) = self.wanted(queue, position) else { continue };
                let place = *place.get_or_insert_with(|| Place {
                    offset: (offset + at as u64) as u32,
                    len: (end - at) as u32,
                    crc: crc32c::crc32c(&bytes[at..end]),
                });
                found.push(Entry { position, place });
            }
        }
        Ok(())
    }

    /// Where to put the entry of a message; none if the message is not wanted.
    fn wanted(&mut self, id: QueueId, position: Position) -> Option<&mut Vec<Entry>> {
        if self.queues.get(self.last)?.id != id {
            self.last = self.queues.binary_search_by_key(&id, |queue| queue.id).ok()?;
        }
        let queue = self.queues.get_mut(self.last)?;
        let set = queue.sets.get(queue.last)?;
        if !set.contains(position) {
            let before = |set: &&PositionSet| set.last() < Some(position);
            let index = queue.sets.partition_point(before);
            queue.sets.get(index).filter(|set| set.contains(position))?;
            queue.last = index;
        }
        Some(&mut queue.found)
    }

    /// What was found, in order, if that is all that was wanted.
    fn finish(self, path: &Path) -> Result<Entries, PackError> {
        let mut all = Vec::with_capacity(self.queues.len());
        for Queue { id: queue, sets, mut found, .. } in self.queues {
            if !found.is_sorted_by_key(|entry| entry.position) {
                found.sort_unstable_by_key(|entry| entry.position);
            }
            if let Some(twice) = found.windows(2).find(|two| two[0].position == two[1].position) {
                let offset = u64::from(twice[1].place.offset);
                let error = PackError::damaged(path, offset, "a message is there twice");
                return Err(error.of(queue, twice[1].position));
            }
            let mut positions = found.iter().map(|entry| entry.position);
            for (first, count) in sets.iter().flat_map(|set| set.runs(Position(0))) {
                for position in (first.0..first.0 + count).map(Position) {
                    if positions.next() != Some(position) {
                        let file = path.to_owned();
                        return Err(PackError::Missing { file, queue, position });
                    }
                }
            }
            all.push((queue, found));
        }
        Ok(all)
    }
}

//! The index of a pack: where in the data file each message of each queue is.
//!
//! Little endian:
//!
//! ```text
//! 0   8 bytes  magic
//! 8   u32      format version, the same as that of segments
//! 12  u32      how many sections
//! 16  u64      id of the pack
//! 24  16 bytes uuid of the data file
//! 40  u64      address of its first frame if it is a segment of the log, else 2⁶⁴ - 1
//! 48  u64      how many bytes of it are in use; it is at least as long
//! 56  u64      how many entries
//! 64  sections, in order of queue and first position, 32 bytes each:
//!     0  u64 queue
//!     8  u64 position of the first entry
//!     16 u64 where its entries begin, in bytes from the start of this file
//!     24 u32 how many entries, 1 to 1024
//!     28 u32 crc32c of its entries
//!     u32      crc32c of all before
//!     entries, section by section, in order of position, 16 bytes each:
//!     0  u32 position, less the section's first
//!     4  u32 where the record begins, in bytes from the start of the data file
//!     8  u32 bytes of the record
//!     12 u32 crc32c of the record
//! ```
//!
//! Header and directory are read when a pack is opened, a section when a message in it is wanted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_model::{Lsn, PackId, Position, QueueId};

use super::{Entries, Entry, PackError, Place, Wanted};
use crate::disk::{Disk, DiskFile};
use crate::segment::{self, Uuid, array};

const MAGIC: [u8; 8] = *b"LVRTIDX1";
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const SECTION_BYTES: usize = 32;
pub(crate) const CRC_BYTES: usize = 4;
pub(crate) const ENTRY_BYTES: usize = 16;
/// Most entries of a section: looking for one message reads and checks no more than that.
const SECTION_ENTRIES_MAX: usize = 1024;
/// Stands for the address of a segment where there is none.
const NO_SEGMENT: u64 = u64::MAX;

/// What an index says of its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) pack: PackId,
    /// The uuid of the data file.
    pub(crate) data: Uuid,
    /// The address of its first frame, if it is or was a segment of the log.
    pub(crate) segment: Option<Lsn>,
    /// How many bytes of the data file are in use.
    pub(crate) data_bytes: u64,
}

/// An open index.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) header: Header,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    directory: Vec<Section>,
}

#[derive(Debug, Clone, Copy)]
struct Section {
    queue: QueueId,
    first: Position,
    offset: u64,
    count: u32,
    crc: u32,
}

/// Looks for messages, best in order.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    index: &'a Index,
    /// The section whose entries are at hand.
    section: Option<Section>,
    entries: Vec<u8>,
    /// Which of them comes next.
    next: usize,
}

/// Writes an index to a new file and syncs it.
pub(crate) fn write(
    disk: &dyn Disk,
    path: &Path,
    header: &Header,
    entries: &Entries,
) -> io::Result<()> {
    let file = disk.create(path)?;
    file.write_all_at(&encode(header, entries), 0)?;
    file.sync_all()
}

/// The bytes of an index.
pub(crate) fn encode(header: &Header, entries: &Entries) -> Vec<u8> {
    let sections = sections(entries);
    let count: usize = entries.iter().map(|(_, entries)| entries.len()).sum();
    let directory_end = HEADER_BYTES + sections.len() * SECTION_BYTES + CRC_BYTES;
    let bytes = directory_end + count * ENTRY_BYTES;
    let mut directory = Vec::with_capacity(bytes);
    let mut body = Vec::with_capacity(count * ENTRY_BYTES);
    directory.extend_from_slice(&MAGIC);
    directory.extend_from_slice(&segment::VERSION.to_le_bytes());
    directory.extend_from_slice(&(sections.len() as u32).to_le_bytes());
    directory.extend_from_slice(&header.pack.0.to_le_bytes());
    directory.extend_from_slice(&header.data);
    let first = header.segment.map_or(NO_SEGMENT, |first| first.0);
    directory.extend_from_slice(&first.to_le_bytes());
    directory.extend_from_slice(&header.data_bytes.to_le_bytes());
    directory.extend_from_slice(&(count as u64).to_le_bytes());
    for (queue, entries) in sections {
        let start = body.len();
        let Some(first) = entries.first().map(|entry| entry.position.0) else { continue };
        for Entry { position, place } in entries {
            for number in [(position.0 - first) as u32, place.offset, place.len, place.crc] {
                body.extend_from_slice(&number.to_le_bytes());
            }
        }
        let offset = (directory_end + start) as u64;
        for number in [queue.0, first, offset] {
            directory.extend_from_slice(&number.to_le_bytes());
        }
        for number in [entries.len() as u32, crc32c::crc32c(&body[start..])] {
            directory.extend_from_slice(&number.to_le_bytes());
        }
    }
    let crc = crc32c::crc32c(&directory);
    directory.extend_from_slice(&crc.to_le_bytes());
    directory.extend_from_slice(&body);
    directory
}

/// The entries of a queue in pieces whose positions are within 32 bits of the first.
fn sections(entries: &Entries) -> Vec<(QueueId, &[Entry])> {
    let mut sections = Vec::new();
    for (queue, entries) in entries {
        let mut rest = &entries[..];
        while let Some(first) = rest.first() {
            let near = |entry: &&Entry| entry.position.0 - first.position.0 <= u64::from(u32::MAX);
            let count = rest.iter().take(SECTION_ENTRIES_MAX).take_while(near).count();
            let (section, others) = rest.split_at(count);
            sections.push((*queue, section));
            rest = others;
        }
    }
    sections
}

impl Index {
    /// Opens the index of a pack and checks its header and directory.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, pack: PackId) -> Result<Index, PackError> {
        let file = disk.open(path).map_err(PackError::io("open", path))?;
        Index::read(file, path, pack)
    }

    /// The same of a file that is open.
    pub(crate) fn read(
        file: Arc<dyn DiskFile>,
        path: &Path,
        pack: PackId,
    ) -> Result<Index, PackError> {
        let damaged = |offset: usize, what| PackError::damaged(path, offset as u64, what);
        let len = file.len().map_err(PackError::io("read", path))?;
        let read =
            |bytes: &mut [u8]| file.read_exact_at(bytes, 0).map_err(PackError::io("read", path));
        let mut head = [0; HEADER_BYTES];
        if len < HEADER_BYTES as u64 {
            return Err(damaged(0, "the index is cut off"));
        }
        read(&mut head)?;
        if head[..8] != MAGIC {
            return Err(damaged(0, "this is not an index"));
        }
        let sections = u32::from_le_bytes(array(&head, 12)) as usize;
        let entries_at = HEADER_BYTES + sections * SECTION_BYTES + CRC_BYTES;
        if entries_at as u64 > len {
            return Err(damaged(12, "the index is cut off"));
        }
        let mut bytes = vec![0; entries_at];
        read(&mut bytes)?;
        let (content, crc) = bytes.split_at(entries_at - CRC_BYTES);
        if crc != crc32c::crc32c(content).to_le_bytes() {
            return Err(damaged(0, "the checksum of header and directory is wrong"));
        }
        let version = u32::from_le_bytes(array(content, 8));
        if version != segment::VERSION {
            return Err(PackError::UnknownVersion { file: path.to_owned(), version });
        }
        let header = decode(content);
        if header.pack != pack {
            return Err(damaged(16, "this is the index of another pack"));
        }
        let directory = directory(content);
        let entries = u64::from_le_bytes(array(content, 56));
        if !is_whole(&directory, entries_at as u64, entries, len) {
            return Err(damaged(HEADER_BYTES, "the directory does not fit the file"));
        }
        Ok(Index { header, file, path: path.to_owned(), directory })
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u64 {
        self.directory.iter().map(|section| u64::from(section.count)).sum()
    }

    /// What the directory takes in memory, in bytes.
    pub(super) fn directory_bytes(&self) -> usize {
        self.directory.capacity() * size_of::<Section>()
    }

    /// All entries, section by section, and what is wrong with those that cannot be read: each with
    /// how many bytes it has.
    pub(crate) fn all(&self) -> (Entries, Vec<(PackError, u64)>) {
        let (mut all, mut damaged) = (Vec::new(), Vec::new());
        let mut cursor = self.cursor();
        for section in &self.directory {
            if let Err(error) = cursor.read(*section) {
                damaged.push((error, u64::from(section.count) * ENTRY_BYTES as u64));
                continue;
            }
            let entry = |bytes: &[u8; ENTRY_BYTES]| {
                let position = section.first.0.checked_add(distance(bytes))?;
                Some(Entry { position: Position(position), place: place(bytes) })
            };
            let entries = cursor.entries.as_chunks::<ENTRY_BYTES>().0;
            all.push((section.queue, entries.iter().filter_map(entry).collect()));
        }
        (all, damaged)
    }

    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor { index: self, section: None, entries: Vec::new(), next: 0 }
    }

    /// The entries of all wanted messages.
    pub(super) fn entries(&self, wanted: &Wanted) -> Result<Entries, PackError> {
        let mut cursor = self.cursor();
        let mut all = Vec::with_capacity(wanted.len());
        for (&queue, sets) in wanted {
            let mut entries = Vec::new();
            let runs = sets.iter().flat_map(|set| set.runs(Position(0)));
            for position in runs.flat_map(|(first, count)| first.0..first.0 + count) {
                entries.push(cursor.find(queue, Position(position))?);
            }
            all.push((queue, entries));
        }
        Ok(all)
    }

    /// The last section that does not begin behind a message.
    fn section(&self, queue: QueueId, position: Position) -> Option<Section> {
        let after = |section: &Section| (section.queue, section.first) <= (queue, position);
        let index = self.directory.partition_point(after).checked_sub(1)?;
        self.directory.get(index).copied().filter(|section| section.queue == queue)
    }
}

impl Cursor<'_> {
    /// The entry of a message.
    pub(super) fn find(&mut self, queue: QueueId, position: Position) -> Result<Entry, PackError> {
        if let Some(entry) = self.neighbour(queue, position) {
            return Ok(entry);
        }
        let file = || self.index.path.clone();
        let missing = || PackError::Missing { file: file(), queue, position };
        let section = self.index.section(queue, position).ok_or_else(missing)?;
        if self.section.is_none_or(|known| known.offset != section.offset) {
            self.read(section).map_err(|error| error.of(queue, position))?;
        }
        let distance = position.0 - section.first.0;
        let (entries, _) = self.entries.as_chunks::<ENTRY_BYTES>();
        let found = entries.binary_search_by_key(&distance, self::distance);
        let missing = || PackError::Missing { file: self.index.path.clone(), queue, position };
        let found = found.map_err(|_| missing())?;
        self.next = found + 1;
        Ok(Entry { position, place: place(&entries[found]) })
    }

    /// The entry behind the one found last, if it is this message.
    fn neighbour(&mut self, queue: QueueId, position: Position) -> Option<Entry> {
        let section = self.section.filter(|section| section.queue == queue)?;
        let entry = self.entries.as_chunks::<ENTRY_BYTES>().0.get(self.next)?;
        let distance = position.0.checked_sub(section.first.0)?;
        if self::distance(entry) != distance {
            return None;
        }
        self.next += 1;
        Some(Entry { position, place: place(entry) })
    }

    fn read(&mut self, section: Section) -> Result<(), PackError> {
        let path = &self.index.path;
        self.section = None;
        self.entries.resize(section.count as usize * ENTRY_BYTES, 0);
        let read = self.index.file.read_exact_at(&mut self.entries, section.offset);
        read.map_err(PackError::io("read", path))?;
        if crc32c::crc32c(&self.entries) != section.crc {
            let what = "the checksum of a section's entries is wrong";
            return Err(PackError::damaged(path, section.offset, what));
        }
        self.section = Some(section);
        Ok(())
    }
}

/// The header of checked bytes.
fn decode(bytes: &[u8]) -> Header {
    let segment = u64::from_le_bytes(array(bytes, 40));
    Header {
        pack: PackId(u64::from_le_bytes(array(bytes, 16))),
        data: array(bytes, 24),
        segment: (segment != NO_SEGMENT).then_some(Lsn(segment)),
        data_bytes: u64::from_le_bytes(array(bytes, 48)),
    }
}

/// The sections behind the header.
fn directory(bytes: &[u8]) -> Vec<Section> {
    let (sections, _) = bytes[HEADER_BYTES..].as_chunks::<SECTION_BYTES>();
    let section = |bytes: &[u8; SECTION_BYTES]| Section {
        queue: QueueId(u64::from_le_bytes(array(bytes, 0))),
        first: Position(u64::from_le_bytes(array(bytes, 8))),
        offset: u64::from_le_bytes(array(bytes, 16)),
        count: u32::from_le_bytes(array(bytes, 24)),
        crc: u32::from_le_bytes(array(bytes, 28)),
    };
    sections.iter().map(section).collect()
}

/// Whether sections are in order, and their entries fill the file from `at` to its end.
fn is_whole(directory: &[Section], mut at: u64, entries: u64, file_bytes: u64) -> bool {
    let mut count = 0;
    for section in directory {
        let sound = (1..=SECTION_ENTRIES_MAX).contains(&(section.count as usize));
        if !sound || section.offset != at {
            return false;
        }
        count += u64::from(section.count);
        at += u64::from(section.count) * ENTRY_BYTES as u64;
    }
    let in_order = directory.is_sorted_by(|a, b| (a.queue, a.first) < (b.queue, b.first));
    in_order && count == entries && at == file_bytes
}

fn distance(entry: &[u8; ENTRY_BYTES]) -> u64 {
    u64::from(u32::from_le_bytes(array(entry, 0)))
}

fn place(entry: &[u8; ENTRY_BYTES]) -> Place {
    let number = |at| u32::from_le_bytes(array(entry, at));
    Place { offset: number(4), len: number(8), crc: number(12) }
}

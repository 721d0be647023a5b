//! The data file of a pack: a former segment, or a file that was written as a pack.
//!
//! The latter begins like this, little endian; its records lie back to back from byte 4096 on:
//!
//! ```text
//! 0    8 bytes  magic
//! 8    u32      format version, the same as that of segments
//! 12   u32      0
//! 16   16 bytes uuid of the file
//! 32   u64      id of the pack
//! 4092 u32      crc32c of all before
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_model::{Message, PackId, QueueId};
use leveret_record::{Origin, Record, Records, Targets};

use super::{Entry, PackError, Place, index};
use crate::disk::{Disk, DiskFile};
use crate::scan::read_pages;
use crate::segment::{self, BadHeader, Uuid, array};

/// Bytes before the first record.
pub(crate) const HEADER_BYTES: usize = segment::HEADER_BYTES;
const MAGIC: [u8; 8] = *b"LVRTPCK1";
const CRC_AT: usize = HEADER_BYTES - 4;
/// Records this close to each other are read as one, in bytes: what lies between costs less than
/// another read.
const GAP_BYTES_MAX: u64 = 4096;
/// How much is read at once, in bytes; a larger record is read whole.
const READ_BYTES: u64 = 1024 * 1024;

/// An open data file.
#[derive(Debug)]
pub(crate) struct Data {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// How many bytes are in use, and there.
    bytes: u64,
}

/// A message as a data file has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publish<'a> {
    pub(crate) message: Message<'a>,
    pub(crate) origin: Origin,
    pub(crate) targets: Targets<'a>,
}

/// The beginning of a data file.
pub(crate) fn header(pack: PackId, uuid: Uuid) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&segment::VERSION.to_le_bytes());
    bytes.extend_from_slice(&0_u32.to_le_bytes());
    bytes.extend_from_slice(&uuid);
    bytes.extend_from_slice(&pack.0.to_le_bytes());
    bytes.resize(CRC_AT, 0);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The uuid and the pack of a data file that was written as one.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Uuid, PackId), BadHeader> {
    if bytes.len() != HEADER_BYTES || bytes[..8] != MAGIC {
        return Err(BadHeader::Broken);
    }
    if array(bytes, CRC_AT) != crc32c::crc32c(&bytes[..CRC_AT]).to_le_bytes() {
        return Err(BadHeader::Broken);
    }
    let version = u32::from_le_bytes(array(bytes, 8));
    if version != segment::VERSION {
        return Err(BadHeader::Version(version));
    }
    Ok((array(bytes, 16), PackId(u64::from_le_bytes(array(bytes, 32)))))
}

impl Data {
    /// A segment of the log of which `bytes` bytes are in use, and there.
    pub(crate) fn of_segment(file: Arc<dyn DiskFile>, path: PathBuf, bytes: u64) -> Data {
        Data { file, path, bytes }
    }

    /// Opens the data file that an index belongs to, under the first of these names that exists.
    pub(super) fn open(
        disk: &dyn Disk,
        names: &[PathBuf],
        index: &index::Header,
    ) -> Result<Data, PackError> {
        let mut error = None;
        for path in names {
            match disk.open(path) {
                Ok(file) => return Data::check(file, path, index),
                Err(failed) => {
                    let other = failed.kind() != io::ErrorKind::NotFound;
                    let failed = PackError::io("open", path)(failed);
                    if other {
                        return Err(failed);
                    }
                    error.get_or_insert(failed);
                }
            }
        }
        let none = || PackError::io("open", Path::new(""))(io::ErrorKind::NotFound.into());
        Err(error.unwrap_or_else(none))
    }

    /// Whether it is the file the index was made for, and all of it.
    fn check(
        file: Arc<dyn DiskFile>,
        path: &Path,
        index: &index::Header,
    ) -> Result<Data, PackError> {
        let len = file.len().map_err(PackError::io("read", path))?;
        if len < HEADER_BYTES as u64 || len < index.data_bytes {
            return Err(PackError::damaged(path, len, "the file is cut off"));
        }
        let mut bytes = vec![0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0).map_err(PackError::io("read", path))?;
        let belongs = match index.segment {
            Some(first) => segment::Header::decode(&bytes)
                .map(|header| header.first == first && header.segment == index.data),
            None => decode(&bytes).map(|(uuid, pack)| uuid == index.data && pack == index.pack),
        };
        match belongs {
            Ok(true) => Ok(Data { file, path: path.to_owned(), bytes: index.data_bytes }),
            Ok(false) => Err(PackError::damaged(path, 0, "it does not belong to the pack's index")),
            Err(BadHeader::Broken) => Err(PackError::damaged(path, 0, "its header is broken")),
            Err(BadHeader::Version(version)) => {
                Err(PackError::UnknownVersion { file: path.to_owned(), version })
            }
        }
    }

    /// How many bytes of the file are in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads bytes, with zeros for those that the disk does not give.
    pub(crate) fn read_leniently(&self, bytes: &mut [u8], offset: u64) {
        read_pages(bytes, offset, |page, at| self.file.read_exact_at(page, at));
    }

    /// Reads messages of a queue and gives each to `each`, with its record.
    pub(crate) fn read(
        &self,
        queue: QueueId,
        entries: &[Entry],
        mut each: impl FnMut(&Entry, Publish<'_>, &[u8]) -> Result<(), PackError>,
    ) -> Result<(), PackError> {
        let mut buffer = Vec::new();
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let (count, end) = near(rest);
            let (together, others) = rest.split_at(count);
            let (start, path) = (u64::from(first.place.offset), &self.path);
            if end > self.bytes {
                let what = "the file is shorter than its index says";
                return Err(PackError::damaged(path, start, what).of(queue, first.position));
            }
            let len = (end - start) as usize;
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            let bytes = &mut buffer[..len];
            self.file.read_exact_at(bytes, start).map_err(PackError::io("read", path))?;
            for entry in together {
                let at = (u64::from(entry.place.offset) - start) as usize;
                let record = &bytes[at..at + entry.place.len as usize];
                let publish = check(queue, entry, record).map_err(|what| {
                    let offset = u64::from(entry.place.offset);
                    PackError::damaged(path, offset, what).of(queue, entry.position)
                })?;
                each(entry, publish, record)?;
            }
            rest = others;
        }
        Ok(())
    }
}

/// How many of the entries are read as one, at least one; and where that ends.
fn near(entries: &[Entry]) -> (usize, u64) {
    let Some(first) = entries.first() else { return (0, 0) };
    let (mut count, mut end) = (1, first.place.end());
    for entry in &entries[1..] {
        let offset = u64::from(entry.place.offset);
        let far = offset < end || offset - end > GAP_BYTES_MAX;
        if far || entry.place.end() - u64::from(first.place.offset) > READ_BYTES {
            break;
        }
        (count, end) = (count + 1, entry.place.end());
    }
    (count, end)
}

/// The message in a record, if it is sound and is the one the entry is about.
fn check<'a>(queue: QueueId, entry: &Entry, record: &'a [u8]) -> Result<Publish<'a>, &'static str> {
    if crc32c::crc32c(record) != entry.place.crc {
        return Err("the checksum of a record is wrong");
    }
    let mut records = Records::new(record);
    let only = records.next().filter(|_| records.next().is_none());
    let Some(Ok((_, Record::Publish { message, origin, mut targets }))) = only else {
        return Err("there is no record of a message");
    };
    let all = targets;
    if !targets.any(|target| target == (queue, entry.position)) {
        return Err("the record is that of another message");
    }
    Ok(Publish { message, origin, targets: all })
}

impl Place {
    pub(crate) fn end(self) -> u64 {
        u64::from(self.offset) + u64::from(self.len)
    }
}

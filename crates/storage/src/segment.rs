//! Segment files: their header and their names.
//!
//! ```text
//! 0    8 bytes  magic
//! 8    u32      format version, of the header, the frames and the records in them
//! 12   u32      epoch
//! 16   16 bytes uuid of the broker, the same in every segment of a log
//! 32   16 bytes uuid of the segment, new each time the file is used
//! 48   u64      first_lsn: the address of the first frame, which lies at byte 4096
//! 56   u64      when it was begun, in milliseconds since 1970
//! 64   u32      crc of the frame before the first
//! 4092 u32      crc32c of all before
//! ```
//!
//! The header is written and synced after everything below `first_lsn`, and before the file gets
//! the name of a segment: a segment with a bad header is damaged, and one with a good header
//! proves that everything before it was durable.

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use leveret_model::Lsn;

use crate::disk::Disk;

/// Bytes of a segment before its first frame.
pub(crate) const HEADER_BYTES: usize = 4096;
/// The format this build reads and writes.
pub(crate) const VERSION: u32 = 3;
const MAGIC: [u8; 8] = *b"LVRTWAL1";
/// No log gets this far, so that addresses can be added to without a check.
pub(crate) const LSN_MAX: u64 = u64::MAX / 2;
const CRC_AT: usize = HEADER_BYTES - 4;

/// Random, so as good as unique.
pub(crate) type Uuid = [u8; 16];

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) epoch: u32,
    pub(crate) node: Uuid,
    pub(crate) segment: Uuid,
    pub(crate) first: Lsn,
    pub(crate) created_ms: u64,
    pub(crate) prev_crc: u32,
}

/// A segment of the log that is written, durable and not added to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The address of its first frame.
    pub first: Lsn,
    /// The address after its last frame.
    pub end: Lsn,
}

impl Sealed {
    /// How many bytes of its file are in use; what is behind them was only reserved.
    pub(crate) fn file_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.end.0.saturating_sub(self.first.0)
    }
}

/// Why bytes are not a segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Broken,
    Version(u32),
}

impl Header {
    /// The header of a segment that begins now.
    pub(crate) fn new(
        disk: &dyn Disk,
        node: Uuid,
        epoch: u32,
        first: Lsn,
        prev_crc: u32,
    ) -> io::Result<Header> {
        let now = disk.wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
        let created_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Ok(Header { epoch, node, segment: disk.random()?, first, created_ms, prev_crc })
    }

    /// What the checksums of the segment's frames start from: frames left over from an earlier
    /// use of the file do not pass for its own.
    pub(crate) fn seed(&self) -> u32 {
        crc32c::crc32c(&self.segment)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.node);
        bytes.extend_from_slice(&self.segment);
        bytes.extend_from_slice(&self.first.0.to_le_bytes());
        bytes.extend_from_slice(&self.created_ms.to_le_bytes());
        bytes.extend_from_slice(&self.prev_crc.to_le_bytes());
        bytes.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, BadHeader> {
        if bytes.len() != HEADER_BYTES || bytes[..8] != MAGIC {
            return Err(BadHeader::Broken);
        }
        if array(bytes, CRC_AT) != crc32c::crc32c(&bytes[..CRC_AT]).to_le_bytes() {
            return Err(BadHeader::Broken);
        }
        let version = u32::from_le_bytes(array(bytes, 8));
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let first = u64::from_le_bytes(array(bytes, 48));
        if first > LSN_MAX {
            return Err(BadHeader::Broken);
        }
        Ok(Header {
            epoch: u32::from_le_bytes(array(bytes, 12)),
            node: array(bytes, 16),
            segment: array(bytes, 32),
            first: Lsn(first),
            created_ms: u64::from_le_bytes(array(bytes, 56)),
            prev_crc: u32::from_le_bytes(array(bytes, 64)),
        })
    }
}

/// The file of the segment that begins at `first`.
pub(crate) fn path(wal: &Path, first: Lsn) -> PathBuf {
    wal.join(format!("{:020}.wal", first.0))
}

/// Where a segment named `name` begins; none if that is not the name of a segment.
pub(crate) fn parse_name(name: &str) -> Option<Lsn> {
    let digits = name.strip_suffix(".wal")?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|first| all_digits && *first <= LSN_MAX).map(Lsn)
}

/// `N` bytes at `at`, which the caller knows to be there.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

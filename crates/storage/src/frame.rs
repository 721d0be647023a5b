//! The frame: what is sealed, written, synced and read back as one.
//!
//! Little endian, padded with zeros to a multiple of eight bytes:
//!
//! ```text
//! 0  u32 crc32c       of all that follows, padding included, seeded by the segment's uuid
//! 4  u32 len          bytes of records
//! 8  u64 first_lsn    the address of this header
//! 16 u64 durable_lsn  everything below was durable when this frame was sealed
//! 24 u32 epoch        counts the times the log was opened for writing
//! 28 u32 prev_crc     the crc of the frame before, across segments
//! 32 u32 records      how many
//! 36 u16 flags        0
//! 38 u16 version      1
//! 40 records
//! ```

use leveret_model::Lsn;

/// Bytes of a frame before its records.
pub(crate) const HEADER_BYTES: usize = 40;
/// Frames begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;
const VERSION: u16 = 1;

/// A frame's header without its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) len: u32,
    pub(crate) first: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) epoch: u32,
    pub(crate) prev_crc: u32,
    pub(crate) records: u32,
}

impl Header {
    /// How many bytes the frame takes in the log.
    pub(crate) fn frame_bytes(&self) -> u64 {
        let bytes = HEADER_BYTES as u64 + u64::from(self.len);
        bytes.next_multiple_of(ALIGNMENT as u64)
    }

    /// The address of the first record.
    pub(crate) fn payload(&self) -> Lsn {
        self.first.advance(HEADER_BYTES as u64)
    }

    /// The address after the frame.
    pub(crate) fn end(&self) -> Lsn {
        self.first.advance(self.frame_bytes())
    }

    /// Reads a header and its checksum; none if it has another version or flags.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<(Header, u32)> {
        let header = Header {
            len: u32_at(bytes, 4),
            first: Lsn(u64_at(bytes, 8)),
            durable: Lsn(u64_at(bytes, 16)),
            epoch: u32_at(bytes, 24),
            prev_crc: u32_at(bytes, 28),
            records: u32_at(bytes, 32),
        };
        let known = bytes[36..40] == [0, 0, VERSION as u8, 0];
        known.then(|| (header, u32_at(bytes, 0)))
    }
}

/// Writes the header into the room left for it at the front of a padded frame; returns the crc.
pub(crate) fn finish(frame: &mut [u8], header: &Header, seed: u32) -> u32 {
    debug_assert_eq!(frame.len() as u64, header.frame_bytes());
    frame[4..8].copy_from_slice(&header.len.to_le_bytes());
    frame[8..16].copy_from_slice(&header.first.0.to_le_bytes());
    frame[16..24].copy_from_slice(&header.durable.0.to_le_bytes());
    frame[24..28].copy_from_slice(&header.epoch.to_le_bytes());
    frame[28..32].copy_from_slice(&header.prev_crc.to_le_bytes());
    frame[32..36].copy_from_slice(&header.records.to_le_bytes());
    frame[36..38].copy_from_slice(&0_u16.to_le_bytes());
    frame[38..40].copy_from_slice(&VERSION.to_le_bytes());
    let crc = checksum(frame, seed);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// The crc a whole frame should carry.
pub(crate) fn checksum(frame: &[u8], seed: u32) -> u32 {
    crc32c::crc32c_append(seed, &frame[4..])
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

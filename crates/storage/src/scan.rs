//! Reading a segment file frame by frame.

use std::io;
use std::sync::Arc;

use leveret_model::Lsn;

use crate::disk::DiskFile;
use crate::frame;
use crate::segment;

/// How much is read at once, in bytes; a larger frame is read whole.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// What of a disk is lost at least where it cannot be read.
const PAGE_BYTES: u64 = 4096;

/// What a frame must agree with to belong where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    /// The address of the segment's first frame.
    pub(crate) segment: Lsn,
    /// Where the checksums of the segment start from.
    pub(crate) seed: u32,
    pub(crate) epoch: u32,
}

/// A segment file and the part of it in memory.
pub(crate) struct Scan {
    file: Arc<dyn DiskFile>,
    file_bytes: u64,
    expected: Expected,
    window: Vec<u8>,
    window_at: u64,
    /// What the disk does not give is read as zeros.
    lenient: bool,
}

impl Scan {
    pub(crate) fn new(file: Arc<dyn DiskFile>, expected: Expected) -> io::Result<Scan> {
        let file_bytes = file.len()?;
        Ok(Scan { file, file_bytes, expected, window: Vec::new(), window_at: 0, lenient: false })
    }

    /// A scan that takes what the disk cannot read for zeros.
    pub(crate) fn lenient(file: Arc<dyn DiskFile>, expected: Expected) -> io::Result<Scan> {
        Ok(Scan { lenient: true, ..Scan::new(file, expected)? })
    }

    /// Forgets what is in memory: the file may have been written to since.
    pub(crate) fn refresh(&mut self) -> io::Result<()> {
        self.window.clear();
        self.file_bytes = self.file.len()?;
        Ok(())
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Gives the file back.
    pub(crate) fn into_file(self) -> Arc<dyn DiskFile> {
        self.file
    }

    /// The byte of the file at which the frame with that address lies.
    pub(crate) fn offset(&self, lsn: Lsn) -> u64 {
        segment::HEADER_BYTES as u64 + (lsn.0 - self.expected.segment.0)
    }

    /// The frame at `lsn` and its checksum, if there is a whole and sound one. Whether it belongs
    /// behind the one before it is for the caller to see.
    pub(crate) fn frame(&mut self, lsn: Lsn) -> io::Result<Option<(frame::Header, u32)>> {
        let offset = self.offset(lsn);
        let Some((header, crc)) = self.header(offset)? else { return Ok(None) };
        if header.first != lsn || header.epoch != self.expected.epoch {
            return Ok(None);
        }
        let seed = self.expected.seed;
        let frame = self.bytes(offset, header.frame_bytes())?;
        let sound = frame.is_some_and(|frame| frame::checksum(frame, seed) == crc);
        Ok(sound.then_some((header, crc)))
    }

    /// The records of a frame found before.
    pub(crate) fn payload(&mut self, header: &frame::Header) -> io::Result<&[u8]> {
        let offset = self.offset(header.payload());
        let payload = self.bytes(offset, u64::from(header.len))?;
        payload.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Looks from `lsn` to the end of the file for a frame that was sealed when `lsn` was durable.
    pub(crate) fn proof_beyond(&mut self, lsn: Lsn) -> io::Result<Option<Lsn>> {
        let mut at = lsn.0.next_multiple_of(frame::ALIGNMENT as u64);
        while self.offset(Lsn(at)) + frame::HEADER_BYTES as u64 <= self.file_bytes {
            // The address alone rules out nearly every place.
            let header = self.header(self.offset(Lsn(at)))?;
            let likely = header.is_some_and(|(header, _)| header.first.0 == at);
            if likely
                && let Some((header, _)) = self.frame(Lsn(at))?
                && header.durable > lsn
            {
                return Ok(Some(Lsn(at)));
            }
            at += frame::ALIGNMENT as u64;
        }
        Ok(None)
    }

    /// The next place from `lsn` on that a frame's header with that very address is at.
    pub(crate) fn likely(&mut self, lsn: Lsn) -> io::Result<Option<(frame::Header, u32)>> {
        let mut at = lsn.0.next_multiple_of(frame::ALIGNMENT as u64);
        while self.offset(Lsn(at)) + frame::HEADER_BYTES as u64 <= self.file_bytes {
            let header = self.header(self.offset(Lsn(at)))?;
            if header.is_some_and(|(header, _)| header.first.0 == at) {
                return Ok(header);
            }
            at += frame::ALIGNMENT as u64;
        }
        Ok(None)
    }

    /// All bytes of a frame, sound or not, if the file has them.
    pub(crate) fn whole(&mut self, header: &frame::Header) -> io::Result<Option<&[u8]>> {
        self.bytes(self.offset(header.first), header.frame_bytes())
    }

    fn header(&mut self, offset: u64) -> io::Result<Option<(frame::Header, u32)>> {
        let bytes = self.bytes(offset, frame::HEADER_BYTES as u64)?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).and_then(frame::Header::decode))
    }

    /// `len` bytes of the file; none if it does not have them, whatever a header claims.
    fn bytes(&mut self, offset: u64, len: u64) -> io::Result<Option<&[u8]>> {
        if offset.checked_add(len).is_none_or(|end| end > self.file_bytes) {
            return Ok(None);
        }
        let window_end = self.window_at + self.window.len() as u64;
        if offset < self.window_at || offset + len > window_end {
            let read = len.max(WINDOW_BYTES).min(self.file_bytes - offset);
            self.window.resize(read as usize, 0);
            self.window_at = offset;
            let whole = self.file.read_exact_at(&mut self.window, offset);
            match whole {
                Err(error) if !self.lenient => {
                    self.window.clear();
                    return Err(error);
                }
                Err(_) => read_pages(&mut self.window, offset, |page, at| {
                    self.file.read_exact_at(page, at)
                }),
                Ok(()) => {}
            }
        }
        let start = (offset - self.window_at) as usize;
        Ok(Some(&self.window[start..start + len as usize]))
    }
}

/// Reads page by page, with zeros for those that cannot be read.
pub(crate) fn read_pages(
    bytes: &mut [u8],
    mut offset: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let to_boundary = (PAGE_BYTES - offset % PAGE_BYTES) as usize;
        let (page, others) = rest.split_at_mut(to_boundary.min(rest.len()));
        if read(page, offset).is_err() {
            page.fill(0);
        }
        offset += page.len() as u64;
        rest = others;
    }
}

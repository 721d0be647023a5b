//! Which records are in which frame, and what is durable. Pure: no I/O, no clock, no threads.
//!
//! There are two buffers: the open frame, which is appended to, and the sealed one, which is being
//! written. The commit thread seals when it is free to write; while a writer holds the frame
//! (between [`Commit::reserve`] and [`Commit::unreserve`], so that the address it was told stays
//! true) the thread only leaves word, and the writer seals in its place. Neither can starve the
//! other.

use leveret_model::Lsn;

use crate::frame;

/// A buffer that once held a very large frame is not kept.
const BUFFER_BYTES_KEPT: usize = 8 * 1024 * 1024;

/// How many times the size of its definitions a segment grows at least, so that writing them anew
/// costs a fraction of what is written, however many there are.
const SNAPSHOT_SHARE: u64 = 4;

/// The open frame and what lies behind it.
#[derive(Debug)]
pub(crate) struct Commit {
    segment_bytes: u64,
    /// Bytes of frames in the newest segment; none if there is no segment to go on writing.
    segment_used: Option<u64>,
    /// Bytes of the definitions that the newest segment begins with.
    snapshot_bytes: u64,
    /// Bytes of what the open frame begins with.
    first_bytes: u64,
    /// Where the open frame begins.
    start: Lsn,
    /// The open frame: room for the header, then records.
    open: Vec<u8>,
    records: u32,
    reserved: bool,
    /// The commit thread waits for a sealed frame.
    seal_wanted: bool,
    sealed: Option<SealedFrame>,
    /// The other buffer, when it is not in flight.
    idle: Vec<u8>,
    durable: Lsn,
}

/// A frame on its way to the disk: padded, its header still blank.
#[derive(Debug)]
pub(crate) struct SealedFrame {
    pub(crate) header: frame::Header,
    pub(crate) bytes: Vec<u8>,
    /// Whether it is the first frame of a new segment.
    pub(crate) new_segment: bool,
}

impl Commit {
    /// A log that ends at `end`, all of it durable. Its first frame begins a segment.
    pub(crate) fn new(end: Lsn, segment_bytes: u64) -> Self {
        Commit {
            segment_bytes,
            segment_used: None,
            snapshot_bytes: 0,
            first_bytes: 0,
            start: end,
            open: blank(Vec::new()),
            records: 0,
            reserved: false,
            seal_wanted: false,
            sealed: None,
            idle: Vec::new(),
            durable: end,
        }
    }

    /// Keeps the open frame open; the address the next record gets is certain from now on.
    ///
    /// # Panics
    /// If it is reserved already: there is one writer.
    pub(crate) fn reserve(&mut self) {
        assert!(!self.reserved, "two writers at once");
        self.reserved = true;
    }

    /// Lets go of the open frame. Returns whether the commit thread has to be woken because a
    /// frame it waits for has just been sealed.
    pub(crate) fn unreserve(&mut self) -> bool {
        self.reserved = false;
        let seal = self.seal_wanted && self.pending() > 0;
        if seal {
            self.seal_wanted = false;
            self.sealed = Some(self.seal());
        }
        seal
    }

    /// The address the next record gets, as long as the frame is reserved.
    pub(crate) fn position(&self) -> Lsn {
        self.start.advance(self.open.len() as u64)
    }

    /// Where the open frame begins.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    /// Whether the open frame is, or would be, the first of a segment.
    pub(crate) fn opens_segment(&self) -> bool {
        let enough = self.segment_bytes.max(SNAPSHOT_SHARE * self.snapshot_bytes);
        self.segment_used.is_none_or(|used| used >= enough)
    }

    /// Has the next frame begin a segment, however much room this one has. False if a frame is open
    /// already that does not.
    pub(crate) fn end_segment(&mut self) -> bool {
        let may = self.pending() == 0 && !self.reserved;
        if may {
            self.segment_used = None;
        }
        may
    }

    /// Copies records into the open frame and returns the address after them.
    ///
    /// # Panics
    /// If the frame would exceed 4 GiB.
    pub(crate) fn append(&mut self, records: &[u8], count: u32) -> Lsn {
        let fits = self.open.len() + records.len() <= u32::MAX as usize;
        assert!(fits, "a frame over 4 GiB: the back-pressure does not work");
        if self.pending() == 0 {
            self.first_bytes = records.len() as u64;
        }
        self.open.extend_from_slice(records);
        self.records += count;
        self.position()
    }

    /// Bytes of records in the open frame.
    pub(crate) fn pending(&self) -> usize {
        self.open.len() - frame::HEADER_BYTES
    }

    /// A frame to write, if there is one now. If there is one but a writer holds it, the writer
    /// will seal it; ask again then.
    pub(crate) fn take(&mut self) -> Option<SealedFrame> {
        if let Some(sealed) = self.sealed.take() {
            return Some(sealed);
        }
        if self.pending() == 0 {
            return None;
        }
        if self.reserved {
            self.seal_wanted = true;
            return None;
        }
        Some(self.seal())
    }

    /// An empty frame whose only content is in its header: that all before it is durable. None if
    /// this opening of the log has written nothing.
    pub(crate) fn take_closing(&mut self) -> Option<SealedFrame> {
        debug_assert!(self.pending() == 0 && self.durable == self.start && !self.reserved);
        (self.segment_used.is_some() && !self.opens_segment()).then(|| self.seal())
    }

    /// The frame is on stable storage; its buffer is used again. Returns the new durable address.
    pub(crate) fn complete(&mut self, frame: SealedFrame) -> Lsn {
        debug_assert_eq!(frame.header.first, self.durable);
        self.durable = frame.header.end();
        if frame.bytes.capacity() <= BUFFER_BYTES_KEPT {
            self.idle = frame.bytes;
        }
        self.durable
    }

    fn seal(&mut self) -> SealedFrame {
        let new_segment = self.opens_segment();
        let len = self.pending() as u32;
        let next = blank(std::mem::take(&mut self.idle));
        let mut bytes = std::mem::replace(&mut self.open, next);
        bytes.resize(bytes.len().next_multiple_of(frame::ALIGNMENT), 0);
        let header = frame::Header {
            len,
            first: self.start,
            durable: self.durable,
            // The writer knows these two.
            epoch: 0,
            prev_crc: 0,
            records: std::mem::take(&mut self.records),
        };
        if new_segment {
            self.snapshot_bytes = self.first_bytes;
        }
        let used = if new_segment { 0 } else { self.segment_used.unwrap_or(0) };
        self.segment_used = Some(used + bytes.len() as u64);
        self.start = header.end();
        SealedFrame { header, bytes, new_segment }
    }
}

/// An empty frame in `buffer`.
fn blank(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.resize(frame::HEADER_BYTES, 0);
    buffer
}

#[cfg(test)]
mod tests;

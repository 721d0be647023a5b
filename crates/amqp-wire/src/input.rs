//! Bytes that have come and were not looked at yet.

use crate::error::FrameError;
use crate::frame::{self, Frame};

/// The read buffer of a connection. It grows to hold the largest frame there is.
#[derive(Debug, Default)]
pub struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// An empty buffer that takes up to `size` bytes at once.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Input { buffer: vec![0; size], start: 0, end: 0 }
    }

    /// Where the next bytes are to be put: there is always room for some. Say with
    /// [`Input::filled`] how many came.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < self.buffer.len() / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            self.buffer.resize((self.buffer.len() * 2).max(frame::FRAME_OVERHEAD), 0);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were put at the beginning of [`Input::space`].
    ///
    /// # Panics
    /// If there was no room for them.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.end, "more bytes than there was room for");
        self.end += count;
    }

    /// The next whole frame, borrowed.
    ///
    /// # Errors
    /// If the bytes are not a frame of at most `frame_max` bytes; see [`frame::parse`].
    #[inline]
    pub fn next_frame(&mut self, frame_max: u32) -> Result<Option<Frame<'_>>, FrameError> {
        let parsed = frame::parse(&self.buffer[self.start..self.end], frame_max)?;
        Ok(parsed.map(|(frame, length)| {
            self.start += length;
            frame
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_larger_than_the_buffer_comes_through() {
        let mut bytes = Vec::new();
        for fill in 0..3 {
            let start = frame::begin(&mut bytes, frame::BODY, 1);
            bytes.extend([fill; 1000]);
            frame::finish(&mut bytes, start);
        }
        for size in [0, 1, 64, 4096] {
            let (mut input, mut rest, mut seen) = (Input::new(size), bytes.as_slice(), Vec::new());
            while !rest.is_empty() {
                let space = input.space();
                let (now, later) = rest.split_at(rest.len().min(space.len()));
                space[..now.len()].copy_from_slice(now);
                input.filled(now.len());
                rest = later;
                while let Some(frame) = input.next_frame(4096).unwrap() {
                    assert_eq!(frame.payload.len(), 1000);
                    seen.push(frame.payload[999]);
                }
            }
            assert_eq!(seen, [0, 1, 2], "in a buffer of {size}");
        }
    }
}

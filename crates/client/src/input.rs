//! Bytes read and not yet looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use leveret_amqp_wire::error::FrameError;
use leveret_amqp_wire::frame::{self, Frame};
use leveret_model::limits::READ_BYTES_MAX;
use tokio::io::{AsyncRead, ReadBuf};

/// The read buffer of a connection. It grows to hold the largest frame there is.
pub(crate) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Input { buffer: vec![0; READ_BYTES_MAX], start: 0, end: 0 }
    }

    /// Stands for a buffer that is in use.
    pub(crate) fn empty() -> Self {
        Input { buffer: Vec::new(), start: 0, end: 0 }
    }

    /// Reads once. An end of the stream is an error.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.make_room();
        let mut space = ReadBuf::new(&mut self.buffer[self.end..]);
        ready!(Pin::new(stream).poll_read(cx, &mut space))?;
        match space.filled().len() {
            0 => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the broker went away without a word",
            ))),
            read => {
                self.end += read;
                Poll::Ready(Ok(()))
            }
        }
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < self.buffer.len() / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }

    /// The next whole frame, borrowed.
    #[inline]
    pub(crate) fn next_frame(&mut self, frame_max: u32) -> Result<Option<Frame<'_>>, FrameError> {
        let parsed = frame::parse(&self.buffer[self.start..self.end], frame_max)?;
        Ok(parsed.map(|(frame, length)| {
            self.start += length;
            frame
        }))
    }
}

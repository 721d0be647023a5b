//! Bytes read from a broker and not yet looked at.

use leveret_amqp_wire::error::FrameError;
use leveret_amqp_wire::frame::{self, Frame};
use std::io::{self, ErrorKind};
use tokio::net::TcpStream;

/// The read buffer of a connection. It grows to hold the largest frame there is.
pub(crate) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// An empty buffer that takes up to `size` bytes at once.
    pub(crate) fn new(size: usize) -> Input {
        Input { buffer: vec![0; size], start: 0, end: 0 }
    }

    /// Reads what the socket has; whether that was anything.
    pub(crate) fn fill(&mut self, stream: &TcpStream) -> io::Result<bool> {
        self.make_room();
        match stream.try_read(&mut self.buffer[self.end..]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.end += count;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
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
    ///
    /// # Errors
    /// If the bytes are not a frame of at most `frame_max` bytes.
    #[inline]
    pub(crate) fn next_frame(&mut self, frame_max: u32) -> Result<Option<Frame<'_>>, FrameError> {
        let parsed = frame::parse(&self.buffer[self.start..self.end], frame_max)?;
        Ok(parsed.map(|(frame, length)| {
            self.start += length;
            frame
        }))
    }

    #[cfg(test)]
    pub(crate) fn holding(bytes: &[u8]) -> Input {
        Input { buffer: bytes.to_vec(), start: 0, end: bytes.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_frame_larger_than_the_buffer_comes_through() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut writer, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        for fill in 0..3 {
            let start = frame::begin(&mut bytes, frame::BODY, 1);
            bytes.extend([fill; 1000]);
            frame::finish(&mut bytes, start);
        }
        writer.write_all(&bytes).await.unwrap();
        drop(writer);

        let mut input = Input::new(64);
        let mut seen = Vec::new();
        loop {
            while let Some(frame) = input.next_frame(4096).unwrap() {
                assert_eq!(frame.payload.len(), 1000);
                seen.push(frame.payload[999]);
            }
            reader.readable().await.unwrap();
            match input.fill(&reader) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(seen, [0, 1, 2]);
    }
}

//! Reading from the broker.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use leveret_amqp_wire::Input;
use tokio::io::{AsyncRead, ReadBuf};

/// Reads once. An end of the stream is an error.
pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
    input: &mut Input,
    stream: &mut S,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let mut space = ReadBuf::new(input.space());
    ready!(Pin::new(stream).poll_read(cx, &mut space))?;
    match space.filled().len() {
        0 => Poll::Ready(Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the broker went away without a word",
        ))),
        read => {
            input.filled(read);
            Poll::Ready(Ok(()))
        }
    }
}

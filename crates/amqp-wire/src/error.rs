//! What can be wrong with a peer's bytes.

use leveret_model::table::TableError;

/// A frame that cannot be read; nothing behind it can be either.
///
/// The texts are RabbitMQ's terms, the end of its 501 `FRAME_ERROR` explanations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The payload is larger than the negotiated frame size allows.
    #[error("{{frame_too_large,{size},{max}}}")]
    TooLarge {
        /// The frame's type.
        kind: u8,
        /// The frame's channel.
        channel: u16,
        /// How large the payload claims to be, in bytes.
        size: u32,
        /// How large it may be, in bytes.
        max: u32,
    },
    /// The octet after the payload is not 0xCE.
    #[error("{{invalid_frame_end_marker,{marker}}}")]
    EndMarker {
        /// The frame's type.
        kind: u8,
        /// The frame's channel.
        channel: u16,
        /// The octet found instead.
        marker: u8,
    },
}

/// What a client sent instead of a protocol header we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// AMQP, of another version.
    #[error("unsupported protocol version {0:?}")]
    Version(
        /// The four octets after `AMQP`.
        [u8; 4],
    ),
    /// An HTTP request.
    #[error("an http request, not amqp")]
    Http,
    /// The start of a TLS handshake.
    #[error("a tls handshake, not amqp")]
    Tls,
    /// Something else.
    #[error("not an amqp protocol header")]
    Unknown,
}

/// A method frame's payload, or a content header's, that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short for a class and a method id.
    #[error("method payload of {0} bytes has no method id")]
    NoMethodId(usize),
    /// There is no such method.
    #[error("unknown method {class}.{method}")]
    UnknownMethod {
        /// Its class id.
        class: u16,
        /// Its method id.
        method: u16,
    },
    /// The arguments do not fit the method.
    #[error("{name}: {reason}")]
    Arguments {
        /// The method, such as `queue.declare`.
        name: &'static str,
        /// Its class and method id.
        id: (u16, u16),
        /// What is wrong with them.
        reason: ArgumentError,
    },
    /// A content header shorter than its fixed part.
    #[error("content header of {0} bytes")]
    ContentHeader(usize),
}

/// What is wrong with a method's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// They end before the last.
    #[error("arguments end early: {needed} bytes needed, {left} left")]
    Truncated {
        /// How many bytes the next one takes.
        needed: usize,
        /// How many there were.
        left: usize,
    },
    /// There are bytes behind the last.
    #[error("{0} bytes after the last argument")]
    TrailingBytes(usize),
    /// A short string is not UTF-8. RabbitMQ says 501 `Malformed UTF-8 in shortstr`.
    #[error("malformed utf-8 in a short string")]
    Utf8,
    /// A table is malformed.
    #[error(transparent)]
    Table(#[from] TableError),
}

//! Frames, and the protocol header that comes before the first.

use crate::error::{FrameError, HeaderError};

/// A frame that holds a method.
pub const METHOD: u8 = 1;
/// A frame that holds a content header.
pub const HEADER: u8 = 2;
/// A frame that holds a piece of a body.
pub const BODY: u8 = 3;
/// A frame that says that its sender is alive.
pub const HEARTBEAT: u8 = 8;
/// The octet after every payload.
pub const FRAME_END: u8 = 0xCE;
/// Type, channel and size in front of a payload, in bytes.
pub const FRAME_HEAD: usize = 7;
/// What a frame adds to its payload, in bytes.
pub const FRAME_OVERHEAD: usize = FRAME_HEAD + 1;

/// What a client says first. A server says it too, to one who said something else.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// What the client of version 0-9 says; the two differ too little to matter.
const PROTOCOL_HEADER_0_9: [u8; 8] = *b"AMQP\x01\x01\x00\x09";

/// A whole frame, borrowed from the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// [`METHOD`], [`HEADER`], [`BODY`], [`HEARTBEAT`], or what a peer invented.
    pub kind: u8,
    /// The channel; 0 for the connection itself.
    pub channel: u16,
    /// What it holds.
    pub payload: &'a [u8],
}

/// Reads the frame at the start of `input` and says how many bytes it took; `None` if more are
/// needed. `frame_max` counts the eight bytes of framing. There is no value for "unlimited".
///
/// A payload of up to `frame_max` bytes passes: some clients forget that the framing counts, and
/// RabbitMQ lets them.
///
/// # Errors
/// [`FrameError`] as soon as the bytes show it: a size too large before its payload has come.
#[inline]
pub fn parse(input: &[u8], frame_max: u32) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((&[kind, c1, c0, s3, s2, s1, s0], rest)) = input.split_first_chunk::<FRAME_HEAD>()
    else {
        return Ok(None);
    };
    let channel = u16::from_be_bytes([c1, c0]);
    let size = u32::from_be_bytes([s3, s2, s1, s0]);
    if size > frame_max {
        let max = frame_max.saturating_sub(FRAME_OVERHEAD as u32);
        return Err(FrameError::TooLarge { kind, channel, size, max });
    }
    let Some((payload, rest)) = rest.split_at_checked(size as usize) else {
        return Ok(None);
    };
    match rest.first() {
        None => Ok(None),
        Some(&FRAME_END) => {
            Ok(Some((Frame { kind, channel, payload }, payload.len() + FRAME_OVERHEAD)))
        }
        Some(&marker) => Err(FrameError::EndMarker { kind, channel, marker }),
    }
}

/// Begins a frame: append the payload, then call [`finish`] with what this returned.
#[inline]
pub fn begin(out: &mut Vec<u8>, kind: u8, channel: u16) -> usize {
    let start = out.len();
    let [c1, c0] = channel.to_be_bytes();
    out.extend_from_slice(&[kind, c1, c0, 0, 0, 0, 0]);
    start
}

/// Ends the frame that began at `start`: fills in its size and appends the end octet.
///
/// # Panics
/// If `start` is not from [`begin`] on the same `out`, or the payload exceeds 4 GiB.
#[inline]
pub fn finish(out: &mut Vec<u8>, start: usize) {
    let size = u32::try_from(out.len() - start - FRAME_HEAD).expect("a frame of less than 4 GiB");
    out[start + 3..start + FRAME_HEAD].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

/// Writes a heartbeat.
#[inline]
pub fn heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(&[HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END]);
}

/// The protocol header of a client we understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolHeader {
    /// 0-9-1.
    V0_9_1,
    /// 0-9: RabbitMQ treats it as 0-9-1.
    V0_9,
}

impl ProtocolHeader {
    /// How many bytes it takes.
    pub const LEN: usize = 8;

    /// Reads the first [`ProtocolHeader::LEN`] bytes of a connection; `None` if more are needed.
    ///
    /// # Errors
    /// [`HeaderError`] if they are something else, as soon as the first four say so. A server
    /// then answers with [`PROTOCOL_HEADER`] and closes.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, HeaderError> {
        if let Some(first) = input.first_chunk::<4>()
            && first != b"AMQP"
        {
            return Err(match first {
                b"GET " => HeaderError::Http,
                [0x16, 0x03, ..] => HeaderError::Tls,
                _ => HeaderError::Unknown,
            });
        }
        match input.first_chunk::<{ Self::LEN }>() {
            None => Ok(None),
            Some(&PROTOCOL_HEADER) => Ok(Some(ProtocolHeader::V0_9_1)),
            Some(&PROTOCOL_HEADER_0_9) => Ok(Some(ProtocolHeader::V0_9)),
            Some(&[.., a, b, c, d]) => Err(HeaderError::Version([a, b, c, d])),
        }
    }
}

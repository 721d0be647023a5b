//! What follows a method that carries a message: a header frame and as many body frames as the
//! body needs.

use crate::error::DecodeError;
use crate::frame::{self, FRAME_END, FRAME_HEAD, FRAME_OVERHEAD};

/// The class of every method that carries content.
pub const CLASS_BASIC: u16 = 60;
/// Class, weight and body size in a content header, in bytes.
const FIXED: usize = 12;

/// The payload of a header frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// The class of the method it follows.
    pub class: u16,
    /// Zero; RabbitMQ refuses others.
    pub weight: u16,
    /// How long the body is that follows, in bytes.
    pub body_size: u64,
    /// Property flags and list, for `leveret_model::properties`.
    pub properties: &'a [u8],
}

impl<'a> ContentHeader<'a> {
    /// Reads the payload of a header frame. Neither the properties nor the numbers are checked.
    ///
    /// # Errors
    /// [`DecodeError::ContentHeader`] if it is shorter than its fixed part.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let Some((&[c1, c0, w1, w0, ref size @ ..], properties)) =
            payload.split_first_chunk::<FIXED>()
        else {
            return Err(DecodeError::ContentHeader(payload.len()));
        };
        Ok(ContentHeader {
            class: u16::from_be_bytes([c1, c0]),
            weight: u16::from_be_bytes([w1, w0]),
            body_size: u64::from_be_bytes(*size),
            properties,
        })
    }

    /// Appends the payload of a header frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.class.to_be_bytes());
        out.extend_from_slice(&self.weight.to_be_bytes());
        out.extend_from_slice(&self.body_size.to_be_bytes());
        out.extend_from_slice(self.properties);
    }
}

/// Writes the frames of a message's content: the header, and the body in pieces of at most
/// `frame_max - 8` bytes. An empty body has no frame. The header is one frame whatever its size:
/// properties larger than the receiver's `frame_max` cannot be sent in any other way.
///
/// # Panics
/// If the properties take more than 4 GiB.
#[inline]
pub fn write_content(
    out: &mut Vec<u8>,
    channel: u16,
    properties: &[u8],
    body: &[u8],
    frame_max: u32,
) {
    write_header(out, channel, properties, body.len() as u64);
    // At least one byte a frame, so that a nonsensical limit cannot loop without end.
    let piece = (frame_max as usize).saturating_sub(FRAME_OVERHEAD).max(1);
    if body.len() <= piece {
        if !body.is_empty() {
            write_body(out, channel, body);
        }
        return;
    }
    for piece in body.chunks(piece) {
        write_body(out, channel, piece);
    }
}

/// Writes the header frame of a message's content.
///
/// # Panics
/// If the properties take more than 4 GiB.
#[inline]
pub fn write_header(out: &mut Vec<u8>, channel: u16, properties: &[u8], body_size: u64) {
    let size = u32::try_from(FIXED + properties.len()).expect("properties of less than 4 GiB");
    let mut head = [0; FRAME_HEAD + FIXED];
    head[0] = frame::HEADER;
    head[1..3].copy_from_slice(&channel.to_be_bytes());
    head[3..7].copy_from_slice(&size.to_be_bytes());
    head[7..9].copy_from_slice(&CLASS_BASIC.to_be_bytes());
    head[11..].copy_from_slice(&body_size.to_be_bytes());
    out.reserve(head.len() + properties.len() + 1);
    out.extend_from_slice(&head);
    out.extend_from_slice(properties);
    out.push(FRAME_END);
}

/// Writes one body frame.
///
/// # Panics
/// If the piece exceeds 4 GiB.
#[inline]
pub fn write_body(out: &mut Vec<u8>, channel: u16, piece: &[u8]) {
    write_body_head(out, channel, piece.len());
    out.extend_from_slice(piece);
    out.push(FRAME_END);
}

/// Writes what comes before the `len` bytes of a body frame, for one whose bytes are written
/// without being copied here. [`FRAME_END`] must follow them.
///
/// # Panics
/// If `len` exceeds 4 GiB.
#[inline]
pub fn write_body_head(out: &mut Vec<u8>, channel: u16, len: usize) {
    let size = u32::try_from(len).expect("a body frame of less than 4 GiB");
    let [c1, c0] = channel.to_be_bytes();
    let [s3, s2, s1, s0] = size.to_be_bytes();
    out.extend_from_slice(&[frame::BODY, c1, c0, s3, s2, s1, s0]);
}

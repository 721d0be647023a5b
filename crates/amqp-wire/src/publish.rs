//! The hot path: messages in and out without a [`Method`](crate::Method) in between.
//!
//! The *envelope* is the exchange and the routing key as two short strings, one behind the other.
//! They lie so in `basic.publish` and in `basic.deliver` alike, and pass through untouched.

use leveret_model::ShortString;

use crate::error::{ArgumentError, DecodeError};
use crate::frame::{self, FRAME_END, FRAME_HEAD};
use crate::method::BasicPublish;

/// Class, method and ticket in front of the envelope of a `basic.publish`, in bytes.
const PUBLISH_HEAD: usize = 6;

/// A `basic.publish`, borrowed from the payload of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishView<'a> {
    /// Exchange and routing key, each a length byte and its bytes.
    pub envelope: &'a [u8],
    /// Whether a message that reaches no queue is returned.
    pub mandatory: bool,
    /// Whether it is returned if no consumer can take it now; RabbitMQ refuses it.
    pub immediate: bool,
}

/// Whether the payload of a method frame is a `basic.publish`.
#[must_use]
#[inline]
pub fn is_publish(payload: &[u8]) -> bool {
    matches!(payload, [0, 60, 0, 40, ..])
}

impl<'a> PublishView<'a> {
    /// Reads a payload for which [`is_publish`] holds; the ids are not looked at again.
    ///
    /// # Errors
    /// [`DecodeError::Arguments`] where `Method::decode` has one.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let arguments = payload.get(PUBLISH_HEAD..).unwrap_or_default();
        let exchange_len = arguments.first().map_or(0, |&len| usize::from(len));
        let Some(&key_len) = arguments.get(1 + exchange_len) else {
            return Err(truncated(exchange_len + 3, arguments.len()));
        };
        let envelope_len = 2 + exchange_len + usize::from(key_len);
        match arguments.split_at_checked(envelope_len) {
            Some((envelope, &[bits])) => {
                Ok(PublishView { envelope, mandatory: bits & 1 != 0, immediate: bits & 2 != 0 })
            }
            Some((_, [_, trailing @ ..])) => {
                Err(malformed(ArgumentError::TrailingBytes(trailing.len())))
            }
            _ => Err(truncated(envelope_len + 1, arguments.len())),
        }
    }

    /// The exchange; empty for the default exchange.
    #[must_use]
    #[inline]
    pub fn exchange(&self) -> &'a [u8] {
        split_short(self.envelope).0
    }

    /// The routing key.
    #[must_use]
    #[inline]
    pub fn routing_key(&self) -> &'a [u8] {
        split_short(split_short(self.envelope).1).0
    }
}

#[cold]
fn truncated(needed: usize, left: usize) -> DecodeError {
    malformed(ArgumentError::Truncated { needed, left })
}

#[cold]
fn malformed(reason: ArgumentError) -> DecodeError {
    DecodeError::Arguments { name: BasicPublish::NAME, id: BasicPublish::ID, reason }
}

/// The first short string of `bytes` and what follows; empty where there is none.
#[inline]
fn split_short(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((&len, rest)) = bytes.split_first() else { return (&[], &[]) };
    rest.split_at_checked(len.into()).unwrap_or_default()
}

/// The start of every `basic.deliver` to one consumer, encoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverPrefix {
    /// Type, channel, a size to be filled in, class, method, consumer tag.
    bytes: Box<[u8]>,
}

impl DeliverPrefix {
    /// The prefix for the consumer of that tag on that channel.
    #[must_use]
    pub fn new(channel: u16, consumer_tag: &ShortString) -> Self {
        let mut bytes = Vec::with_capacity(FRAME_HEAD + 5 + consumer_tag.len());
        frame::begin(&mut bytes, frame::METHOD, channel);
        // A short string holds at most 255 bytes.
        bytes.extend_from_slice(&[0, 60, 0, 60, consumer_tag.len() as u8]);
        bytes.extend_from_slice(consumer_tag.as_bytes());
        DeliverPrefix { bytes: bytes.into_boxed_slice() }
    }

    /// The channel it is for.
    #[must_use]
    #[inline]
    pub fn channel(&self) -> u16 {
        u16::from_be_bytes([self.bytes[1], self.bytes[2]])
    }

    /// How many bytes the frame of a `basic.deliver` with an envelope of that length takes.
    #[must_use]
    #[inline]
    pub fn frame_len(&self, envelope_len: usize) -> usize {
        self.bytes.len() + 9 + envelope_len + 1
    }
}

/// Writes a `basic.deliver` frame; its content is to follow.
#[inline]
pub fn write_deliver(
    out: &mut Vec<u8>,
    prefix: &DeliverPrefix,
    delivery_tag: u64,
    redelivered: bool,
    envelope: &[u8],
) {
    let len = prefix.frame_len(envelope.len());
    out.reserve(len);
    let start = out.len();
    out.extend_from_slice(&prefix.bytes);
    // An envelope is at most 512 bytes long.
    let size = (len - FRAME_HEAD - 1) as u32;
    out[start + 3..start + FRAME_HEAD].copy_from_slice(&size.to_be_bytes());
    let mut middle = [0; 9];
    middle[..8].copy_from_slice(&delivery_tag.to_be_bytes());
    middle[8] = u8::from(redelivered);
    out.extend_from_slice(&middle);
    out.extend_from_slice(envelope);
    out.push(FRAME_END);
}

/// Writes a `basic.ack` frame.
#[inline]
pub fn write_ack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    write_settle(out, channel, 80, delivery_tag, u8::from(multiple));
}

/// Writes a `basic.nack` frame as a broker sends it to a publisher: `requeue` is not set.
#[inline]
pub fn write_nack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    write_settle(out, channel, 120, delivery_tag, u8::from(multiple));
}

#[inline]
fn write_settle(out: &mut Vec<u8>, channel: u16, method: u8, delivery_tag: u64, bits: u8) {
    let [c1, c0] = channel.to_be_bytes();
    let mut bytes = [0; 21];
    bytes[..11].copy_from_slice(&[frame::METHOD, c1, c0, 0, 0, 0, 13, 0, 60, 0, method]);
    bytes[11..19].copy_from_slice(&delivery_tag.to_be_bytes());
    bytes[19] = bits;
    bytes[20] = FRAME_END;
    out.extend_from_slice(&bytes);
}

/// Writes a `basic.publish` frame, for clients; its content is to follow.
#[inline]
pub fn write_publish(out: &mut Vec<u8>, channel: u16, envelope: &[u8], mandatory: bool) {
    let [c1, c0] = channel.to_be_bytes();
    // An envelope is at most 512 bytes long.
    let [s3, s2, s1, s0] = ((PUBLISH_HEAD + envelope.len() + 1) as u32).to_be_bytes();
    out.reserve(FRAME_HEAD + PUBLISH_HEAD + envelope.len() + 2);
    out.extend_from_slice(&[frame::METHOD, c1, c0, s3, s2, s1, s0, 0, 60, 0, 40, 0, 0]);
    out.extend_from_slice(envelope);
    out.extend_from_slice(&[u8::from(mandatory), FRAME_END]);
}

/// Appends an envelope: what [`PublishView::envelope`] is, made from two names.
pub fn write_envelope(out: &mut Vec<u8>, exchange: &ShortString, routing_key: &ShortString) {
    for name in [exchange, routing_key] {
        // A short string holds at most 255 bytes.
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
    }
}

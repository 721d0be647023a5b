//! What comes on a channel: methods, and messages put together from their frames.

use bytes::Bytes;
use leveret_amqp_wire::ContentHeader;
use leveret_amqp_wire::frame::{self, Frame};
use leveret_amqp_wire::method::*;
use leveret_amqp_wire::publish::write_envelope;
use leveret_model::ShortString;

use crate::error::Error;

/// For a body that is only claimed to be large, this much memory is taken at first, in bytes.
const FIRST_BYTES: usize = 1024 * 1024;
/// Largest body that is taken, in bytes. RabbitMQ lets nobody publish larger ones.
const BODY_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// A message from a queue. It holds its bytes in memory of its own.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What it is called in acknowledgements on its channel.
    pub tag: u64,
    /// Whether it was delivered before.
    pub redelivered: bool,
    content: Content,
}

/// A message that was published as `mandatory` and went to no queue.
#[derive(Debug, Clone)]
pub struct Returned {
    /// The reply code: 312 for "no route".
    pub code: u16,
    /// The broker's words.
    pub text: String,
    content: Content,
}

/// An answer to a call.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The method.
    pub method: Method,
    /// The message that came with it: `basic.get-ok` has one.
    pub message: Option<Delivery>,
}

/// Envelope, properties and body, one after the other.
#[derive(Debug, Clone)]
struct Content {
    bytes: Bytes,
    envelope: usize,
    properties: usize,
}

impl Content {
    fn view(&self) -> (&[u8], &[u8]) {
        // It was looked at, or made, when it came.
        names(&self.bytes[..self.envelope]).unwrap_or_default()
    }

    fn properties(&self) -> &[u8] {
        &self.bytes[self.envelope..self.envelope + self.properties]
    }

    fn body(&self) -> Bytes {
        self.bytes.slice(self.envelope + self.properties..)
    }
}

macro_rules! message {
    ($type:ident) => {
        impl $type {
            /// The exchange it was published to; empty for the default exchange.
            #[must_use]
            pub fn exchange(&self) -> &[u8] {
                self.content.view().0
            }

            /// The routing key it was published with.
            #[must_use]
            pub fn routing_key(&self) -> &[u8] {
                self.content.view().1
            }

            /// Flags and list of its properties, not decoded.
            #[must_use]
            pub fn properties(&self) -> &[u8] {
                self.content.properties()
            }

            /// Its body. A clone of the same memory.
            #[must_use]
            pub fn body(&self) -> Bytes {
                self.content.body()
            }

            /// How much memory it takes, in bytes.
            #[must_use]
            pub fn size(&self) -> usize {
                self.content.bytes.len()
            }
        }
    };
}

message!(Delivery);
message!(Returned);

/// Exchange and routing key of an envelope, which is two short strings.
fn names(envelope: &[u8]) -> Option<(&[u8], &[u8])> {
    let (exchange, rest) = short_string(envelope)?;
    let (key, rest) = short_string(rest)?;
    rest.is_empty().then_some((exchange, key))
}

fn short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(len.into())
}

/// A method that a message follows, without the message.
#[derive(Debug)]
enum Head {
    Deliver { tag: u64, redelivered: bool },
    Return { code: u16, text: String },
    Get(Box<BasicGetOk>),
}

/// Something whole.
#[derive(Debug)]
pub(crate) enum Incoming {
    Deliver(Delivery),
    Return(Returned),
    Answer(Answer),
    /// Of a publisher's messages: up to or only this one, written down or refused.
    Confirm {
        tag: u64,
        multiple: bool,
        taken: bool,
    },
}

/// Puts a channel's frames together.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    head: Option<Head>,
    /// Of the message under way.
    bytes: Vec<u8>,
    envelope: usize,
    properties: usize,
    /// How much of its body is to come; `None` before its header.
    missing: Option<u64>,
}

impl Assembly {
    /// Takes a method, header or body frame. Returns what is whole with it.
    pub(crate) fn take(&mut self, frame: &Frame<'_>) -> Result<Option<Incoming>, Error> {
        match (frame.kind, &self.head, self.missing) {
            (frame::METHOD, None, _) => self.method(frame.payload),
            (frame::HEADER, Some(_), None) => self.header(frame.payload),
            (frame::BODY, Some(_), Some(missing)) => {
                let missing = missing
                    .checked_sub(frame.payload.len() as u64)
                    .ok_or_else(|| Error::Malformed("a body longer than announced".to_owned()))?;
                self.bytes.extend_from_slice(frame.payload);
                self.missing = Some(missing);
                Ok(self.finish())
            }
            (kind, ..) => Err(Error::Malformed(format!("a frame of type {kind} out of turn"))),
        }
    }

    #[inline]
    fn method(&mut self, payload: &[u8]) -> Result<Option<Incoming>, Error> {
        if let Some(parsed) = confirm(payload) {
            return Ok(Some(parsed));
        }
        if self.deliver(payload) {
            return Ok(None);
        }
        match Method::decode(payload)? {
            Method::BasicDeliver(_) => Err(Error::Malformed("a malformed delivery".to_owned())),
            Method::BasicReturn(returned) => {
                self.begin([&returned.exchange, &returned.routing_key]);
                let (code, text) = (returned.reply_code, returned.reply_text.to_string());
                self.head = Some(Head::Return { code, text });
                Ok(None)
            }
            Method::BasicGetOk(got) => {
                self.begin([&got.exchange, &got.routing_key]);
                self.head = Some(Head::Get(Box::new(got)));
                Ok(None)
            }
            method => Ok(Some(Incoming::Answer(Answer { method, message: None }))),
        }
    }

    fn begin(&mut self, [exchange, routing_key]: [&ShortString; 2]) {
        self.bytes.clear();
        write_envelope(&mut self.bytes, exchange, routing_key);
        self.envelope = self.bytes.len();
    }

    /// Whether it is a `basic.deliver`; the hot path, so nothing is built in between.
    #[inline]
    fn deliver(&mut self, payload: &[u8]) -> bool {
        let Some(arguments) = payload.strip_prefix(&[0, 60, 0, 60]) else { return false };
        let Some((_consumer, rest)) = short_string(arguments) else { return false };
        let Some((&tag, rest)) = rest.split_first_chunk::<8>() else { return false };
        let Some((&redelivered, envelope)) = rest.split_first() else { return false };
        if names(envelope).is_none() {
            return false;
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(envelope);
        self.envelope = envelope.len();
        let tag = u64::from_be_bytes(tag);
        self.head = Some(Head::Deliver { tag, redelivered: redelivered & 1 != 0 });
        true
    }

    fn header(&mut self, payload: &[u8]) -> Result<Option<Incoming>, Error> {
        let header = ContentHeader::parse(payload)?;
        if header.body_size > BODY_BYTES_MAX {
            return Err(Error::Malformed(format!("a body of {} bytes", header.body_size)));
        }
        let body = usize::try_from(header.body_size).unwrap_or(usize::MAX).min(FIRST_BYTES);
        let mut bytes = Vec::with_capacity(self.envelope + header.properties.len() + body);
        bytes.extend_from_slice(&self.bytes);
        bytes.extend_from_slice(header.properties);
        self.bytes = bytes;
        self.properties = header.properties.len();
        self.missing = Some(header.body_size);
        Ok(self.finish())
    }

    /// What was put together, if its body is whole.
    fn finish(&mut self) -> Option<Incoming> {
        if self.missing != Some(0) {
            return None;
        }
        self.missing = None;
        let content = Content {
            bytes: std::mem::take(&mut self.bytes).into(),
            envelope: self.envelope,
            properties: self.properties,
        };
        Some(match self.head.take()? {
            Head::Deliver { tag, redelivered } => {
                Incoming::Deliver(Delivery { tag, redelivered, content })
            }
            Head::Return { code, text } => Incoming::Return(Returned { code, text, content }),
            Head::Get(got) => {
                let (tag, redelivered) = (got.delivery_tag, got.redelivered);
                let message = Some(Delivery { tag, redelivered, content });
                Incoming::Answer(Answer { method: Method::BasicGetOk(*got), message })
            }
        })
    }
}

/// A `basic.ack` or `basic.nack` from the broker.
#[inline]
fn confirm(payload: &[u8]) -> Option<Incoming> {
    let (taken, arguments) = match payload {
        [0, 60, 0, 80, arguments @ ..] => (true, arguments),
        [0, 60, 0, 120, arguments @ ..] => (false, arguments),
        _ => return None,
    };
    let (&tag, bits) = arguments.split_first_chunk::<8>()?;
    match *bits {
        [bits] => {
            let (tag, multiple) = (u64::from_be_bytes(tag), bits & 1 != 0);
            Some(Incoming::Confirm { tag, multiple, taken })
        }
        _ => None,
    }
}

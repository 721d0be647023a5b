//! Putting published messages together.
//!
//! Nearly always a message's frames follow each other and are all in the same read: then the
//! message goes from the read buffer to the batch's chunk in one copy. Otherwise its pieces are
//! kept with its channel until it is whole.

use leveret_amqp_wire::{ContentHeader, PublishView, frame};
use leveret_model::limits::MESSAGE_BYTES_MAX;
use leveret_model::properties;
use leveret_model::{FieldTable, Message};

use crate::fault::{FRAME_ERROR, Fault, PRECONDITION_FAILED, SYNTAX_ERROR, UNEXPECTED_FRAME};

/// Class and method id of `basic.publish`.
pub(crate) const PUBLISH: (u16, u16) = (60, 40);

/// Where to reply if not to a queue.
const DIRECT_REPLY: &[u8] = b"amq.rabbitmq.reply-to";
/// The headers that name further routing keys.
const ROUTES: [&[u8]; 2] = [b"CC", b"BCC"];

/// A message whose frames have not all come.
#[derive(Debug)]
pub(crate) struct Assembly {
    envelope: Vec<u8>,
    pub(crate) mandatory: bool,
    /// Unknown until the content header has come.
    header: Option<Header>,
    body: Vec<u8>,
}

#[derive(Debug)]
struct Header {
    properties: Vec<u8>,
    persistent: bool,
    special: bool,
    /// Bytes of body to come.
    missing: usize,
}

impl Assembly {
    pub(crate) fn new(publish: &PublishView<'_>) -> Self {
        Assembly {
            envelope: publish.envelope.to_vec(),
            mandatory: publish.mandatory,
            header: None,
            body: Vec::new(),
        }
    }

    /// Takes a frame of the message's channel, published by `user`. `true` when the message is
    /// whole.
    pub(crate) fn frame(&mut self, kind: u8, payload: &[u8], user: &[u8]) -> Result<bool, Fault> {
        match (&mut self.header, kind) {
            (None, frame::HEADER) => {
                let header = ContentHeader::parse(payload)?;
                let Checked { persistent, special } = check_header(&header, user)?;
                self.header = Some(Header {
                    properties: header.properties.to_vec(),
                    persistent,
                    special,
                    // Within the limit on messages, just checked.
                    missing: header.body_size as usize,
                });
            }
            (Some(header), frame::BODY) => {
                header.missing = header.missing.checked_sub(payload.len()).ok_or_else(|| {
                    let text = "content body frame exceeds remaining content size";
                    Fault::new(FRAME_ERROR, text).of(PUBLISH)
                })?;
                self.body.extend_from_slice(payload);
            }
            (None, _) => {
                return Err(Fault::new(
                    UNEXPECTED_FRAME,
                    "expected content header for class 60, got non content header frame instead",
                )
                .of(PUBLISH));
            }
            (Some(_), _) => {
                return Err(Fault::new(
                    UNEXPECTED_FRAME,
                    "expected content body, got non content body frame instead",
                )
                .of(PUBLISH));
            }
        }
        Ok(self.header.as_ref().is_some_and(|header| header.missing == 0))
    }

    /// Bytes of the message that have come.
    pub(crate) fn held(&self) -> usize {
        let properties = self.header.as_ref().map_or(0, |header| header.properties.len());
        self.envelope.len() + properties + self.body.len()
    }

    /// Whether its properties ask for more than to be passed on, once they are known.
    pub(crate) fn is_special(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.special)
    }

    /// The message, once it is whole.
    pub(crate) fn message(&self) -> Message<'_> {
        let header = self.header.as_ref();
        Message {
            envelope: &self.envelope,
            properties: header.map_or(&[], |header| &header.properties),
            body: &self.body,
            persistent: header.is_some_and(|header| header.persistent),
        }
    }
}

/// The content of a message at the start of `input`, if it is all there and in two frames at the
/// most, and the bytes that it takes. Anything irregular is left to [`Assembly`].
#[inline]
pub(crate) fn whole<'a>(
    input: &'a [u8],
    channel: u16,
    frame_max: u32,
    user: &[u8],
) -> Option<Result<(Content<'a>, usize), Fault>> {
    let (head, mut used) = frame::parse(input, frame_max).ok()??;
    if head.kind != frame::HEADER || head.channel != channel {
        return None;
    }
    let header = ContentHeader::parse(head.payload).ok()?;
    let mut body: &[u8] = &[];
    if header.body_size > 0 {
        let (frame, body_used) = frame::parse(&input[used..], frame_max).ok()??;
        let whole = frame.kind == frame::BODY
            && frame.channel == channel
            && frame.payload.len() as u64 == header.body_size;
        if !whole {
            return None;
        }
        body = frame.payload;
        used += body_used;
    }
    let content = |Checked { persistent, special }| Content {
        properties: header.properties,
        body,
        persistent,
        special,
    };
    Some(check_header(&header, user).map(|checked| (content(checked), used)))
}

/// A message's content, borrowed from the read buffer.
pub(crate) struct Content<'a> {
    pub(crate) properties: &'a [u8],
    pub(crate) body: &'a [u8],
    pub(crate) persistent: bool,
    /// Whether the properties ask for more than to be passed on.
    pub(crate) special: bool,
}

/// What the properties of a message say that may be published.
struct Checked {
    persistent: bool,
    special: bool,
}

fn check_header(header: &ContentHeader<'_>, user: &[u8]) -> Result<Checked, Fault> {
    if header.class != PUBLISH.0 {
        let text = format!(
            "expected content header for class 60, got one for class {} instead",
            header.class
        );
        return Err(Fault::new(UNEXPECTED_FRAME, text).of(PUBLISH));
    }
    if header.weight != 0 {
        let text = format!("expected content header of weight 0, got {} instead", header.weight);
        return Err(Fault::new(UNEXPECTED_FRAME, text).of(PUBLISH));
    }
    if header.body_size > MESSAGE_BYTES_MAX {
        let text = format!(
            "message size {} is larger than configured max size {MESSAGE_BYTES_MAX}",
            header.body_size
        );
        return Err(Fault::new(PRECONDITION_FAILED, text).of(PUBLISH));
    }
    let scan = properties::scan(header.properties)
        .map_err(|error| Fault::new(SYNTAX_ERROR, error.to_string()).of(PUBLISH))?;
    if let Some(id) = scan.user_id
        && id != user
    {
        let (id, user) = (String::from_utf8_lossy(id), String::from_utf8_lossy(user));
        let text = format!("user_id property set to '{id}' but authenticated user was '{user}'");
        return Err(Fault::new(PRECONDITION_FAILED, text).of(PUBLISH));
    }
    if let Some(text) = scan.expiration {
        check_expiration(text)?;
    }
    let routed = match scan.headers {
        Some(headers) => check_headers(headers)?,
        None => false,
    };
    let special = routed
        || scan.expiration.is_some()
        || scan.priority.is_some_and(|priority| priority > 0)
        || scan.reply_to == Some(DIRECT_REPLY);
    Ok(Checked { persistent: scan.is_persistent(), special })
}

fn check_expiration(text: &[u8]) -> Result<(), Fault> {
    let Err(error) = properties::expiration(text) else { return Ok(()) };
    let text = match std::str::from_utf8(text) {
        Ok(text) => text.to_owned(),
        // As Erlang shows what is no UTF-8.
        Err(_) => text.iter().copied().map(char::from).collect(),
    };
    let text = format!("invalid expiration '{text}': {error}");
    Err(Fault::new(PRECONDITION_FAILED, text).of(PUBLISH))
}

/// A table that consumers cannot read must not reach them. Says whether it names further routes.
fn check_headers(headers: &[u8]) -> Result<bool, Fault> {
    FieldTable::check_content(headers, &ROUTES)
        .map_err(|error| Fault::new(SYNTAX_ERROR, error.to_string()).of(PUBLISH))
}

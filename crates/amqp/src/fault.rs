//! What a client did wrong, in the protocol's terms.

use leveret_amqp_wire::method::{ChannelClose, ConnectionClose};
use leveret_amqp_wire::{DecodeError, FrameError, Method};
use leveret_broker::engine::Refusal;
use leveret_broker::engine::refusal::Class;
use leveret_model::ShortString;
use leveret_model::limits::SHORT_STRING_BYTES_MAX;

/// A reply code of AMQP 0-9-1 (section 1.2 of its definitions) and RabbitMQ's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u16, &'static str);

pub(crate) const CONNECTION_FORCED: Code = Code(320, "CONNECTION_FORCED");
pub(crate) const ACCESS_REFUSED: Code = Code(403, "ACCESS_REFUSED");
const NOT_FOUND: Code = Code(404, "NOT_FOUND");
const RESOURCE_LOCKED: Code = Code(405, "RESOURCE_LOCKED");
pub(crate) const PRECONDITION_FAILED: Code = Code(406, "PRECONDITION_FAILED");
pub(crate) const FRAME_ERROR: Code = Code(501, "FRAME_ERROR");
pub(crate) const SYNTAX_ERROR: Code = Code(502, "SYNTAX_ERROR");
pub(crate) const COMMAND_INVALID: Code = Code(503, "COMMAND_INVALID");
pub(crate) const CHANNEL_ERROR: Code = Code(504, "CHANNEL_ERROR");
pub(crate) const UNEXPECTED_FRAME: Code = Code(505, "UNEXPECTED_FRAME");
pub(crate) const RESOURCE_ERROR: Code = Code(506, "RESOURCE_ERROR");
pub(crate) const NOT_ALLOWED: Code = Code(530, "NOT_ALLOWED");
pub(crate) const NOT_IMPLEMENTED: Code = Code(540, "NOT_IMPLEMENTED");

/// The reason that a channel or the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) text: String,
    /// Class and method id of what caused it; zeros if it was no method.
    pub(crate) method: (u16, u16),
}

impl Fault {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        Fault { code, text: text.into(), method: (0, 0) }
    }

    pub(crate) fn of(mut self, method: (u16, u16)) -> Self {
        self.method = method;
        self
    }

    /// Whether it costs the channel only, not the connection.
    pub(crate) fn closes_channel(&self) -> bool {
        matches!(self.code.0, 311..=313 | 403..=406)
    }

    /// `CODE_NAME - explanation`, as long as a short string can be.
    pub(crate) fn reply_text(&self) -> ShortString {
        let mut text = format!("{} - {}", self.code.1, self.text);
        let mut end = text.len().min(SHORT_STRING_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        ShortString::try_from(text).unwrap_or_default()
    }

    pub(crate) fn channel_close(&self) -> Method {
        let (class_id, method_id) = self.method;
        let (reply_code, reply_text) = (self.code.0, self.reply_text());
        ChannelClose { reply_code, reply_text, class_id, method_id }.into()
    }

    pub(crate) fn connection_close(&self) -> Method {
        let (class_id, method_id) = self.method;
        let (reply_code, reply_text) = (self.code.0, self.reply_text());
        ConnectionClose { reply_code, reply_text, class_id, method_id }.into()
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.class() {
            Class::NotFound => NOT_FOUND,
            Class::Locked => RESOURCE_LOCKED,
            Class::Precondition => PRECONDITION_FAILED,
            Class::Refused => ACCESS_REFUSED,
            Class::NotAllowed => NOT_ALLOWED,
            Class::NotImplemented => NOT_IMPLEMENTED,
            Class::Sequence => CHANNEL_ERROR,
        };
        Fault::new(code, refusal.to_string())
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        let (FrameError::TooLarge { kind, .. } | FrameError::EndMarker { kind, .. }) = error;
        Fault::new(FRAME_ERROR, format!("type {kind}, all octets = <<>>: {error}"))
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::UnknownMethod { class, method } => {
                Fault::new(COMMAND_INVALID, error.to_string()).of((class, method))
            }
            DecodeError::Arguments { id, .. } => Fault::new(FRAME_ERROR, error.to_string()).of(id),
            _ => Fault::new(FRAME_ERROR, error.to_string()),
        }
    }
}

//! What programs send: types with a name, and how they become bytes.

use std::borrow::Cow;

use bytes::Bytes;

const TEXT: &str = "text/plain";
const BYTES: &str = "application/octet-stream";

/// A type that is sent. `#[derive(leveret::Message)]` makes one of any type that serde can write
/// and read; it is sent as JSON then.
///
/// [`Text`], [`Raw`] and [`crate::Json`] are messages without a name of their own, for programs
/// that share queues with others.
pub trait Message: Sized + Send + Sync + 'static {
    /// The subject it is published under, such as `order.created`; on AMQP the routing key. At most
    /// 255 bytes. Empty for a type that has none: it must then be said with each message.
    const NAME: &'static str;

    /// The exchange it is published to, if it is not the bus's.
    const EXCHANGE: Option<&'static str> = None;

    /// The MIME type of its body, for descriptions of a program; `None` if that is not known
    /// beforehand.
    const CONTENT_TYPE: Option<&'static str> = None;

    /// Messages of the same key can be handled in order.
    fn key(&self) -> Option<String> {
        None
    }

    /// The JSON Schema of its body (draft 07), for descriptions of a program.
    #[must_use]
    fn schema() -> Option<serde_json::Value> {
        None
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`CodecError`] if it cannot be written.
    fn encode(&self) -> Result<Payload, CodecError>;

    /// The message of these bytes.
    ///
    /// # Errors
    /// [`CodecError`] if they are none.
    fn decode(payload: &Payload) -> Result<Self, CodecError>;
}

/// A body and what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// Its MIME type.
    pub content_type: Cow<'static, str>,
    /// The bytes.
    pub body: Bytes,
}

/// Why a message cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// It is not JSON, or not JSON of this type.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It is not UTF-8.
    #[error("{0}")]
    Text(#[from] std::str::Utf8Error),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// Text, as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(
    /// The text.
    pub String,
);

/// Bytes, as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raw(
    /// The bytes.
    pub Bytes,
);

impl Message for Text {
    const NAME: &'static str = "";
    const CONTENT_TYPE: Option<&'static str> = Some(TEXT);

    fn encode(&self) -> Result<Payload, CodecError> {
        let body = Bytes::copy_from_slice(self.0.as_bytes());
        Ok(Payload { content_type: Cow::Borrowed(TEXT), body })
    }

    fn decode(payload: &Payload) -> Result<Self, CodecError> {
        Ok(Text(std::str::from_utf8(&payload.body)?.to_owned()))
    }
}

impl Message for Raw {
    const NAME: &'static str = "";
    const CONTENT_TYPE: Option<&'static str> = Some(BYTES);

    fn encode(&self) -> Result<Payload, CodecError> {
        Ok(Payload { content_type: Cow::Borrowed(BYTES), body: self.0.clone() })
    }

    fn decode(payload: &Payload) -> Result<Self, CodecError> {
        Ok(Raw(payload.body.clone()))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(text.to_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text(text)
    }
}

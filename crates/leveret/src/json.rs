//! Messages as JSON.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use serde_json::{Value, json};

use crate::message::{CodecError, Message, Payload};

/// The MIME type of JSON.
pub const CONTENT_TYPE: &str = "application/json";
/// Room for a small message, in bytes.
const SMALL_BYTES: usize = 128;

/// Writes a value as JSON.
///
/// # Errors
/// [`CodecError`] if the value cannot be written, such as a map with keys that are no text.
pub fn encode<T: Serialize>(value: &T) -> Result<Payload, CodecError> {
    let mut body = Vec::with_capacity(SMALL_BYTES);
    serde_json::to_writer(&mut body, value)?;
    Ok(Payload {
        content_type: Cow::Borrowed(CONTENT_TYPE),
        body: Bytes::from(body.into_boxed_slice()),
    })
}

/// Reads JSON, whatever its content type says: much software does not say it.
///
/// # Errors
/// [`CodecError`] if it is not JSON, or not of that type.
pub fn decode<T: DeserializeOwned>(payload: &Payload) -> Result<T, CodecError> {
    Ok(serde_json::from_slice(&payload.body)?)
}

/// The JSON Schema (draft 07) of a type that derives `schemars::JsonSchema`. It is what
/// `#[message(schema)]` gives a message.
#[cfg(feature = "schema")]
#[must_use]
pub fn schema<T: schemars::JsonSchema>() -> Value {
    let settings = schemars::generate::SchemaSettings::draft07();
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Any JSON value, or any type of serde's that has no name as a [`Message`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Json<T = Value>(
    /// The value.
    pub T,
);

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Message for Json<T> {
    const NAME: &'static str = "";
    const CONTENT_TYPE: Option<&'static str> = Some(CONTENT_TYPE);

    fn encode(&self) -> Result<Payload, CodecError> {
        encode(&self.0)
    }

    fn decode(payload: &Payload) -> Result<Self, CodecError> {
        decode(payload).map(Json)
    }
}

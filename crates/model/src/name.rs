//! Names: short byte strings that are cheap to share.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use crate::limits::SHORT_STRING_BYTES_MAX;

/// An AMQP short string: at most 255 bytes, usually but not always UTF-8.
///
/// A clone shares the bytes. It hashes and orders as its bytes do, so that a map keyed by it can
/// be asked with a borrowed `&[u8]`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortString(Arc<[u8]>);

/// More than 255 bytes for a [`ShortString`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes exceed the {SHORT_STRING_BYTES_MAX} of a short string")]
pub struct TooLong(
    /// How many bytes there were.
    pub usize,
);

impl ShortString {
    /// A name written in the source.
    ///
    /// # Panics
    /// If it is longer than 255 bytes, which the source can see to.
    #[must_use]
    pub fn from_static(text: &'static str) -> Self {
        assert!(text.len() <= SHORT_STRING_BYTES_MAX, "{} bytes in a short string", text.len());
        ShortString(Arc::from(text.as_bytes()))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its text, with what is not UTF-8 replaced.
    #[must_use]
    pub fn to_str_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Borrow<[u8]> for ShortString {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for ShortString {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for ShortString {
    type Error = TooLong;

    fn try_from(bytes: &[u8]) -> Result<Self, TooLong> {
        if bytes.len() > SHORT_STRING_BYTES_MAX {
            return Err(TooLong(bytes.len()));
        }
        // The empty name is frequent and its default does not allocate.
        Ok(if bytes.is_empty() { Self::default() } else { ShortString(Arc::from(bytes)) })
    }
}

impl TryFrom<&str> for ShortString {
    type Error = TooLong;

    fn try_from(text: &str) -> Result<Self, TooLong> {
        Self::try_from(text.as_bytes())
    }
}

impl TryFrom<String> for ShortString {
    type Error = TooLong;

    fn try_from(text: String) -> Result<Self, TooLong> {
        Self::try_from(text.as_bytes())
    }
}

impl PartialEq<[u8]> for ShortString {
    fn eq(&self, other: &[u8]) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<str> for ShortString {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other.as_bytes()
    }
}

impl PartialEq<&str> for ShortString {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == *other.as_bytes()
    }
}

impl fmt::Display for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_str_lossy())
    }
}

impl fmt::Debug for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_str_lossy(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn holds_255_bytes_and_no_more() {
        let longest = "x".repeat(255);
        assert_eq!(ShortString::try_from(longest.as_str()).unwrap().len(), 255);
        let error = ShortString::try_from("x".repeat(256)).unwrap_err();
        assert_eq!(error, TooLong(256));
        assert_eq!(error.to_string(), "256 bytes exceed the 255 of a short string");
    }

    #[test]
    fn a_map_is_asked_with_borrowed_bytes() {
        let map = HashMap::from([(ShortString::from_static("orders"), 1)]);
        assert_eq!(map.get(b"orders".as_slice()), Some(&1));
        assert_eq!(map.get(b"order".as_slice()), None);
    }

    #[test]
    fn shows_what_is_not_utf8() {
        let name = ShortString::try_from([b'a', 0xff].as_slice()).unwrap();
        assert_eq!(name.to_string(), "a\u{fffd}");
        assert_eq!(format!("{:?}", ShortString::from_static("a\"b")), r#""a\"b""#);
        assert_eq!(name.as_bytes(), [b'a', 0xff]);
    }
}

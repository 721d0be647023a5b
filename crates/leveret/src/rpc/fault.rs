//! How a service says that it could not answer.

use std::any::type_name;
use std::error::Error;
use std::fmt;

use crate::failure::Failure;
use crate::history::shorten;
use crate::letter::Headers;

/// What kind of fault; a reply with this header is one.
const KIND: &str = "leveret-fault";
/// What happened, for people.
const MESSAGE: &str = "leveret-fault-message";
/// Whether asking again may help.
const RETRYABLE: &str = "leveret-fault-retryable";

/// How much is kept of a fault's kind and of its message, in bytes: they travel in headers, which
/// must fit into one frame.
const TEXT_BYTES_MAX: usize = 1_500;

/// What a service answers with when it has no answer. It reaches who asked as it is.
///
/// Every error becomes one by `?`: its kind is the error's type, and asking again may help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind of fault, for programs to go by.
    pub kind: String,
    /// What happened, for people.
    pub message: String,
    /// Whether asking again may help.
    pub retryable: bool,
}

impl Fault {
    /// A fault that asking again does not help against.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Fault { kind: kind.into(), message: message.into(), retryable: false }
    }

    /// Asking again may help.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Writes it on a reply.
    pub(crate) fn write(&self, headers: &mut Headers) {
        headers.set(KIND, shorten(&self.kind, TEXT_BYTES_MAX));
        headers.set(MESSAGE, shorten(&self.message, TEXT_BYTES_MAX));
        headers.set(RETRYABLE, self.retryable.to_string());
    }

    /// The fault that a reply is, if it is one.
    pub(crate) fn read(headers: &Headers) -> Option<Fault> {
        Some(Fault {
            kind: headers.get(KIND)?.to_owned(),
            message: headers.get(MESSAGE).unwrap_or_default().to_owned(),
            retryable: headers.get(RETRYABLE) == Some("true"),
        })
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Fault {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            message = format!("{message}: {error}");
            source = error.source();
        }
        Fault::new(type_name::<E>(), message).retryable()
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        let retryable = !failure.is_permanent();
        Fault { kind: failure.kind.to_owned(), message: failure.to_string(), retryable }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_its_way_and_is_never_too_long() {
        let mut headers = Headers::default();
        assert_eq!(Fault::read(&headers), None);
        let fault = Fault::new("stock.empty", "no carrots").retryable();
        fault.write(&mut headers);
        assert_eq!(Fault::read(&headers), Some(fault));
        Fault::new("ä".repeat(9_000), "ä".repeat(9_000)).write(&mut headers);
        assert!(headers.iter().all(|(_, value)| value.len() <= TEXT_BYTES_MAX + 3));
    }

    #[test]
    fn an_error_is_a_fault_of_its_type() {
        let fault = || -> Result<u8, Fault> { Ok("x".parse::<u8>()?) };
        let fault = fault().unwrap_err();
        assert_eq!(fault.kind, "core::num::error::ParseIntError");
        assert!(fault.retryable && fault.message.contains("invalid digit"), "{fault}");
    }
}

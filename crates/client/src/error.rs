//! How a connection or a channel ends.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use leveret_amqp_wire::error::{DecodeError, FrameError};

/// Why something cannot be done, or is not known to have been done. Everything that waits when a
/// connection ends gets a clone of the same error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The stream failed, or its other end is gone.
    #[error("the connection is lost: {0}")]
    Lost(#[source] Arc<io::Error>),
    /// The broker closed the connection or the channel, and said why.
    #[error("the broker closed the {scope}: {code} {text}")]
    Closed {
        /// Which of the two.
        scope: Scope,
        /// The reply code, such as 404.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The broker did not answer in time, or not even with a heartbeat.
    #[error("the broker was not heard of for {0:?}")]
    Silent(Duration),
    /// What came is not AMQP 0-9-1, or not what should have come.
    #[error("the other side does not speak AMQP 0-9-1 as it should: {0}")]
    Malformed(String),
    /// It was closed from here.
    #[error("the {0} was closed")]
    Ended(Scope),
    /// A name or an argument is too long for the protocol.
    #[error("{0}")]
    TooLong(String),
}

/// What ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One channel; others go on.
    Channel,
    /// The connection with all its channels.
    Connection,
}

impl Error {
    /// The reply code, if the broker gave one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Error::Closed { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether no other channel of the connection works either.
    #[must_use]
    pub fn ends_connection(&self) -> bool {
        !matches!(
            self,
            Error::Closed { scope: Scope::Channel, .. }
                | Error::Ended(Scope::Channel)
                | Error::TooLong(_)
        )
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Channel => "channel",
            Scope::Connection => "connection",
        })
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Lost(Arc::new(error))
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        Error::Malformed(error.to_string())
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Error::Malformed(error.to_string())
    }
}

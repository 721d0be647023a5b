//! What can go wrong, and what is known of messages then.

use std::fmt;
use std::time::Duration;

use crate::failure::BoxError;
use crate::message::CodecError;

/// The result of most things.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Anything that can go wrong in the toolkit.
#[derive(thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What must be there cannot be made.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A message was not published, or nobody knows.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A queue cannot be consumed.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// Something was asked for that this transport cannot do.
    #[error("{transport} cannot {what}; {hint}")]
    Unsupported {
        /// The transport.
        transport: &'static str,
        /// What was asked for.
        what: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// A message cannot be read.
    #[error("cannot read {what}: {source}")]
    Codec {
        /// What was to be read.
        what: String,
        /// Why not.
        source: CodecError,
    },
    /// A store besides the broker cannot be used: a file, a database.
    #[error("{what}: {source}")]
    Store {
        /// Which one, or what was to be done with it.
        what: String,
        /// Why not.
        source: BoxError,
    },
    /// Dead letters did not come, or their connection was lost. Those that are left are where they
    /// were.
    #[error("the dead letters in {queue:?}: {text}; of {count} so far {done} were taken out")]
    Stalled {
        /// Where they are.
        queue: String,
        /// How many were taken out.
        done: u64,
        /// How many there were.
        count: u64,
        /// What happened.
        text: &'static str,
    },
    /// Something was said that makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// In words, as it is shown: this is what people see of an error that `main` returns.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The URL makes no sense. It is not shown: it may hold a password.
    #[error("the URL of the bus: {0}")]
    Url(String),
    /// The user, the password or the virtual host was refused.
    #[error("{address} refuses the login: {text}")]
    Refused {
        /// Which broker.
        address: String,
        /// Its words.
        text: String,
    },
    /// Nobody answered in time.
    #[error("no connection to {address} within {within:?}: {text}")]
    Unreachable {
        /// Which broker was tried last.
        address: String,
        /// For how long.
        within: Duration,
        /// What happened last.
        text: String,
    },
    /// The embedded broker cannot be opened.
    #[error("the embedded broker does not open: {0}")]
    Embedded(String),
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
}

/// Why something that must be there cannot be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TopologyError {
    /// It is there, but differs.
    #[error(
        "{what} is there already, but otherwise than asked for: {text}. Delete it, ask for what it \
         is, or take it as it is with existing()"
    )]
    Differs {
        /// What.
        what: String,
        /// The broker's words.
        text: String,
    },
    /// It should be there and is not.
    #[error("{what} is not there: {text}")]
    Missing {
        /// What.
        what: String,
        /// The broker's words.
        text: String,
    },
    /// The broker refuses it for another reason: rights, or a name that is reserved.
    #[error("the broker refuses {what}: {text}")]
    Refused {
        /// What.
        what: String,
        /// The broker's words.
        text: String,
    },
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Why a message was not published, or what is not known of it.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Nobody gets it: nothing is bound there, or there is no such queue. It was not kept.
    #[error("{target} leads to no queue: {text}")]
    Unroutable {
        /// Where it should have gone.
        target: String,
        /// The broker's words.
        text: String,
    },
    /// The broker did not take it: a queue is full, or may not be written to.
    #[error("the broker refuses a message to {target}: {text}")]
    Refused {
        /// Where it should have gone.
        target: String,
        /// The broker's words.
        text: String,
    },
    /// It is too large, and was not sent.
    #[error("a message of {size} bytes; at most {limit} can be sent, see claim checks")]
    TooLarge {
        /// How large, in bytes.
        size: u64,
        /// How large it may be, in bytes.
        limit: u64,
    },
    /// Its body is large and was to be kept in the store for such, which failed. The message was
    /// not sent.
    #[error("a body of {size} bytes cannot be put into {store}: {text}")]
    LargeBody {
        /// How large, in bytes.
        size: u64,
        /// The store.
        store: String,
        /// Its words.
        text: String,
    },
    /// It was not sent in time, as there was no connection, the broker takes none for now, or too
    /// many before it were not confirmed.
    #[error("not sent within {within:?}: {text}")]
    NotSent {
        /// How long it waited.
        within: Duration,
        /// What was the matter.
        text: String,
    },
    /// It was sent, and not confirmed: it may have been taken or not.
    #[error("sent, and not confirmed within {within:?}: nobody knows whether it was taken")]
    Unknown {
        /// How long it waited.
        within: Duration,
    },
    /// It cannot be written.
    #[error("a message cannot be written: {0}")]
    Codec(#[from] CodecError),
    /// It says nothing of where it should go, or something that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// What must be there cannot be made.
    #[error(transparent)]
    Topology(TopologyError),
    /// The bus was closed before it was sent.
    #[error("the bus was closed before the message was sent")]
    Closed,
}

impl From<TopologyError> for PublishError {
    fn from(error: TopologyError) -> Self {
        match error {
            TopologyError::Connect(ConnectError::Unreachable { address, within, text }) => {
                PublishError::NotSent {
                    within,
                    text: format!("no connection to {address}: {text}"),
                }
            }
            TopologyError::Connect(ConnectError::Closed) => PublishError::Closed,
            other => PublishError::Topology(other),
        }
    }
}

impl PublishError {
    /// Whether the message may have been taken nevertheless. Otherwise it certainly was not.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, PublishError::Unknown { .. })
    }
}

/// Why a queue cannot be consumed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubscribeError {
    /// What must be there cannot be made.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The broker refuses.
    #[error("queue {queue:?} cannot be consumed: {text}")]
    Refused {
        /// The queue.
        queue: String,
        /// The broker's words.
        text: String,
    },
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

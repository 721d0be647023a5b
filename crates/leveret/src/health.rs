//! How a bus is.

use std::time::{Duration, SystemTime};

/// How a bus and all it does is.
#[derive(Debug, Clone)]
pub struct Health {
    /// Its connections.
    pub connections: Vec<ConnectionHealth>,
    /// Its consumers.
    pub consumers: Vec<ConsumerHealth>,
    /// How many messages are not confirmed yet.
    pub unconfirmed: usize,
}

/// How a connection is.
#[derive(Debug, Clone)]
pub struct ConnectionHealth {
    /// What it is for.
    pub purpose: &'static str,
    /// Which broker it is to, or was last tried with.
    pub address: String,
    /// What it is doing.
    pub state: ConnectionState,
    /// How often it was made.
    pub connects: u64,
}

/// What a connection is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// All is well.
    Up,
    /// The broker takes no messages for now.
    Blocked {
        /// The broker's words.
        reason: String,
    },
    /// It is being made.
    Down {
        /// Since when.
        since: SystemTime,
        /// How often it was tried since then.
        attempts: u32,
        /// What happened last.
        error: String,
    },
    /// It was closed from here.
    Closed,
}

/// How a consumer is.
#[derive(Debug, Clone)]
pub struct ConsumerHealth {
    /// Its queue.
    pub queue: String,
    /// What it is doing.
    pub state: ConsumerState,
    /// How many messages it is handling.
    pub handling: usize,
    /// How many it has handled.
    pub handled: u64,
    /// How many tries failed.
    pub failed: u64,
    /// How many messages were put off, to be tried again.
    pub retried: u64,
    /// How many became dead letters.
    pub dead: u64,
    /// For how long the oldest has been handled that was not done at once: a handler without a
    /// timeout may hang.
    pub oldest: Option<Duration>,
    /// What failed last, and how long ago.
    pub last_error: Option<(String, Duration)>,
}

/// What a consumer is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsumerState {
    /// Getting messages.
    Consuming,
    /// Waiting for a connection, for its queue to be there again, or for the broker to take what
    /// follows a failure: the message again, or a dead letter.
    Waiting {
        /// What happened.
        reason: String,
    },
    /// Its circuit breaker is open: so many messages failed that it lets others wait.
    Paused,
    /// It was stopped.
    Stopped,
}

impl Health {
    /// Whether all is well: every connection up, every consumer consuming.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.connections.iter().all(|connection| connection.state == ConnectionState::Up)
            && self.consumers.iter().all(|consumer| {
                matches!(consumer.state, ConsumerState::Consuming | ConsumerState::Stopped)
            })
    }
}

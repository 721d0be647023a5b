//! The AMQP 0-9-1 front door: one [`serve`] a connection.
//!
//! A socket read is decoded into one batch of commands for the broker's session; what the session
//! is told is encoded into one write.
//!
//! # Layout
//! - `serve`: sockets, timers and buffers; all the I/O there is
//! - `connection`: the protocol's state, from bytes to commands; `handshake`: its beginning
//! - `channel`: the life of a channel
//! - `publish`: messages from the client; `content`: putting them together
//! - `operation`: other methods into commands
//! - `encode`: what the session is told, into bytes; `confirm`: coalescing publisher confirms
//! - `fault`: errors, their codes and what they close
//! - `fuzzing`: clients that do anything, for tests

mod channel;
mod confirm;
mod connection;
mod content;
mod encode;
mod fault;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod operation;
mod publish;
mod serve;
#[cfg(test)]
mod tests;

pub use handshake::RABBITMQ_VERSION;
pub use serve::serve;

//! One AMQP 0-9-1 connection, from the client's side: it logs in, opens channels, sends methods and
//! messages, and tells what comes back.
//!
//! There is no policy here: a connection that is lost stays lost, and everything that waited for it
//! is told so. Reconnecting, and what is to be said again then, is for who knows what it was for.
//!
//! A connection runs over any stream of bytes: TCP, TLS, a pipe within the process. One task owns
//! the stream ([`Connection::open`] spawns it); handles append what they send to its output, and it
//! hands out what comes, a batch for each read.
//!
//! # Layout
//! - `login`: whom to log in as, and the handshake
//! - `connection`: the handle, and what it shares with the task; `driver`: the task, all the I/O
//! - `channel`: calls, publishing, settling; `incoming`: what comes on a channel, put together
//! - `input`: reading
//! - `error`: how a connection or a channel ends

mod channel;
mod connection;
mod driver;
mod error;
mod incoming;
mod input;
mod login;
#[cfg(test)]
mod tests;

pub use channel::{Call, Channel, Event, Events};
pub use connection::Connection;
pub use error::{Error, Scope};
pub use incoming::{Answer, Delivery, Returned};
pub use login::Login;

pub use leveret_amqp_wire::method;
pub use leveret_model as model;

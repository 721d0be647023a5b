//! The AMQP 0-9-1 codec, with RabbitMQ's extensions, for servers and clients; does no I/O.
//!
//! Bytes come in as slices and go out into a `Vec<u8>`. Nothing is allocated for a length that a
//! peer merely claims. In the order in which a connection meets them:
//!
//! - [`frame`]: the protocol header, and frames; [`input`]: what clients read them from.
//! - [`method`]: every method as a struct and all of them as [`Method`]; the private `spec` is
//!   the list of them, `field` how their arguments are packed.
//! - [`content`]: what follows a method that carries a message: header and body frames.
//! - [`publish`]: the hot path: `basic.publish` as a view, and writers of `basic.deliver`,
//!   `basic.ack` and `basic.publish` that build nothing in between.
//! - [`error`]: what can be wrong with the bytes.

pub mod content;
pub mod error;
mod field;
pub mod frame;
pub mod input;
pub mod method;
pub mod publish;
mod spec;

pub use content::{ContentHeader, write_content};
pub use error::{ArgumentError, DecodeError, FrameError, HeaderError};
pub use frame::{Frame, ProtocolHeader};
pub use input::Input;
pub use method::Method;
pub use publish::{DeliverPrefix, PublishView};

#[cfg(test)]
mod tests;

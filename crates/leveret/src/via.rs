//! The transports there are.

pub(crate) mod amqp;
#[cfg(feature = "embedded")]
pub(crate) mod embedded;

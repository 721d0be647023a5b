//! Real servers for tests: each on loopback, on ports and in a directory of its own, and gone
//! when the test is, however the test ends.
//!
//! A server lives as long as its value. Where that is never dropped (statics, a killed test),
//! a shell that holds a pipe to the test process ends the server when the pipe closes, and
//! removes its directory; see `keeper`.
//!
//! Where a server is not installed, its `start` says `SKIPPED` and gives none; where `CI` is
//! set, that is a failure.

mod certificate;
mod cluster;
mod keeper;
mod leveret;
mod node;
mod place;
mod postgres;
mod rabbitmq;
mod realm;

pub use cluster::RabbitCluster;
pub use leveret::Leveret;
pub use place::{free_port, greets};
pub use postgres::Postgres;
pub use rabbitmq::RabbitMq;

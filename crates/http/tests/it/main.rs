//! The management API over real connections, before a real broker.

mod api;
mod limits;
mod server;

//! The HTTP front door: RabbitMQ's management API, as far as leveret has what it is about.
//!
//! Make one [`Api`] and [`serve`] each connection with it. What is there answers as RabbitMQ does,
//! with its field names, status codes and error texts, and says nothing that is not known; every
//! other path is a 404.
//!
//! # Layout
//! - `serve`: a connection and its limits; `patience`: the one that HTTP libraries lack.
//! - `api`: paths and their handlers; `caller`: who asks; `answer`: what all answers have in
//!   common.
//! - `overview`, `queues`, `whoami`: the handlers; `arguments`: field tables as JSON.

mod answer;
mod api;
mod arguments;
mod caller;
mod nodes;
mod overview;
mod patience;
mod queues;
mod serve;
mod whoami;

pub use api::{Api, Identity};
pub use serve::serve;

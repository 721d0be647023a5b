//! Configuration, listeners and shutdown: what stands between an operating system and the broker.
//!
//! `leveret serve` is its only caller. No other crate reads the environment or opens a listening
//! socket.

pub mod config;
mod listener;
mod logging;
mod machine;
mod net_threads;
pub mod server;
mod setting;
mod value;

pub use config::{ConfigError, Flags, Origin};
pub use server::{ServerError, run};
pub use setting::{Config, SETTINGS, Setting};
pub use value::{LogFilter, Secret};

//! The log of a server: to standard error, a line an event.

use crate::value::LogFilter;
use std::io::{IsTerminal, stderr};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging, unless the program that embeds the server already logs in its own way.
pub(crate) fn start(filter: &LogFilter) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false);
    let _ = tracing_subscriber::registry().with(filter.0.clone()).with(lines).try_init();
}

//! What the examples have in common: they are told on the command line which part to play, and by
//! the environment variable `BUS` where the broker is.

use leveret::{Bus, Error, Result};

/// Connects to the broker that `BUS` names, or else to one on this machine.
///
/// # Errors
/// [`Error::Connect`] if it is not there.
pub async fn connect() -> Result<Bus> {
    Bus::connect(&url()).await
}

/// The broker that `BUS` names, or else one on this machine.
#[must_use]
pub fn url() -> String {
    std::env::var("BUS").unwrap_or_else(|_| "amqp://guest:guest@localhost".to_owned())
}

/// The part to play, and what else was said.
#[must_use]
pub fn part() -> (String, Vec<String>) {
    let mut arguments = std::env::args().skip(1);
    (arguments.next().unwrap_or_default(), arguments.collect())
}

/// There is no such part.
///
/// # Errors
/// Always.
pub fn no_part(known: &str) -> Result {
    Err(Error::Invalid(format!("say which part to play: {known}")))
}

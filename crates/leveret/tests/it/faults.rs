//! Brokers and networks that fail while messages flow: nothing is lost, and nothing handled twice.
//!
//! `LEVERET_FAULT_ROUNDS` makes it longer, so many times.

mod alarms;
mod bad_messages;
mod deletions;
mod logins;
mod networks;
mod restarts;
mod undeliverable;

/// How often everything is done.
fn rounds() -> u64 {
    std::env::var("LEVERET_FAULT_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

//! What the text of a setting may be, and the types that are not the standard library's.

use crate::machine;
use leveret_model::limits::{
    MEMORY_BYTES_MIN, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SHORT_STRING_BYTES_MAX,
};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// Most threads for connections that may be asked for.
const THREADS_MAX: usize = 1024;
/// Longest user name in bytes: it has to fit an AMQP short string.
const USER_NAME_BYTES_MAX: usize = SHORT_STRING_BYTES_MAX;

/// A text that is not shown, whatever prints the value that holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one who must have it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Which log events are written.
#[derive(Debug, Clone, PartialEq)]
pub struct LogFilter(pub(crate) Targets);

pub(crate) fn parsed<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

pub(crate) fn directory(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

pub(crate) fn port(text: &str) -> Option<Option<u16>> {
    let port = text.parse().ok()?;
    Some((port != 0).then_some(port))
}

pub(crate) fn user_name(text: &str) -> Option<String> {
    (1..=USER_NAME_BYTES_MAX).contains(&text.len()).then(|| text.to_owned())
}

pub(crate) fn password(text: &str) -> Option<Secret> {
    (!text.is_empty()).then(|| Secret(text.to_owned()))
}

pub(crate) fn threads(text: &str) -> Option<usize> {
    if text == "auto" {
        return Some(std::thread::available_parallelism().map_or(1, usize::from));
    }
    text.parse().ok().filter(|count| (1..=THREADS_MAX).contains(count))
}

pub(crate) fn memory(text: &str) -> Option<usize> {
    if text == "auto" {
        return Some(machine::share().max(MEMORY_BYTES_MIN));
    }
    size(text).filter(|bytes| *bytes >= MEMORY_BYTES_MIN)
}

pub(crate) fn segment_size(text: &str) -> Option<u64> {
    let bytes = size(text)? as u64;
    (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes).then_some(bytes)
}

/// None where the disk decides.
pub(crate) fn disk_mark(text: &str) -> Option<Option<u64>> {
    if text == "auto" {
        return Some(None);
    }
    Some(Some(size(text)? as u64))
}

/// A number of bytes, with one of RabbitMQ's units or without.
pub(crate) fn size(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (base, power): (usize, u32) = match unit.trim_start() {
        "" | "B" => (1, 0),
        "k" | "K" | "kiB" | "KiB" => (1024, 1),
        "M" | "MiB" => (1024, 2),
        "G" | "GiB" => (1024, 3),
        "kB" | "KB" => (1000, 1),
        "MB" => (1000, 2),
        "GB" => (1000, 3),
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(base.pow(power))
}

pub(crate) fn log_filter(text: &str) -> Option<LogFilter> {
    // `Targets` takes a word that is no level for a module of which everything is logged, and no
    // word at all for everything: both are typing errors here.
    let level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let sensible = |part: &str| part.contains('=') || level(part.trim());
    text.split(',').all(sensible).then(|| text.parse().ok().map(LogFilter))?
}

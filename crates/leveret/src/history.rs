//! What a message has been through, in headers of its own: brokers do not count, or forget.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::letter::{Headers, Letter};
use crate::transport::Inbound;

/// How often it has come and failed.
const ATTEMPTS: &str = "leveret-attempts";
/// When it failed first, in milliseconds since 1970.
const FIRST_FAILURE: &str = "leveret-first-failure";
/// Where it was published first.
const EXCHANGE: &str = "leveret-exchange";
const SUBJECT: &str = "leveret-subject";
/// The queue whose consumer failed.
const QUEUE: &str = "leveret-queue";
/// Its failures, as JSON.
const HISTORY: &str = "leveret-history";
/// Why it is a dead letter, and since when.
const DEAD_REASON: &str = "leveret-dead-reason";
const DEAD_SINCE: &str = "leveret-dead-since";

/// How many failures are kept: the first, and the last ones.
const FAILURES_MAX: usize = 10;
/// How much is kept of an error's text, in bytes: all of it must fit into a frame of headers.
const ERROR_BYTES_MAX: usize = 500;

/// What the toolkit's own headers begin with.
const OURS: &str = "leveret-";
/// A header that is larger is not kept, and a name that is longer is shortened, where a message has
/// no room otherwise, in bytes.
const KEPT_BYTES_MAX: usize = 1024;
const SHORT_BYTES_MAX: usize = 250;

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// The error's type.
    pub kind: String,
    /// The error's text, maybe not all of it.
    pub error: String,
}

pub(crate) fn attempts(headers: &Headers) -> u32 {
    headers.number(ATTEMPTS).map_or(0, |attempts| u32::try_from(attempts).unwrap_or(u32::MAX))
}

pub(crate) fn first_failure(headers: &Headers) -> Option<u64> {
    headers.number(FIRST_FAILURE)
}

pub(crate) fn queue(headers: &Headers) -> Option<&str> {
    headers.get(QUEUE)
}

pub(crate) fn dead_reason(headers: &Headers) -> Option<&str> {
    headers.get(DEAD_REASON)
}

pub(crate) fn dead_since(headers: &Headers) -> Option<u64> {
    headers.number(DEAD_SINCE)
}

/// Its failures, the oldest first.
pub(crate) fn failures(headers: &Headers) -> Vec<Failed> {
    // What is not ours is as good as nothing.
    headers.get(HISTORY).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Where a message was published first.
pub(crate) fn origin(inbound: &Inbound) -> (&str, &str) {
    let headers = &inbound.letter.headers;
    match (headers.get(EXCHANGE), headers.get(SUBJECT)) {
        (Some(exchange), Some(subject)) => (exchange, subject),
        _ => (&inbound.exchange, &inbound.subject),
    }
}

/// Writes down that a message failed.
pub(crate) fn note(
    letter: &mut Letter,
    inbound: &Inbound,
    queue: &str,
    now: u64,
    failure: &Failure,
) {
    let (exchange, subject) = origin(inbound);
    let headers = &mut letter.headers;
    let attempt = attempts(headers).saturating_add(1);
    let mut failures = failures(headers);
    failures.push(Failed {
        at: now,
        attempt,
        kind: shorten(failure.kind, ERROR_BYTES_MAX),
        error: shorten(&failure.to_string(), ERROR_BYTES_MAX),
    });
    if failures.len() > FAILURES_MAX {
        failures.remove(1);
    }
    // Texts and numbers can be written.
    headers.set(HISTORY, serde_json::to_string(&failures).unwrap_or_default());
    headers.set(ATTEMPTS, attempt.to_string());
    headers.set(EXCHANGE, exchange);
    headers.set(SUBJECT, subject);
    headers.set(QUEUE, queue);
    if headers.get(FIRST_FAILURE).is_none() {
        headers.set(FIRST_FAILURE, now.to_string());
    }
}

/// Writes down that a message is a dead letter.
pub(crate) fn bury(letter: &mut Letter, now: u64, reason: &str) {
    letter.headers.set(DEAD_REASON, reason);
    letter.headers.set(DEAD_SINCE, now.to_string());
    // A dead letter is for people: it is kept, whatever the message was.
    letter.transient = false;
}

/// Leaves something out of a message that has no room as it is: how it failed first, though not how
/// often; then the program's headers, and what grew too long when it was read as text. Whether
/// there was something to leave out.
pub(crate) fn lighten(letter: &mut Letter) -> bool {
    if letter.headers.remove(HISTORY).is_some() {
        return true;
    }
    let before = letter.clone();
    letter.headers.retain(|name, value| name.starts_with(OURS) && value.len() <= KEPT_BYTES_MAX);
    letter.key.take_if(|key| key.len() > KEPT_BYTES_MAX);
    letter.id = shorten(&letter.id, SHORT_BYTES_MAX);
    letter.name = shorten(&letter.name, SHORT_BYTES_MAX).into();
    letter.payload.content_type = shorten(&letter.payload.content_type, SHORT_BYTES_MAX).into();
    for text in [&mut letter.reply_to, &mut letter.correlation_id].into_iter().flatten() {
        *text = shorten(text, SHORT_BYTES_MAX);
    }
    *letter != before
}

/// Gives a dead letter a new life. What it has been through stays written down.
pub(crate) fn revive(letter: &mut Letter) {
    for name in [ATTEMPTS, FIRST_FAILURE, DEAD_REASON, DEAD_SINCE] {
        letter.headers.remove(name);
    }
}

/// A text's beginning, of at most so many bytes; what is left out is marked.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Token;

    fn inbound() -> Inbound {
        Inbound {
            token: Token { epoch: 1, tag: 1 },
            redelivered: false,
            deliveries: None,
            exchange: "events".to_owned(),
            subject: "order.created".to_owned(),
            letter: Letter::default(),
        }
    }

    #[test]
    fn failures_are_written_down_and_stay_few() {
        let mut inbound = inbound();
        let long = "ä".repeat(1_000);
        for attempt in 1..=30 {
            let mut letter = inbound.letter.clone();
            note(&mut letter, &inbound, "billing", attempt, &Failure::transient(long.as_str()));
            inbound.letter = letter;
            // It comes from its queue from then on.
            inbound.exchange.clear();
            inbound.subject = "billing".to_owned();
        }
        let headers = &inbound.letter.headers;
        assert_eq!((attempts(headers), first_failure(headers)), (30, Some(1)));
        assert_eq!(origin(&inbound), ("events", "order.created"));
        let failures = failures(headers);
        let attempts: Vec<u32> = failures.iter().map(|failed| failed.attempt).collect();
        assert_eq!(attempts, [1, 22, 23, 24, 25, 26, 27, 28, 29, 30]);
        assert!(failures.iter().all(|failed| failed.error.len() <= ERROR_BYTES_MAX + 3));
        assert!(headers.get(HISTORY).is_some_and(|text| text.len() < 8_192));
        revive(&mut inbound.letter);
        assert_eq!(super::attempts(&inbound.letter.headers), 0);
    }

    #[test]
    fn a_message_without_room_loses_its_history_first_and_then_its_headers() {
        let inbound = inbound();
        let mut letter = Letter { id: "i".repeat(300), ..Letter::default() };
        letter.headers.set("own", "o".repeat(100_000));
        letter.headers.set("leveret-mine", "m".repeat(KEPT_BYTES_MAX + 1));
        note(&mut letter, &inbound, "billing", 1, &Failure::transient("no"));
        assert!(lighten(&mut letter));
        assert!(failures(&letter.headers).is_empty());
        assert_eq!((attempts(&letter.headers), letter.id.len()), (1, 300));
        assert!(letter.headers.get("own").is_some());
        assert!(lighten(&mut letter));
        assert_eq!(letter.id, format!("{}…", "i".repeat(SHORT_BYTES_MAX)));
        assert!(letter.headers.iter().all(|(_, value)| value.len() <= KEPT_BYTES_MAX));
        assert_eq!((attempts(&letter.headers), queue(&letter.headers)), (1, Some("billing")));
        assert!(!lighten(&mut letter), "there is nothing left to leave out");
    }
}

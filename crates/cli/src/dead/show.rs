//! Dead letters as text for people, and as JSON. What came from elsewhere is shown without control
//! characters, which a terminal would obey.

use leveret::DeadLetter;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// Bytes in a line of a body that is no text.
const HEX_LINE: usize = 16;
/// The header that is shown as the failures it is about.
const HISTORY: &str = "leveret-history";

/// The dead letters of a queue.
pub(crate) struct List<'a> {
    /// The queue they wait in.
    pub(crate) queue: &'a str,
    /// How many there are.
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) letters: &'a [DeadLetter],
    /// How many are to be listed.
    pub(crate) most: usize,
}

impl List<'_> {
    /// How many have which last error, the most frequent ones first.
    fn kinds(&self) -> Vec<(&str, u64)> {
        let mut kinds = BTreeMap::new();
        for letter in self.letters {
            *kinds.entry(kind(letter)).or_default() += 1;
        }
        let mut kinds: Vec<(&str, u64)> = kinds.into_iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        kinds
    }

    fn listed(&self) -> impl Iterator<Item = &DeadLetter> {
        self.letters.iter().take(self.most)
    }

    /// A summary, and a paragraph for each.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} in {:?}", self.count, self.queue);
        if (self.letters.len() as u64) < self.count {
            text += &format!("; the first {} by their last error", self.letters.len());
        }
        text.push('\n');
        for (kind, count) in self.kinds() {
            text += &format!("{count:>8}  {}\n", Plain(kind));
        }
        for letter in self.listed() {
            let attempts = attempts(letter).map_or("-".to_owned(), |attempts| attempts.to_string());
            let (id, reason) = (Plain(id(letter)), Plain(&letter.reason));
            text +=
                &format!("\n{id}\n    since {}, attempts {attempts}: {reason}\n", since(letter));
            if let Some(failed) = letter.failures.last() {
                text += &format!("    {}: {}\n", Plain(&failed.kind), Plain(&failed.error));
            }
        }
        text
    }

    /// The same as a JSON object, on a line.
    pub(crate) fn json(&self) -> String {
        let kinds: Vec<Value> = self
            .kinds()
            .into_iter()
            .map(|(kind, count)| json!({ "kind": kind, "count": count }))
            .collect();
        let letters: Vec<Value> = self
            .listed()
            .map(|letter| {
                json!({
                    "id": letter.letter.id,
                    "since": letter.since.map(time),
                    "attempts": attempts(letter),
                    "kind": letter.failures.last().map(|failed| &failed.kind),
                    "error": letter.failures.last().map(|failed| &failed.error),
                    "reason": letter.reason,
                    "subject": letter.subject,
                    "bytes": letter.letter.body().len(),
                })
            })
            .collect();
        let list = json!({
            "queue": self.queue,
            "count": self.count,
            "counted": self.letters.len(),
            "kinds": kinds,
            "letters": letters,
        });
        format!("{list}\n")
    }
}

/// All of a dead letter.
pub(crate) fn whole(dead: &DeadLetter) -> String {
    let letter = &dead.letter;
    let mut text = String::new();
    let mut line = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            text += &format!("{name:<14} {}\n", Plain(value));
        }
    };
    line("id", Some(id(dead)));
    line("since", Some(&since(dead)));
    line("reason", Some(&dead.reason));
    line("queue", Some(&dead.queue));
    line("exchange", Some(&dead.exchange));
    line("subject", Some(&dead.subject));
    line("type", Some(&letter.name));
    line("key", letter.key.as_deref());
    line("sent", letter.sent_at.map(time).as_deref());
    line("reply to", letter.reply_to.as_deref());
    line("correlation", letter.correlation_id.as_deref());
    line("priority", letter.priority.map(|priority| priority.to_string()).as_deref());
    line("content type", Some(&letter.payload.content_type));
    if !letter.headers.is_empty() {
        text += "\nheaders\n";
    }
    for (name, value) in letter.headers.iter().filter(|(name, _)| *name != HISTORY) {
        text += &format!("    {}: {}\n", Plain(name), Plain(value));
    }
    if !dead.failures.is_empty() {
        text += "\nfailures\n";
    }
    for failed in &dead.failures {
        let (kind, error) = (Plain(&failed.kind), Plain(&failed.error));
        text += &format!("    {}, attempt {}: {kind}: {error}\n", time(failed.at), failed.attempt);
    }
    text += &format!("\nbody, {} bytes\n", letter.body().len());
    body(letter.body(), &mut text);
    text
}

/// A body as text, if it is some that a terminal can take, or else in hexadecimal digits.
fn body(body: &[u8], out: &mut String) {
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    match std::str::from_utf8(body) {
        Ok(text) if text.chars().all(harmless) => {
            out.push_str(text);
            if !text.is_empty() && !text.ends_with('\n') {
                out.push('\n');
            }
        }
        _ => {
            for (number, line) in body.chunks(HEX_LINE).enumerate() {
                let digits: String = line.iter().map(|byte| format!(" {byte:02x}")).collect();
                let visible = |byte: &u8| match byte {
                    b' '..=b'~' => char::from(*byte),
                    _ => '.',
                };
                let visible: String = line.iter().map(visible).collect();
                *out += &format!("{:08x} {digits:<48}  {visible}\n", number * HEX_LINE);
            }
        }
    }
}

fn id(dead: &DeadLetter) -> &str {
    if dead.letter.id.is_empty() { "(without an id)" } else { &dead.letter.id }
}

/// The type of the last error.
fn kind(dead: &DeadLetter) -> &str {
    // What the broker gave up itself has none.
    dead.failures.last().map_or(&dead.reason, |failed| &failed.kind)
}

fn attempts(dead: &DeadLetter) -> Option<u32> {
    dead.failures.last().map(|failed| failed.attempt)
}

fn since(dead: &DeadLetter) -> String {
    dead.since.map_or("-".to_owned(), time)
}

/// A time in UTC, as in ISO 8601, from milliseconds since 1970.
fn time(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // Years that begin in March have their leap day at the end; 719,468 days from such a year 0 to
    // 1970, 146,097 in four centuries.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, late) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + late;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Text on one line, without what a terminal would obey.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(time(seconds * 1000), text);
        }
        assert!(!time(u64::MAX).is_empty());
    }

    #[test]
    fn terminals_are_told_nothing() {
        assert_eq!(Plain("a\u{1b}[2J\nö").to_string(), "a\\u{1b}[2J\\nö");
        let shown = |bytes: &[u8]| {
            let mut text = String::new();
            body(bytes, &mut text);
            text
        };
        assert_eq!(shown("grün\n\tgut".as_bytes()), "grün\n\tgut\n");
        assert_eq!(
            shown(b"\x1b[2J and then some"),
            "00000000  1b 5b 32 4a 20 61 6e 64 20 74 68 65 6e 20 73 6f  .[2J and then so\n\
             00000010  6d 65                                            me\n"
        );
        assert_eq!(shown(b""), "");
    }
}

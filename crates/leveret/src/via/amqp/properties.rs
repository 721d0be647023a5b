//! Letters as AMQP's properties, and back.

use std::borrow::Cow;
use std::time::Duration;

use leveret_client::Delivery;
use leveret_client::model::properties::PERSISTENT;
use leveret_client::model::{FieldTable, FieldValue, ShortString};

use super::delay;
use crate::error::PublishError;
use crate::letter::{Headers, Letter};

/// The bits of properties in their flags (AMQP 0-9-1, 4.2.6.1).
const CONTENT_TYPE: u16 = 15;
const CONTENT_ENCODING: u16 = 14;
const HEADERS: u16 = 13;
const DELIVERY_MODE: u16 = 12;
const PRIORITY: u16 = 11;
const CORRELATION_ID: u16 = 10;
const REPLY_TO: u16 = 9;
const EXPIRATION: u16 = 8;
const MESSAGE_ID: u16 = 7;
const TIMESTAMP: u16 = 6;
const KIND: u16 = 5;

/// What most bodies are.
const JSON: &str = "application/json";
/// The header of a letter's key.
const KEY: &str = "leveret-key";
/// How often a quorum queue has delivered a message before.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// What brokers write on dead letters. It says nothing of a message that was only put off, and a
/// broker that found it on a new message would think that it goes round in circles.
const DEATHS: [&str; 3] = ["x-death", "x-first-death-", "x-last-death-"];

/// Appends a letter's properties, with some more headers. Nothing is built in between: each message
/// goes through here.
pub(crate) fn encode(
    letter: &Letter,
    more: FieldTable,
    out: &mut Vec<u8>,
) -> Result<(), PublishError> {
    let headers = headers(letter, more)?;
    let expiration = letter.expires.map(|expires| expires.as_millis().to_string());
    let mut flags = 1 << DELIVERY_MODE;
    let at = out.len();
    out.extend_from_slice(&[0; 2]);
    let mut text = |bit: u16, what: &str, text: Option<&str>, out: &mut Vec<u8>| match text {
        None | Some("") => Ok(()),
        Some(text) => {
            flags |= 1 << bit;
            short_string(what, text, out)
        }
    };
    text(CONTENT_TYPE, "the content type", Some(&letter.payload.content_type), out)?;
    let has_headers = !headers.is_empty();
    if has_headers {
        headers.encode(out);
    }
    out.push(if letter.transient { 1 } else { PERSISTENT });
    out.extend(letter.priority);
    text(CORRELATION_ID, "the correlation id", letter.correlation_id.as_deref(), out)?;
    text(REPLY_TO, "the address of the answer", letter.reply_to.as_deref(), out)?;
    text(EXPIRATION, "the expiry", expiration.as_deref(), out)?;
    text(MESSAGE_ID, "the message's id", Some(&letter.id), out)?;
    if let Some(at) = letter.sent_at {
        out.extend_from_slice(&(at / 1000).to_be_bytes());
    }
    text(KIND, "the message's name", Some(&letter.name), out)?;
    flags |= u16::from(has_headers) << HEADERS;
    flags |= u16::from(letter.priority.is_some()) << PRIORITY;
    flags |= u16::from(letter.sent_at.is_some()) << TIMESTAMP;
    out[at..at + 2].copy_from_slice(&flags.to_be_bytes());
    Ok(())
}

/// No name is looked for among the others: there may be many.
fn headers(letter: &Letter, more: FieldTable) -> Result<FieldTable, PublishError> {
    if letter.headers.is_empty() && letter.key.is_none() {
        return Ok(more);
    }
    let key = letter.key.as_deref().map(|key| (KEY, key));
    let own = letter.headers.iter().chain(key).map(|(name, value)| {
        let name = ShortString::try_from(name)
            .map_err(|error| PublishError::Invalid(format!("the name of a header: {error}")))?;
        Ok((name, FieldValue::from(value)))
    });
    more.into_iter().map(Ok).chain(own).collect()
}

/// Appends a short string.
pub(crate) fn short_string(what: &str, text: &str, out: &mut Vec<u8>) -> Result<(), PublishError> {
    let length = u8::try_from(text.len()).map_err(|_| {
        PublishError::Invalid(format!("{what} has {} bytes; 255 have room", text.len()))
    })?;
    out.push(length);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// What a delivery's properties say, and how often it was delivered before. A broker checks what it
/// takes; what is not understood nevertheless is left out, as the body may do without.
pub(crate) fn decode(delivery: &Delivery) -> (Letter, Option<u64>) {
    let mut letter = Letter { transient: true, ..Letter::default() };
    letter.payload.body = delivery.body();
    let mut deliveries = None;
    let mut list = List { rest: delivery.properties() };
    // Without all of the list what was read so far counts.
    let _ = read(&mut list, &mut letter, &mut deliveries);
    delay::clear(&mut letter.headers);
    letter.key = letter.headers.remove(KEY);
    (letter, deliveries)
}

fn read(list: &mut List<'_>, letter: &mut Letter, deliveries: &mut Option<u64>) -> Option<()> {
    let flags = u16::from_be_bytes(list.take()?);
    let has = |bit: u16| flags >> bit & 1 == 1;
    fn text<'a>(has: bool, list: &mut List<'a>) -> Option<Option<&'a str>> {
        if has { list.short_string().map(Some) } else { Some(None) }
    }
    letter.payload.content_type = match text(has(CONTENT_TYPE), list)? {
        Some(JSON) => Cow::Borrowed(JSON),
        other => Cow::Owned(other.unwrap_or_default().to_owned()),
    };
    text(has(CONTENT_ENCODING), list)?;
    if has(HEADERS) {
        let table = FieldTable::decode(&mut list.rest).ok()?;
        *deliveries = read_headers(&table, &mut letter.headers);
    }
    if has(DELIVERY_MODE) {
        letter.transient = list.take()? != [PERSISTENT];
    }
    if has(PRIORITY) {
        letter.priority = list.take().map(|[priority]| priority);
    }
    letter.correlation_id = text(has(CORRELATION_ID), list)?.map(str::to_owned);
    letter.reply_to = text(has(REPLY_TO), list)?.map(str::to_owned);
    let expires = text(has(EXPIRATION), list)?.and_then(|text| text.parse().ok());
    letter.expires = expires.map(Duration::from_millis);
    letter.id = text(has(MESSAGE_ID), list)?.unwrap_or_default().to_owned();
    if has(TIMESTAMP) {
        letter.sent_at = Some(u64::from_be_bytes(list.take()?).saturating_mul(1000));
    }
    letter.name = Cow::Owned(text(has(KIND), list)?.unwrap_or_default().to_owned());
    Some(())
}

/// Puts headers to the letter's, and says how often the message was delivered before.
fn read_headers(table: &FieldTable, headers: &mut Headers) -> Option<u64> {
    let mut deliveries = None;
    for (name, value) in table.iter() {
        let name = name.to_string();
        if name == DELIVERY_COUNT {
            deliveries = value.as_integer().and_then(|count| u64::try_from(count).ok());
        } else if !DEATHS.iter().any(|death| name.starts_with(death))
            && let Some(value) = plain(value)
        {
            headers.push(name, value);
        }
    }
    deliveries
}

/// A list of properties that is being read.
struct List<'a> {
    rest: &'a [u8],
}

impl<'a> List<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    /// A short string; empty if it is not UTF-8.
    fn short_string(&mut self) -> Option<&'a str> {
        let [length] = self.take()?;
        let (text, rest) = self.rest.split_at_checked(length.into())?;
        self.rest = rest;
        Some(std::str::from_utf8(text).unwrap_or_default())
    }
}

/// A header's value as text; tables and lists, such as `x-death`, are left out.
fn plain(value: &FieldValue) -> Option<String> {
    match value {
        FieldValue::LongString(text) => Some(String::from_utf8_lossy(text).into_owned()),
        FieldValue::Bool(value) => Some(value.to_string()),
        FieldValue::Float(value) => Some(value.to_string()),
        FieldValue::Double(value) => Some(value.to_string()),
        FieldValue::Timestamp(value) => Some(value.to_string()),
        other => other.as_integer().map(|value| value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_table_full_of_headers_is_soon_read_and_written() {
        let named = |number: u32| {
            let name = ShortString::try_from(format!("{number}").as_str()).unwrap();
            (name, FieldValue::from("first"))
        };
        let last = (ShortString::from_static("7"), FieldValue::from("last"));
        let table: FieldTable = (0..40_000).map(named).chain([last]).collect();
        let start = Instant::now();
        let mut letter = Letter::default();
        read_headers(&table, &mut letter.headers);
        assert_eq!(letter.headers.get("7"), Some("last"));
        assert_eq!(letter.headers.get("39999"), Some("first"));
        assert_eq!(headers(&letter, FieldTable::new()).unwrap().len(), 40_001);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert_eq!(letter.headers.remove("7").as_deref(), Some("last"));
        assert_eq!(letter.headers.get("7"), None);
    }
}

//! A message's properties: the flags and the list that follow the body size in an AMQP content
//! header.
//!
//! [`scan`] is for messages that pass through: it checks the list and finds what routing needs
//! without a copy. [`Properties`] is for those that are looked at or changed.

use crate::limits::EXPIRATION_MS_MAX;
use crate::name::ShortString;
use crate::table::{FieldTable, TableError};

/// The delivery mode of a message that is to survive a restart.
pub const PERSISTENT: u8 = 2;

/// Bytes that are not a property list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PropertiesError {
    /// The flags name more properties than there are bytes.
    #[error("property list ends early")]
    Truncated,
    /// Bytes behind the last property.
    #[error("{0} bytes after the last property")]
    TrailingBytes(usize),
    /// A flag of no property, or one that announces more flags.
    #[error("unknown property flags {0:#06x}")]
    UnknownFlags(u16),
    /// The headers are not a field table.
    #[error("headers: {0}")]
    Headers(#[from] TableError),
}

/// How a property of one type is read and written.
trait Property: Sized {
    fn read(input: &mut &[u8]) -> Result<Self, PropertiesError>;
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! properties {
    ($($(#[$doc:meta])* $field:ident $flag:ident: $type:ty = $bit:literal;)*) => {
        /// The fourteen properties of a message; each may be absent.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Properties {
            $($(#[$doc])* pub $field: Option<$type>,)*
        }

        $(const $flag: u16 = 1 << $bit;)*
        const KNOWN: u16 = $($flag)|*;

        impl Properties {
            /// Reads flags and list; `raw` holds nothing else.
            ///
            /// # Errors
            /// [`PropertiesError`] if the bytes are not a property list.
            pub fn decode(raw: &[u8]) -> Result<Self, PropertiesError> {
                let (flags, mut rest) = read_flags(raw)?;
                let properties = Properties {
                    $($field: if flags & $flag == 0 {
                        None
                    } else {
                        Some(<$type>::read(&mut rest)?)
                    },)*
                };
                nothing_left(rest)?;
                Ok(properties)
            }

            /// Appends flags and list.
            ///
            /// # Panics
            /// If the headers take more than 4 GiB.
            pub fn encode(&self, out: &mut Vec<u8>) {
                let mut flags = 0;
                $(flags |= if self.$field.is_some() { $flag } else { 0 };)*
                out.extend_from_slice(&flags.to_be_bytes());
                $(if let Some(value) = &self.$field {
                    value.write(out);
                })*
            }
        }
    };
}

properties! {
    /// MIME type of the body.
    content_type CONTENT_TYPE: ShortString = 15;
    /// MIME encoding of the body.
    content_encoding CONTENT_ENCODING: ShortString = 14;
    /// The application's headers, and the broker's.
    headers HEADERS: FieldTable = 13;
    /// 1 for transient, 2 for persistent.
    delivery_mode DELIVERY_MODE: u8 = 12;
    /// Priority in a priority queue.
    priority PRIORITY: u8 = 11;
    /// What a reply is a reply to.
    correlation_id CORRELATION_ID: ShortString = 10;
    /// Where to reply.
    reply_to REPLY_TO: ShortString = 9;
    /// Time to live, in milliseconds, as decimal text.
    expiration EXPIRATION: ShortString = 8;
    /// The application's name for the message.
    message_id MESSAGE_ID: ShortString = 7;
    /// When it was sent, in seconds since 1970.
    timestamp TIMESTAMP: u64 = 6;
    /// The application's word for the kind of message (`type`).
    kind KIND: ShortString = 5;
    /// The user who sent it; a broker checks that.
    user_id USER_ID: ShortString = 4;
    /// The application that sent it.
    app_id APP_ID: ShortString = 3;
    /// Unused.
    cluster_id CLUSTER_ID: ShortString = 2;
}

/// What [`scan`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan<'a> {
    /// 1 for transient, 2 for persistent.
    pub delivery_mode: Option<u8>,
    /// Priority in a priority queue.
    pub priority: Option<u8>,
    /// Where to reply.
    pub reply_to: Option<&'a [u8]>,
    /// Time to live, in milliseconds, as decimal text, for [`expiration`]; not checked.
    pub expiration: Option<&'a [u8]>,
    /// The user who sent it.
    pub user_id: Option<&'a [u8]>,
    /// The content of the header table, without its length, for
    /// [`FieldTable::decode_content`] or [`FieldTable::check_content`]; not checked.
    pub headers: Option<&'a [u8]>,
}

impl Scan<'_> {
    /// Whether the message is to survive a restart.
    #[must_use]
    #[inline]
    pub fn is_persistent(&self) -> bool {
        self.delivery_mode == Some(PERSISTENT)
    }
}

/// Checks a property list and finds in it what routing needs, without a copy. It refuses what
/// [`Properties::decode`] refuses, except that it does not look into the header table.
///
/// # Errors
/// [`PropertiesError`] if the bytes are not a property list.
#[inline]
pub fn scan(raw: &[u8]) -> Result<Scan<'_>, PropertiesError> {
    match *raw {
        [0, 0] => Ok(Scan::default()),
        // The flags of a delivery mode alone.
        [0x10, 0, mode] => Ok(Scan { delivery_mode: Some(mode), ..Scan::default() }),
        _ => scan_list(raw),
    }
}

fn scan_list(raw: &[u8]) -> Result<Scan<'_>, PropertiesError> {
    let (flags, mut rest) = read_flags(raw)?;
    let has = |flag: u16| flags & flag != 0;
    let mut scan = Scan::default();
    skip_short_strings(&mut rest, flags & (CONTENT_TYPE | CONTENT_ENCODING))?;
    if has(HEADERS) {
        scan.headers = Some(long_string(&mut rest)?);
    }
    if has(DELIVERY_MODE) {
        scan.delivery_mode = Some(u8::read(&mut rest)?);
    }
    if has(PRIORITY) {
        scan.priority = Some(u8::read(&mut rest)?);
    }
    skip_short_strings(&mut rest, flags & CORRELATION_ID)?;
    if has(REPLY_TO) {
        scan.reply_to = Some(short_string(&mut rest)?);
    }
    if has(EXPIRATION) {
        scan.expiration = Some(short_string(&mut rest)?);
    }
    skip_short_strings(&mut rest, flags & MESSAGE_ID)?;
    if has(TIMESTAMP) {
        chunk::<8>(&mut rest)?;
    }
    skip_short_strings(&mut rest, flags & KIND)?;
    if has(USER_ID) {
        scan.user_id = Some(short_string(&mut rest)?);
    }
    skip_short_strings(&mut rest, flags & (APP_ID | CLUSTER_ID))?;
    nothing_left(rest)?;
    Ok(scan)
}

/// Why a time to live is none. The texts are RabbitMQ's terms (rabbit_basic:parse_expiration).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpirationError {
    /// It does not begin with a number.
    #[error("no_integer")]
    NoInteger,
    /// Something comes behind the number.
    #[error("{{leftover_string,{0}}}")]
    Leftover(
        /// What, as Erlang writes a string.
        String,
    ),
    /// It has passed before it begins.
    #[error("{{value_negative,{0}}}")]
    Negative(
        /// The number.
        String,
    ),
    /// More than [`EXPIRATION_MS_MAX`].
    #[error("{{value_too_large,{0}}}")]
    TooLarge(
        /// The number.
        String,
    ),
}

/// Reads the property `expiration`: a time to live in milliseconds.
///
/// # Errors
/// [`ExpirationError`] where RabbitMQ has one.
pub fn expiration(text: &[u8]) -> Result<u64, ExpirationError> {
    let (negative, unsigned) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let digits = unsigned.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, left) = unsigned.split_at(digits);
    if digits.is_empty() {
        return Err(ExpirationError::NoInteger);
    }
    if !left.is_empty() {
        return Err(ExpirationError::Leftover(erlang_string(left)));
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    let digits = String::from_utf8_lossy(&digits[zeros..]);
    if digits.is_empty() {
        return Ok(0);
    }
    if negative {
        return Err(ExpirationError::Negative(format!("-{digits}")));
    }
    match digits.parse() {
        Ok(value) if value <= EXPIRATION_MS_MAX => Ok(value),
        _ => Err(ExpirationError::TooLarge(digits.into_owned())),
    }
}

/// Bytes as Erlang writes a list of them (`~tp`): as text if all are Latin-1 that can be printed.
fn erlang_string(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            0x08 => text.push_str("\\b"),
            0x0b => text.push_str("\\v"),
            0x0c => text.push_str("\\f"),
            0x1b => text.push_str("\\e"),
            b' '..=b'~' | 0xa0.. => text.push(char::from(byte)),
            _ => {
                let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
                return format!("[{}]", numbers.join(","));
            }
        }
    }
    text.push('"');
    text
}

/// Reads the flags. RabbitMQ ignores the two bits that stand for no property; a client that reads
/// them by the specification would take the rest for something else, so they are refused here.
fn read_flags(raw: &[u8]) -> Result<(u16, &[u8]), PropertiesError> {
    let (flags, rest) = raw.split_first_chunk::<2>().ok_or(PropertiesError::Truncated)?;
    let flags = u16::from_be_bytes(*flags);
    if flags & !KNOWN != 0 {
        return Err(PropertiesError::UnknownFlags(flags & !KNOWN));
    }
    Ok((flags, rest))
}

fn nothing_left(rest: &[u8]) -> Result<(), PropertiesError> {
    if rest.is_empty() { Ok(()) } else { Err(PropertiesError::TrailingBytes(rest.len())) }
}

/// Skips as many short strings as `flags` has bits.
fn skip_short_strings(input: &mut &[u8], flags: u16) -> Result<(), PropertiesError> {
    for _ in 0..flags.count_ones() {
        short_string(input)?;
    }
    Ok(())
}

fn short_string<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], PropertiesError> {
    let [len] = chunk(input)?;
    take(input, len.into())
}

fn long_string<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], PropertiesError> {
    let len = u32::from_be_bytes(chunk(input)?);
    take(input, usize::try_from(len).unwrap_or(usize::MAX))
}

fn take<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8], PropertiesError> {
    let (head, rest) = input.split_at_checked(len).ok_or(PropertiesError::Truncated)?;
    *input = rest;
    Ok(head)
}

fn chunk<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], PropertiesError> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or(PropertiesError::Truncated)?;
    *input = rest;
    Ok(*head)
}

impl Property for ShortString {
    fn read(input: &mut &[u8]) -> Result<Self, PropertiesError> {
        // A length of one byte always fits; the error cannot happen.
        Ok(ShortString::try_from(short_string(input)?).unwrap_or_default())
    }

    fn write(&self, out: &mut Vec<u8>) {
        // A short string holds at most 255 bytes.
        out.push(self.len() as u8);
        out.extend_from_slice(self.as_bytes());
    }
}

impl Property for FieldTable {
    fn read(input: &mut &[u8]) -> Result<Self, PropertiesError> {
        Ok(FieldTable::decode_content(long_string(input)?)?)
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl Property for u8 {
    fn read(input: &mut &[u8]) -> Result<Self, PropertiesError> {
        chunk(input).map(u8::from_be_bytes)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
}

impl Property for u64 {
    fn read(input: &mut &[u8]) -> Result<Self, PropertiesError> {
        chunk(input).map(u64::from_be_bytes)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }
}

#[cfg(test)]
#[path = "properties_tests.rs"]
mod tests;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::FieldValue;
use crate::table::tests::{short_strings, tables};

fn properties() -> impl Strategy<Value = Properties> {
    let first = (
        of(short_strings()),
        of(short_strings()),
        of(tables()),
        of(any::<u8>()),
        of(any::<u8>()),
        of(short_strings()),
        of(short_strings()),
    );
    let second = (
        of(short_strings()),
        of(short_strings()),
        of(any::<u64>()),
        of(short_strings()),
        of(short_strings()),
        of(short_strings()),
        of(short_strings()),
    );
    (first, second).prop_map(|(a, b)| Properties {
        content_type: a.0,
        content_encoding: a.1,
        headers: a.2,
        delivery_mode: a.3,
        priority: a.4,
        correlation_id: a.5,
        reply_to: a.6,
        expiration: b.0,
        message_id: b.1,
        timestamp: b.2,
        kind: b.3,
        user_id: b.4,
        app_id: b.5,
        cluster_id: b.6,
    })
}

fn encoded(properties: &Properties) -> Vec<u8> {
    let mut out = Vec::new();
    properties.encode(&mut out);
    out
}

/// What a scan of the bytes of `properties` must find; `headers` is its encoded table.
fn expected<'a>(properties: &'a Properties, headers: &'a [u8]) -> Scan<'a> {
    Scan {
        delivery_mode: properties.delivery_mode,
        priority: properties.priority,
        reply_to: properties.reply_to.as_ref().map(ShortString::as_bytes),
        expiration: properties.expiration.as_ref().map(ShortString::as_bytes),
        user_id: properties.user_id.as_ref().map(ShortString::as_bytes),
        headers: properties.headers.as_ref().map(|_| headers),
    }
}

fn content_of(headers: Option<&FieldTable>) -> Vec<u8> {
    let mut content = Vec::new();
    if let Some(table) = headers {
        table.encode_content(&mut content);
    }
    content
}

/// A property list with everything in it, as bytes written by hand.
const FULL: &[u8] = b"\xff\xfc\
    \x0atext/plain\x04gzip\
    \0\0\0\x04\x01at\x01\
    \x02\x09\
    \x01c\x01r\x0560000\x01m\
    \0\0\0\0\x65\0\0\0\
    \x01t\x05guest\x01a\0";

#[test]
fn reads_a_list_with_everything_in_its_place() {
    let properties = Properties::decode(FULL).unwrap();
    let text = |text| Some(ShortString::from_static(text));
    let mut headers = FieldTable::new();
    headers.insert(ShortString::from_static("a"), true);
    let wanted = Properties {
        content_type: text("text/plain"),
        content_encoding: text("gzip"),
        headers: Some(headers),
        delivery_mode: Some(2),
        priority: Some(9),
        correlation_id: text("c"),
        reply_to: text("r"),
        expiration: text("60000"),
        message_id: text("m"),
        timestamp: Some(0x6500_0000),
        kind: text("t"),
        user_id: text("guest"),
        app_id: text("a"),
        cluster_id: text(""),
    };
    assert_eq!(properties, wanted);
    assert_eq!(encoded(&wanted), FULL);
    let found = scan(FULL).unwrap();
    assert_eq!(found, expected(&wanted, b"\x01at\x01"));
    assert!(found.is_persistent());
}

#[test]
fn scans_the_usual_lists() {
    let mode = |mode| Scan { delivery_mode: Some(mode), ..Scan::default() };
    assert_eq!(scan(&[0, 0]), Ok(Scan::default()));
    assert_eq!(scan(&[0x10, 0, 2]), Ok(mode(2)));
    assert_eq!(scan(&[0x10, 0, 1]), Ok(mode(1)));
    // What amqplib and pika send with a content type.
    assert_eq!(scan(b"\x90\0\x03a/b\x02"), Ok(mode(2)));
    assert!(!scan(&[0x10, 0, 1]).unwrap().is_persistent());
}

#[test]
fn refuses_what_is_not_a_list() {
    use PropertiesError::{Headers, TrailingBytes, Truncated, UnknownFlags};
    let cases: [(&[u8], PropertiesError); 8] = [
        (b"", Truncated),
        (b"\x10", Truncated),
        (b"\x10\0", Truncated),
        (b"\0\0\x02", TrailingBytes(1)),
        (b"\x10\0\x02\0\0", TrailingBytes(2)),
        (b"\x80\0\x04abc", Truncated),
        (b"\0\x01", UnknownFlags(1)),
        (b"\x20\x02\0\0\0\0", UnknownFlags(2)),
    ];
    for (raw, error) in cases {
        assert_eq!(scan(raw), Err(error), "{raw:?}");
        assert_eq!(Properties::decode(raw), Err(error), "{raw:?}");
    }
    // Only the decoder looks into the headers.
    let raw = b"\x20\0\0\0\0\x03\x01kU";
    assert_eq!(scan(raw).unwrap().headers, Some(&b"\x01kU"[..]));
    assert_eq!(Properties::decode(raw), Err(Headers(TableError::UnknownType(b'U'))));
    // A header table of 4 GiB that is not there.
    assert_eq!(scan(b"\x20\0\xff\xff\xff\xff"), Err(Truncated));
}

#[test]
fn expirations_are_read_as_erlang_reads_them() {
    let accepted = [("0", 0), ("-0", 0), ("+5", 5), ("00012", 12), ("60000", 60_000)];
    for (text, value) in accepted {
        assert_eq!(expiration(text.as_bytes()), Ok(value), "{text}");
    }
    assert_eq!(expiration(b"315360000000"), Ok(EXPIRATION_MS_MAX));
    // What string:to_integer and io_lib:format("~tp") of Erlang/OTP 25 say.
    let refused: [(&[u8], &str); 16] = [
        (b"", "no_integer"),
        (b"abc", "no_integer"),
        (b" 1", "no_integer"),
        (b"+", "no_integer"),
        (b"-", "no_integer"),
        (b"+-5", "no_integer"),
        (b"1 ", r#"{leftover_string," "}"#),
        (b"1.5", r#"{leftover_string,".5"}"#),
        (b"12x\"y\\", r#"{leftover_string,"x\"y\\"}"#),
        (b"1\x08\x0b\x0c\r\n\t\x1b", r#"{leftover_string,"\b\v\f\r\n\t\e"}"#),
        (b"1\xc8", r#"{leftover_string,"È"}"#),
        (b"1\n\t\0", "{leftover_string,[10,9,0]}"),
        (b"-1", "{value_negative,-1}"),
        (b"-0012", "{value_negative,-12}"),
        (b"315360000001", "{value_too_large,315360000001}"),
        (b"12345678901234567890123", "{value_too_large,12345678901234567890123}"),
    ];
    for (text, error) in refused {
        assert_eq!(expiration(text).unwrap_err().to_string(), error, "{text:?}");
    }
}

#[test]
fn void_headers_are_kept() {
    let mut headers = FieldTable::new();
    headers.insert(ShortString::from_static("k"), FieldValue::Void);
    let properties = Properties { headers: Some(headers), ..Properties::default() };
    assert_eq!(encoded(&properties), b"\x20\0\0\0\0\x03\x01kV");
}

proptest! {
    #[test]
    fn comes_back_from_its_bytes(properties in properties()) {
        prop_assert_eq!(Properties::decode(&encoded(&properties)), Ok(properties));
    }

    #[test]
    fn scan_finds_what_decode_does(properties in properties()) {
        let raw = encoded(&properties);
        let headers = content_of(properties.headers.as_ref());
        prop_assert_eq!(scan(&raw), Ok(expected(&properties, &headers)));
    }

    #[test]
    fn every_truncation_and_extension_is_an_error(properties in properties(), more in any::<u8>()) {
        let mut raw = encoded(&properties);
        for len in 0..raw.len() {
            prop_assert!(Properties::decode(&raw[..len]).is_err());
            prop_assert!(scan(&raw[..len]).is_err());
        }
        raw.push(more);
        prop_assert_eq!(Properties::decode(&raw), Err(PropertiesError::TrailingBytes(1)));
        prop_assert_eq!(scan(&raw), Err(PropertiesError::TrailingBytes(1)));
    }

    #[test]
    fn scan_refuses_what_decode_refuses(flags in any::<u16>(), list in vec(0..6_u8, 0..40)) {
        let raw = [&(flags & !3).to_be_bytes()[..], &list].concat();
        match (Properties::decode(&raw), scan(&raw)) {
            (Ok(properties), scanned) => {
                let headers = scanned.unwrap().headers.unwrap_or_default();
                prop_assert_eq!(scanned, Ok(expected(&properties, headers)));
            }
            (Err(PropertiesError::Headers(_)), _) => {}
            (Err(error), scanned) => prop_assert_eq!(scanned, Err(error)),
        }
    }
}

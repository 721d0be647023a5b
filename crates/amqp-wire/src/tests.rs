use leveret_model::{FieldTable, FieldValue, ShortString};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::content::{self, ContentHeader, write_content};
use crate::error::{ArgumentError, DecodeError, FrameError, HeaderError};
use crate::frame::{self, Frame, PROTOCOL_HEADER, ProtocolHeader};
use crate::method::*;
use crate::publish::{self, DeliverPrefix, PublishView};

mod generated;

fn text(text: &'static str) -> ShortString {
    ShortString::from_static(text)
}

fn payload(method: &Method) -> Vec<u8> {
    let mut out = Vec::new();
    method.encode(&mut out);
    out
}

/// All frames in `bytes`.
fn frames(mut bytes: &[u8], frame_max: u32) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (frame, consumed) = frame::parse(bytes, frame_max).unwrap().unwrap();
        frames.push(frame);
        bytes = &bytes[consumed..];
    }
    frames
}

/// An envelope of two names.
fn envelope(exchange: &ShortString, routing_key: &ShortString) -> Vec<u8> {
    let mut out = Vec::new();
    publish::write_envelope(&mut out, exchange, routing_key);
    out
}

#[test]
fn methods_are_the_bytes_that_peers_know() {
    let queue_declare = QueueDeclare {
        queue: text("q"),
        durable: true,
        arguments: [(text("x-max-length"), FieldValue::I32(10))].into_iter().collect(),
        ..Default::default()
    };
    let exchange_declare = ExchangeDeclare {
        exchange: text("x"),
        kind: text("fanout"),
        durable: true,
        no_wait: true,
        ..Default::default()
    };
    let tune_ok = ConnectionTuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
    let open = ConnectionOpen { virtual_host: text("/"), ..Default::default() };
    let blocked = ConnectionBlocked { reason: text("low on memory") };
    let close = ChannelClose {
        reply_code: 404,
        reply_text: text("NOT_FOUND"),
        class_id: 60,
        method_id: 40,
    };
    let update = ConnectionUpdateSecret { new_secret: b"s3".to_vec(), reason: text("r") };
    let access =
        AccessRequest { realm: text("/d"), passive: true, read: true, ..Default::default() };
    let get_ok = BasicGetOk {
        delivery_tag: 1,
        redelivered: true,
        exchange: text(""),
        routing_key: text("q"),
        message_count: 3,
    };
    let cases: Vec<(&[u8], Method)> = vec![
        (b"\0\x0a\0\x1f\x07\xff\0\x02\0\0\0\x3c", tune_ok.into()),
        (b"\0\x0a\0\x28\x01/\0\0", open.into()),
        (b"\0\x0a\0\x3c\x0dlow on memory", blocked.into()),
        (b"\0\x0a\0\x46\0\0\0\x02s3\x01r", update.into()),
        (b"\0\x14\0\x0b\0\0\0\0", ChannelOpenOk::default().into()),
        (b"\0\x14\0\x28\x01\x94\x09NOT_FOUND\0\x3c\0\x28", close.into()),
        (b"\0\x1e\0\x0a\x02/d\x12", access.into()),
        (b"\0\x1e\0\x0b\0\x01", AccessRequestOk { ticket: 1 }.into()),
        (b"\0\x28\0\x0a\0\0\x01x\x06fanout\x12\0\0\0\0", exchange_declare.into()),
        (b"\0\x28\0\x33", ExchangeUnbindOk {}.into()),
        (b"\0\x32\0\x0a\0\0\x01q\x02\0\0\0\x12\x0cx-max-lengthI\0\0\0\x0a", queue_declare.into()),
        (b"\0\x3c\0\x47\0\0\0\0\0\0\0\x01\x01\0\x01q\0\0\0\x03", get_ok.into()),
        (b"\0\x3c\0\x64\x01", BasicRecoverAsync { requeue: true }.into()),
        (b"\0\x3c\0\x6e\x01", BasicRecover { requeue: true }.into()),
        (
            b"\0\x3c\0\x78\0\0\0\0\0\0\0\x05\x03",
            BasicNack { delivery_tag: 5, multiple: true, requeue: true }.into(),
        ),
        (b"\0\x55\0\x0a\0", ConfirmSelect::default().into()),
        (b"\0\x5a\0\x0a", TxSelect {}.into()),
    ];
    for (bytes, method) in cases {
        let name = method.name();
        assert_eq!(payload(&method), bytes, "{name}");
        assert_eq!(Method::decode(bytes), Ok(method), "{name}");
    }
}

#[test]
fn methods_know_what_follows_them() {
    assert!(Method::from(BasicReturn::default()).has_content());
    assert!(!Method::from(BasicGet::default()).has_content());
    assert!(Method::from(BasicGet::default()).expects_reply());
    assert!(!Method::from(BasicAck::default()).expects_reply());
    assert!(Method::from(QueueDeclare::default()).expects_reply());
    let no_wait = QueueDeclare { no_wait: true, ..Default::default() };
    assert!(!Method::from(no_wait).expects_reply());
    assert_eq!(Method::from(TxCommit {}).id(), TxCommit::ID);
}

#[test]
fn refuses_methods_that_do_not_fit() {
    let arguments = |name, id, reason| DecodeError::Arguments { name, id, reason };
    let cases: [(&[u8], DecodeError); 6] = [
        (b"\0\x0a\0", DecodeError::NoMethodId(3)),
        (b"\0\x3c\0\x79", DecodeError::UnknownMethod { class: 60, method: 121 }),
        (
            b"\0\x28\0\x33\0",
            arguments("exchange.unbind-ok", (40, 51), ArgumentError::TrailingBytes(1)),
        ),
        (
            b"\0\x3c\0\x50\0",
            arguments("basic.ack", (60, 80), ArgumentError::Truncated { needed: 8, left: 1 }),
        ),
        (
            b"\0\x0a\0\x14\xff\xff\xff\xff",
            arguments(
                "connection.secure",
                (10, 20),
                ArgumentError::Truncated { needed: u32::MAX as usize, left: 0 },
            ),
        ),
        (b"\0\x0a\0\x29\x01\xff", arguments("connection.open-ok", (10, 41), ArgumentError::Utf8)),
    ];
    for (bytes, error) in cases {
        assert_eq!(Method::decode(bytes), Err(error));
    }
    let error = Method::decode(b"\0\x3c\0\x50\0").unwrap_err();
    assert_eq!(error.to_string(), "basic.ack: arguments end early: 8 bytes needed, 1 left");
    // Methods with content are not checked for UTF-8, as in RabbitMQ.
    assert!(Method::decode(b"\0\x3c\0\x28\0\0\0\x01\xff\0").is_ok());
}

#[test]
fn frames_are_read_as_they_arrive() {
    let mut bytes = Vec::new();
    let start = frame::begin(&mut bytes, frame::METHOD, 0x1234);
    bytes.extend_from_slice(b"payload");
    frame::finish(&mut bytes, start);
    frame::heartbeat(&mut bytes);
    assert_eq!(bytes, b"\x01\x12\x34\0\0\0\x07payload\xce\x08\0\0\0\0\0\0\xce");
    for len in 0..15 {
        assert_eq!(frame::parse(&bytes[..len], 4096), Ok(None), "{len}");
    }
    let payload = b"payload";
    let first = Frame { kind: frame::METHOD, channel: 0x1234, payload };
    assert_eq!(frame::parse(&bytes, 4096), Ok(Some((first, 15))));
    let second = Frame { kind: frame::HEARTBEAT, channel: 0, payload: b"" };
    assert_eq!(frames(&bytes, 4096), [first, second]);
}

#[test]
fn frames_too_large_are_refused_by_their_head() {
    // Eight bytes more than allowed pass, one more does not: RabbitMQ's slack.
    assert_eq!(frame::parse(b"\x03\0\x01\0\0\x10\0", 4096), Ok(None));
    let error = frame::parse(b"\x03\0\x01\0\0\x10\x01", 4096).unwrap_err();
    assert_eq!(error, FrameError::TooLarge { kind: 3, channel: 1, size: 4097, max: 4088 });
    assert_eq!(error.to_string(), "{frame_too_large,4097,4088}");
}

#[test]
fn frames_must_end_where_they_say() {
    let error = frame::parse(b"\x01\0\x02\0\0\0\x01xy", 4096).unwrap_err();
    assert_eq!(error, FrameError::EndMarker { kind: 1, channel: 2, marker: b'y' });
    assert_eq!(error.to_string(), "{invalid_frame_end_marker,121}");
}

#[test]
fn protocol_headers_are_told_apart() {
    type Parsed = Result<Option<ProtocolHeader>, HeaderError>;
    let cases: [(&[u8], Parsed); 11] = [
        (&PROTOCOL_HEADER, Ok(Some(ProtocolHeader::V0_9_1))),
        (b"AMQP\x01\x01\0\x09", Ok(Some(ProtocolHeader::V0_9))),
        (b"AMQP\0\0\x09\x01\x01\0\0", Ok(Some(ProtocolHeader::V0_9_1))),
        (b"", Ok(None)),
        (b"AM", Ok(None)),
        (b"AMQP\0\0\x09", Ok(None)),
        (b"AMQP\0\0\x09\0", Err(HeaderError::Version([0, 0, 9, 0]))),
        (b"AMQP\x03\x01\0\0", Err(HeaderError::Version([3, 1, 0, 0]))),
        (b"GET / HTTP/1.1", Err(HeaderError::Http)),
        (b"\x16\x03\x01\x02\0\x01", Err(HeaderError::Tls)),
        (b"amqp\0\0\x09\x01", Err(HeaderError::Unknown)),
    ];
    for (bytes, wanted) in cases {
        assert_eq!(ProtocolHeader::parse(bytes), wanted, "{bytes:?}");
    }
}

#[test]
fn content_is_a_header_and_as_many_bodies_as_it_takes() {
    let mut out = Vec::new();
    write_content(&mut out, 1, b"\x10\0\x02", b"", 4096);
    assert_eq!(out, b"\x02\0\x01\0\0\0\x0f\0\x3c\0\0\0\0\0\0\0\0\0\0\x10\0\x02\xce");
    for (len, pieces) in [(1, vec![1]), (8, vec![8]), (9, vec![8, 1]), (24, vec![8, 8, 8])] {
        let body = vec![7; len];
        let mut out = Vec::new();
        write_content(&mut out, 9, b"\0\0", &body, 16);
        let frames = frames(&out, 16);
        let header = ContentHeader::parse(frames[0].payload).unwrap();
        let wanted =
            ContentHeader { class: 60, weight: 0, body_size: len as u64, properties: b"\0\0" };
        assert_eq!(header, wanted);
        let mut encoded = Vec::new();
        header.encode(&mut encoded);
        assert_eq!(encoded, frames[0].payload);
        let bodies = &frames[1..];
        assert_eq!(bodies.iter().map(|frame| frame.payload.len()).collect::<Vec<_>>(), pieces);
        assert!(bodies.iter().all(|frame| frame.kind == frame::BODY && frame.channel == 9));
    }
    assert_eq!(ContentHeader::parse(&[0; 11]), Err(DecodeError::ContentHeader(11)));
}

#[test]
fn a_body_written_in_parts_is_the_same() {
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    content::write_body(&mut whole, 3, b"body");
    content::write_body_head(&mut parts, 3, 4);
    parts.extend_from_slice(b"body\xce");
    assert_eq!(whole, parts);
}

#[test]
fn a_publish_is_viewed_in_place() {
    let payload = b"\0\x3c\0\x28\0\0\x02ex\x03key\x01";
    assert!(publish::is_publish(payload));
    assert!(!publish::is_publish(b"\0\x3c\0\x3c"));
    assert!(!publish::is_publish(b"\0\x3c\0"));
    let view = PublishView::parse(payload).unwrap();
    assert_eq!(view.envelope, b"\x02ex\x03key");
    assert_eq!((view.exchange(), view.routing_key()), (&b"ex"[..], &b"key"[..]));
    assert_eq!((view.mandatory, view.immediate), (true, false));
}

#[test]
fn settlements_are_the_bytes_of_their_methods() {
    for (tag, multiple) in [(1, false), (u64::MAX, true)] {
        let (mut out, mut wanted) = (Vec::new(), Vec::new());
        publish::write_ack(&mut out, 7, tag, multiple);
        publish::write_nack(&mut out, 7, tag, multiple);
        Method::from(BasicAck { delivery_tag: tag, multiple }).frame(7, &mut wanted);
        Method::from(BasicNack { delivery_tag: tag, multiple, requeue: false })
            .frame(7, &mut wanted);
        assert_eq!(out, wanted);
    }
}

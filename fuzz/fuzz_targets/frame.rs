//! Frames: what is read is written back as the same bytes, and content survives its frames.
#![no_main]

use leveret_amqp_wire::frame::{self, ProtocolHeader};
use leveret_amqp_wire::{ContentHeader, write_content};
use libfuzzer_sys::fuzz_target;

const FRAME_MAX: u32 = 4096;

fuzz_target!(|data: &[u8]| {
    let _ = ProtocolHeader::parse(data);
    let mut input = data;
    while let Ok(Some((frame, consumed))) = frame::parse(input, FRAME_MAX) {
        let mut again = Vec::new();
        let start = frame::begin(&mut again, frame.kind, frame.channel);
        again.extend_from_slice(frame.payload);
        frame::finish(&mut again, start);
        assert_eq!(again, input[..consumed]);
        if let Ok(header) = ContentHeader::parse(frame.payload) {
            let mut again = Vec::new();
            header.encode(&mut again);
            assert_eq!(again, frame.payload);
        }
        input = &input[consumed..];
    }
    content(data);
});

/// Takes the data for a body and the first bytes for a frame size.
fn content(data: &[u8]) {
    let Some((&size, body)) = data.split_first() else { return };
    let frame_max = 9 + u32::from(size);
    let mut out = Vec::new();
    write_content(&mut out, 1, b"\0\0", body, frame_max);
    let (mut joined, mut rest) = (Vec::new(), &out[..]);
    while let Some((frame, consumed)) = frame::parse(rest, FRAME_MAX).expect("our own frames") {
        if frame.kind == frame::BODY {
            assert!(consumed <= frame_max as usize);
            joined.extend_from_slice(frame.payload);
        }
        rest = &rest[consumed..];
    }
    assert!(rest.is_empty());
    assert_eq!(joined, body);
}

//! The limits of the protocol, to the byte, and what a client can make the broker keep for it.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use leveret_amqp_wire::method::{
    BasicGet, BasicQos, BasicReject, ChannelOpen, ConfirmSelect, ConnectionTuneOk, QueueDeclare,
};
use leveret_amqp_wire::{ContentHeader, Method, frame, write_content};
use leveret_model::limits::{
    BATCH_BYTES_MAX, CHANNEL_MAX, FRAME_MAX_BYTES, FRAME_MIN_BYTES, MESSAGE_BYTES_MAX,
    READ_BYTES_MAX,
};

use crate::broker::Broker;
use crate::hostile::peer::{End, Peer, handshake_with, method, short};
use crate::hostile::{address, body, header, memory_kib, publish};

/// What a client asks for that has no wishes.
const TUNE: ConnectionTuneOk =
    ConnectionTuneOk { channel_max: CHANNEL_MAX, frame_max: FRAME_MAX_BYTES, heartbeat: 0 };
const QUEUE: &str = "limits";

/// Declares the queue, for this connection only.
fn declare(peer: &mut Peer) {
    let queue = QueueDeclare { queue: short(QUEUE), exclusive: true, ..QueueDeclare::default() };
    peer.send(&method(1, queue));
    peer.expect(|method| matches!(method, Method::QueueDeclareOk(_)));
}

/// A message of so many bytes to the queue.
fn message(channel: u16, size: usize, frame_max: u32) -> Vec<u8> {
    let mut out = publish(channel, "", QUEUE);
    write_content(&mut out, channel, &[0, 0], &vec![b'x'; size], frame_max);
    out
}

fn get(no_ack: bool) -> Vec<u8> {
    method(1, BasicGet { queue: short(QUEUE), no_ack, ..BasicGet::default() })
}

/// Reads the content of a message: the sizes of the body's pieces.
fn content(peer: &mut Peer) -> Vec<usize> {
    let (kind, _, payload) = peer.frame().expect("a content header");
    assert_eq!(kind, frame::HEADER);
    let size = ContentHeader::parse(&payload).expect("a content header").body_size as usize;
    let mut pieces = Vec::new();
    while pieces.iter().sum::<usize>() < size {
        let (kind, _, payload) = peer.frame().expect("a piece of the body");
        if kind != frame::HEARTBEAT {
            assert_eq!(kind, frame::BODY);
            pieces.push(payload.len());
        }
    }
    pieces
}

/// Gets a message and settles it.
fn fetch(peer: &mut Peer) -> Vec<usize> {
    peer.send(&get(true));
    peer.expect(|method| matches!(method, Method::BasicGetOk(_)));
    content(peer)
}

#[test]
fn a_message_may_be_as_large_as_the_limit() {
    let broker = Broker::start();
    let mut peer = Peer::open(address(&broker));
    let limit = MESSAGE_BYTES_MAX as usize;
    declare(&mut peer);
    peer.send(&method(1, ConfirmSelect::default()));
    peer.send(&message(1, limit, FRAME_MAX_BYTES));
    peer.expect(|method| matches!(method, Method::BasicAck(_)));
    assert_eq!(fetch(&mut peer).iter().sum::<usize>(), limit);
    // The header says so; no byte of the body need come.
    peer.send(&[publish(1, "", QUEUE), header(1, 60, MESSAGE_BYTES_MAX + 1)].concat());
    assert_eq!(peer.end(), End::Channel(406));
}

/// Messages that come in pieces on many channels may all become whole in one read.
#[test]
fn large_messages_may_end_in_one_write() {
    const CHANNELS: u16 = 3;
    let size = BATCH_BYTES_MAX / 2 + 1;
    let broker = Broker::start();
    let mut peer = Peer::open(address(&broker));
    declare(&mut peer);
    let mut ends = Vec::new();
    for channel in 1..=CHANNELS {
        let mut out = Vec::new();
        if channel > 1 {
            out.extend(method(channel, ChannelOpen::default()));
        }
        out.extend(method(channel, ConfirmSelect::default()));
        out.extend(message(channel, size, FRAME_MAX_BYTES));
        let last = size % (FRAME_MAX_BYTES as usize - frame::FRAME_OVERHEAD);
        ends.extend(out.split_off(out.len() - last - frame::FRAME_OVERHEAD));
        // And behind it one that comes in one piece.
        ends.extend(message(channel, 5, FRAME_MAX_BYTES));
        peer.send(&out);
    }
    peer.send(&ends);
    let mut confirmed = [0; CHANNELS as usize];
    while confirmed != [2; CHANNELS as usize] {
        if let (channel, Method::BasicAck(ack)) = peer.method().expect("a confirm") {
            confirmed[usize::from(channel) - 1] = ack.delivery_tag;
        }
    }
    for _ in 0..CHANNELS {
        assert_eq!(fetch(&mut peer).iter().sum::<usize>(), size);
        assert_eq!(fetch(&mut peer), [5]);
    }
}

/// How a handshake ends that asks for this.
fn refused(broker: SocketAddr, tune: ConnectionTuneOk) -> End {
    let mut peer = Peer::connect(broker);
    peer.send(&handshake_with(tune));
    peer.end()
}

#[test]
fn frames_are_as_large_as_agreed() {
    let broker = Broker::start();
    let address = address(&broker);
    for frame_max in [0, 1, FRAME_MIN_BYTES - 1, FRAME_MAX_BYTES + 1, u32::MAX] {
        let end = refused(address, ConnectionTuneOk { frame_max, ..TUNE });
        assert_eq!(end, End::Connection(530), "{frame_max}");
    }
    for frame_max in [FRAME_MIN_BYTES, FRAME_MAX_BYTES] {
        let mut peer = Peer::open_with(address, ConnectionTuneOk { frame_max, ..TUNE });
        let piece = frame_max as usize - frame::FRAME_OVERHEAD;
        declare(&mut peer);
        peer.send(&message(1, 2 * piece + 1, frame_max));
        assert_eq!(fetch(&mut peer), [piece, piece, 1]);
        // A payload may be as large as the frame: some clients forget that framing counts.
        let with_body =
            |size| [publish(1, "", QUEUE), header(1, 60, size as u64), body(1, size)].concat();
        let size = frame_max as usize;
        peer.send(&with_body(size));
        assert_eq!(fetch(&mut peer).iter().sum::<usize>(), size);
        peer.send(&with_body(size + 1));
        assert_eq!(peer.end(), End::Connection(501), "{frame_max}");
    }
}

#[test]
fn channels_are_as_many_as_agreed() {
    let broker = Broker::start();
    let address = address(&broker);
    for channel_max in [0, CHANNEL_MAX + 1, u16::MAX] {
        let end = refused(address, ConnectionTuneOk { channel_max, ..TUNE });
        assert_eq!(end, End::Connection(530), "{channel_max}");
    }
    for channel_max in [1, 3, CHANNEL_MAX] {
        let mut peer = Peer::open_with(address, ConnectionTuneOk { channel_max, ..TUNE });
        let open = |channel| method(channel, ChannelOpen::default());
        peer.send(&(2..=channel_max).flat_map(open).collect::<Vec<u8>>());
        for _ in 2..=channel_max {
            peer.expect(|method| matches!(method, Method::ChannelOpenOk(_)));
        }
        peer.send(&open(channel_max + 1));
        assert_eq!(peer.end(), End::Connection(530), "{channel_max}");
    }
}

/// One message, asked for and given back as often as one read holds.
#[test]
fn a_message_got_many_times_is_not_kept_many_times() {
    const SIZE: usize = 130_000;
    const GROWTH_KIB_MAX: u64 = 32 * 1024;
    let broker = Broker::start();
    let address = address(&broker);
    let mut peer = Peer::open(address);
    declare(&mut peer);
    peer.send(&message(1, SIZE, FRAME_MAX_BYTES));
    assert_eq!(fetch(&mut peer).iter().sum::<usize>(), SIZE);
    peer.send(&message(1, SIZE, FRAME_MAX_BYTES));
    let before = memory_kib(address, "VmHWM:");
    let untold = !broker.is_ours() || !cfg!(target_os = "linux");
    assert!(before.is_some() || untold, "how large is the broker?");
    let check_size = || {
        if let (Some(before), Some(now)) = (before, memory_kib(address, "VmHWM:")) {
            assert!(now < before + GROWTH_KIB_MAX, "it grew from {before} to {now} KiB");
        }
    };

    let mut asked = Vec::new();
    let mut count = 0;
    while asked.len() < READ_BYTES_MAX {
        asked.extend(get(false));
        count += 1;
        // Delivery tag 1 was the first message.
        asked.extend(method(1, BasicReject { delivery_tag: count + 1, requeue: true }));
    }
    peer.send(&asked);
    // Nothing is read for a while.
    thread::sleep(Duration::from_millis(500));
    check_size();
    for _ in 0..count {
        peer.expect(|method| matches!(method, Method::BasicGetOk(_)));
    }
    check_size();
}

/// A client with the shortest heartbeats there are, to which far more is to be sent than sockets
/// hold.
fn client_of_a_large_message(broker: &Broker) -> Peer {
    let mut peer = Peer::open_with(address(broker), ConnectionTuneOk { heartbeat: 1, ..TUNE });
    declare(&mut peer);
    peer.send(&message(1, LARGE, FRAME_MAX_BYTES));
    peer.send(&get(true));
    peer
}

const LARGE: usize = 15_000_000;

fn heartbeat() -> Vec<u8> {
    let mut out = Vec::new();
    frame::heartbeat(&mut out);
    out
}

#[test]
fn a_slow_reader_is_left_alone() {
    /// Longer than the broker waits for a sign of life.
    const SLOWLY: Duration = Duration::from_millis(4_500);
    const PAUSE: Duration = Duration::from_millis(50);
    let broker = Broker::start();
    let mut peer = client_of_a_large_message(&broker);
    let begun = Instant::now();
    while begun.elapsed() < SLOWLY {
        // 2 MB a second.
        peer.fetch(100_000);
        peer.socket.write_all(&heartbeat()).expect("still connected");
        thread::sleep(PAUSE);
    }
    peer.expect(|method| matches!(method, Method::BasicGetOk(_)));
    assert_eq!(content(&mut peer).iter().sum::<usize>(), LARGE);
    peer.send(&method(1, BasicQos::default()));
    peer.expect(|method| matches!(method, Method::BasicQosOk(_)));
}

/// Its heartbeats do not count: they are not heard, because it must read before more is read from
/// it.
#[test]
fn a_client_that_reads_no_more_is_given_up() {
    let broker = Broker::start();
    let mut peer = client_of_a_large_message(&broker);
    let begun = Instant::now();
    let limit = Duration::from_secs(8);
    let error = loop {
        assert!(begun.elapsed() < limit, "still connected");
        thread::sleep(Duration::from_millis(100));
        if let Err(error) = peer.socket.write_all(&heartbeat()) {
            break error;
        }
    };
    let gone = matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
    assert!(gone, "{error}");
    // Two intervals, less the time in which the message came.
    assert!(begun.elapsed() > Duration::from_secs(1), "after {:?}", begun.elapsed());
}

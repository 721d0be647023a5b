//! Clients that break the protocol, on purpose or not: each gets the code that RabbitMQ gives it
//! (rabbit_reader, rabbit_command_assembler), others notice nothing, and nothing is left behind.
//!
//! What is random comes from `LEVERET_TEST_SEED`, or a seed that is always the same.

mod neighbour;
pub(crate) mod peer;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use leveret_amqp_wire::method::{
    AccessRequest, BasicConsume, BasicGet, BasicPublish, BasicQos, ChannelClose, ConnectionClose,
    QueueDeclare, QueueDelete,
};
use leveret_amqp_wire::publish::{write_envelope, write_publish};
use leveret_amqp_wire::{Method, frame, write_content};
use leveret_model::limits::HANDSHAKE_TIMEOUT;

use crate::broker::Broker;
use neighbour::Neighbour;
use peer::{End, Peer, framed, handshake, method, short, start_ok};

/// How much larger the broker may be afterwards, in KiB: what allocators and threads keep.
const GROWTH_KIB_MAX: u64 = 64 * 1024;

/// A broker, with a neighbour.
struct Scene {
    broker: Broker,
    address: SocketAddr,
    neighbour: Neighbour,
    before: Option<u64>,
}

impl Scene {
    fn start() -> Scene {
        let broker = Broker::start();
        let address = address(&broker);
        let neighbour = Neighbour::move_in(address);
        // What a first client costs is not growth.
        Peer::open(address);
        let before = memory_kib(address, "VmRSS:");
        let untold = !broker.is_ours() || !cfg!(target_os = "linux");
        assert!(before.is_some() || untold, "how large is the broker?");
        Scene { broker, address, neighbour, before }
    }

    fn check_size(&self) {
        let now = memory_kib(self.address, "VmRSS:");
        if let (Some(before), Some(now)) = (self.before, now) {
            let bound = before + GROWTH_KIB_MAX;
            assert!(now < bound, "it grew from {before} to {now} KiB");
        }
    }

    fn end(self) {
        self.check_size();
        self.neighbour.move_out();
        drop(self.broker);
    }
}

/// Where a broker listens.
pub(crate) fn address(broker: &Broker) -> SocketAddr {
    let (_, place) = broker.url().rsplit_once('@').expect("a URL with a user");
    let port = place.split(['/', ':']).nth(1).and_then(|port| port.parse().ok());
    SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("a URL with a port")))
}

/// A line of what Linux says of a broker's memory, if that is one of ours and the system tells.
pub(crate) fn memory_kib(broker: SocketAddr, line: &str) -> Option<u64> {
    let flag = format!("--amqp-port\0{}\0", broker.port());
    let ours = |folder: &fs::DirEntry| {
        let line = fs::read(folder.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&flag)
    };
    let process = fs::read_dir("/proc").ok()?.flatten().find(ours)?;
    let status = fs::read_to_string(process.path().join("status")).ok()?;
    let value = status.lines().find_map(|each| each.strip_prefix(line))?;
    value.split_whitespace().next()?.parse().ok()
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn seeded() -> Random {
        let seed = env::var("LEVERET_TEST_SEED").ok().and_then(|text| text.parse().ok());
        Random(seed.unwrap_or(20_261_121))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> usize {
        (self.next() % end) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

pub(crate) fn publish(channel: u16, exchange: &str, key: &str) -> Vec<u8> {
    let (exchange, routing_key) = (short(exchange), short(key));
    method(channel, BasicPublish { exchange, routing_key, ..BasicPublish::default() })
}

/// A content header without properties.
pub(crate) fn header(channel: u16, class: u16, size: u64) -> Vec<u8> {
    let parts = [&class.to_be_bytes()[..], &[0, 0], &size.to_be_bytes(), &[0, 0]];
    framed(frame::HEADER, channel, &parts.concat())
}

pub(crate) fn body(channel: u16, size: usize) -> Vec<u8> {
    framed(frame::BODY, channel, &vec![b'x'; size])
}

/// What breaks the protocol on a connection with channel 1 open, and how that ends.
fn breaches() -> Vec<(&'static str, Vec<u8>, End)> {
    use End::{Channel, Connection};
    let mut wrong_end = method(1, BasicQos::default());
    *wrong_end.last_mut().expect("an end octet") = 0xCD;
    let four_gib = [&[1, 0, 1, 0xff, 0xff, 0xff, 0xff][..], &[0; 100_000]].concat();
    let mut huge_table = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
    huge_table.extend_from_slice(&u32::MAX.to_be_bytes());
    let whole = |size| [publish(1, "", "no"), header(1, 60, size)].concat();
    vec![
        ("a frame of 4 GiB", four_gib, Connection(501)),
        ("a frame over frame_max", framed(1, 1, &[0; 131_073]), Connection(501)),
        ("a large frame over frame_max", framed(3, 1, &vec![0; 9_000_000]), Connection(501)),
        ("another end octet", wrong_end, Connection(501)),
        ("an unknown frame type", framed(9, 1, &[0; 20]), Connection(501)),
        ("an unknown frame type on 0", framed(7, 0, &[]), Connection(501)),
        ("a method without an id", framed(1, 1, &[0, 60]), Connection(501)),
        ("arguments cut short", framed(1, 1, &[0, 60, 0, 10, 0]), Connection(501)),
        ("a table of 4 GiB", framed(1, 1, &huge_table), Connection(501)),
        ("a method that is none", framed(1, 1, &[0, 60, 0, 99]), Connection(503)),
        ("a heartbeat on channel 5", framed(8, 5, &[]), Connection(505)),
        ("a header on channel 0", header(0, 60, 1), Connection(505)),
        ("a header without a publish", header(1, 60, 1), Connection(505)),
        ("a body without a publish", body(1, 1), Connection(505)),
        (
            "a method for a header",
            [publish(1, "", "q"), publish(1, "", "q")].concat(),
            Connection(505),
        ),
        ("a method for a body", [whole(5), publish(1, "", "q")].concat(), Connection(505)),
        (
            "a header of another class",
            [publish(1, "", "q"), header(1, 50, 1)].concat(),
            Connection(505),
        ),
        (
            "a header cut short",
            [publish(1, "", "q"), framed(2, 1, &[0, 60, 0, 0])].concat(),
            Connection(501),
        ),
        ("a body too long", [whole(3), body(1, 4)].concat(), Connection(501)),
        ("a second body too long", [whole(3), body(1, 2), body(1, 2)].concat(), Connection(501)),
        // RabbitMQ takes 501 for more than 512 MiB and this from its limit up to there.
        ("2^63 bytes", [whole(1 << 63), body(1, 9)].concat(), Channel(406)),
        ("17 MiB", [whole(17 << 20), body(1, 9)].concat(), Channel(406)),
        ("a channel that is not open", publish(2, "", "q"), Connection(504)),
        ("a channel opened twice", framed(1, 1, &[0, 20, 0, 10, 0]), Connection(504)),
        ("no such exchange", [publish(1, "no", ""), header(1, 60, 0)].concat(), Channel(404)),
        (
            "prefetch_size",
            method(1, BasicQos { prefetch_size: 1, ..BasicQos::default() }),
            Connection(540),
        ),
        ("a handshake again", handshake()[..8].to_vec(), Connection(501)),
        ("start-ok again", start_ok("guest", true), Connection(503)),
    ]
}

#[test]
fn each_breach_ends_with_its_code() {
    let scene = Scene::start();
    for (what, bytes, expected) in breaches() {
        let mut peer = Peer::open(scene.address);
        peer.send(&bytes);
        assert_eq!(peer.end(), expected, "{what}");
        // The same byte by byte, as far as it is worth the time.
        if bytes.len() < 100 {
            let mut peer = Peer::open(scene.address);
            bytes.chunks(1).for_each(|byte| peer.send(byte));
            assert_eq!(peer.end(), expected, "{what}, slowly");
        }
    }
    scene.end();
}

/// A client closes its channel while the broker closes it too: it waits for both answers.
#[test]
fn closes_that_cross_are_both_answered() {
    let scene = Scene::start();
    let mut peer = Peer::open(scene.address);
    for _ in 0..2 {
        let close = method(1, ChannelClose::default());
        peer.send(&[publish(1, "no", ""), header(1, 60, 0), close].concat());
        let told = |method: &Method| matches!(method, Method::ChannelClose(_));
        peer.expect(told);
        peer.expect(|method| matches!(method, Method::ChannelCloseOk(_)));
        peer.send(&framed(1, 1, &[0, 20, 0, 41]));
        peer.send(&framed(1, 1, &[0, 20, 0, 10, 0]));
        peer.expect(|method| matches!(method, Method::ChannelOpenOk(_)));
    }
    scene.end();
}

/// Class and method ids, and some that do not exist.
fn ids() -> Vec<(u8, u8)> {
    let methods: [(u8, &[u8]); 8] = [
        (10, &[10, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61, 70, 71]),
        (20, &[10, 11, 20, 21, 40, 41]),
        (30, &[10, 11]),
        (40, &[10, 11, 20, 21, 30, 31, 40, 51]),
        (50, &[10, 11, 20, 21, 30, 31, 40, 41, 50, 51]),
        (60, &[10, 11, 20, 21, 30, 31, 40, 50, 60, 70, 71, 72, 80, 90, 100, 110, 111, 120]),
        (85, &[10, 11]),
        (90, &[0, 10, 11, 20, 21, 30, 31, 99]),
    ];
    methods.iter().flat_map(|(class, ids)| ids.iter().map(|id| (*class, *id))).collect()
}

#[test]
fn no_method_with_random_arguments_does_harm() {
    let scene = Scene::start();
    let mut random = Random::seeded();
    for round in 0..6 {
        for (class, id) in ids() {
            let mut payload = vec![0, class, 0, id];
            let count = random.below(12 * (round + 1));
            payload.extend(random.bytes(count));
            let channel = if random.below(8) == 0 { 0 } else { u16::from(class != 10) };
            let mut peer = Peer::open(scene.address);
            peer.send(&framed(1, channel, &payload));
            peer.send(&method(0, ConnectionClose::default()));
            let known = [402, 403, 404, 405, 406, 501, 502, 503, 504, 505, 506, 530, 540];
            let end = peer.end();
            let good = match end {
                End::Connection(code) | End::Channel(code) => known.contains(&code),
                End::Agreed => true,
                End::Silence => false,
            };
            assert!(good, "{end:?} after {payload:?} on channel {channel}");
        }
    }
    scene.end();
}

#[test]
fn random_bytes_do_no_harm() {
    let scene = Scene::start();
    let mut random = Random::seeded();
    for round in 0..100 {
        let mut peer = Peer::connect(scene.address);
        let count = 1 + random.below(2_000);
        let mut bytes = random.bytes(count);
        if round % 2 == 0 {
            bytes.splice(..0, handshake());
        }
        if round % 3 == 0 {
            peer.send(&bytes);
        } else {
            bytes.chunks(97).for_each(|part| peer.send(part));
        }
        peer.socket.shutdown(Shutdown::Write).unwrap_or_default();
        let mut answer = Vec::new();
        match peer.socket.read_to_end(&mut answer) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => {}
        }
    }
    scene.end();
}

#[test]
fn handshakes_may_break_off_anywhere() {
    let scene = Scene::start();
    let whole = handshake();
    for end in 0..whole.len() {
        let mut peer = Peer::connect(scene.address);
        peer.send(&whole[..end]);
        peer.socket.shutdown(Shutdown::Write).expect("hang up");
        let mut answer = Vec::new();
        peer.socket.read_to_end(&mut answer).expect("an end");
    }
    scene.end();
}

#[test]
fn a_handshake_that_stalls_ends_after_a_while() {
    let scene = Scene::start();
    let whole = handshake();
    let after_start = 8 + start_ok("guest", true).len();
    let address = scene.address;
    let stalled = [0, 4, 8, 20, after_start, whole.len() - 20].map(|end| {
        let start = whole[..end].to_vec();
        thread::spawn(move || {
            let mut peer = Peer::connect(address);
            peer.send(&start);
            let begun = Instant::now();
            assert_eq!(peer.end(), End::Silence);
            let stalled = begun.elapsed() + Duration::from_secs(1);
            let late = HANDSHAKE_TIMEOUT + Duration::from_secs(6);
            assert!((HANDSHAKE_TIMEOUT..late).contains(&stalled), "at byte {end}: {stalled:?}");
        })
    });
    for (capable, expected) in [(true, End::Connection(403)), (false, End::Silence)] {
        let mut peer = Peer::connect(address);
        peer.send(&frame::PROTOCOL_HEADER);
        peer.send(&start_ok("wrong", capable));
        let begun = Instant::now();
        assert_eq!(peer.end(), expected);
        assert!(begun.elapsed() < Duration::from_secs(8));
    }
    for thread in stalled {
        thread.join().expect("a stalled handshake");
    }
    scene.end();
}

/// Sends the same thing again and again, and reads nothing, until the broker takes no more.
/// Gives the bytes that it took.
fn flood(peer: &mut Peer, bytes: &[u8], most: usize) -> usize {
    let many = bytes.repeat(64 * 1024 / bytes.len() + 1);
    let limit = Some(Duration::from_secs(3));
    peer.socket.set_write_timeout(limit).expect("set a time limit");
    let mut sent = 0;
    while sent < most {
        match peer.socket.write(&many[sent % bytes.len()..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    sent
}

#[test]
fn a_client_that_asks_and_never_reads_is_not_listened_to() {
    /// Far more than the kernel's buffers on the way there and back.
    const MOST: usize = 48 << 20;
    let scene = Scene::start();
    let declare = QueueDeclare { queue: short("empty"), ..QueueDeclare::default() };
    let get = BasicGet { queue: short("empty"), ..BasicGet::default() };
    for ask in [method(1, get), method(1, AccessRequest::default())] {
        let mut peer = Peer::open(scene.address);
        peer.send(&method(1, declare.clone()));
        let sent = flood(&mut peer, &ask, MOST);
        assert!(sent < MOST, "all of it was taken in");
        scene.check_size();
    }
    scene.end();
}

#[test]
fn a_client_that_never_reads_gets_little() {
    let scene = Scene::start();
    let mut reader = Peer::open(scene.address);
    let queue = || short("flood");
    reader.send(&method(1, QueueDeclare { queue: queue(), ..QueueDeclare::default() }));
    let consume = BasicConsume { queue: queue(), no_ack: true, ..BasicConsume::default() };
    reader.send(&method(1, consume));
    reader.expect(|method| matches!(method, Method::BasicConsumeOk(_)));
    let mut publisher = Peer::open(scene.address);
    let mut envelope = Vec::new();
    write_envelope(&mut envelope, &short(""), &queue());
    let mut out = Vec::new();
    write_publish(&mut out, 1, &envelope, false);
    write_content(&mut out, 1, &[0, 0], &[b'x'; 50_000], 131_072);
    for _ in 0..600 {
        publisher.send(&out);
    }
    publisher.send(&method(1, QueueDelete { queue: queue(), ..QueueDelete::default() }));
    let deleted = publisher.expect(|method| matches!(method, Method::QueueDeleteOk(_)));
    let Method::QueueDeleteOk(deleted) = deleted else { panic!() };
    assert!(deleted.message_count > 200, "only {} were held back", deleted.message_count);
    scene.end();
}

//! More clients than the broker may have open files.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use leveret_amqp_wire::method::{BasicGet, ConfirmSelect, QueueDeclare};
use leveret_amqp_wire::{Method, write_content};

use crate::broker::{Broker, Surroundings};
use crate::hostile::peer::{Peer, method, short};
use crate::hostile::{address, publish};

const QUEUE: &str = "descriptors";
const FILES: u32 = 100;
/// The first bytes of every connection.
const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// A persistent message.
fn message() -> Vec<u8> {
    const FRAME_MAX: u32 = 131_072;
    let mut out = publish(1, "", QUEUE);
    write_content(&mut out, 1, &[0x10, 0, 2], &[b'x'; 50_000], FRAME_MAX);
    out
}

#[test]
fn clients_that_only_knock_do_not_end_the_broker() {
    const MESSAGES: u64 = 200;
    const KNOCKS: u32 = 3 * FILES;
    const PATIENCE: Duration = Duration::from_secs(20);
    let limited = format!("ulimit -n {FILES}; exec \"$0\" \"$@\"");
    let wrapper = ["sh", "-c", &limited].map(Into::into).into();
    // Small segments, which become packs at once.
    let environment =
        vec![("LEVERET_SEGMENT_SIZE", "1MiB".into()), ("LEVERET_MEMORY_TARGET", "0".into())];
    let test = "clients_that_only_knock_do_not_end_the_broker";
    let surroundings = Surroundings { wrapper, environment };
    let Some(mut broker) = Broker::start_mortal_in(test, surroundings) else { return };
    let mut publisher = Peer::open(address(&broker));
    let queue = QueueDeclare { queue: short(QUEUE), durable: true, ..QueueDeclare::default() };
    publisher.send(&method(1, queue));
    publisher.expect(|method| matches!(method, Method::QueueDeclareOk(_)));
    publisher.send(&method(1, ConfirmSelect::default()));
    let knock = || {
        let mut socket = TcpStream::connect(address(&broker)).expect("there is somebody");
        // It may be hung up at once.
        let _ = socket.write_all(HEADER);
        socket
    };
    let knocks: Vec<_> = (0..KNOCKS).map(|_| knock()).collect();
    let mut confirmed = 0;
    for _ in 0..MESSAGES {
        publisher.send(&message());
        while confirmed == 0 {
            if let (_, Method::BasicAck(ack)) = publisher.method().expect("a confirm") {
                confirmed = ack.delivery_tag;
            }
        }
        confirmed = 0;
    }
    let get = BasicGet { queue: short(QUEUE), no_ack: true, ..BasicGet::default() };
    publisher.send(&method(1, get));
    publisher.expect(|method| matches!(method, Method::BasicGetOk(_)));
    let log = broker.log();
    // Once, and again when the broker's own files left one free for a moment; not for each client.
    let told = log.matches("cannot accept connections").count();
    assert!((1..=20).contains(&told), "{log}");
    assert!(!log.contains("Too many open files"), "{log}");
    drop(knocks);
    // They had to be hung up on, one after the other.
    let begun = Instant::now();
    while !broker.log().contains("connections are accepted again") {
        assert!(begun.elapsed() < PATIENCE, "{}", broker.log());
        drop(TcpStream::connect(address(&broker)));
        thread::sleep(Duration::from_millis(100));
    }
    drop(publisher);
    assert!(broker.terminate().success());
}

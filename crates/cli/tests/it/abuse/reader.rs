//! Consumers that do not read, or do not settle what they have read.

use std::io;
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::{BasicGet, BasicQos, QueueDelete, QueuePurge};

use super::client::{Client, TRANSIENT, messages, write};
use super::hog::Hog;
use super::neighbour::median;
use super::scene::{Counts, Scene};
use crate::hostile::peer::{method, short};
use crate::tools::say;

/// Setting `memory-max`.
const BUDGET_MIB: u64 = 64;
/// Besides the budget and the quarter that the allocator's size classes may add to it: buffers of
/// threads and connections, and what the allocator keeps, in MiB.
const MARGIN_MIB: u64 = 24;
/// One message, in bytes.
const SIZE: usize = 16_000;
/// 200 MB of them.
const COUNT: usize = 12_500;
/// Messages for somebody else.
const OTHERS: usize = 200;
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_consumer_that_never_reads_stops_its_publisher_only() {
    let test = "a_consumer_that_never_reads_stops_its_publisher_only";
    // Nothing leaves memory for the disk.
    let settings = ["--memory-max", "64MiB", "--memory-target", "1GiB"];
    let Some(scene) = Scene::set(test, &settings) else { return };
    let before = scene.size_kib();
    let mut other = Client::open(scene.amqp);
    other.declare("other");
    other.peer.send(&messages("", "other", TRANSIENT, 1_000, OTHERS));
    other.declare("q");
    let mut idler = Client::open(scene.amqp);
    idler.consume("q", false);

    let mut publisher = Client::open(scene.amqp);
    let mut socket = publisher.writer();
    let writing = thread::spawn(move || {
        let some = messages("", "q", TRANSIENT, SIZE, COUNT / 100);
        assert!((0..100).all(|_| write(&mut socket, &some)), "the broker hung up");
        assert!(write(&mut socket, &method(1, BasicQos::default())), "the broker hung up");
    });
    publisher.peer.expect(|method| matches!(method, Method::ConnectionBlocked(_)));
    let full = scene.counts();
    let full_mib = (scene.size_kib() - before) / 1024;

    // Who only consumes goes on as if nothing were.
    let waits: Vec<Duration> = (0..OTHERS).map(|_| fetch(&mut other)).collect();
    let slowest = *waits.iter().max().expect("some waits");
    say(&format!(
        "consumers beside a blocked publisher wait {:?}, at most {slowest:?}",
        median(waits)
    ));
    assert!(slowest < Duration::from_secs(1), "a consumer waited {slowest:?}");
    assert!(!writing.is_finished(), "the publisher was not held back");
    let later = scene.counts();
    assert!(later.ready + later.unacknowledged <= full.ready + full.unacknowledged, "{later:?}");

    // The messages come back from the idler, and go.
    drop(idler);
    scene.await_that("the leases' end", |counts| counts.unacknowledged == 0);
    let purge = QueuePurge { queue: short("q"), ..QueuePurge::default() };
    other.ask(purge, |method| matches!(method, Method::QueuePurgeOk(_)));
    publisher.peer.expect(|method| matches!(method, Method::ConnectionUnblocked(_)));
    // From now on somebody takes them.
    other.consume("q", true);
    let deadline = Instant::now() + LIMIT;
    let reading = thread::spawn(move || {
        let mut seen = 0;
        while Instant::now() < deadline {
            match other.peer.method() {
                Some((_, Method::BasicDeliver(_))) => seen += 1,
                Some((_, Method::QueueDeleteOk(_))) | None => break,
                Some(_) => {}
            }
        }
        (other, seen)
    });
    publisher.peer.expect(|method| matches!(method, Method::BasicQosOk(_)));
    writing.join().expect("a publisher that works");
    scene.await_that("an empty queue", |counts| counts.ready + counts.unacknowledged == 0);
    for queue in ["q", "other"] {
        let delete = QueueDelete { queue: short(queue), ..QueueDelete::default() };
        publisher.ask(delete, |method| matches!(method, Method::QueueDeleteOk(_)));
    }
    publisher.close();
    drop(reading);
    let peak = scene.peak_kib();
    let grown = peak.saturating_sub(before) / 1024;
    say(&format!(
        "a consumer that never reads: {grown} MiB more for a budget of {BUDGET_MIB} MiB, \
         {full_mib} MiB more and {} MiB counted when it was full",
        full.memory / 1024 / 1024
    ));
    scene.await_counts(Counts::default());
    assert!(grown <= BUDGET_MIB + BUDGET_MIB / 4 + MARGIN_MIB, "it grew by {grown} MiB");
}

/// Takes a message and settles it; says how long that took.
fn fetch(client: &mut Client) -> Duration {
    let begun = Instant::now();
    let get = BasicGet { queue: short("other"), no_ack: true, ..BasicGet::default() };
    client.ask(get, |method| matches!(method, Method::BasicGetOk(_)));
    begun.elapsed()
}

/// The smaller the messages, the more they cost besides their content.
#[test]
fn a_consumer_that_settles_nothing_stops_its_publisher() {
    /// What holds leases doubles when it is full, which may have been just now.
    const TIMES_MAX: u64 = 2;
    let test = "a_consumer_that_settles_nothing_stops_its_publisher";
    let Some(scene) = Scene::set(test, &["--memory-max", "32MiB"]) else { return };
    let before = scene.size_kib();
    let mut consumer = Client::open(scene.amqp);
    consumer.declare("q");
    consumer.consume("q", false);
    let mut socket = consumer.writer();
    let reading = thread::spawn(move || io::copy(&mut socket, &mut io::sink()));
    let some = messages("", "q", TRANSIENT, 1, 10_000);
    let hog = Hog::new(scene.amqp, |_| (), some);
    hog.let_loose(true);
    let deadline = Instant::now() + LIMIT;
    while hog.heard.blocked.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline, "nothing stops the publisher");
        thread::sleep(Duration::from_millis(10));
    }
    let full = scene.await_that("all are leased", |counts| counts.ready == 0);
    let grown = scene.peak_kib().saturating_sub(before) / 1024;
    say(&format!(
        "{} messages of a byte on leases: {grown} MiB more, {} MiB counted",
        full.unacknowledged,
        full.memory / 1024 / 1024
    ));
    hog.end();
    let mut last = Client::open(scene.amqp);
    let delete = QueueDelete { queue: short("q"), ..QueueDelete::default() };
    last.ask(delete, |method| matches!(method, Method::QueueDeleteOk(_)));
    last.close();
    consumer.peer.socket.shutdown(Shutdown::Both).expect("hang up");
    // With what it ends does not matter.
    let _ = reading.join().expect("a reader");
    scene.await_counts(Counts::default());
    assert!(grown <= TIMES_MAX * 32 + MARGIN_MIB, "it grew by {grown} MiB");
}

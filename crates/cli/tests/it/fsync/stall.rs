//! While the disk stalls nobody is told that something is durable, and whoever does not need the
//! disk notices nothing.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use leveret_amqp_wire::method::{QueueDeclare, TxCommit, TxSelect};
use leveret_amqp_wire::{Method, frame};
use leveret_model::limits::{LOG_BACKLOG_BYTES_MAX, READ_BYTES_MAX};

use super::client::{Client, Heard, PERSISTENT, TRANSIENT, durable_queue, message, message_on};
use super::disk::{Disk, broker_and_disk};
use crate::hostile::address;
use crate::hostile::peer::{method, short};
use crate::tools::say;

const STALL: Duration = Duration::from_millis(3_000);
/// Some of it is left when we look away.
const MARGIN: Duration = Duration::from_millis(300);
/// Most round trips take less than this, on two cores that many tests share; one that waited for
/// the disk takes much more.
const USUAL: Duration = Duration::from_millis(50);
const SLOWEST: Duration = Duration::from_millis(1_500);
const DURABLE: &str = "durable";
const MESSAGES: u64 = 20;

/// Stalls one sync of the log; returns when it has begun. Gives the time from which on it lasts at
/// least [`STALL`].
fn stall(disk: &Disk, cause: impl FnOnce()) -> Instant {
    let begun = Instant::now();
    disk.order(&format!("fdatasync *.wal stall {} 0", STALL.as_millis()));
    cause();
    disk.await_stall();
    disk.recover();
    begun
}

/// A message through a transient queue, again and again until then: how long it took each time to
/// be confirmed and to come back, the shortest first.
pub(super) fn round_trips(broker: SocketAddr, until: Instant) -> Vec<Duration> {
    let mut client = Client::open(broker, 0);
    let queue = "transient";
    client.declare(QueueDeclare { queue: short(queue), ..QueueDeclare::default() });
    let mut times = Vec::new();
    while Instant::now() < until {
        let start = Instant::now();
        assert!(client.send(&message("", queue, TRANSIENT, b"to and fro")));
        client.expect(|method| matches!(method, Method::BasicAck(_)));
        assert_eq!(client.get(queue).as_deref(), Some(&b"to and fro"[..]));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times
}

pub(super) fn check_round_trips(times: &[Duration]) {
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    say(&format!("stall: {} round trips, median {median:?}, slowest {slowest:?}", times.len()));
    assert!(median < USUAL && slowest < SLOWEST, "median {median:?}, slowest {slowest:?}");
}

/// Sends heartbeats and counts those that come, until then.
fn heartbeats(mut client: Client, until: Instant) -> usize {
    client.patience(Duration::from_millis(300));
    let (mut beat, mut count) = (Vec::new(), 0);
    frame::heartbeat(&mut beat);
    while Instant::now() < until {
        assert!(client.send(&beat), "given up");
        match client.next() {
            Heard::Heartbeat => count += 1,
            Heard::Silence => {}
            other => panic!("{other:?}"),
        }
    }
    count
}

/// Asks for three things that must be durable, each on a connection of its own.
fn ask(clients: &mut [Client; 3]) {
    let [publisher, declarer, committer] = clients;
    let one = |number: u64| message("", DURABLE, PERSISTENT, format!("{number}").as_bytes());
    assert!(publisher.send(&(0..MESSAGES).flat_map(one).collect::<Vec<u8>>()));
    assert!(declarer.send(&method(1, durable_queue("later"))));
    let message = message_on(2, "", DURABLE, PERSISTENT, b"committed");
    assert!(committer.send(&[message, method(2, TxCommit::default())].concat()));
}

/// When the first of a client's answers came; returns when the last has come.
fn answered(mut client: Client, last: impl Fn(&Method) -> bool) -> Instant {
    let mut first = None;
    loop {
        match client.next() {
            Heard::Method(method) => {
                let first = *first.get_or_insert_with(Instant::now);
                if last(&method) {
                    return first;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_stalled_disk_stops_only_those_who_need_it() {
    let test = "a_stalled_disk_stops_only_those_who_need_it";
    let Some((broker, disk)) = broker_and_disk(test) else { return };
    let place = address(&broker);
    let mut clients: [Client; 3] = std::array::from_fn(|_| Client::open(place, 0));
    clients[0].declare(durable_queue(DURABLE));
    clients[2].ask(2, TxSelect::default(), |method| matches!(method, Method::TxSelectOk(_)));

    let nervous = Client::open(place, 1);
    let begun = stall(&disk, || ask(&mut clients));
    let until = begun + STALL - MARGIN;
    let trips = thread::spawn(move || round_trips(place, until));
    let beats = thread::spawn(move || heartbeats(nervous, until));
    let [publisher, declarer, committer] = clients;
    let publisher = thread::spawn(move || {
        answered(publisher, |m| matches!(m, Method::BasicAck(ack) if ack.delivery_tag == MESSAGES))
    });
    let declarer =
        thread::spawn(move || answered(declarer, |m| matches!(m, Method::QueueDeclareOk(_))));
    let committer =
        thread::spawn(move || answered(committer, |m| matches!(m, Method::TxCommitOk(_))));
    for (who, client) in
        [("publisher", publisher), ("declarer", declarer), ("committer", committer)]
    {
        let first = client.join().expect("it was not answered");
        assert!(first > begun + STALL, "{who}: told {:?} after the stall began", first - begun);
    }
    check_round_trips(&trips.join().expect("it was disturbed"));
    let beats = beats.join().expect("it was given up");
    // One a second, as agreed.
    assert!(beats >= 2, "{beats} heartbeats");
}

/// Writes until the broker takes nothing more for a while: how many bytes it took.
fn fill(client: &mut Client, until: Instant) -> u64 {
    let one = message("", DURABLE, PERSISTENT, &[b'x'; 64 * 1024]);
    client.socket.set_write_timeout(Some(Duration::from_millis(100))).expect("set a time limit");
    let mut taken = 0;
    while Instant::now() < until {
        let at = usize::try_from(taken % one.len() as u64).expect("within a message");
        match client.socket.write(&one[at..]) {
            Ok(count) => taken += count as u64,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    taken
}

/// Fills the log's backlog while the disk stalls. Gives the publisher that does so and how many
/// bytes were taken from it, and how others fared meanwhile.
fn overfill(broker: SocketAddr, disk: &Disk) -> (Client, u64, Vec<Duration>) {
    let mut client = Client::open(broker, 0);
    client.declare(durable_queue(DURABLE));
    let begun = stall(disk, || assert!(client.send(&message("", DURABLE, PERSISTENT, b"first"))));
    let until = begun + STALL - MARGIN;
    let trips = thread::spawn(move || round_trips(broker, until));
    let taken = fill(&mut client, until);
    (client, taken, trips.join().expect("it was disturbed"))
}

#[test]
fn a_stalled_disk_stops_who_would_fill_the_memory() {
    /// What sockets may hold, both ends of one, in bytes.
    const SOCKETS: u64 = 12 * 1024 * 1024;
    let test = "a_stalled_disk_stops_who_would_fill_the_memory";
    let Some((broker, disk)) = broker_and_disk(test) else { return };
    let (mut client, taken, _) = overfill(address(&broker), &disk);
    say(&format!("stall: a publisher was stopped after {taken} bytes"));
    let bound = LOG_BACKLOG_BYTES_MAX + READ_BYTES_MAX as u64 + SOCKETS;
    assert!((LOG_BACKLOG_BYTES_MAX..bound).contains(&taken), "{taken} bytes");
    // It goes on by itself: everything that is whole is confirmed.
    let one = message("", DURABLE, PERSISTENT, &[b'x'; 64 * 1024]).len() as u64;
    client.expect_confirm(1 + taken / one);
}

#[test]
fn who_needs_no_disk_notices_nothing_of_a_full_backlog() {
    let test = "who_needs_no_disk_notices_nothing_of_a_full_backlog";
    let Some((broker, disk)) = broker_and_disk(test) else { return };
    let (_client, _, trips) = overfill(address(&broker), &disk);
    check_round_trips(&trips);
}

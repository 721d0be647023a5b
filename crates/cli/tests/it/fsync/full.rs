//! While the disk is full the log waits: publishers are not confirmed, everybody else goes on, and
//! when there is room again all is as if nothing had been.

use std::thread;
use std::time::{Duration, Instant};

use leveret_amqp_wire::Method;

use super::client::{Client, Heard, PERSISTENT, message};
use super::disk::{ENOSPC, broker_and_disk};
use super::ledger::{LARGE, Sent, body, compare};
use super::load::{QUEUE, declare, drain, publish};
use super::stall::{check_round_trips, round_trips};
use crate::broker::Surroundings;
use crate::hostile::address;
use crate::tools::say;

/// A publisher that hears nothing for so long is stopped.
const SILENCE: Duration = Duration::from_millis(700);
/// How many messages may wait to be confirmed: less than the log may be behind.
const WINDOW: u64 = 64;
/// The segment in use and the one prepared hold about two thousand large messages.
const MESSAGES_MAX: u64 = 10_000;

/// Publishes until nothing is confirmed any more.
fn publish_until_stopped(client: &mut Client, sent: &mut Sent) {
    client.patience(SILENCE);
    loop {
        assert!(sent.count < MESSAGES_MAX, "the disk is not full");
        while sent.count - (sent.confirmed.len() as u64) < WINDOW {
            let body = body(sent.publisher, sent.count);
            assert!(client.send(&message("", QUEUE, PERSISTENT, &body)), "the broker is gone");
            sent.count += 1;
        }
        match client.next() {
            Heard::Silence => return,
            heard => confirm(heard, sent),
        }
    }
}

fn confirm(heard: Heard, sent: &mut Sent) {
    match heard {
        Heard::Method(Method::BasicAck(ack)) if ack.multiple => {
            sent.confirmed.extend(0..ack.delivery_tag);
        }
        Heard::Method(Method::BasicAck(ack)) => {
            sent.confirmed.insert(ack.delivery_tag - 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_makes_publishers_wait_and_nobody_else() {
    let test = "a_full_disk_makes_publishers_wait_and_nobody_else";
    let Some((mut broker, disk)) = broker_and_disk(test) else { return };
    let place = address(&broker);
    declare(&broker);
    // No new file, and no more of one that is being made; what files have they keep.
    let orders = ["create *.free", "create *.tmp", "pwrite *.tmp"];
    disk.order(&orders.map(|order| format!("{order} fail {ENOSPC} 0\n")).concat());
    let mut client = Client::open(place, 0);
    let mut sent = Sent { publisher: LARGE, ..Sent::default() };
    publish_until_stopped(&mut client, &mut sent);
    let (count, confirmed) = (sent.count, sent.confirmed.len());
    say(&format!("full: stopped after {count} messages, {confirmed} of them confirmed"));

    // Consumers go on, and so do those who need no disk.
    let mut consumer = Client::open(place, 0);
    let mut found: Vec<Vec<u8>> = (0..100).map_while(|_| consumer.get(QUEUE)).collect();
    assert_eq!(found.len(), 100);
    let until = Instant::now() + Duration::from_millis(500);
    let trips = thread::spawn(move || round_trips(place, until));
    check_round_trips(&trips.join().expect("it was disturbed"));
    client.patience(SILENCE);
    assert!(matches!(client.next(), Heard::Silence), "confirmed, on a full disk");

    // Room again: everything is confirmed without anybody's help, and the broker goes on.
    disk.recover();
    client.patience(Duration::from_secs(20));
    while (sent.confirmed.len() as u64) < sent.count {
        confirm(client.next(), &mut sent);
    }
    let after = publish(place, 1, 50);
    assert_eq!(after.confirmed.len(), 50);
    broker.kill9();
    let restarted = broker.restart_in(Surroundings::default());
    assert!(restarted.is_ok(), "it does not start again:\n{}", broker.log());
    found.extend(drain(&broker));
    let there = compare(&[sent, after], &found);
    assert_eq!(there, Ok(usize::try_from(count).expect("a count") + 50));
}

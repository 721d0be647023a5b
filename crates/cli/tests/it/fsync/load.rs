//! Publishers that go on until the broker ends, and what is there afterwards.

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use leveret_amqp_wire::Method;

use super::client::{Client, Heard, PERSISTENT, durable_queue, message};
use super::ledger::{Sent, body};
use crate::broker::Broker;
use crate::hostile::address;

pub(super) const QUEUE: &str = "ledger";
const PUBLISHERS: usize = 3;
/// How many messages of one publisher may wait to be confirmed.
const WINDOW: u64 = 20;

pub(super) fn declare(broker: &Broker) {
    Client::open(address(broker), 0).declare(durable_queue(QUEUE));
}

/// Publishes so many messages and has them confirmed, or fewer if the broker ends before.
pub(super) fn publish(broker: SocketAddr, publisher: usize, count: u64) -> Sent {
    publish_on(Client::open(broker, 0), publisher, count)
}

fn publish_on(mut client: Client, publisher: usize, count: u64) -> Sent {
    let mut sent = Sent { publisher, ..Sent::default() };
    loop {
        while sent.count < count && sent.count - sent.confirmed.len() as u64 <= WINDOW {
            let message = message("", QUEUE, PERSISTENT, &body(publisher, sent.count));
            sent.count += 1;
            if !client.send(&message) {
                break;
            }
        }
        // What was confirmed before it ended still counts.
        match client.next() {
            Heard::Method(Method::BasicAck(ack)) if ack.multiple => {
                sent.confirmed.extend(0..ack.delivery_tag);
            }
            Heard::Method(Method::BasicAck(ack)) => {
                sent.confirmed.insert(ack.delivery_tag - 1);
            }
            Heard::End => return sent,
            other => panic!("{other:?}"),
        }
        if sent.confirmed.len() as u64 == count {
            return sent;
        }
    }
}

/// Publishes so many messages without waiting for anything, to a broker that will end.
pub(super) fn publish_in_vain(broker: SocketAddr, publisher: usize, count: u64) -> Sent {
    let one = |number| message("", QUEUE, PERSISTENT, &body(publisher, number));
    let all = (0..count).flat_map(one).collect::<Vec<u8>>();
    let mut client = Client::blurt(broker, 0, &all);
    let mut sent = Sent { publisher, count, ..Sent::default() };
    loop {
        match client.next() {
            Heard::Method(Method::BasicAck(ack)) => {
                sent.confirmed.insert(ack.delivery_tag - 1);
            }
            Heard::Method(..) => {}
            Heard::End => return sent,
            other => panic!("{other:?}"),
        }
    }
}

/// Some publishers that go on until the broker ends. Their numbers begin with `first`.
pub(super) fn start(broker: &Broker, first: usize) -> Vec<JoinHandle<Sent>> {
    let place = address(broker);
    let clients: Vec<_> = (0..PUBLISHERS).map(|_| Client::open(place, 0)).collect();
    let start = |(number, client)| thread::spawn(move || publish_on(client, number, u64::MAX));
    (first..).zip(clients).map(start).collect()
}

/// Everything in the queue.
pub(super) fn drain(broker: &Broker) -> Vec<Vec<u8>> {
    let mut client = Client::open(address(broker), 0);
    std::iter::from_fn(|| client.get(QUEUE)).collect()
}

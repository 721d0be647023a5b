//! Very many connections that are dropped in the middle of something.

use leveret_amqp_wire::method::{BasicGet, BasicQos, ConfirmSelect, QueueDeclare};

use super::client::{Client, TRANSIENT, messages};
use super::scene::{Counts, Scene, may_open};
use crate::hostile::peer::{method, short};
use crate::hostile::{body, header, publish};
use crate::tools::say;

const CONNECTIONS: usize = 5_000;
/// At a time.
const BATCH: usize = 250;
const WAITING: usize = 100;
/// How much larger the broker may be after the second half than after the first, in KiB: less than
/// a fifth of what an idle connection takes, for each of that half.
const GROWTH_KIB_MAX: u64 = 3 * 1024;

/// Something to be in the middle of.
fn begin(client: &mut Client, kind: usize) {
    match kind {
        // Nothing at all.
        0 => {}
        // Messages out on leases, of a queue of its own.
        1 => {
            let declare = QueueDeclare { exclusive: true, ..QueueDeclare::default() };
            client.peer.send(&method(1, declare));
            client.peer.send(&messages("amq.fanout", "", TRANSIENT, 1_000, 3));
            client.ask(BasicQos::default(), |_| true);
            client.peer.send(&method(1, BasicGet::default()));
        }
        // Messages out on leases, of a queue of others.
        2 => {
            let limit = BasicQos { prefetch_count: 2, ..BasicQos::default() };
            client.peer.send(&method(1, limit));
            client.consume("shared", false);
        }
        // Half a message, and confirms that nobody will hear.
        3 => {
            client.peer.send(&method(1, ConfirmSelect::default()));
            client.peer.send(&messages("", "nowhere", TRANSIENT, 10, 10));
            let half = [publish(1, "", "shared"), header(1, 60, 60_000), body(1, 30_000)];
            client.peer.send(&half.concat());
        }
        // Questions whose answers it does not read: this resets the connection.
        _ => {
            let get = BasicGet { queue: short("shared"), ..BasicGet::default() };
            client.peer.send(&method(1, get).repeat(5));
        }
    }
}

#[test]
fn five_thousand_connections_are_dropped() {
    let test = "five_thousand_connections_are_dropped";
    if !may_open(test, BATCH) {
        return;
    }
    let Some(scene) = Scene::set(test, &[]) else { return };
    let mut owner = Client::open(scene.amqp);
    owner.declare("shared");
    owner.peer.send(&messages("", "shared", TRANSIENT, 100, WAITING));
    owner.sync();
    let idle = scene.counts();
    assert_eq!((idle.queues, idle.ready, idle.unacknowledged), (1, WAITING as u64, 0));
    let first = scene.size_kib();
    let mut halves = Vec::new();
    for half in 0..2 {
        let mut most = Counts::default();
        for _ in 0..CONNECTIONS / 2 / BATCH {
            let mut clients = Client::open_many(scene.amqp, BATCH, 60);
            for (index, client) in clients.iter_mut().enumerate() {
                begin(client, index % 5);
            }
            most = scene.counts();
            drop(clients);
            scene.await_counts(idle);
        }
        halves.push(scene.size_kib());
        say(&format!(
            "half {half} of {CONNECTIONS} connections: {first}, {halves:?} KiB; {most:?}"
        ));
        assert!(most.queues > 10 && most.consumers > 10 && most.unacknowledged > 10, "{most:?}");
    }
    assert!(halves[1] <= halves[0] + GROWTH_KIB_MAX, "it grows: {halves:?} KiB");
    owner.close();
}

//! What idle things cost (Test H).

use std::time::Instant;

use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::{QueueDeclare, QueueDelete};
use leveret_model::limits::HEARTBEAT;

use super::client::{Client, PERSISTENT, messages};
use super::neighbour::median;
use super::scene::{Counts, Scene, may_open};
use crate::hostile::peer::{method, short};
use crate::tools::say;

const BROKER_KIB_MAX: u64 = 30_000_000 / 1024;
const CONNECTION_KIB_MAX: f64 = 30.0;
const QUEUE_KIB_MAX: f64 = 4.0;
const DECLARED_PER_SECOND_MIN: f64 = 1_000.0;

#[test]
fn an_idle_broker_is_small() {
    let Some(scene) = Scene::set("an_idle_broker_is_small", &[]) else { return };
    let size = scene.size_kib();
    say(&format!("an idle broker: {size} KiB, at most {} KiB ever", scene.peak_kib()));
    assert!(size < BROKER_KIB_MAX, "{size} KiB");
}

/// With heartbeats, a channel, and all that a handshake leaves behind.
#[test]
fn an_idle_connection_is_small() {
    const COUNT: usize = 1_500;
    let test = "an_idle_connection_is_small";
    if !may_open(test, COUNT) {
        return;
    }
    let Some(scene) = Scene::set(test, &[]) else { return };
    let before = scene.size_kib();
    let heartbeat = u16::try_from(HEARTBEAT.as_secs()).expect("a minute");
    let clients = Client::open_many(scene.amqp, COUNT, heartbeat);
    let grown = scene.size_kib().saturating_sub(before);
    let each = grown as f64 / COUNT as f64;
    say(&format!("{COUNT} idle connections: {each:.2} KiB each; from {before} KiB"));
    assert!(each <= CONNECTION_KIB_MAX, "{each:.2} KiB a connection");
    drop(clients);
}

#[test]
fn an_idle_queue_is_small_and_quickly_declared() {
    const COUNT: u32 = 10_000;
    let test = "an_idle_queue_is_small_and_quickly_declared";
    let Some(scene) = Scene::set(test, &[]) else { return };
    let mut client = Client::open(scene.amqp);
    let declare = |number| {
        let queue = short(&format!("a-queue-that-survives-{number}"));
        method(1, QueueDeclare { queue, durable: true, ..QueueDeclare::default() })
    };
    let declared = |method: &Method| matches!(method, Method::QueueDeclareOk(_));

    // One after the other: each waits for the disk, so no broker can be faster than that.
    let before = scene.size_kib();
    let disk = confirms_per_second(&mut client);
    let thousand = |first: u32| {
        let begun = Instant::now();
        for number in first..first + 1_000 {
            client.peer.send(&declare(number));
            client.peer.expect(declared);
        }
        begun.elapsed()
    };
    let rate = 1_000.0 / median((0..COUNT).step_by(1_000).map(thousand).collect()).as_secs_f64();
    let grown = scene.size_kib().saturating_sub(before);
    let each = grown as f64 / f64::from(COUNT);
    assert_eq!(scene.counts(), Counts { queues: u64::from(COUNT), ..Counts::default() });

    // All at once: the disk is waited for now and then.
    let begun = Instant::now();
    client.peer.send(&(COUNT..2 * COUNT).flat_map(declare).collect::<Vec<u8>>());
    for _ in 0..COUNT {
        client.peer.expect(declared);
    }
    let pipelined = f64::from(COUNT) / begun.elapsed().as_secs_f64();
    say(&format!(
        "{COUNT} durable queues: {each:.2} KiB each; {rate:.0}/s one by one, {pipelined:.0}/s \
         pipelined, where {disk:.0} messages/s are confirmed one by one"
    ));
    assert!(each <= QUEUE_KIB_MAX, "{each:.2} KiB a queue");
    // Where the disk is too slow for that, half of what it does for messages.
    let least = DECLARED_PER_SECOND_MIN.min(disk / 2.0);
    assert!(rate >= least, "{rate:.0}/s one by one");
    assert!(pipelined >= DECLARED_PER_SECOND_MIN, "{pipelined:.0}/s pipelined");
}

/// How many messages a second are confirmed, one after the other: as many as the disk does syncs.
fn confirms_per_second(client: &mut Client) -> f64 {
    const COUNT: u32 = 500;
    let queue = QueueDeclare { queue: short("probe"), durable: true, ..QueueDeclare::default() };
    client.ask(queue, |method| matches!(method, Method::QueueDeclareOk(_)));
    client.confirm();
    let message = messages("", "probe", PERSISTENT, 16, 1);
    let begun = Instant::now();
    for _ in 0..COUNT {
        client.peer.send(&message);
        client.peer.expect(|method| matches!(method, Method::BasicAck(_)));
    }
    let rate = f64::from(COUNT) / begun.elapsed().as_secs_f64();
    let delete = QueueDelete { queue: short("probe"), ..QueueDelete::default() };
    client.ask(delete, |method| matches!(method, Method::QueueDeleteOk(_)));
    rate
}

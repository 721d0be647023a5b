//! A disk that fills up. The broker has a small one of its own.

use std::thread;
use std::time::{Duration, Instant};

use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::{
    BasicAck, BasicGet, ConnectionBlocked, QueueBind, QueueDeclare, QueueDelete,
};

use super::client::{Client, PERSISTENT, TRANSIENT, messages, write};
use super::scene::Scene;
use crate::hostile::peer::{method, short};
use crate::tools::say;

const MIB: u64 = 1024 * 1024;
/// Room for five of the log's files besides the marks.
const DISK_MIB: u64 = 512;
const LOW: u64 = 200 * MIB;
const CRITICAL: u64 = 100 * MIB;
const MARKS: [&str; 4] = ["--disk-free-low", "200MiB", "--disk-free-critical", "100MiB"];
const PATIENCE: Duration = Duration::from_secs(30);

fn declare_durable(client: &mut Client, queue: &str) {
    let declare = QueueDeclare { queue: short(queue), durable: true, ..QueueDeclare::default() };
    client.ask(declare, |method| matches!(method, Method::QueueDeclareOk(_)));
}

fn publish(client: &mut Client, properties: &[u8], count: usize) {
    client.peer.send(&messages("", "d", properties, 1_000, count));
}

/// Waits for the confirm of this message and all before it.
fn confirmed(client: &mut Client, last: u64) {
    client
        .peer
        .expect(|method| matches!(method, Method::BasicAck(ack) if ack.delivery_tag >= last));
}

/// Gets messages and acknowledges them. A client that publishes nothing.
fn take(client: &mut Client, count: u64) {
    for delivery_tag in 1..=count {
        let get = BasicGet { queue: short("d"), ..BasicGet::default() };
        client.ask(get, |method| matches!(method, Method::BasicGetOk(_)));
        client.peer.send(&method(1, BasicAck { delivery_tag, multiple: false }));
    }
    client.sync();
}

fn blocked(client: &mut Client) {
    let told = client.peer.expect(|method| matches!(method, Method::ConnectionBlocked(_)));
    let Method::ConnectionBlocked(ConnectionBlocked { reason }) = told else { unreachable!() };
    assert_eq!(reason.to_string(), "low on disk");
}

fn unblocked(client: &mut Client) {
    client.peer.expect(|method| matches!(method, Method::ConnectionUnblocked(_)));
}

fn await_alarm(scene: &Scene, wanted: bool, free: impl Fn(u64) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let node = scene.node();
        assert_eq!((&node["disk_free_limit"], &node["mem_alarm"]), (&LOW.into(), &false.into()));
        if node["disk_free_alarm"] == wanted && node["disk_free"].as_u64().is_some_and(&free) {
            return;
        }
        assert!(Instant::now() < deadline, "waited for alarm {wanted}: {node}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn publishers_wait_while_little_of_the_disk_is_free() {
    let test = "publishers_wait_while_little_of_the_disk_is_free";
    let Some(scene) = Scene::set_on_disk(test, DISK_MIB, &MARKS) else { return };
    let [mut publisher, mut transient, mut consumer] = [(); 3].map(|()| Client::open(scene.amqp));
    declare_durable(&mut publisher, "d");
    publisher.confirm();
    publish(&mut publisher, PERSISTENT, 100);
    confirmed(&mut publisher, 100);
    await_alarm(&scene, false, |free| free > LOW);

    let filler = scene.home.fill(150 * MIB);
    await_alarm(&scene, true, |free| free < LOW && free > CRITICAL);
    publish(&mut publisher, PERSISTENT, 1);
    publish(&mut transient, TRANSIENT, 1);
    blocked(&mut publisher);
    blocked(&mut transient);
    // Others go on, and may declare things.
    take(&mut consumer, 50);
    declare_durable(&mut consumer, "other");
    assert_eq!(consumer.depth("d"), 50);
    let directory = scene.home.path().join("data").display().to_string();
    let log = scene.log();
    let told = |line: &&String| line.contains("publishers wait") && line.contains(&directory);
    assert_eq!(log.iter().filter(told).count(), 1, "{log:?}");

    drop(filler);
    unblocked(&mut publisher);
    unblocked(&mut transient);
    confirmed(&mut publisher, 101);
    transient.sync();
    await_alarm(&scene, false, |free| free > LOW);
    take(&mut Client::open(scene.amqp), 52);
    assert_eq!(consumer.depth("d"), 0);
}

#[test]
fn nothing_makes_the_log_larger_while_next_to_nothing_is_free() {
    let test = "nothing_makes_the_log_larger_while_next_to_nothing_is_free";
    let Some(scene) = Scene::set_on_disk(test, DISK_MIB, &MARKS) else { return };
    let [mut publisher, mut consumer, mut newcomer] = [(); 3].map(|()| Client::open(scene.amqp));
    declare_durable(&mut publisher, "d");
    publisher.confirm();
    publish(&mut publisher, PERSISTENT, 100);
    confirmed(&mut publisher, 100);
    // And half of another message.
    let mut half = messages("", "d", PERSISTENT, 1_000, 1);
    let rest = half.split_off(half.len() - 500);
    publisher.peer.send(&half);
    publisher.peer.socket.set_nodelay(true).expect("set an option");

    let filler = scene.home.fill(50 * MIB);
    await_alarm(&scene, true, |free| free < CRITICAL);
    publisher.peer.send(&rest);
    blocked(&mut publisher);
    // Who comes back declares what is there, and takes.
    declare_durable(&mut consumer, "d");
    take(&mut consumer, 60);
    assert_eq!(consumer.depth("d"), 40);
    consumer.declare("for now");
    let delete = QueueDelete { queue: short("for now"), ..QueueDelete::default() };
    consumer.ask(delete, |method| matches!(method, Method::QueueDeleteOk(_)));
    // Who wants something new waits.
    let queue = || short("new");
    let (declare, exchange) = (QueueDeclare::default(), short("amq.direct"));
    let bind = QueueBind { queue: queue(), exchange, ..QueueBind::default() };
    let declare = QueueDeclare { queue: queue(), durable: true, ..declare };
    newcomer.peer.send(&[method(1, declare), method(1, bind)].concat());
    blocked(&mut newcomer);

    drop(filler);
    unblocked(&mut publisher);
    confirmed(&mut publisher, 101);
    unblocked(&mut newcomer);
    newcomer.peer.expect(|method| matches!(method, Method::QueueDeclareOk(_)));
    newcomer.peer.expect(|method| matches!(method, Method::QueueBindOk(_)));
    take(&mut Client::open(scene.amqp), 41);
    assert_eq!(consumer.depth("d"), 0);
}

/// More than the disk holds goes through it, with the marks that nobody set.
#[test]
fn a_publisher_that_fills_the_disk_goes_on_when_consumers_free_some() {
    const SIZE: usize = 100_000;
    const COUNT: usize = 6_000;
    let test = "a_publisher_that_fills_the_disk_goes_on_when_consumers_free_some";
    let Some(scene) = Scene::set_on_disk(test, DISK_MIB, &[]) else { return };
    let [mut publisher, mut consumer] = [(); 2].map(|()| Client::open(scene.amqp));
    declare_durable(&mut publisher, "d");
    publisher.confirm();
    let mut writer = publisher.writer();
    let writing = thread::spawn(move || {
        let some = messages("", "d", PERSISTENT, SIZE, 10);
        (0..COUNT / 10).all(|_| write(&mut writer, &some))
    });
    let begun = Instant::now();
    blocked(&mut publisher);
    let waiting = consumer.depth("d");
    say(&format!("{test}: {waiting} messages after {:?}", begun.elapsed()));
    assert!((waiting as usize) < COUNT, "it did not fill up");
    let consuming = thread::spawn(move || {
        consumer.consume("d", true);
        for _ in 0..COUNT {
            consumer.peer.expect(|method| matches!(method, Method::BasicDeliver(_)));
        }
        consumer.depth("d")
    });
    unblocked(&mut publisher);
    confirmed(&mut publisher, COUNT as u64);
    assert!(writing.join().expect("the writer"), "it could write it all");
    assert_eq!(consuming.join().expect("the consumer"), 0);
    say(&format!("{test}: all through after {:?}", begun.elapsed()));
}

//! Clients of a broker whose disk is full.

use std::thread;

use leveret_amqp_wire::method::{
    BasicConsume, BasicQos, ConfirmSelect, ConnectionBlocked, ConnectionUnblocked, ExchangeDeclare,
    QueueBind, QueueDelete, TxCommit, TxSelect,
};

use super::*;

const ENOUGH: u64 = 1500;
const LOW: u64 = 500;
const CRITICAL: u64 = 50;

/// A disk, and a client that hears of it, of a broker with a durable queue `d`.
fn scene() -> (Arc<AtomicU64>, Client) {
    let free = Arc::new(AtomicU64::new(ENOUGH));
    let first = Client::with_disk(&free);
    let mut client = first.another(capable(["connection.blocked"]));
    let told = client.say(1, durable("d"));
    assert!(matches!(told[..], [Told::Method(Method::QueueDeclareOk(_))]), "{told:?}");
    (free, client)
}

fn durable(queue: &'static str) -> QueueDeclare {
    let queue = ShortString::from_static(queue);
    QueueDeclare { queue, durable: true, ..Default::default() }
}

/// Changes what is free, and waits until the broker has noticed.
fn set(free: &AtomicU64, bytes: u64, client: &Client) {
    free.store(bytes, Relaxed);
    let start = Instant::now();
    while client.broker.disk().free != Some(bytes) {
        assert!(start.elapsed() < Duration::from_secs(10), "noticed in time");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends what the client must not be let in with, and lets it go on when there is room again.
/// What it is told in the end.
fn waits(client: &mut Client, free: &AtomicU64, input: &[u8]) -> Vec<Told> {
    let mut out = Vec::new();
    assert_eq!(client.connection.receive(input, &mut out), 0, "nothing of it is taken");
    assert!(client.connection.blocked);
    let reason = ShortString::from_static("low on disk");
    assert_eq!(client.listen(out), [Told::Method(ConnectionBlocked { reason }.into())]);
    let ready = |client: &Client| {
        let mut context = Context::from_waker(Waker::noop());
        client.connection.session.as_ref().unwrap().poll_plenty(&mut context).is_ready()
    };
    assert!(!ready(client));
    set(free, ENOUGH, client);
    let start = Instant::now();
    while !ready(client) {
        assert!(start.elapsed() < Duration::from_secs(10), "let go in time");
        thread::sleep(Duration::from_millis(5));
    }
    let mut out = Vec::new();
    client.connection.unblock(&mut out);
    assert_eq!(client.listen(out), [Told::Method(ConnectionUnblocked {}.into())]);
    client.send(input)
}

/// What is told at last, when the log has it.
fn at_last(client: &mut Client, mut told: Vec<Told>) -> Told {
    let start = Instant::now();
    while told.is_empty() && start.elapsed() < Duration::from_secs(5) {
        told = client.listen(Vec::new());
    }
    told.pop().expect("an answer")
}

#[test]
fn publishers_wait_when_the_disk_is_low_and_others_do_not() {
    let (free, mut client) = scene();
    set(&free, LOW, &client);
    for method in [
        Method::from(durable("new")),
        Method::from(ConfirmSelect::default()),
        Method::from(BasicQos::default()),
    ] {
        assert_eq!(client.say(1, method).len(), 1);
    }
    // Transient ones too, as with RabbitMQ.
    let mut told = waits(&mut client, &free, &message(1, &[0, 0], b"late"));
    if told.is_empty() {
        told = vec![at_last(&mut client, Vec::new())];
    }
    assert!(matches!(told[..], [Told::Method(Method::BasicAck(_))]), "{told:?}");
    let Some(queue) = client.broker.queues().into_iter().find(|it| it.name.as_bytes() == b"q")
    else {
        panic!("no queue")
    };
    assert_eq!(queue.ready, 1);
}

#[test]
fn what_makes_the_log_larger_waits_when_the_disk_is_critical() {
    let (free, mut client) = scene();
    let exchange = ShortString::from_static("x");
    let kind = ShortString::from_static("fanout");
    let bind = QueueBind {
        queue: ShortString::from_static("d"),
        exchange: ShortString::from_static("amq.fanout"),
        ..Default::default()
    };
    type IsAnswer = fn(&Told) -> bool;
    let new: [(Method, IsAnswer); 3] = [
        (durable("new").into(), |it| matches!(it, Told::Method(Method::QueueDeclareOk(_)))),
        (ExchangeDeclare { exchange, kind, durable: true, ..Default::default() }.into(), |it| {
            matches!(it, Told::Method(Method::ExchangeDeclareOk(_)))
        }),
        (bind.into(), |it| matches!(it, Told::Method(Method::QueueBindOk(_)))),
    ];
    for (method, answer) in new {
        set(&free, CRITICAL, &client);
        let input = framed(1, method.clone());
        let told = waits(&mut client, &free, &input);
        let told = at_last(&mut client, told);
        assert!(answer(&told), "{told:?}");
        // A client that comes back says it all again.
        set(&free, CRITICAL, &client);
        let told = client.say(1, method);
        assert!(told.len() == 1 && answer(&told[0]), "{told:?}");
    }
}

#[test]
fn what_frees_some_is_done_when_the_disk_is_critical() {
    let (free, mut client) = scene();
    client.send(&[message(1, &[0, 0], b"1"), message(1, &[0, 0], b"2")].concat());
    set(&free, CRITICAL, &client);
    let queue = || ShortString::from_static("q");
    let got = client.say(1, BasicGet { queue: queue(), ..Default::default() });
    assert!(matches!(got[0], Told::Method(Method::BasicGetOk(_))), "{got:?}");
    client.say(1, BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(client.broker.queues().iter().map(|it| it.unacknowledged).sum::<usize>(), 0);
    let told = client.say(1, BasicConsume { queue: queue(), ..Default::default() });
    assert!(matches!(told[0], Told::Method(Method::BasicConsumeOk(_))), "{told:?}");
    let transient = QueueDeclare { queue: ShortString::from_static("t"), ..Default::default() };
    assert_eq!(client.say(1, transient).len(), 1);
    let told = client.say(1, QueueDelete { queue: queue(), ..Default::default() });
    assert!(matches!(told[..], [Told::Method(Method::QueueDeleteOk(_))]), "{told:?}");
    assert!(!client.connection.blocked);
}

#[test]
fn a_message_that_is_half_there_waits_when_the_disk_is_critical() {
    let (free, mut client) = scene();
    client.send(&unfinished(1, &[7; 100], 1));
    let mut rest = Vec::new();
    write_body(&mut rest, 1, &[7]);
    set(&free, CRITICAL, &client);
    assert_eq!(waits(&mut client, &free, &rest), []);
    assert_eq!(client.broker.queues().iter().map(|it| it.ready).sum::<usize>(), 1);
    // When it is only low, the rest may come.
    client.send(&unfinished(1, &[7; 100], 1));
    set(&free, LOW, &client);
    client.send(&rest);
    assert_eq!(client.broker.queues().iter().map(|it| it.ready).sum::<usize>(), 2);
}

#[test]
fn a_commit_waits_for_the_disk_if_it_publishes() {
    let (free, mut client) = scene();
    client.send(&message(1, &[0, 0], b"1"));
    client.say(1, TxSelect {});
    let queue = ShortString::from_static("q");
    client.say(1, BasicGet { queue, ..Default::default() });
    set(&free, CRITICAL, &client);
    client.say(1, BasicAck { delivery_tag: 1, multiple: false });
    let told = client.say(1, TxCommit {});
    assert!(matches!(told[..], [Told::Method(Method::TxCommitOk(_))]), "{told:?}");
    set(&free, ENOUGH, &client);
    client.send(&message(1, &[0, 0], b"2"));
    set(&free, CRITICAL, &client);
    let told = waits(&mut client, &free, &framed(1, TxCommit {}));
    let told = at_last(&mut client, told);
    assert!(matches!(told, Told::Method(Method::TxCommitOk(_))), "{told:?}");
}

#[test]
fn a_publisher_is_told_of_both_shortages() {
    let (free, mut client) = scene();
    let mut hog = client.another(ConnectionStartOk::default());
    hog.send(&unfinished(1, &[7; MEMORY + 1], 1));
    set(&free, LOW, &client);
    let mut out = Vec::new();
    client.connection.receive(&message(1, &[0, 0], b"first"), &mut out);
    let reason = ShortString::from_static("low on memory & disk");
    assert_eq!(client.listen(out), [Told::Method(ConnectionBlocked { reason }.into())]);
}

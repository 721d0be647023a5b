//! A broker that keeps nothing, and whose time stands still until a test moves it.

use std::pin::pin;
use std::sync::atomic::AtomicU64;

use leveret_engine::Outcome;
use leveret_model::FieldValue;

use super::*;
use crate::Ticker;

const ORIGIN: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;

/// A broker, its time, and what moves it on.
struct Scene {
    broker: Broker,
    ticker: Ticker,
    now: Arc<AtomicU64>,
}

impl Scene {
    fn new() -> Self {
        let now = Arc::new(AtomicU64::new(ORIGIN));
        let time = Arc::clone(&now);
        let now_is = move || Time(time.load(Ordering::Relaxed));
        let user = User { name: "u".into(), password: "p".into(), loopback_only: true };
        let (broker, ticker) =
            Broker::in_memory(vec![user], MEMORY_BYTES_MIN, now_is).expect("random bytes");
        Scene { broker, ticker, now }
    }

    fn set(&self, after: u64) {
        self.now.store(ORIGIN + after, Ordering::Relaxed);
    }

    /// The deadline, as long after the beginning, if it is news; `NEVER` as it is.
    fn news(&mut self, waker: &Waker) -> Poll<Option<u64>> {
        let polled = self.ticker.poll_deadline(&mut Context::from_waker(waker));
        polled.map(|at| at.map(|Time(at)| if at == u64::MAX { at } else { at - ORIGIN }))
    }
}

fn ready(broker: &Broker, queue: &str) -> usize {
    let queues = broker.queues();
    let found = queues.iter().find(|status| status.name.as_bytes() == queue.as_bytes());
    found.expect("it is there").ready
}

/// Counts how often it is woken, and has a look at the broker each time: no lock is held then.
struct Looker {
    broker: Broker,
    woken: AtomicUsize,
}

impl Looker {
    fn new(broker: &Broker) -> (Arc<Looker>, Waker) {
        let looker = Arc::new(Looker { broker: broker.clone(), woken: AtomicUsize::new(0) });
        (Arc::clone(&looker), Waker::from(looker))
    }

    fn take(&self) -> usize {
        self.woken.swap(0, Ordering::Relaxed)
    }
}

impl Wake for Looker {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::Relaxed);
        drop(self.broker.queues());
    }
}

/// Has something done; what the client was told by then.
fn told(client: &mut Client, operation: Operation) -> Vec<Item> {
    client.send(operation);
    heard(client)
}

/// What the client was told by now.
fn heard(client: &mut Client) -> Vec<Item> {
    let mut outbounds = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    while client.session.poll_outbound(&mut context, &mut outbounds).is_ready() {}
    let bytes = outbounds.iter().map(|outbound| outbound.bytes).sum();
    client.send(Operation::Taken { bytes });
    outbounds.into_iter().flat_map(|outbound| outbound.items).collect()
}

fn queue(name: &'static str, durable: bool) -> DeclareQueue {
    DeclareQueue {
        name: ShortString::from_static(name),
        passive: false,
        durable,
        exclusive: false,
        auto_delete: false,
        arguments: FieldTable::default(),
        reply: true,
    }
}

/// A queue whose messages move to `dead` after so many milliseconds.
fn expiring(name: &'static str, ttl: u64) -> DeclareQueue {
    let mut arguments = FieldTable::new();
    let ttl = FieldValue::I64(ttl.cast_signed());
    arguments.insert(ShortString::from_static("x-message-ttl"), ttl);
    arguments.insert(ShortString::from_static("x-dead-letter-exchange"), FieldValue::from(""));
    arguments
        .insert(ShortString::from_static("x-dead-letter-routing-key"), FieldValue::from("dead"));
    DeclareQueue { arguments, ..queue(name, true) }
}

fn declare(client: &mut Client, queue: DeclareQueue) {
    let items = told(client, Operation::DeclareQueue(Box::new(queue)));
    let [Item::Reply { reply, .. }] = &items[..] else { panic!("{items:?}") };
    assert!(matches!(**reply, Reply::QueueDeclared { .. }), "{reply:?}");
}

fn consume_with_acks(client: &mut Client, queue: &'static str) {
    let consume = Consume {
        queue: ShortString::from_static(queue),
        tag: ShortString::default(),
        no_ack: false,
        exclusive: false,
        arguments: FieldTable::default(),
        reply: true,
    };
    let items = told(client, Operation::Consume(Box::new(consume)));
    assert!(matches!(items[..], [Item::Reply { .. }]), "{items:?}");
}

fn accept(client: &mut Client, lease: u64) {
    client.send(Operation::Settle { lease, multiple: false, outcome: Outcome::Accept });
}

#[test]
fn everything_is_done_when_it_is_submitted() {
    let Scene { broker, .. } = Scene::new();
    let (mut publisher, mut consumer) = (Client::new(&broker), Client::new(&broker));
    declare(&mut publisher, queue("q", true));
    told(&mut publisher, Operation::SelectConfirms { reply: true });
    consume_with_acks(&mut consumer, "q");
    for number in 1..=3 {
        publisher.publish("q", &[b"durable".to_vec()], true);
        let items = heard(&mut publisher);
        let [Item::Confirmed { confirmed, .. }] = &items[..] else { panic!("{items:?}") };
        assert_eq!((confirmed.first, confirmed.last), (number, number));
        let items = heard(&mut consumer);
        let [Item::Deliver { lease, .. }] = items[..] else { panic!("{items:?}") };
        accept(&mut consumer, lease);
    }
    assert!(broker.shared.combiner.with(|core| core.log().is_none()));
    let status = &broker.queues()[0];
    assert_eq!((status.durable, status.ready), (true, 0));
    drop(consumer);
    assert_eq!(broker.queues()[0].ready, 0, "nothing of it was left unsettled");
}

#[test]
fn a_message_moves_when_its_time_has_come_and_not_before() {
    let mut scene = Scene::new();
    let mut client = Client::new(&scene.broker);
    declare(&mut client, queue("dead", true));
    declare(&mut client, expiring("waiting", HOUR));
    assert_eq!(scene.news(Waker::noop()), Poll::Ready(Some(u64::MAX)));
    client.publish("waiting", &[b"late".to_vec()], true);
    assert_eq!(scene.news(Waker::noop()), Poll::Ready(Some(HOUR)));
    scene.set(HOUR - 1);
    scene.ticker.tick();
    assert_eq!((ready(&scene.broker, "waiting"), ready(&scene.broker, "dead")), (1, 0));
    assert_eq!(scene.news(Waker::noop()), Poll::Ready(Some(HOUR)), "said again after a tick");
    scene.set(HOUR);
    scene.ticker.tick();
    assert_eq!((ready(&scene.broker, "waiting"), ready(&scene.broker, "dead")), (0, 1));
    assert_eq!(scene.news(Waker::noop()), Poll::Ready(Some(u64::MAX)));
}

#[test]
fn every_change_of_the_deadline_wakes_who_waits_for_it() {
    let mut scene = Scene::new();
    let now = Arc::clone(&scene.now);
    let (looker, waker) = Looker::new(&scene.broker);
    let mut client = Client::new(&scene.broker);
    for (name, ttl) in [("dead", None), ("minute", Some(60_000)), ("hour", Some(HOUR))] {
        declare(&mut client, ttl.map_or(queue(name, true), |ttl| expiring(name, ttl)));
    }
    let mut next = |expected: Option<u64>| {
        let expected = expected.map_or(Poll::Pending, |at| Poll::Ready(Some(at)));
        let woken = usize::from(expected.is_ready());
        assert_eq!((looker.take(), scene.news(&waker)), (woken, expected));
        assert_eq!(scene.news(&waker), Poll::Pending, "it is known");
    };
    waker.wake_by_ref();
    next(Some(u64::MAX));
    client.publish("hour", &[b"x".to_vec()], true);
    next(Some(HOUR));
    client.publish("hour", &[b"x".to_vec()], true);
    next(None);
    client.publish("minute", &[b"x".to_vec()], true);
    next(Some(60_000));
    let name = ShortString::from_static("minute");
    let (if_unused, if_empty, reply) = (false, false, false);
    client.send(Operation::DeleteQueue { name, if_unused, if_empty, reply });
    next(Some(HOUR));
    // Whatever comes first then moves what is due.
    now.fetch_add(HOUR, Ordering::Relaxed);
    client.publish("dead", &[b"x".to_vec()], true);
    next(Some(u64::MAX));
    assert_eq!(heard(&mut client).len(), 0);
    consume(&mut client, "dead");
    assert_eq!(client.bodies().len(), 3);
}

#[test]
fn a_tick_that_another_thread_has_to_make_wakes_who_waits() {
    let Scene { broker, mut ticker, now } = Scene::new();
    let (looker, waker) = Looker::new(&broker);
    let mut client = Client::new(&broker);
    declare(&mut client, queue("dead", true));
    declare(&mut client, expiring("waiting", HOUR));
    client.publish("waiting", &[b"late".to_vec()], true);
    now.fetch_add(HOUR, Ordering::Relaxed);
    broker.shared.combiner.with(|_| {
        ticker.tick();
        ticker.tick();
        assert_eq!(ticker.poll_deadline(&mut Context::from_waker(&waker)), Poll::Pending);
        assert_eq!(looker.take(), 0);
    });
    assert_eq!(looker.take(), 1);
    let deadline = ticker.poll_deadline(&mut Context::from_waker(&waker));
    assert_eq!(deadline, Poll::Ready(Some(Time::NEVER)));
    consume(&mut client, "dead");
    assert_eq!(client.bodies(), [b"late"]);
}

/// Sleeps by looking at the time whenever somebody else wakes it.
#[test]
fn a_running_ticker_meets_every_deadline() {
    let Scene { broker, ticker, now } = Scene::new();
    let mut client = Client::new(&broker);
    declare(&mut client, queue("dead", true));
    declare(&mut client, expiring("waiting", HOUR));
    let time = Arc::clone(&now);
    let mut running = pin!(ticker.run(|at| {
        let time = Arc::clone(&time);
        std::future::poll_fn(move |_| match time.load(Ordering::Relaxed) >= at.0 {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
    }));
    let mut run = || running.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    for round in 1..=3 {
        client.publish("waiting", &[b"late".to_vec()], true);
        assert_eq!(run(), Poll::Pending);
        now.fetch_add(HOUR - 1, Ordering::Relaxed);
        assert_eq!(run(), Poll::Pending);
        assert_eq!(ready(&broker, "waiting"), 1);
        now.fetch_add(1, Ordering::Relaxed);
        assert_eq!(run(), Poll::Pending);
        assert_eq!((ready(&broker, "waiting"), ready(&broker, "dead")), (0, round));
    }
    consume(&mut client, "dead");
    assert_eq!(client.bodies().len(), 3);
    drop((client, broker));
    assert_eq!(run(), Poll::Ready(()));
}

#[test]
fn the_deadlines_end_with_the_broker() {
    for close in [true, false] {
        let Scene { broker, mut ticker, .. } = Scene::new();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let client = Client::new(&broker);
        let shared = Arc::downgrade(&broker.shared);
        assert_eq!(ticker.poll_deadline(&mut context), Poll::Ready(Some(Time::NEVER)));
        assert_eq!(ticker.poll_deadline(&mut context), Poll::Pending);
        if close {
            broker.close();
        } else {
            drop(broker);
            assert_eq!(ticker.poll_deadline(&mut context), Poll::Pending, "a session has it");
            drop(client);
            assert_eq!(shared.strong_count(), 0);
        }
        // At once, if it was woken.
        thread::park_timeout(PATIENCE);
        assert_eq!(ticker.poll_deadline(&mut context), Poll::Ready(None));
        ticker.tick();
        assert_eq!(ticker.poll_deadline(&mut context), Poll::Ready(None));
    }
}

#[test]
fn what_is_submitted_to_a_closed_one_is_dropped() {
    let Scene { broker, .. } = Scene::new();
    let mut client = Client::new(&broker);
    broker.close();
    client.send(Operation::DeclareQueue(Box::new(queue("q", true))));
    assert!(heard(&mut client).is_empty());
    assert!(broker.queues().is_empty());
    broker.close();
}

#[test]
fn many_rounds_leave_nothing_behind() {
    const ROUNDS: u64 = 200_000;
    let Scene { broker, .. } = Scene::new();
    let (mut publisher, mut consumer) = (Client::new(&broker), Client::new(&broker));
    declare(&mut publisher, queue("q", true));
    told(&mut publisher, Operation::SelectConfirms { reply: true });
    consume_with_acks(&mut consumer, "q");
    let before = broker.memory().used;
    for number in 1..=ROUNDS {
        publisher.publish("q", &[vec![7; 100]], true);
        let items = heard(&mut publisher);
        let [Item::Confirmed { confirmed, .. }] = &items[..] else { panic!("{items:?}") };
        assert_eq!(confirmed.last, number);
        for item in heard(&mut consumer) {
            if let Item::Deliver { lease, .. } = item {
                accept(&mut consumer, lease);
            }
        }
    }
    assert_eq!(broker.memory().used, before);
    assert_eq!(broker.shared.progress.backlog(), 0);
    assert!(broker.shared.waiters.is_empty());
    assert_eq!(broker.shared.combiner.with(|core| core.engine.addresses().count()), 0);
}

#[test]
fn publishers_wait_for_memory_and_not_for_a_disk() {
    let Scene { broker, .. } = Scene::new();
    let mut client = Client::new(&broker);
    declare(&mut client, queue("q", true));
    assert_eq!(broker.disk().free, None);
    let body = vec![0; MEMORY_BYTES_MIN / 4];
    while client.session.shortage().is_none() {
        client.publish("q", std::slice::from_ref(&body), true);
    }
    let shortage = client.session.shortage().expect("it was there");
    assert!(shortage.memory && !shortage.disk && !shortage.disk_critical);
    let name = ShortString::from_static("q");
    client.send(Operation::PurgeQueue { name, reply: false });
    assert!(client.session.shortage().is_none());
}

#[test]
fn transient_and_exclusive_queues_work_as_elsewhere() {
    let Scene { broker, .. } = Scene::new();
    let mut client = Client::new(&broker);
    declare(&mut client, queue("transient", false));
    declare(&mut client, DeclareQueue { exclusive: true, ..queue("exclusive", false) });
    for name in ["transient", "exclusive"] {
        client.publish(name, &[b"x".to_vec()], false);
        consume(&mut client, name);
        assert_eq!(client.bodies(), [b"x"]);
    }
    drop(client);
    let left: Vec<_> = broker.queues().iter().map(|status| status.name.to_string()).collect();
    assert_eq!(left, ["transient"]);
}

#[test]
fn users_are_those_it_was_given() {
    let Scene { broker, .. } = Scene::new();
    assert_eq!(broker.authenticate(b"u", b"p", true), Ok(()));
    assert_eq!(broker.authenticate(b"u", b"p", false), Err(LoginError::NotLocal));
    assert_eq!(broker.authenticate(b"u", b"x", true), Err(LoginError::Credentials));
}

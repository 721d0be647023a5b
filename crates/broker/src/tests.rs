//! The runtime with a real log, driven by threads as front doors would drive it.

mod cold;
mod in_memory;
mod merging;
mod room;
mod spilling;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use leveret_engine::command::{Binding, Consume, DeclareQueue, Destination};
use leveret_engine::{Batch, Command, Engine, Item, Operation, Outbound, Reply, Token};
use leveret_model::limits::{INBOX_BATCHES_MAX, MEMORY_BYTES_MIN, SEGMENT_BYTES_MIN};
use leveret_model::{Chunk, FieldTable, Message, SessionId, ShortString, Time};
use leveret_storage::{Log, LogOptions};

use crate::clock::Clock;
use crate::combiner::Combiner;
use crate::core::{Around, Core};
use crate::{Broker, DiskOptions, LoginError, OpenError, Options, Session, User};

const PATIENCE: Duration = Duration::from_secs(30);

fn open(directory: &Path) -> Broker {
    try_open(directory).expect("opens")
}

fn try_open(directory: &Path) -> Result<Broker, OpenError> {
    Broker::open(options(directory))
}

fn options(directory: &Path) -> Options {
    let guest = User { name: "guest".into(), password: "guest".into(), loopback_only: true };
    let memory_max = MEMORY_BYTES_MIN;
    Options {
        data_dir: directory.to_owned(),
        users: vec![guest],
        memory_max,
        memory_target: memory_max,
        segment_bytes: SEGMENT_BYTES_MIN,
        disk: DiskOptions::default(),
    }
}

/// A session and what it was told, for a thread that waits.
struct Client {
    session: Session,
    told: Vec<Outbound>,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Client {
    fn new(broker: &Broker) -> Self {
        let session = broker.connect(b"/").expect("a virtual host");
        let mut client = Client { session, told: Vec::new() };
        client.ask(Operation::Open);
        client
    }

    fn send(&self, operation: Operation) {
        let command = Command { holder: 1, token: Token(0), operation };
        self.session.submit(vec![command], Chunk::default());
    }

    /// Sends and waits until something is told.
    fn ask(&mut self, operation: Operation) {
        self.send(operation);
        self.wait();
    }

    /// Waits until something more is told.
    fn wait(&mut self) {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let deadline = Instant::now() + PATIENCE;
        while self.session.poll_outbound(&mut Context::from_waker(&waker), &mut self.told)
            == Poll::Pending
        {
            let left = deadline.checked_duration_since(Instant::now()).expect("told in time");
            thread::park_timeout(left);
        }
    }

    fn declare(&mut self, name: &'static str, durable: bool) {
        self.ask(Operation::DeclareQueue(Box::new(DeclareQueue {
            name: ShortString::from_static(name),
            passive: false,
            durable,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::default(),
            reply: true,
        })));
    }

    fn publish(&self, queue: &str, bodies: &[Vec<u8>], persistent: bool) {
        let mut envelope = vec![0, u8::try_from(queue.len()).expect("short")];
        envelope.extend_from_slice(queue.as_bytes());
        let mut chunk = Chunk::default();
        for body in bodies {
            let message = Message { envelope: &envelope, properties: &[0, 0], body, persistent };
            chunk.push(message).expect("room");
        }
        let count = u32::try_from(bodies.len()).expect("few");
        let operation = Operation::Publish { first: 0, count, mandatory: false, special: false };
        self.session.submit(vec![Command { holder: 1, token: Token(0), operation }], chunk);
    }

    /// Takes the bodies delivered so far.
    fn bodies(&mut self) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        let mut bytes = 0;
        for outbound in self.told.drain(..) {
            bytes += outbound.bytes;
            for item in &outbound.items {
                if let Item::Deliver { chunk, message, .. } = *item {
                    bodies.push(outbound.chunks[chunk as usize].get(message).body.to_vec());
                }
            }
        }
        self.send(Operation::Taken { bytes });
        bodies
    }

    /// The number up to which messages are confirmed.
    fn confirmed(&self) -> u64 {
        let items = self.told.iter().flat_map(|outbound| &outbound.items);
        let last = items.filter_map(|item| match item {
            Item::Confirmed { confirmed, .. } => Some(confirmed.last),
            _ => None,
        });
        last.max().unwrap_or(0)
    }
}

fn consume(client: &mut Client, queue: &'static str) {
    client.ask(Operation::Consume(Box::new(Consume {
        queue: ShortString::from_static(queue),
        tag: ShortString::default(),
        no_ack: true,
        exclusive: false,
        arguments: FieldTable::default(),
        reply: true,
    })));
}

#[test]
fn many_threads_lose_nothing_and_keep_the_order() {
    const PUBLISHERS: u8 = 4;
    const BATCHES: u32 = 2_000;
    const A_BATCH: u32 = 5;
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    Client::new(&broker).declare("q", false);
    let consumers: Vec<_> = (0..2)
        .map(|_| {
            let mut client = Client::new(&broker);
            consume(&mut client, "q");
            thread::spawn(move || {
                let mut seen: Vec<Vec<u8>> = Vec::new();
                while !seen.iter().any(|body| body == b"end") {
                    seen.extend(client.bodies());
                    client.wait();
                    seen.extend(client.bodies());
                }
                seen
            })
        })
        .collect();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let client = Client::new(&broker);
            thread::spawn(move || {
                for batch in 0..BATCHES {
                    let bodies: Vec<Vec<u8>> = (0..A_BATCH)
                        .map(|i| {
                            let mut body = vec![publisher];
                            body.extend_from_slice(&(batch * A_BATCH + i).to_be_bytes());
                            body
                        })
                        .collect();
                    client.publish("q", &bodies, false);
                }
            })
        })
        .collect();
    publishers.into_iter().for_each(|thread| thread.join().unwrap());
    // One that has not taken what it was given has no turn: it gets an end later.
    let client = Client::new(&broker);
    while !consumers.iter().all(|thread| thread.is_finished()) {
        client.publish("q", &[b"end".to_vec()], false);
        thread::sleep(Duration::from_millis(5));
    }
    let mut total = 0;
    for consumer in consumers {
        let seen = consumer.join().unwrap();
        for publisher in 0..PUBLISHERS {
            let own: Vec<_> = seen.iter().filter(|body| body[0] == publisher).collect();
            assert!(own.is_sorted(), "out of order");
            total += own.len();
        }
    }
    assert_eq!(total, (u32::from(PUBLISHERS) * BATCHES * A_BATCH) as usize);
}

#[test]
fn what_is_confirmed_is_in_a_copy_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    let mut client = Client::new(&broker);
    client.declare("q", true);
    client.ask(Operation::SelectConfirms { reply: true });
    for round in 1..=20_u64 {
        client.publish("q", &[round.to_be_bytes().to_vec(), b"second".to_vec()], true);
        while client.confirmed() < 2 * round {
            client.wait();
        }
        // What a crash at this moment would leave, and more: the page cache is in it.
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("wal")).unwrap();
        for file in std::fs::read_dir(directory.path().join("wal")).unwrap().flatten() {
            if file.file_name().to_string_lossy().ends_with(".wal") {
                std::fs::copy(file.path(), copy.path().join("wal").join(file.file_name())).unwrap();
            }
        }
        let restored = open(copy.path());
        let ready: usize = restored.queues().iter().map(|queue| queue.ready).sum();
        assert_eq!(ready as u64, 2 * round);
        restored.close();
    }
}

#[test]
fn a_user_for_this_machine_may_not_come_from_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    assert_eq!(broker.authenticate(b"guest", b"guest", true), Ok(()));
    assert_eq!(broker.authenticate(b"guest", b"guest", false), Err(LoginError::NotLocal));
    assert_eq!(broker.authenticate(b"guest", b"wrong", false), Err(LoginError::Credentials));
    assert_eq!(broker.authenticate(b"other", b"guest", true), Err(LoginError::Credentials));
}

#[test]
fn declaring_again_is_answered_though_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    let mut client = Client::new(&broker);
    for _ in 0..3 {
        client.declare("q", true);
    }
    broker.close();
    drop(client);
    // The first step after a start, too.
    let broker = open(directory.path());
    Client::new(&broker).declare("q", true);
}

#[test]
fn a_closed_broker_opens_with_what_it_had() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    let mut client = Client::new(&broker);
    client.declare("durable", true);
    client.declare("transient", false);
    client.publish("durable", &[b"kept".to_vec()], true);
    client.publish("durable", &[b"lost".to_vec()], false);
    assert!(matches!(try_open(directory.path()), Err(OpenError::Locked { .. })));
    broker.close();
    // Late commands are dropped, not answered and not feared.
    client.publish("durable", &[b"late".to_vec()], true);
    drop(client);

    let broker = open(directory.path());
    let queues = broker.queues();
    assert_eq!(queues.len(), 1);
    assert_eq!((queues[0].name.to_string(), queues[0].ready), ("durable".to_owned(), 1));
    let mut client = Client::new(&broker);
    consume(&mut client, "durable");
    let mut bodies = client.bodies();
    while bodies.is_empty() {
        client.wait();
        bodies = client.bodies();
    }
    assert_eq!(bodies, [b"kept"]);
    broker.close();
}

#[test]
fn an_ended_session_gives_back_its_exclusive_queues() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    let mut client = Client::new(&broker);
    client.ask(Operation::DeclareQueue(Box::new(DeclareQueue {
        name: ShortString::default(),
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        arguments: FieldTable::default(),
        reply: true,
    })));
    let declared = |item: &Item| match item {
        Item::Reply { reply, .. } => matches!(**reply, Reply::QueueDeclared { .. }),
        _ => false,
    };
    assert!(client.told.iter().flat_map(|outbound| &outbound.items).any(declared));
    assert_eq!(broker.queues().len(), 1);
    drop(client);
    assert_eq!(broker.queues().len(), 0);
}

/// A publisher that is faster than the engine makes nobody else wait: not who has the engine at the
/// moment and would run its batches for ever, nor who comes next.
#[test]
fn an_engine_slower_than_its_publisher_answers_others() {
    const QUEUES: usize = 100;
    const A_BATCH: u32 = 400;
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    let mut publisher = Client::new(&broker);
    let names = (0..QUEUES).map(|i| ShortString::try_from(format!("q{i}")).expect("short"));
    let names: Vec<ShortString> = names.collect();
    let mut commands = Vec::new();
    for name in &names {
        commands.push(Operation::DeclareQueue(Box::new(DeclareQueue {
            name: name.clone(),
            passive: false,
            durable: false,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::default(),
            reply: false,
        })));
        commands.push(Operation::Bind(Box::new(Binding {
            destination: Destination::Queue(name.clone()),
            source: ShortString::from_static("amq.fanout"),
            routing_key: ShortString::default(),
            arguments: FieldTable::default(),
            reply: false,
        })));
    }
    let command = |operation| Command { holder: 1, token: Token(0), operation };
    publisher.session.submit(commands.into_iter().map(command).collect(), Chunk::default());
    publisher.declare("q0", false);

    let mut other = Client::new(&broker);
    other.declare("trivial", false);
    let end = Instant::now() + Duration::from_secs(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                let mut chunk = Chunk::default();
                for _ in 0..A_BATCH {
                    let envelope = b"\x0aamq.fanout\0";
                    let (properties, body, persistent) = (&[0, 0], b"x", false);
                    chunk.push(Message { envelope, properties, body, persistent }).expect("room");
                }
                let mut commands = vec![Operation::Publish {
                    first: 0,
                    count: A_BATCH,
                    mandatory: false,
                    special: false,
                }];
                // Nothing of it stays.
                for name in names.iter().cloned() {
                    commands.push(Operation::PurgeQueue { name, reply: false });
                }
                publisher.session.submit(commands.into_iter().map(command).collect(), chunk);
            }
        });
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            let begun = Instant::now();
            other.declare("trivial", false);
            slowest = slowest.max(begun.elapsed());
        }
        assert!(slowest < Duration::from_secs(1), "an answer took {slowest:?}");
    });
}

#[test]
fn a_deadline_brings_a_step_though_nobody_brings_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    let clock = Arc::clone(&broker.shared.clock);
    for _ in 0..100 {
        broker.shared.combiner.with(|_| clock.stepped(Some(Time(1))));
        let deadline = Instant::now() + PATIENCE;
        while clock.is_set() {
            assert!(Instant::now() < deadline, "stepped in time");
            thread::yield_now();
        }
    }
    broker.close();
    clock.stepped(Some(Time(1)));
    thread::sleep(Duration::from_millis(20));
    assert!(clock.is_set(), "no step once it is closed");
}

#[test]
fn the_clock_does_not_outlive_the_last_broker() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    let clock = Arc::downgrade(&broker.shared.clock);
    drop((broker.clone(), broker));
    // Nobody has the directory any more, either.
    open(directory.path()).close();
    let deadline = Instant::now() + PATIENCE;
    while clock.upgrade().is_some() {
        assert!(Instant::now() < deadline, "ended in time");
        thread::yield_now();
    }
}

#[test]
fn bodies_on_their_way_in_stop_publishers_until_their_session_ends() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    let (big, other) = (Client::new(&broker), Client::new(&broker));
    let before = broker.memory();
    assert_eq!(before.max, MEMORY_BYTES_MIN);
    assert!(other.session.shortage().is_none());
    big.session.set_unfinished(MEMORY_BYTES_MIN + 1);
    assert_eq!(broker.memory().used, before.used + MEMORY_BYTES_MIN + 1);
    assert!(other.session.shortage().is_some());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let waker = Waker::from(Arc::new(Unpark(thread::current())));
            let deadline = Instant::now() + PATIENCE;
            while other.session.poll_plenty(&mut Context::from_waker(&waker)).is_pending() {
                let left = deadline.checked_duration_since(Instant::now()).expect("in time");
                thread::park_timeout(left);
            }
        });
        // Not as much as it takes.
        big.session.set_unfinished(MEMORY_BYTES_MIN);
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(big);
    });
    assert!(other.session.shortage().is_none());
    assert_eq!(broker.memory().used, before.used);
}

#[test]
fn only_a_virtual_host_that_is_there_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    assert!(broker.has_vhost(b"/") && !broker.has_vhost(b"other"));
    assert!(broker.connect(b"other").is_none());
}

#[test]
fn who_brings_more_than_the_inbox_holds_waits_for_the_engine() {
    let directory = tempfile::tempdir().unwrap();
    let (options, replay) = (LogOptions::default(), &mut |_, _: &_| Ok(()));
    let log = Log::open(directory.path(), options, replay, Box::new(|_| ())).expect("opens");
    let (around, _) = Around::new(Clock::default(), MEMORY_BYTES_MIN, MEMORY_BYTES_MIN);
    let combiner = Combiner::new(Core::new(Engine::new([1; 16]), Some(log), around));
    let submitted = AtomicUsize::new(0);
    thread::scope(|scope| {
        combiner.with(|_| {
            scope.spawn(|| {
                for _ in 0..=INBOX_BATCHES_MAX {
                    let session = SessionId(1);
                    let (chunk, commands) = (Chunk::default(), Vec::new());
                    combiner.submit(Batch { session, chunk, commands });
                    submitted.fetch_add(1, Ordering::Relaxed);
                }
            });
            let deadline = Instant::now() + PATIENCE;
            while submitted.load(Ordering::Relaxed) < INBOX_BATCHES_MAX {
                assert!(Instant::now() < deadline, "submitted in time");
                thread::yield_now();
            }
            // As many as it holds, and not one more while the engine is taken.
            thread::sleep(Duration::from_millis(50));
            assert_eq!(submitted.load(Ordering::Relaxed), INBOX_BATCHES_MAX);
        });
    });
    assert_eq!(submitted.load(Ordering::Relaxed), INBOX_BATCHES_MAX + 1);
}

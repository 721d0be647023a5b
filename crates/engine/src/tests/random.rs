//! Random commands of several sessions, held against the plain model: the same answers, every
//! delivery allowed and in order, nothing lost, and the same after a restart at any moment.
//!
//! `PROPTEST_CASES` asks for more cases. A failure prints the command that repeats it.

use std::collections::BTreeMap;
use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use leveret_model::{Chunk, Lsn, SessionId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::plain::{End, Plain, Publish, Who};
use super::recovering::{contents, definitions, restored, world_of};
use super::world::*;
use crate::command::{Consume, DeclareQueue};
use crate::{Operation, Outcome};

const CASES: u64 = 1_000;
const SESSIONS: std::ops::RangeInclusive<u64> = 1..=3;
const QUEUES: [&str; 5] = ["q", "r", "transient", "exclusive", "auto"];

#[derive(Debug, Clone)]
enum Ask {
    Open,
    Close,
    Disconnect,
    Declare(&'static str),
    Delete(&'static str),
    Purge(&'static str),
    Bind(&'static str, &'static str, &'static str),
    Unbind(&'static str, &'static str, &'static str),
    Publish {
        to: (&'static str, &'static str),
        count: u32,
        how: (bool, bool),
        large: bool,
    },
    Consume {
        queue: &'static str,
        tag: &'static str,
        no_ack: bool,
        exclusive: bool,
    },
    Cancel(&'static str),
    Get(&'static str, bool),
    /// Counted back from the holder's last lease.
    Settle {
        back: u64,
        multiple: bool,
        outcome: Outcome,
    },
    Recover,
    Prefetch(u16, bool),
    SelectConfirms,
    Taken,
}

#[derive(Debug, Clone)]
enum Step {
    Batch(u64, Vec<(u16, Ask)>),
    /// A new segment of the log begins with all definitions.
    Segment,
    Crash,
}

fn ask() -> impl Strategy<Value = Ask> {
    let queue = || select(&QUEUES[..]);
    let exchange = || select(&["amq.fanout", "amq.direct"][..]);
    let key = || select(&["a", "b"][..]);
    let tag = || select(&["s", "t"][..]);
    let outcome =
        select(&[Outcome::Accept, Outcome::Accept, Outcome::Requeue, Outcome::Discard][..]);
    let to = prop_oneof![
        3 => queue().prop_map(|queue| ("", queue)),
        2 => (exchange(), key()),
    ];
    prop_oneof![
        2 => Just(Ask::Open),
        1 => Just(Ask::Close),
        1 => Just(Ask::Disconnect),
        6 => queue().prop_map(Ask::Declare),
        1 => queue().prop_map(Ask::Delete),
        1 => queue().prop_map(Ask::Purge),
        4 => (queue(), exchange(), key()).prop_map(|(q, x, k)| Ask::Bind(q, x, k)),
        1 => (queue(), exchange(), key()).prop_map(|(q, x, k)| Ask::Unbind(q, x, k)),
        12 => (to, 1..5_u32, any::<(bool, bool)>(), proptest::bool::weighted(0.04))
            .prop_map(|(to, count, how, large)| Ask::Publish { to, count, how, large }),
        6 => (queue(), tag(), proptest::bool::weighted(0.3), proptest::bool::weighted(0.1))
            .prop_map(|(queue, tag, no_ack, exclusive)| {
                Ask::Consume { queue, tag, no_ack, exclusive }
            }),
        2 => tag().prop_map(Ask::Cancel),
        4 => (queue(), any::<bool>()).prop_map(|(queue, no_ack)| Ask::Get(queue, no_ack)),
        12 => (0..6_u64, any::<bool>(), outcome)
            .prop_map(|(back, multiple, outcome)| Ask::Settle { back, multiple, outcome }),
        1 => Just(Ask::Recover),
        3 => (0..4_u16, any::<bool>()).prop_map(|(count, shared)| Ask::Prefetch(count, shared)),
        2 => Just(Ask::SelectConfirms),
        2 => Just(Ask::Taken),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (SESSIONS, vec((1..3_u16, ask()), 1..4)).prop_map(|(s, asks)| Step::Batch(s, asks)),
        2 => Just(Step::Segment),
        1 => Just(Step::Crash),
    ]
}

/// The engine and the model, side by side.
struct Pair {
    world: World,
    plain: Plain,
    published: u64,
    /// Where in the world's log segments begin.
    segments: Vec<usize>,
}

impl Pair {
    fn new() -> Pair {
        let (world, plain) = (World::empty(), Plain::default());
        let mut pair = Pair { world, plain, published: 0, segments: Vec::new() };
        pair.connect();
        pair
    }

    fn connect(&mut self) {
        for session in SESSIONS {
            assert!(self.world.engine.connect(SessionId(session), b"/"));
            for holder in 1..3 {
                self.batch(session, &[(holder, Ask::Open)]);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Batch(session, asks) => self.batch(*session, asks),
            Step::Segment => {
                let mut snapshot = Vec::new();
                self.world.engine.snapshot(&mut snapshot);
                self.segments.push(self.world.log.len());
                let end = self.world.end.advance(snapshot.len() as u64 + 16);
                self.world.log.push((self.world.end, snapshot));
                self.world.end = end;
            }
            Step::Crash => {
                self.check_log();
                let engine = restored(&self.world.log);
                let log = std::mem::take(&mut self.world.log);
                self.world = World { log, ..world_of(engine, self.world.end) };
                self.plain.crash();
                self.connect();
            }
        }
    }

    fn batch(&mut self, session: u64, asks: &[(u16, Ask)]) {
        let mut chunk = Chunk::default();
        let mut operations = Vec::new();
        let mut gone = false;
        for (holder, ask) in asks {
            let who = (session, *holder);
            operations.push((*holder, self.apply(who, ask, &mut chunk)));
            gone = matches!(ask, Ask::Disconnect);
            if gone {
                break;
            }
        }
        self.world.step(session, chunk, operations);
        self.check_step();
        if gone {
            assert!(self.world.engine.connect(SessionId(session), b"/"));
        }
    }

    /// Has the model do it, and says it as the engine is asked.
    fn apply(&mut self, who: Who, ask: &Ask, chunk: &mut Chunk) -> Operation {
        let plain = &mut self.plain;
        match *ask {
            Ask::Open => {
                plain.open(who);
                return Operation::Open;
            }
            Ask::Close => {
                plain.close(who);
                return Operation::Close;
            }
            Ask::Disconnect => {
                plain.disconnect(who.0);
                return Operation::Disconnect;
            }
            Ask::Taken => {
                let bytes = plain.owed.insert(who.0, 0).unwrap_or_default();
                return Operation::Taken { bytes };
            }
            Ask::Publish { to, count, how, large } => {
                return self.publish(who, to, count, how, large, chunk);
            }
            _ => {}
        }
        let back = if let Ask::Settle { back, .. } = ask { *back } else { 0 };
        let open = plain.is_open(who);
        let lease = if open { plain.last_lease(who).saturating_sub(back) } else { 0 };
        if open {
            let answer = answer(plain, who, ask, lease);
            plain.finish(who, answer);
        }
        operation(ask, lease)
    }

    fn publish(
        &mut self,
        who: Who,
        (exchange, key): (&str, &str),
        count: u32,
        (persistent, mandatory): (bool, bool),
        large: bool,
        chunk: &mut Chunk,
    ) -> Operation {
        let first = u32::try_from(chunk.len()).unwrap();
        let mut bodies = Vec::new();
        for _ in 0..count {
            self.published += 1;
            let padding = if large { "x".repeat(300_000) } else { String::new() };
            bodies.push(format!("m{}{padding}", self.published));
            put(chunk, exchange, key, bodies.last().unwrap(), persistent);
        }
        if self.plain.is_open(who) {
            let publish = Publish { exchange, key, bodies: &bodies, persistent, mandatory };
            self.plain.publish(who, &publish);
        }
        Operation::Publish { first, count, mandatory }
    }

    /// The engine has told everyone what the model says, and delivered what it may.
    fn check_step(&mut self) {
        let Pair { world, plain, .. } = self;
        let mut told = BTreeMap::new();
        for (session, bytes) in &world.bytes {
            let mine = world.delivered.iter().filter(|each| each.session == *session);
            let delivered: usize = mine.clone().map(|each| each.bytes).sum();
            *plain.owed.entry(*session).or_default() += bytes - delivered;
            // Deliveries come when everything else is done.
            let mut texts = world.told[session].clone();
            texts.truncate(texts.len() - mine.count());
            if !texts.is_empty() {
                told.insert(*session, one_by_one(texts));
            }
        }
        let expected: BTreeMap<u64, Vec<String>> =
            plain.told.clone().into_iter().map(|(who, texts)| (who, one_by_one(texts))).collect();
        assert_eq!(told, expected);
        assert_eq!(one_by_one(world.durable.clone()), one_by_one(plain.durable.clone()));
        for delivery in &world.delivered {
            plain.deliver(delivery);
        }
        plain.end_step();
        let mut names = Vec::new();
        for queue in world.engine.queues() {
            let name = queue.name.to_string();
            assert_eq!(queue.ready, plain.ready(&name).len(), "ready in {name}");
            assert_eq!(queue.unacknowledged, plain.leased(&name), "leased from {name}");
            names.push(name);
        }
        names.sort();
        assert!(names.iter().eq(plain.queues.keys()), "{names:?}");
    }

    /// Ends everything; then no message is held by anything.
    fn leave_nothing(&mut self) {
        let everyone = SESSIONS.map(|session| (session, Ask::Disconnect));
        for (session, ask) in everyone {
            self.batch(session, &[(1, ask)]);
        }
        let asks = QUEUES.iter().map(|name| (1, Ask::Delete(name)));
        self.batch(1, &[(1, Ask::Open)].into_iter().chain(asks).collect::<Vec<_>>());
        assert_eq!(self.world.pins, []);
        assert_eq!(self.world.engine.chunks.len(), 0);
    }

    /// The log says what the model says, also when segments are gone that nothing needs.
    fn check_log(&self) {
        let world = &self.world;
        let survivors = self.plain.survivors();
        let expected = definitions(&world.engine);
        let oldest = world.pins.iter().min().copied().unwrap_or(Lsn(u64::MAX));
        let needed = |start: &&usize| world.log[**start].0 <= oldest;
        let start = self.segments.iter().rev().find(needed).copied().unwrap_or(0);
        for from in [0, start] {
            let engine = restored(&world.log[from..]);
            assert_eq!(definitions(&engine), expected, "from {from}");
            assert_eq!(contents(engine), survivors, "from {from}");
        }
    }
}

fn answer(plain: &mut Plain, who: Who, ask: &Ask, lease: u64) -> Result<(), String> {
    match *ask {
        Ask::Declare(name) => {
            let declare = declaration(name);
            plain.declare(who, name, declare.durable, declare.exclusive, declare.auto_delete)
        }
        Ask::Delete(name) => plain.delete(who, name),
        Ask::Purge(name) => plain.purge(who, name),
        Ask::Bind(queue, exchange, key) => plain.bind(who, queue, exchange, key),
        Ask::Unbind(queue, exchange, key) => plain.unbind(who, queue, exchange, key),
        Ask::Consume { queue, tag, no_ack, exclusive } => {
            plain.consume(who, queue, tag, no_ack, exclusive)
        }
        Ask::Get(name, no_ack) => plain.get(who, name, no_ack),
        Ask::Settle { multiple, outcome, .. } => {
            let end = if outcome == Outcome::Requeue { End::Back } else { End::Gone };
            plain.settle(who, lease, multiple, end)
        }
        Ask::Recover => plain.recover(who),
        Ask::Cancel(tag) => {
            plain.cancel(who, tag);
            Ok(())
        }
        Ask::Prefetch(count, shared) => {
            plain.prefetch(who, count, shared);
            Ok(())
        }
        Ask::SelectConfirms => {
            plain.select_confirms(who);
            Ok(())
        }
        Ask::Open | Ask::Close | Ask::Disconnect | Ask::Taken | Ask::Publish { .. } => {
            panic!("done before")
        }
    }
}

fn operation(ask: &Ask, lease: u64) -> Operation {
    match *ask {
        Ask::Declare(name) => declaration(name).into(),
        Ask::Delete(name) => delete(name),
        Ask::Purge(name) => purge(name),
        Ask::Bind(queue, exchange, key) => binding(queue, exchange, key).into(),
        Ask::Unbind(queue, exchange, key) => {
            Operation::Unbind(Box::new(binding(queue, exchange, key)))
        }
        Ask::Consume { queue, tag, no_ack, exclusive } => {
            Consume { no_ack, exclusive, ..consume(queue, tag) }.into()
        }
        Ask::Get(queue, no_ack) => Operation::Get { queue: name(queue), no_ack },
        Ask::Settle { multiple, outcome, .. } => Operation::Settle { lease, multiple, outcome },
        Ask::Recover => Operation::Recover { reply: true },
        Ask::Cancel(tag) => cancel(tag),
        Ask::Prefetch(count, shared) => Operation::Prefetch { count, shared },
        Ask::SelectConfirms => Operation::SelectConfirms { reply: true },
        Ask::Open | Ask::Close | Ask::Disconnect | Ask::Taken | Ask::Publish { .. } => {
            panic!("done before")
        }
    }
}

fn declaration(name: &str) -> DeclareQueue {
    DeclareQueue {
        durable: !matches!(name, "transient" | "exclusive"),
        exclusive: name == "exclusive",
        auto_delete: name == "auto",
        ..queue(name)
    }
}

/// Runs of confirms as single ones: how they are joined is the engine's to decide.
fn one_by_one(texts: Vec<String>) -> Vec<String> {
    let single = |text: String| {
        let run = text.rsplit_once(' ').and_then(|(what, run)| {
            let (first, last) = run.split_once('-')?;
            Some((what.to_owned(), first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
        });
        match run {
            Some((what, first, last)) => (first..=last).map(|n| format!("{what} {n}")).collect(),
            None => vec![text],
        }
    };
    texts.into_iter().flat_map(single).collect()
}

fn number(variable: &str) -> Option<u64> {
    Some(env::var(variable).ok()?.parse().expect("a number"))
}

#[test]
fn random_commands_do_what_the_model_says() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("LEVERET_TEST_SEED").unwrap_or(now.as_micros() as u64);
    for seed in (seed..).take(number("PROPTEST_CASES").unwrap_or(CASES) as usize) {
        let config = Config { cases: 1, failure_persistence: None, ..Config::default() };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let result = TestRunner::new_with_rng(config, rng).run(&vec(step(), 1..120), |steps| {
            let mut pair = Pair::new();
            for (number, step) in steps.iter().enumerate() {
                pair.step(step);
                if number % 16 == 15 {
                    pair.check_log();
                }
            }
            pair.check_log();
            pair.leave_nothing();
            Ok(())
        });
        if let Err(error) = result {
            panic!(
                "{error}\nagain: LEVERET_TEST_SEED={seed} PROPTEST_CASES=1 cargo test \
                 -p leveret-engine random_commands"
            );
        }
    }
}

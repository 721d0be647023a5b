//! Random commands of several sessions, held against the plain model: the same answers, every
//! delivery allowed and in order, the same left in every queue, and the same after a restart at
//! any moment.
//!
//! `PROPTEST_CASES` asks for more cases. A failure prints the command that repeats it.

mod asks;
mod heard;
mod operations;
mod packing;

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use leveret_model::{Chunk, FieldTable, SessionId};
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::asks::{Ask, EXCHANGES, QUEUES, Sent, Specs, Step};
use self::packing::Packing;
use super::plain::{
    Choices, Disk, ExchangeSpec, Letter, MATCHES, Outcome, Plain, Publish, QueueSpec, Subscription,
    Who,
};
use super::recovering::{restored_at, world_of};
use super::world::*;
use crate::Operation;
use crate::command::{Binding, Consume, DeclareQueue, Destination};

const CASES: u64 = 1_200;
const SESSIONS: std::ops::RangeInclusive<u64> = 1..=3;
/// How many ways to decide what is the engine's to decide are tried.
const CHOICES_MAX: usize = 2_000;

/// What is asked, ready for both.
enum Asked {
    Publish(Publish),
    Settle(u64, bool, Outcome),
    /// So many bytes.
    Taken(usize),
    Other(Ask),
}

/// The engine and the model, side by side.
struct Pair {
    world: World,
    plain: Plain,
    queues: Vec<Rc<QueueSpec>>,
    exchanges: Vec<ExchangeSpec>,
    published: u64,
    /// Where in the world's log segments begin.
    segments: Vec<usize>,
    packing: Packing,
    memory: Option<usize>,
    late: bool,
    /// What each session has asked for and waits with.
    waiting: BTreeMap<u64, VecDeque<Vec<(u16, Asked)>>>,
}

impl Pair {
    fn new(specs: &Specs) -> Pair {
        let mut pair = Pair {
            world: World::empty(),
            plain: Plain::new(),
            queues: specs.queues.iter().cloned().map(Rc::new).collect(),
            exchanges: specs.exchanges.clone(),
            published: 0,
            segments: Vec::new(),
            packing: Packing::default(),
            memory: specs.memory,
            late: specs.late,
            waiting: BTreeMap::new(),
        };
        pair.connect();
        pair
    }

    fn connect(&mut self) {
        self.world.engine.set_memory_target(self.memory.unwrap_or(usize::MAX));
        for session in SESSIONS {
            assert!(self.world.engine.connect(SessionId(session), b"/"));
            self.batch(session, &[(1, Ask::Open), (2, Ask::Open)], false);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Batch(session, asks, careful) => self.batch(*session, asks, *careful),
            Step::Wait(milliseconds, tick) => {
                self.world.now = self.world.now.after(*milliseconds);
                if *tick {
                    self.batch(0, &[], false);
                }
            }
            Step::Segment => {
                let mut snapshot = Vec::new();
                self.world.engine.snapshot(&mut snapshot);
                self.segments.push(self.world.log.len());
                let end = self.world.end.advance(snapshot.len() as u64 + 16);
                self.plain.segment();
                self.world.log.push((self.world.end, snapshot));
                self.world.end = end;
            }
            Step::Crash => {
                self.check_log();
                let (now, base) = (self.world.now, self.packing.base);
                let engine = restored_at(packing::from(&self.world, base), now);
                let later = packing::with_packs(engine, &self.world, base);
                let log = std::mem::take(&mut self.world.log);
                self.world = World { log, ..later };
                self.plain.crash(now.0);
                self.forget_adopted();
                self.waiting.clear();
                self.connect();
            }
            _ if self.memory.is_none() => {}
            Step::Survey(all) => self.survey(*all),
            Step::Adopt => self.adopt(),
            Step::Retire => self.retire(),
            Step::SurveyPacks => self.survey_packs(),
            Step::Merge => self.merge(),
            Step::SurveyTransient(bytes_max) => self.survey_transient(*bytes_max),
            Step::Spilled => self.spilled(),
            Step::Answer(at, most) => {
                if let Some(last) = self.world.loads.len().checked_sub(1) {
                    self.answer((*at).min(last), *most);
                    self.go_on();
                }
            }
        }
    }

    /// Has both do it. Who is careful asks for what there is, and first for what is missing.
    fn batch(&mut self, session: u64, asks: &[(u16, Ask)], careful: bool) {
        let mut all: Vec<(u16, Ask)> = Vec::new();
        for (holder, ask) in asks {
            let (holder, ask) = &match careful {
                true => self.aimed(session, *holder, ask.clone()),
                false => (*holder, ask.clone()),
            };
            let opens = |(number, each): &(u16, Ask)| number == holder && matches!(each, Ask::Open);
            if careful && !self.plain.is_open((session, *holder)) && !all.iter().any(opens) {
                all.push((*holder, Ask::Open));
            }
            let before = if careful { self.missing(ask) } else { Vec::new() };
            all.extend(before.into_iter().chain([ask.clone()]).map(|ask| (*holder, ask)));
        }
        let mut asks = all;
        let gone = asks.iter().position(|(_, ask)| matches!(ask, Ask::Disconnect));
        asks.truncate(gone.map_or(usize::MAX, |index| index + 1));
        let mut chunk = Chunk::default();
        let mut asked = Vec::new();
        let mut operations = Vec::new();
        for (holder, ask) in asks {
            let each = self.prepare((session, holder), ask);
            operations.push((holder, self.operation(&each, &mut chunk)));
            asked.push((holder, each));
        }
        let disk = self.disk();
        self.world.step(session, chunk, operations);
        let waiting = self.waiting.entry(session).or_default();
        waiting.push_back(asked);
        if waiting.len() > 1 {
            let world = &self.world;
            assert!(world.outbound.is_empty() && world.durable.is_empty(), "it has to wait");
        } else {
            self.plain.leaving = false;
            self.check_run(session, &disk);
        }
        self.go_on();
    }

    /// The same where there is something to settle, to get or to commit.
    fn aimed(&self, session: u64, holder: u16, ask: Ask) -> (u16, Ask) {
        let other = (session, 3 - holder);
        match ask {
            Ask::Settle { .. } if self.plain.leases((session, holder)).0.is_empty() => {
                (if self.plain.leases(other).0.is_empty() { holder } else { other.1 }, ask)
            }
            Ask::Get(name, no_ack) => {
                let filled = self.plain.filled();
                let there = filled.contains(&name) || filled.is_empty();
                (holder, Ask::Get(if there { name } else { filled[0] }, no_ack))
            }
            Ask::Commit | Ask::RollBack if !self.plain.commits((session, holder)) => {
                (holder, if holder == 1 { Ask::Taken } else { Ask::SelectTransactions })
            }
            other => (holder, other),
        }
    }

    /// What makes the things that this is about, where they do not exist.
    fn missing(&self, ask: &Ask) -> Vec<Ask> {
        let (mut names, mut missing) = (Vec::new(), Vec::new());
        match *ask {
            Ask::Publish(Sent { to: ("", name), .. })
            | Ask::Publish(Sent { to: (name, _), .. })
            | Ask::Get(name, _)
            | Ask::Consume(Subscription { queue: name, .. }) => names.push(name),
            Ask::Bind(_, (source, _, end), ..) => names.extend([source, end]),
            _ => {}
        }
        for name in names {
            if let Some(index) = QUEUES.iter().position(|each| *each == name)
                && self.plain.named(name).is_none()
            {
                missing.push(Ask::Declare(index, false, true));
            }
            if let Some(index) = EXCHANGES.iter().position(|each| *each == name)
                && self.plain.has_exchange(name).is_err()
            {
                missing.push(Ask::DeclareExchange(index));
            }
        }
        missing
    }

    fn prepare(&mut self, who: Who, ask: Ask) -> Asked {
        match ask {
            Ask::Publish(sent) => {
                let letters = (0..sent.count).map(|_| self.letter(&sent)).collect();
                Asked::Publish(Publish { letters, mandatory: sent.mandatory })
            }
            Ask::Settle { back, wild, multiple, outcome } => {
                let (leases, last) = self.plain.leases(who);
                match leases.len().checked_sub(1) {
                    _ if wild => Asked::Settle(last.saturating_sub(back as u64), multiple, outcome),
                    None => Asked::Settle(0, true, outcome),
                    Some(most) => Asked::Settle(leases[most - back.min(most)], multiple, outcome),
                }
            }
            Ask::Taken => Asked::Taken(self.plain.owed.get(&who.0).copied().unwrap_or_default()),
            other => Asked::Other(other),
        }
    }

    fn letter(&mut self, sent: &Sent) -> Rc<Letter> {
        self.published += 1;
        let padding = if sent.large { "x".repeat(300_000) } else { String::new() };
        Rc::new(Letter {
            exchange: sent.to.0.to_owned(),
            key: sent.to.1.to_owned(),
            body: format!("m{}{padding}", self.published).into(),
            persistent: sent.persistent,
            expiration: sent.expiration,
            priority: sent.priority,
            cc: sent.cc.into_iter().collect(),
            bcc: sent.bcc.into_iter().collect(),
            others: sent.others.to_vec(),
            ..Letter::default()
        })
    }

    /// Says it as the engine is asked.
    fn operation(&self, asked: &Asked, chunk: &mut Chunk) -> Operation {
        let ask = match asked {
            Asked::Publish(publish) => return operations::publish(publish, chunk),
            Asked::Settle(lease, multiple, outcome) => {
                let (lease, multiple) = (*lease, *multiple);
                let outcome = match outcome {
                    Outcome::Done => crate::Outcome::Accept,
                    Outcome::Requeued => crate::Outcome::Requeue,
                    Outcome::Rejected => crate::Outcome::Discard,
                };
                return Operation::Settle { lease, multiple, outcome };
            }
            Asked::Taken(bytes) => return Operation::Taken { bytes: *bytes },
            Asked::Other(ask) => ask,
        };
        match *ask {
            Ask::Open => Operation::Open,
            Ask::Close => Operation::Close,
            Ask::Disconnect => Operation::Disconnect,
            Ask::Declare(index, passive, reply) => {
                DeclareQueue { passive, reply, ..operations::queue(&self.queues[index]) }.into()
            }
            Ask::Delete(queue, if_unused, if_empty) => {
                Operation::DeleteQueue { name: name(queue), if_unused, if_empty, reply: true }
            }
            Ask::Purge(name) => purge(name),
            Ask::DeclareExchange(index) => operations::exchange(&self.exchanges[index]).into(),
            Ask::DeleteExchange(exchange, if_unused) => {
                Operation::DeleteExchange { name: name(exchange), if_unused, reply: true }
            }
            Ask::Bind(bind, (source, to_queue, end), key, arguments) => {
                let destination = match to_queue {
                    true => Destination::Queue(name(end)),
                    false => Destination::Exchange(name(end)),
                };
                let arguments = operations::texts(MATCHES[arguments]);
                let binding = Binding { destination, arguments, ..binding("", source, key) };
                match bind {
                    true => Operation::Bind(Box::new(binding)),
                    false => Operation::Unbind(Box::new(binding)),
                }
            }
            Ask::Consume(ref wanted) => {
                let mut arguments = FieldTable::new();
                if let Some(priority) = wanted.priority {
                    arguments.insert(name("x-priority"), priority);
                }
                let (no_ack, exclusive) = (wanted.no_ack, wanted.exclusive);
                let plain = consume(wanted.queue, wanted.tag);
                Consume { no_ack, exclusive, arguments, ..plain }.into()
            }
            Ask::Cancel(tag) => cancel(tag),
            Ask::Get(queue, no_ack) => Operation::Get { queue: name(queue), no_ack },
            Ask::Recover => Operation::Recover { reply: true },
            Ask::Prefetch(count, shared) => Operation::Prefetch { count, shared },
            Ask::SelectConfirms => Operation::SelectConfirms { reply: true },
            Ask::SelectTransactions => Operation::SelectTransactions,
            Ask::Commit => Operation::Commit,
            Ask::RollBack => Operation::Rollback,
            Ask::Publish(_) | Ask::Settle { .. } | Ask::Taken => panic!("prepared before"),
        }
    }

    /// The engine has done what the model says, in one of the ways in which it may. The next thing
    /// that was asked has to wait.
    fn check_step(
        &mut self,
        session: u64,
        asked: &[(u16, Asked)],
        next: Option<&(u16, Asked)>,
        disk: &Disk,
    ) {
        let heard = heard::heard(&self.world);
        let contents = heard::contents(&self.world);
        let before = self.plain.clone();
        let mut choices = Choices::default();
        let mut wrong = None;
        for _ in 0..CHOICES_MAX {
            let at = (self.world.now.0, session);
            self.plain.begin(at, heard.clone(), disk.clone(), choices);
            // Its own next batch is not yet one of those in the step.
            let mut others = self.world.engine.resumable.iter();
            self.plain.hurried = others.any(|other| other.0 != session || next.is_some());
            for (holder, each) in asked {
                answer(&mut self.plain, &self.queues, &self.exchanges, (session, *holder), each);
                self.plain.bury();
            }
            if let Some((holder, each)) = next {
                self.plain.stall((session, *holder), self.needed(each));
            }
            self.plain.end();
            let same = || contents == self.plain.contents();
            match &self.plain.wrong {
                None if same() => return self.check_packs(),
                None => wrong.get_or_insert_with(|| {
                    let plain = self.plain.contents();
                    let both = plain.iter().zip(&contents).find(|(a, b)| a != b);
                    format!("other contents: {both:#?}, {} {}", plain.len(), contents.len())
                }),
                Some(what) => wrong.get_or_insert_with(|| what.clone()),
            };
            let tried = std::mem::replace(&mut self.plain, before.clone()).choices;
            match tried.other() {
                Some(other) => choices = other,
                None => break,
            }
        }
        panic!("{}", wrong.unwrap_or_default());
    }
}

fn disconnects(batch: &[(u16, Asked)]) -> bool {
    batch.iter().any(|(_, asked)| matches!(asked, Asked::Other(Ask::Disconnect)))
}

/// Ends everything; then nothing is left of it.
fn take_down(world: &mut World) {
    world.settle_loads();
    for session in SESSIONS {
        // Those that are connected.
        world.asks(session, Operation::Disconnect);
        world.settle_loads();
    }
    assert!(world.engine.connect(SessionId(9), b"/"));
    world.asks(9, Operation::Open);
    for queue in QUEUES {
        world.asks(9, delete(queue));
        world.settle_loads();
    }
    for exchange in EXCHANGES {
        let name = name(exchange);
        world.asks(9, Operation::DeleteExchange { name, if_unused: false, reply: true });
    }
    world.asks(9, Operation::Disconnect);
    world.step(0, Chunk::default(), Vec::new());
    world.settle_loads();
    let engine = &world.engine;
    assert_eq!(world.pins, []);
    assert!(world.packs.is_empty(), "packs that are left: {:?}", world.packs.keys());
    assert_eq!((engine.chunks.len(), engine.memory()), (0, 0));
    assert_eq!((engine.queues.len(), engine.consumers.len(), engine.sessions.len()), (0, 0, 0));
    assert!(engine.dying.is_empty() && engine.dirty.is_empty());
    assert_eq!(engine.deadline(), None);
    let exchanges = engine.exchanges.values();
    assert!(exchanges.clone().all(|it| it.bound_to.iter().next().is_none() && it.outgoing == 0));
    assert_eq!(engine.exchanges.len(), 6, "those there always are");
}

/// Has the model do it.
fn answer(
    plain: &mut Plain,
    queues: &[Rc<QueueSpec>],
    exchanges: &[ExchangeSpec],
    who: Who,
    asked: &Asked,
) {
    match asked {
        Asked::Other(Ask::Open) => return plain.open(who),
        Asked::Other(Ask::Close) => return plain.close(who),
        Asked::Other(Ask::Disconnect) => return plain.disconnect(who.0),
        Asked::Taken(bytes) => return plain.taken(who.0, *bytes),
        _ if !plain.is_open(who) => return,
        _ => {}
    }
    let ask = match asked {
        Asked::Publish(publish) => {
            let answer = plain.publish(who, publish);
            return plain.finish(who, answer);
        }
        Asked::Settle(lease, multiple, outcome) => {
            let answer = plain.settle(who, *lease, *multiple, *outcome);
            return plain.finish(who, answer);
        }
        Asked::Taken(_) => return,
        Asked::Other(ask) => ask,
    };
    let mut done = Ok(());
    match *ask {
        Ask::Declare(index, passive, reply) => {
            done = plain.declare(who, &queues[index], passive, reply);
        }
        Ask::Delete(name, if_unused, if_empty) => {
            done = plain.delete(who, name, if_unused, if_empty);
        }
        Ask::Purge(name) => done = plain.purge(who, name),
        Ask::DeclareExchange(index) => done = plain.declare_exchange(who, &exchanges[index]),
        Ask::DeleteExchange(name, if_unused) => {
            done = plain.delete_exchange(who, name, if_unused);
        }
        Ask::Bind(true, bound, key, arguments) => done = plain.bind(who, bound, key, arguments),
        Ask::Bind(false, bound, key, arguments) => done = plain.unbind(who, bound, key, arguments),
        Ask::Consume(ref wanted) => done = plain.consume(who, wanted),
        Ask::Cancel(tag) => plain.cancel(who, tag),
        Ask::Get(name, no_ack) => done = plain.get(who, name, no_ack),
        Ask::Recover => done = plain.recover(who),
        Ask::Prefetch(count, shared) => plain.prefetch(who, count, shared),
        Ask::SelectConfirms => done = plain.select_confirms(who),
        Ask::SelectTransactions => done = plain.select_transactions(who),
        Ask::Commit => done = plain.commit(who),
        Ask::RollBack => done = plain.roll_back(who),
        _ => panic!("done before"),
    }
    plain.finish(who, done);
}

fn number(variable: &str) -> Option<u64> {
    Some(env::var(variable).ok()?.parse().expect("a number"))
}

#[test]
fn random_commands_do_what_the_model_says() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("LEVERET_TEST_SEED").unwrap_or(now.as_micros() as u64);
    let strategy = (asks::specs(), vec(asks::step(), 1..120));
    for seed in (seed..).take(number("PROPTEST_CASES").unwrap_or(CASES) as usize) {
        let config = Config { cases: 1, failure_persistence: None, ..Config::default() };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let result = TestRunner::new_with_rng(config, rng).run(&strategy, |(specs, steps)| {
            let mut pair = Pair::new(&specs);
            for (number, step) in steps.iter().enumerate() {
                pair.step(step);
                if number % 24 == 23 {
                    pair.check_log();
                }
            }
            pair.check_log();
            pair.drain();
            take_down(&mut pair.world);
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

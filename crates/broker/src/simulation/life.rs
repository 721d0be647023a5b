//! One life of a broker: its clients, and what threads would do beside it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_engine::command::{Binding, DeclareQueue, Destination};
use leveret_engine::{Load, Operation, Outcome};
use leveret_model::{Chunk, FieldTable, Lsn, Message, ShortString, Time};
use leveret_storage::simulated::{Faults, SimulatedDisk};
use leveret_storage::{Log, Stepper};

use super::client::{Client, Told, body, name};
use super::truth::{Came, Place, Truth};
use super::{World, count};
use crate::broker::Parts;
use crate::clock::Clock;
use crate::core::Core;
use crate::disk::Level;
use crate::loader::Loader;
use crate::packer::pack_next;
use crate::spill;
use crate::{Broker, DiskOptions, OpenError, Options};

/// Durable queues, and behind them a transient one.
pub(super) const QUEUES: [&str; 4] = ["first", "second", "third", "transient"];
const DURABLE: usize = 3;
const EXCHANGE: &str = "amq.fanout";
/// How much a segment holds: a few batches.
const SEGMENT_BYTES: u64 = 16 * 1024;

pub(super) struct Life {
    parts: Parts,
    stepper: Stepper,
    broker: Broker,
    loads: VecDeque<Load>,
    publisher: Client,
    /// The message of each number that the publisher is to be told of.
    numbers: Vec<u64>,
    consumer: Client,
    /// Publishes in transactions: what the open ones are called, and how many messages they have.
    committer: Client,
    commits: VecDeque<u64>,
    /// Where the log ended when it waited for room: until it is durable up to there, what comes may
    /// have been sent off then, and a restart need not know of that.
    full_until: Lsn,
}

impl Life {
    pub(super) fn open(
        disk: &SimulatedDisk,
        now: &Arc<AtomicU64>,
        seed: u64,
    ) -> Result<Life, OpenError> {
        let options = Options {
            data_dir: "/data".into(),
            users: Vec::new(),
            memory_max: 1 << 30,
            memory_target: [0, 8 * 1024, 1 << 20][(seed % 3) as usize],
            segment_bytes: SEGMENT_BYTES,
            disk: DiskOptions::default(),
        };
        let (mut stepper, disk) = (None, Arc::new(disk.clone()));
        let now = Arc::clone(now);
        let clock = Clock::given(move || Time(now.load(Ordering::Relaxed)));
        let parts = Parts::open(&options, [7; 16], clock, |log, replay, on_durable| {
            let directory = Path::new("/data");
            let (log, steps) = Log::open_stepped(disk, directory, log, replay, on_durable)?;
            stepper = Some(steps);
            Ok(log)
        })?;
        let broker = parts.broker();
        let [publisher, consumer, committer] = std::array::from_fn(|_| Client::new(&broker));
        publisher.send(Operation::SelectConfirms { reply: false });
        committer.send(Operation::SelectTransactions);
        Ok(Life {
            parts,
            stepper: stepper.expect("made with the log"),
            broker,
            loads: VecDeque::new(),
            publisher,
            numbers: Vec::new(),
            consumer,
            committer,
            commits: VecDeque::new(),
            full_until: Lsn(0),
        })
    }

    /// Ends in order.
    pub(super) fn close(self) {
        let Life { parts, stepper, broker, publisher, consumer, committer, .. } = self;
        drop((publisher, consumer, committer));
        broker.close();
        stepper.close();
        drop(parts);
    }

    /// Declares what there is to be used.
    pub(super) fn set_up(&mut self, world: &mut World, first: bool) {
        for (index, name) in QUEUES.into_iter().enumerate() {
            if index < DURABLE && !first {
                continue;
            }
            let binding = Binding {
                destination: Destination::Queue(ShortString::from_static(name)),
                source: ShortString::from_static(EXCHANGE),
                routing_key: ShortString::default(),
                arguments: FieldTable::default(),
                reply: true,
            };
            self.publisher.send(Operation::DeclareQueue(Box::new(DeclareQueue {
                name: ShortString::from_static(name),
                passive: false,
                durable: index < DURABLE,
                exclusive: false,
                auto_delete: false,
                arguments: FieldTable::default(),
                reply: true,
            })));
            self.publisher.send(Operation::Bind(Box::new(binding)));
        }
        while self.stepper.commit() {}
        self.listen(&mut world.truth);
    }

    /// Reads all there is, holds it against the truth, and puts it back.
    pub(super) fn verify(&mut self, world: &mut World) {
        let mut reader = Client::new(&self.broker);
        let known = self.broker.queues().iter().any(|queue| queue.durable);
        let mut found: Vec<Vec<Came>> = (0..DURABLE).map(|_| Vec::new()).collect();
        if known {
            (0..DURABLE).for_each(|queue| reader.consume(queue));
        }
        let ready =
            |broker: &Broker| broker.queues().iter().map(|queue| queue.ready).sum::<usize>();
        let (mut quiet, mut left) = (0, usize::MAX);
        while quiet < 3 && left > 0 {
            quiet += 1;
            // What cannot be read is given up one by one.
            if std::mem::replace(&mut left, ready(&self.broker)) > left {
                quiet = 0;
            }
            while self.stepper.commit() {}
            self.bring(world, usize::MAX);
            for told in reader.listen() {
                if let Told::Came { place: (queue, id), redelivered } = told {
                    found[queue].push(Came { id, redelivered });
                }
            }
        }
        assert_eq!(ready(&self.broker), 0, "everything comes");
        let places = found.iter().enumerate();
        let places = places.flat_map(|(queue, found)| found.iter().map(move |it| (queue, it.id)));
        let places: Vec<Place> = places.collect();
        count(&world.sights.found, places.len());
        world.truth.restarted(&found);
        places.into_iter().for_each(|place| world.truth.see(place));
    }

    /// Does this and that, until it has done enough.
    pub(super) fn live(&mut self, world: &mut World) {
        for _ in 0..20 + world.random.below(200) {
            match world.random.below(16) {
                0..3 => self.publish(world),
                3 => self.commit(world),
                4 => self.get(world),
                5 => self.consume(world),
                6 | 7 => self.settle(world),
                8 if world.random.chance(0.3) => self.spill(world),
                8 => drop(self.stepper.keep()),
                9 => self.pack(world),
                10 => self.merge(world),
                11 => self.bring(world, 1),
                12 => {
                    world.now.fetch_add(world.random.below(5_000), Ordering::Relaxed);
                    self.parts.shared.tick();
                }
                13 if world.random.chance(0.1) => {
                    // All it holds goes back.
                    self.consumer = Client::new(&self.broker);
                }
                13 if world.random.chance(0.1) => self.fill_disk(world),
                14 if world.random.chance(0.2) => self.make_room(world),
                _ => drop(self.stepper.commit()),
            }
            self.listen(&mut world.truth);
        }
    }

    /// Writes once more, so that damage to what was written before can be told from a write that
    /// was cut off. What is written last may say that others are not needed, and they go.
    pub(super) fn prove(&mut self, world: &mut World) {
        while self.stepper.commit() {}
        self.listen(&mut world.truth);
        let end = self.parts.shared.progress.end();
        // Nobody hears what comes of this. Not everything is written.
        while self.parts.shared.progress.end() == end {
            match world.random.below(6) {
                0 => self.pack(world),
                1 | 2 => self.merge(world),
                3 | 4 => self.make_room(world),
                _ => self.publish(world),
            }
        }
        while self.stepper.commit() || self.stepper.keep() {}
    }

    /// There is no room for a while.
    fn fill_disk(&mut self, world: &mut World) {
        let used: u64 = world.disk.files().iter().map(|(_, bytes)| bytes).sum();
        let capacity = Some(used + world.random.below(8 * 1024));
        world.disk.set_faults(Faults { capacity, ..Faults::default() });
        for _ in 0..world.random.below(30) {
            match world.random.below(6) {
                0 | 1 => self.publish(world),
                2 => self.pack(world),
                3 => drop(self.stepper.keep()),
                4 => self.settle(world),
                _ => drop(self.stepper.commit()),
            }
            self.listen(&mut world.truth);
        }
        count(&world.sights.full, usize::from(self.is_out_of_space()));
        world.disk.set_faults(Faults::default());
    }

    fn is_out_of_space(&self) -> bool {
        self.parts.shared.combiner.with(|core| core.log().is_some_and(Log::is_out_of_space))
    }

    fn pack(&mut self, world: &mut World) {
        let packed = pack_next(&self.parts.shared, &self.parts.packs);
        count(&world.sights.packed, usize::from(matches!(packed, Ok(true))));
    }

    fn merge(&mut self, world: &mut World) {
        let merged = self.parts.merger.merge_next(&self.parts.shared);
        count(&world.sights.merged, usize::from(matches!(merged, Ok(true))));
    }

    /// The disk is low for a moment.
    fn make_room(&mut self, world: &mut World) {
        self.parts.shared.budget.set_disk(Level::Low);
        let made = self.parts.shared.combiner.with(Core::make_room);
        count(&world.sights.begun_early, usize::from(made));
        self.parts.shared.budget.set_disk(Level::Enough);
    }

    /// Transient messages leave memory.
    fn spill(&mut self, world: &mut World) {
        let shared = &self.parts.shared;
        let spill = shared.combiner.with(|core| core.engine.survey_transient(u64::MAX));
        if spill.bytes > 0 {
            let spilled = spill::write(shared, &self.parts.packs, &spill);
            count(&world.sights.spilled, usize::from(spilled.is_ok()));
        }
    }

    fn publish(&mut self, world: &mut World) {
        let asked = world.truth.number();
        let (mut chunk, mut operations) = (Chunk::default(), Vec::new());
        for first in 0..1 + world.random.below(6) as u32 {
            // What a read brings is one step, and a step is one piece of the log.
            let id = publish_one(world, asked, &mut chunk);
            self.numbers.push(id);
            operations.push(Operation::Publish {
                first,
                count: 1,
                mandatory: false,
                special: false,
            });
        }
        self.publisher.submit(operations, chunk);
    }

    fn commit(&mut self, world: &mut World) {
        let asked = world.truth.number();
        for _ in 0..1 + world.random.below(3) {
            let mut chunk = Chunk::default();
            publish_one(world, asked, &mut chunk);
            let publish =
                Operation::Publish { first: 0, count: 1, mandatory: false, special: false };
            self.committer.submit(vec![publish], chunk);
        }
        self.committer.send(Operation::Commit);
        self.commits.push_back(asked);
    }

    fn get(&mut self, world: &mut World) {
        // Several may come with one read.
        let mut gets = Vec::new();
        for _ in 0..1 + world.random.below(3) {
            let queue = world.random.below(QUEUES.len() as u64) as usize;
            self.consumer.gets.push_back(queue);
            gets.push(Operation::Get { queue: name(queue), no_ack: false });
        }
        self.consumer.submit(gets, Chunk::default());
    }

    fn consume(&mut self, world: &mut World) {
        if self.consumer.consumers.len() + self.consumer.asked.len() < 2 {
            self.consumer.send(Operation::Prefetch { count: 40, shared: false });
            self.consumer.consume(world.random.below(QUEUES.len() as u64) as usize);
        }
    }

    fn settle(&mut self, world: &mut World) {
        let consumer = &mut self.consumer;
        // Who waits for an answer may have to wait with what it asks after that.
        if consumer.held.is_empty() || !consumer.gets.is_empty() || !consumer.asked.is_empty() {
            return;
        }
        let most = if world.random.chance(0.4) { consumer.held.len() } else { 1 };
        for _ in 0..most {
            let at = world.random.below(consumer.held.len() as u64) as usize;
            let (lease, place) = consumer.held.remove(at);
            let outcome = match world.random.below(12) {
                0 => Outcome::Requeue,
                1 | 2 => Outcome::Discard,
                _ => Outcome::Accept,
            };
            consumer.send(Operation::Settle { lease, multiple: false, outcome });
            if outcome != Outcome::Requeue {
                world.truth.settle(place);
            }
        }
    }

    /// Brings what the engine needs from packs, as much as is asked for so far.
    fn bring(&mut self, world: &mut World, most: usize) {
        self.loads.extend(self.parts.wanted.try_iter());
        let mut loader = Loader::new(Arc::downgrade(&self.parts.shared), self.parts.packs.clone());
        for _ in 0..self.loads.len().min(most) {
            let Some(load) = self.loads.pop_front() else { break };
            match loader.bring(load) {
                Ok(whole) => {
                    world.truth.lost += u64::from(!whole);
                    count(&world.sights.loads, 1);
                }
                Err(load) => self.loads.push_back(load),
            }
        }
    }

    /// Hears what all clients are told.
    fn listen(&mut self, truth: &mut Truth) {
        let progress = &self.parts.shared.progress;
        if self.is_out_of_space() {
            self.full_until = progress.end();
        }
        let was_full = progress.durable() < self.full_until;
        for told in self.publisher.listen() {
            if let Told::Confirmed(first, last) = told {
                let confirmed = &self.numbers[first as usize - 1..last as usize];
                confirmed.iter().for_each(|id| truth.confirm(*id));
            }
        }
        for told in self.committer.listen() {
            if matches!(told, Told::Committed) {
                let asked = self.commits.pop_front().expect("it was asked for");
                truth.is_durable(asked);
            }
        }
        for told in self.consumer.listen() {
            if let Told::Came { place, .. } = told
                && place.0 < DURABLE
                && !was_full
            {
                truth.see(place);
            }
        }
    }
}

/// Adds a message for one queue or for all.
fn publish_one(world: &mut World, asked: u64, chunk: &mut Chunk) -> u64 {
    let random = &mut world.random;
    let queue = random.below(QUEUES.len() as u64 + 2) as usize;
    let persistent = random.chance(0.8);
    let queues: Vec<usize> = match queue {
        0..DURABLE => vec![queue],
        DURABLE => Vec::new(),
        _ => (0..DURABLE).collect(),
    };
    let size = [16, 100, 1_000, 6_000][random.below(4) as usize];
    // A transient message of no durable queue is nobody's loss.
    let id = world.truth.publish(&queues, persistent && !queues.is_empty(), asked);
    let (exchange, key) = if queue > DURABLE { (EXCHANGE, "") } else { ("", QUEUES[queue]) };
    let mut envelope = Vec::new();
    for part in [exchange, key] {
        envelope.push(part.len() as u8);
        envelope.extend_from_slice(part.as_bytes());
    }
    let body = body(id, size);
    let message = Message { envelope: &envelope, properties: &[0, 0], body: &body, persistent };
    chunk.push(message).expect("it is small");
    id
}

//! A log that lives many times on a disk that fails, and is stopped wherever it may be.
//!
//! `LEVERET_SIM_SEEDS=n` tries more seeds, `LEVERET_SIM_SEED=s` exactly one.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_model::{Lsn, PackId, Position, PositionSet, QueueId};

use super::random::Random;
use super::{Faults, SimulatedDisk, SimulatedStop};
use crate::testing::{Frames, SNAPSHOT, message, options};
use crate::{Contents, Log, OpenError, Packs, Stepper};

const SEEDS: u64 = 500;
const LIVES: u64 = 6;
const QUEUE: u64 = 1;
/// The queue of messages that only say that something happened.
const NOTES: u64 = 2;

/// What was appended at some address, and should be there.
#[derive(Debug)]
struct Item {
    record: Vec<u8>,
    /// The position, of what is a live message until it is released.
    position: Option<u64>,
    /// Where the record ends that says so.
    released: Option<Lsn>,
}

/// A pack that was made, and what says so.
#[derive(Debug)]
struct Pack {
    /// Where each message was in the log, and its position.
    messages: Vec<(Lsn, u64)>,
    counts_from: Lsn,
    removed: Option<Lsn>,
}

struct World {
    disk: SimulatedDisk,
    random: Random,
    items: BTreeMap<Lsn, Item>,
    packs: BTreeMap<PackId, Pack>,
    /// Up to where the log has said that all is durable.
    told: Arc<AtomicU64>,
    /// The same but for what was written last.
    proven: Arc<AtomicU64>,
    next: u64,
    /// Whether errors are to be expected.
    failing: bool,
}

fn body_bytes(position: u64) -> usize {
    match position.wrapping_mul(0x9e37_79b9) % 40 {
        0 => 20_000,
        1..5 => 3_000,
        small => small as usize * 10,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            disk: SimulatedDisk::new(seed),
            random: Random::new(!seed),
            items: BTreeMap::new(),
            packs: BTreeMap::new(),
            told: Arc::default(),
            proven: Arc::default(),
            next: 0,
            failing: false,
        }
    }

    fn told(&self) -> Lsn {
        Lsn(self.told.load(Ordering::Relaxed))
    }

    fn lives(&mut self) {
        for _ in 0..LIVES {
            // The last try is left in peace.
            for rest in (0..3).rev() {
                self.plan(rest == 0);
                match self.until_stopped(World::live) {
                    Some(Ok(())) => break,
                    Some(Err(error)) => assert!(self.failing, "{error}"),
                    None => {}
                }
                self.end();
            }
            self.end();
        }
        self.flip();
    }

    /// What will go wrong next.
    fn plan(&mut self, nothing: bool) {
        let mut faults = Faults::default();
        let kind = if nothing { 0 } else { self.random.below(6) };
        let calls = self.random.below(if kind == 1 { 20 } else { 300 }) + 1;
        self.disk.stop_after((1..4).contains(&kind).then_some(calls));
        let rare = self.random.part() * 0.02;
        match kind {
            4 => (faults.write_error, faults.sync_error) = (rare, rare),
            5 => (faults.read_error, faults.open_error, faults.sync_error) = (rare, rare, rare),
            _ => {}
        }
        self.failing = kind > 3;
        self.disk.set_faults(faults);
    }

    /// The end of a process.
    fn end(&mut self) {
        self.disk.set_faults(Faults::default());
        if self.random.chance(0.7) { self.disk.crash() } else { self.disk.kill() }
    }

    fn until_stopped<T>(&mut self, run: impl FnOnce(&mut World) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| run(self))) {
            Ok(value) => Some(value),
            Err(panic) if panic.is::<SimulatedStop>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }

    fn open(&self) -> Result<(Log, Stepper, Frames), OpenError> {
        let mut frames = Vec::new();
        let mut replay = |lsn, records: &[u8]| {
            frames.push((lsn, records.to_vec()));
            Ok(())
        };
        let (told, proven) = (Arc::clone(&self.told), Arc::clone(&self.proven));
        let on_durable = Box::new(move |Lsn(durable)| {
            proven.store(told.swap(durable, Ordering::Relaxed), Ordering::Relaxed);
        });
        let disk = Arc::new(self.disk.clone());
        let opened =
            Log::open_stepped(disk, Path::new("/data"), options(), &mut replay, on_durable);
        let (log, stepper) = opened?;
        Ok((log, stepper, frames))
    }

    /// Opens the log, checks what it holds, and works with it.
    fn live(&mut self) -> Result<(), OpenError> {
        let (log, mut stepper, frames) = self.open()?;
        self.check(&log, &frames)?;
        for _ in 0..self.random.below(250) {
            self.step(&log, &mut stepper);
        }
        self.fill(false);
        if self.random.chance(0.3) {
            stepper.close();
            let end = self.items.last_key_value();
            let end = end.map_or(Lsn(0), |(lsn, item)| lsn.advance(item.record.len() as u64));
            assert!(self.told() >= end, "closing makes all durable");
        }
        Ok(())
    }

    fn step(&mut self, log: &Log, stepper: &mut Stepper) {
        match self.random.below(21) {
            0..9 => drop(self.append(log, true)),
            9..14 => drop(stepper.commit()),
            14..16 => drop(stepper.keep()),
            16 => self.release(log),
            17 => self.pack(log),
            18 => self.remove_pack(log),
            19 if log.begin_early() => drop(self.append(log, false)),
            _ => {
                let full = self.random.chance(0.3);
                self.fill(full);
            }
        }
    }

    fn fill(&mut self, full: bool) {
        if !self.failing {
            let capacity = full.then(|| self.disk.files().iter().map(|(_, len)| len).sum());
            self.disk.set_faults(Faults { capacity, ..Faults::default() });
        }
    }

    /// Appends a message, or a note, and returns the address behind it.
    fn append(&mut self, log: &Log, live: bool) -> Lsn {
        self.next += 1;
        let position = self.next;
        let mut slot = log.reserve();
        if slot.new_segment() {
            let item = Item { record: SNAPSHOT.to_vec(), position: None, released: None };
            self.items.insert(slot.position(), item);
            slot.append(SNAPSHOT, 1, 0);
        }
        let record = match live {
            true => message(&[(QUEUE, position)], body_bytes(position)),
            false => message(&[(NOTES, position)], 3),
        };
        let start = slot.position();
        let end = slot.append(&record, 1, u32::from(live));
        let position = live.then_some(position);
        self.items.insert(start, Item { record, position, released: None });
        end
    }

    /// The messages that are in the log alone.
    fn live_messages(&self) -> impl Iterator<Item = (Lsn, u64)> {
        let live = self.items.iter().filter(|(_, item)| item.released.is_none());
        live.filter_map(|(lsn, item)| Some((*lsn, item.position?)))
    }

    /// The oldest messages end, most of them; or all there are.
    fn release(&mut self, log: &Log) {
        let (count, share) = match self.random.below(4) {
            0 => (usize::MAX, 1.0),
            _ => (self.random.below(30) as usize, 0.9),
        };
        let oldest: Vec<_> = self.live_messages().take(count).map(|(lsn, _)| lsn).collect();
        let gone: Vec<_> = oldest.into_iter().filter(|_| self.random.chance(share)).collect();
        let end = self.append(log, false);
        log.release(&gone);
        for lsn in gone {
            self.items.get_mut(&lsn).unwrap().released = Some(end);
        }
    }

    /// Makes a pack of the oldest segment, as the broker does.
    fn pack(&mut self, log: &Log) {
        let Some(segment) = log.sealed().first().copied() else { return };
        let part = segment.first..segment.end;
        let messages: Vec<_> = self.live_messages().filter(|(lsn, _)| part.contains(lsn)).collect();
        if messages.is_empty() {
            self.append(log, false);
            return log.retire(segment, Contents::Gone);
        }
        log.pin(&[segment.first]);
        let sets = PositionSet::of_sorted(messages.iter().map(|(_, at)| Position(*at)));
        let wanted = BTreeMap::from([(QueueId(QUEUE), sets.into_iter().collect())]);
        let in_place = self.random.chance(0.5);
        let made = match in_place {
            true => log.packs().adopt(segment, &wanted),
            false => log.packs().rewrite(segment, &wanted),
        };
        let id = match made {
            Ok(id) => id,
            Err(error) => {
                assert!(self.failing || error.is_out_of_space(), "{error}");
                return log.release(&[segment.first]);
            }
        };
        let counts_from = self.append(log, false);
        log.retire(segment, if in_place { Contents::Adopted(id) } else { Contents::Copied });
        for (lsn, _) in &messages {
            self.items.get_mut(lsn).unwrap().released = Some(counts_from);
        }
        self.packs.insert(id, Pack { messages, counts_from, removed: None });
    }

    fn remove_pack(&mut self, log: &Log) {
        let Some((&id, _)) = self.packs.iter().find(|(_, pack)| pack.removed.is_none()) else {
            return;
        };
        let end = self.append(log, false);
        log.remove_packs(vec![id]);
        self.packs.get_mut(&id).unwrap().removed = Some(end);
    }

    /// What was found is what was appended, and all that was to be durable.
    fn check(&mut self, log: &Log, frames: &Frames) -> Result<(), OpenError> {
        let found = self.read(frames);
        let (told, end) = (self.told(), log.durable());
        assert!(end >= told, "the log ends at {end} and was durable to {told}");
        for (lsn, item) in &self.items {
            let durable = lsn.advance(item.record.len() as u64) <= told;
            let gone = item.released.map_or(item.position.is_none(), |by| by <= told);
            assert!(!durable || gone || found.contains(lsn), "{lsn} is missing: {item:?}");
        }
        // What was not found was never said; and what it would have undone is as it was.
        let _ = self.items.split_off(&end);
        for item in self.items.values_mut() {
            item.released = item.released.filter(|by| *by <= end);
        }
        let mut packs = std::mem::take(&mut self.packs);
        packs.retain(|_, pack| {
            if pack.counts_from > end || pack.removed.is_some_and(|by| by <= end) {
                return false;
            }
            pack.removed = None;
            let in_log = pack.messages.iter().any(|(lsn, _)| found.contains(lsn));
            for (lsn, _) in pack.messages.iter().filter(|_| in_log) {
                self.items.get_mut(lsn).unwrap().released = None;
            }
            !in_log
        });
        self.packs = packs;
        let live: Vec<_> = self.live_messages().map(|(lsn, _)| lsn).collect();
        log.pin(&live);
        if end > told {
            // The process ended before that was told.
            self.proven.store(told.0, Ordering::Relaxed);
        }
        self.told.store(end.0, Ordering::Relaxed);
        assert!(self.packs.is_empty() || !frames.is_empty(), "nothing is left that names packs");
        self.check_packs(&log.packs())
    }

    /// Looks at each record of each frame. Returns where they are.
    fn read(&self, frames: &Frames) -> BTreeSet<Lsn> {
        let mut found = BTreeSet::new();
        for (first, records) in frames {
            let (mut lsn, mut rest) = (*first, &records[..]);
            assert!(found.last().is_none_or(|last| *last < lsn), "out of order");
            while !rest.is_empty() {
                let item = self.items.get(&lsn).expect("nobody appended anything there");
                rest = rest.strip_prefix(&item.record[..]).expect("nobody appended that");
                found.insert(lsn);
                lsn = lsn.advance(item.record.len() as u64);
            }
        }
        found
    }

    fn check_packs(&self, packs: &Packs) -> Result<(), OpenError> {
        let live: Vec<_> = self.packs.keys().copied().collect();
        packs.settle(&live)?;
        for (id, pack) in &self.packs {
            let runs: Vec<_> = pack.messages.iter().map(|(_, at)| (Position(*at), 1)).collect();
            let loaded = match packs.load(*id, QueueId(QUEUE), &runs, usize::MAX) {
                Ok(loaded) => loaded,
                Err(error) => {
                    assert!(self.failing, "{error}");
                    continue;
                }
            };
            assert_eq!(loaded.messages.len(), runs.len());
            for (index, (_, at)) in pack.messages.iter().enumerate() {
                assert_eq!(loaded.messages[index].0, Position(*at));
                assert_eq!(loaded.chunk.get(index as u32).body.len(), body_bytes(*at));
            }
        }
        Ok(())
    }

    /// A bit that flips is found, or it is in what was written last, which passes for a write that
    /// was cut off: nothing wrong is read, and of what was written before nothing is missing.
    fn flip(&mut self) {
        let flipped = match self.random.chance(0.5) {
            true => self.disk.flip_last_bit(".wal"),
            false => self.disk.flip_bit(".wal"),
        };
        if flipped.is_none() {
            return;
        }
        self.failing = false;
        let proven = Lsn(self.proven.load(Ordering::Relaxed));
        self.told.store(proven.0, Ordering::Relaxed);
        // What the last write released is gone either way, unless it went to a pack.
        let packs = self.packs.values().filter(|pack| pack.removed.is_none());
        let packed: BTreeSet<Lsn> =
            packs.flat_map(|pack| &pack.messages).map(|(lsn, _)| *lsn).collect();
        for (_, item) in self.items.iter_mut().filter(|(lsn, _)| !packed.contains(lsn)) {
            if item.released.is_some_and(|by| by > proven) {
                (item.position, item.released) = (None, None);
            }
        }
        if let Ok((log, _, frames)) = self.open() {
            match self.check(&log, &frames) {
                // It is noticed that the last write removed a pack.
                Ok(()) | Err(OpenError::Damaged { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    world.lives();
    world
}

#[test]
fn a_log_keeps_what_it_promised() {
    let variable = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seeds = match variable("LEVERET_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("LEVERET_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(|| run(seed)) {
            eprintln!("seed {seed}: try LEVERET_SIM_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn a_seed_repeats() {
    for seed in 0..5 {
        let (one, other) = (run(seed).disk, run(seed).disk);
        assert_eq!((one.calls(), one.files()), (other.calls(), other.files()));
        assert!(one.calls() > 100);
    }
}

//! Packs among random commands: what is made of the log, what leaves memory and comes back, and
//! what must be so after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use leveret_model::{Lsn, PackId, Position, PositionSet, QueueId, SessionId};
use leveret_record::{ExtentDefinition, Record, Records};

use super::super::plain::Disk;
use super::super::recovering::{definitions, restored_at};
use super::super::world::World;
use super::asks::{Ask, QUEUES};
use super::{Asked, Pair, SESSIONS, disconnects, heard, take_down};
use crate::chunks::Home;
use crate::cold::Extent;
use crate::{Engine, PackUse, Spill, Survey};

type Positions = BTreeSet<(QueueId, Position)>;

/// How far the log is in packs.
#[derive(Debug, Default)]
pub(super) struct Packing {
    /// A part of the log that was looked at, to be adopted.
    surveyed: Option<(Range<Lsn>, Survey)>,
    /// Up to where the log is adopted.
    adopted: Lsn,
    /// Where adopted parts end that are not retired yet.
    ends: Vec<Lsn>,
    /// Where the log begins.
    pub(super) base: Lsn,
    last: u64,
    /// Packs that were looked at, to be merged, and what was live.
    to_merge: Option<(Vec<PackId>, Positions)>,
    /// Transient messages that were looked at, to be spilled.
    spill: Option<Spill>,
}

impl Pair {
    /// What is live of the oldest segment, or of all whole ones, is to be packed.
    pub(super) fn survey(&mut self, all: bool) {
        let from = self.packing.adopted;
        let world = &self.world;
        let mut starts = self.segments.iter().map(|index| world.log[*index].0);
        let end = if all { starts.next_back() } else { starts.find(|start| *start > from) };
        let Some(end) = end.filter(|end| *end > from) else { return };
        let part = from..end;
        let survey = world.engine.survey(&part);
        let found: Positions = positions_of(&survey.live);
        let written = world.written(&part);
        let mut live = self.live(true);
        live.retain(|target| written.contains_key(target));
        assert_eq!(found, live, "what is live of {part:?}");
        let bytes = |target: &(QueueId, Position)| {
            let message = written[target].message();
            (message.envelope.len() + message.properties.len() + message.body.len()) as u64
        };
        // What goes to several queues counts once.
        let largest = live.iter().map(bytes).max().unwrap_or(0);
        assert!(survey.bytes >= largest && (survey.bytes > 0) != live.is_empty());
        self.packing.surveyed = Some((part, survey));
    }

    pub(super) fn adopt(&mut self) {
        let Some((part, survey)) = self.packing.surveyed.take() else { return };
        let mut live = self.live(true);
        let written = self.world.written(&part);
        live.retain(|target| written.contains_key(target));
        self.packing.last += 1;
        let used = self.world.adopt(PackId(self.packing.last), &part, &survey);
        assert_eq!(used, !live.is_empty(), "a pack is used if something is live");
        self.packing.adopted = part.end;
        self.packing.ends.push(part.end);
        self.check_packs();
        assert_eq!(heard::contents(&self.world), self.plain.contents(), "adopting changes nothing");
    }

    pub(super) fn survey_transient(&mut self, bytes_max: u64) {
        let spill = self.world.engine.survey_transient(bytes_max);
        let mut waiting = self.live(false);
        for target in spill.messages().flat_map(|(_, _, targets)| targets) {
            assert!(waiting.remove(&target), "{target:?} is transient, and named once");
        }
        assert_eq!(spill.bytes > 0, spill.messages().next().is_some());
        self.packing.spill = Some(spill);
    }

    pub(super) fn spilled(&mut self) {
        let Some(spill) = self.packing.spill.take() else { return };
        self.packing.last += 1;
        self.world.spilled(PackId(self.packing.last), &spill);
        self.check_packs();
        let contents = heard::contents(&self.world);
        assert_eq!(contents, self.plain.contents(), "spilling changes nothing");
    }

    /// The oldest adopted part leaves the log.
    pub(super) fn retire(&mut self) {
        if !self.packing.ends.is_empty() {
            self.packing.base = self.packing.ends.remove(0);
        }
    }

    /// All packs are to be merged that no restart finds in the log.
    pub(super) fn survey_packs(&mut self) {
        let engine = &self.world.engine;
        let uses: Vec<PackUse> = engine.pack_uses().collect();
        let held = held(engine);
        for PackUse { pack, live, end } in &uses {
            assert_eq!((*live, Some(*end)), (held[pack].len() as u64, self.world.packs[pack].end));
        }
        let mut packs: Vec<PackId> =
            uses.iter().filter(|it| it.end <= self.packing.base).map(|it| it.pack).collect();
        packs.sort_unstable();
        let surveyed = engine.survey_packs(&packs);
        let found: Vec<PackId> = surveyed.iter().map(|(pack, _)| *pack).collect();
        assert_eq!(found, packs);
        let mut live = Positions::new();
        for (pack, wanted) in surveyed {
            let mut own = positions_of(&wanted);
            assert_eq!(own, held[&pack], "what is live of {pack:?}");
            live.append(&mut own);
        }
        self.packing.to_merge = Some((packs, live));
    }

    pub(super) fn merge(&mut self) {
        let Some((packs, live)) = self.packing.to_merge.take() else { return };
        let known = self.world.packs.clone();
        let any = packs.iter().any(|pack| known.contains_key(pack));
        self.packing.last += 1;
        let merged = PackId(self.packing.last);
        assert_eq!(self.world.merge(merged, &packs, &live), any, "merged if something is live");
        self.check_packs();
        assert_eq!(heard::contents(&self.world), self.plain.contents(), "merging changes nothing");
    }

    /// After a crash, what is not retired is not adopted either.
    pub(super) fn forget_adopted(&mut self) {
        let base = self.packing.base;
        (self.packing.surveyed, self.packing.to_merge) = (None, None);
        self.packing.spill = None;
        self.packing.ends.clear();
        self.packing.adopted = base;
    }

    /// Goes on with sessions that need wait no more, and brings what is asked for if it is not to
    /// come later.
    pub(super) fn go_on(&mut self) {
        for turn in 0.. {
            assert!(turn < 1_000, "it never ends");
            if self.world.engine.can_resume() {
                let disk = self.disk();
                let session = self.world.resume();
                self.plain.leaving = self.waiting[&session].iter().any(|batch| disconnects(batch));
                self.check_run(session, &disk);
            } else if !self.late && !self.world.loads.is_empty() {
                self.answer(turn % self.world.loads.len(), [1, 2, 1_000][turn % 3]);
            } else {
                break;
            }
        }
        for session in SESSIONS {
            if !self.world.engine.sessions.contains_key(&SessionId(session)) {
                assert!(self.world.engine.connect(SessionId(session), b"/"));
            }
        }
    }

    /// Brings what is asked for.
    pub(super) fn answer(&mut self, index: usize, most: usize) {
        let mut disk = self.disk();
        let numbers = self.numbers();
        let (queue, brought) = self.world.answer(index, most);
        if let Some(cold) = numbers.get(&queue).and_then(|number| disk.get_mut(number)) {
            cold.retain(|at| !brought.contains(&Position(*at)));
        }
        self.check_step(0, &[], None, &disk);
    }

    /// A session has done what it could of its first batch.
    pub(super) fn check_run(&mut self, session: u64, disk: &Disk) {
        let mut asked = self.waiting.get_mut(&session).unwrap().pop_front().unwrap();
        let engine = &self.world.engine;
        let behind = self.waiting[&session].len();
        let known = engine.sessions.get(&SessionId(session));
        let stalled = known.filter(|session| session.batches.len() > behind);
        let left = stalled.map_or(0, |session| session.batches[0].commands.len());
        let rest = asked.split_off(asked.len() - left);
        self.check_step(session, &asked, rest.first(), disk);
        if !rest.is_empty() {
            self.waiting.get_mut(&session).unwrap().push_front(rest);
        }
    }

    /// The queue that somebody may have to wait for.
    pub(super) fn needed(&self, asked: &Asked) -> &'static str {
        match asked {
            Asked::Other(Ask::Get(name, _) | Ask::Delete(name, _, true)) => name,
            Asked::Other(Ask::Declare(index, ..)) => QUEUES[*index],
            _ => panic!("nothing to wait for"),
        }
    }

    /// Reads all there is.
    pub(super) fn drain(&mut self) {
        self.late = false;
        self.go_on();
        self.batch(3, &[(1, Ask::Close), (1, Ask::Open), (1, Ask::Taken)], false);
        for name in QUEUES {
            for _ in 0..200 {
                if !self.plain.filled().contains(&name) {
                    break;
                }
                self.batch(3, &[(1, Ask::Get(name, true)), (1, Ask::Taken)], true);
            }
        }
    }
    /// The log says what the model says, also when segments are gone that nothing needs.
    pub(super) fn check_log(&self) {
        let world = &self.world;
        let mut after = self.plain.clone();
        after.crash(world.now.0);
        let base = self.packing.base;
        let oldest = world.pins.iter().min().copied().unwrap_or(Lsn(u64::MAX));
        let starts = self.segments.iter().map(|index| world.log[*index].0);
        let start = starts.rev().find(|start| *start <= oldest && *start >= base).unwrap_or(base);
        let starts = if start == base { vec![base] } else { vec![base, start] };
        for start in starts {
            let engine = restored_at(from(world, start), world.now);
            let begin = from(world, start).next().map_or(start, |(address, _)| *address);
            let expected = definitions_from(&world.engine, begin);
            assert_eq!(definitions_from(&engine, begin), expected, "from {start:?}");
            let mut later = with_packs(engine, world, begin);
            assert_eq!(heard::contents(&later), after.contents(), "from {start:?}");
            later.engine.set_memory_target(self.memory.unwrap_or(usize::MAX));
            take_down(&mut later);
        }
    }

    /// The engine's queues as the model numbers them: both give numbers in order.
    pub(super) fn numbers(&self) -> BTreeMap<QueueId, u64> {
        let mut ids: Vec<QueueId> = self.world.engine.queues.keys().copied().collect();
        ids.sort_unstable();
        let plain = self.plain.ids();
        assert_eq!(ids.len(), plain.len());
        ids.into_iter().zip(plain).collect()
    }

    /// What is only on disk.
    pub(super) fn disk(&self) -> Disk {
        let numbers = self.numbers();
        let mut disk = Disk::new();
        for (id, queue) in &self.world.engine.queues {
            let cold = queue.cold().into_iter().map(|(_, _, position)| position.0);
            let cold: BTreeSet<u64> = cold.collect();
            if !cold.is_empty() {
                disk.insert(numbers[id], cold);
            }
        }
        disk
    }

    /// The durable messages there are by the model, or the transient ones, as the engine calls
    /// them.
    fn live(&self, durable: bool) -> Positions {
        let ids: BTreeMap<u64, QueueId> =
            self.numbers().into_iter().map(|(id, number)| (number, id)).collect();
        let live = self.plain.live(durable).into_iter();
        live.map(|(queue, at)| (ids[&queue], Position(at))).collect()
    }

    /// What must hold after every step.
    pub(super) fn check_packs(&self) {
        let world = &self.world;
        check_engine(&world.engine);
        let packs: BTreeSet<PackId> = world.engine.packs().collect();
        let known = world.packs.iter().filter(|(_, pack)| pack.end.is_some());
        assert_eq!(packs, known.map(|(id, _)| *id).collect(), "packs that are needed");
        let held = held(&world.engine);
        let (durable, transient) = (self.live(true), self.live(false));
        for (id, pack) in &world.packs {
            let mut own = if pack.end.is_some() { durable.clone() } else { transient.clone() };
            own.retain(|target| pack.messages.contains_key(target));
            assert_eq!(held[id], own, "what is live of {id:?}");
        }
        // Nobody waits for what nobody brings.
        let numbers = self.numbers();
        let coming: BTreeSet<u64> =
            world.loads.iter().filter_map(|load| numbers.get(&load.queue).copied()).collect();
        for queue in &self.plain.waits {
            assert!(coming.contains(queue), "nothing comes for queue {queue}");
        }
        for session in world.engine.sessions.values() {
            if let Some(queue) = session.stalled_for {
                assert!(coming.contains(&numbers[&queue]), "nothing comes for {queue:?}");
            }
        }
    }
}

/// What the log holds from here on.
pub(super) fn from(world: &World, start: Lsn) -> impl Iterator<Item = &(Lsn, Vec<u8>)> {
    world.log.iter().filter(move |(address, _)| *address >= start)
}

/// What packs hold, as the queues say.
fn held(engine: &Engine) -> BTreeMap<PackId, Positions> {
    let mut held: BTreeMap<PackId, Positions> = BTreeMap::new();
    for queue in engine.queues.values() {
        for extent in queue.extents().map(|(_, extent)| extent).chain(queue.spilled()) {
            let own = held.entry(extent.pack).or_default();
            for (first, count) in extent.live.runs(Position(0)) {
                own.extend((first.0..first.0 + count).map(|at| (queue.id, Position(at))));
            }
        }
    }
    held
}

fn positions_of(live: &BTreeMap<QueueId, Vec<PositionSet>>) -> Positions {
    let mut found = Positions::new();
    for (queue, sets) in live {
        for (first, count) in sets.iter().flat_map(|set| set.runs(Position(0))) {
            for at in first.0..first.0 + count {
                assert!(found.insert((*queue, Position(at))), "each is found once");
            }
        }
    }
    found
}

/// What the engine counts is what there is.
fn check_engine(engine: &Engine) {
    for queue in engine.queues.values() {
        let cold = queue.cold();
        assert_eq!(queue.ready(), queue.here().count() + cold.len(), "what is ready");
        let bytes: u64 = queue.here().map(|entry| u64::from(entry.bytes)).sum();
        assert_eq!(queue.ready_bytes, bytes, "bytes in memory");
        let mut here: BTreeSet<Position> = queue.here().map(|entry| entry.position).collect();
        for (_, _, position) in cold {
            assert!(here.insert(position), "{position:?} is on disk and in memory");
        }
        for entry in queue.here() {
            let home = engine.chunks.home(entry.chunk);
            let holds = |extent: &Extent| extent.live.contains(entry.position);
            let packed = queue.extents().any(|(_, extent)| holds(extent));
            assert_eq!(packed, entry.durable && home == Home::Packs, "in an extent of the log");
            assert_eq!(queue.spilled().any(holds), home == Home::Spilled, "in a spilled extent");
            assert!(!entry.durable || home != Home::Spilled, "what is durable is not spilled");
        }
        for lane in queue.each_lane() {
            for cold in lane.colds() {
                let extents = cold.extents.iter().map(|extent| &extent.live);
                let bounds: Vec<_> = extents.flat_map(|it| [it.first(), it.last()]).collect();
                assert!(bounds.is_sorted() && !bounds.contains(&None), "extents in order");
            }
        }
    }
    let held: BTreeMap<PackId, u64> =
        held(engine).into_iter().map(|(pack, own)| (pack, own.len() as u64)).collect();
    assert_eq!(engine.chunks.packs.live(), held, "what packs hold");
}

/// The durable definitions, for a replay from here. How the positions of a pack are divided into
/// extents is left out.
pub(super) fn definitions_from(engine: &Engine, start: Lsn) -> Vec<String> {
    let mut log = Vec::new();
    engine.snapshot(&mut log);
    let mut packs = BTreeSet::new();
    let mut runs: BTreeMap<_, BTreeSet<u64>> = BTreeMap::new();
    for record in Records::new(&log) {
        match record.unwrap().1 {
            Record::Pack(pack) if pack.end <= start => drop(packs.insert(pack.id)),
            Record::Extent(extent) if packs.contains(&extent.pack) => {
                let ExtentDefinition { pack, queue, priority, runs: own, .. } = extent;
                let own = own.into_iter().flat_map(|(first, count)| first.0..first.0 + count);
                runs.entry((pack, queue, priority)).or_default().extend(own);
            }
            _ => {}
        }
    }
    let mut texts = definitions(engine);
    texts.retain(|text| !text.starts_with("Pack") && !text.starts_with("Extent"));
    texts.push(format!("{packs:?} {runs:?}"));
    texts
}

/// A world that goes on with this engine, and the packs that it needs.
pub(super) fn with_packs(engine: Engine, before: &World, from: Lsn) -> World {
    check_engine(&engine);
    let needed: BTreeSet<PackId> = engine.packs().collect();
    let known = before.packs.iter();
    let there = known.filter(|(_, pack)| pack.end.is_some_and(|end| end <= from));
    let packs: BTreeMap<_, _> = there.map(|(id, pack)| (*id, pack.clone())).collect();
    assert_eq!(needed, packs.keys().copied().collect(), "packs after a restart from {from:?}");
    let mut world = super::world_of(engine, before.end);
    (world.now, world.packs) = (before.now, packs);
    world
}

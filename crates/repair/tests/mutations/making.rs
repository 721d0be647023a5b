//! Sound data directories, made by the real engine and the real log, and what is in them.
//!
//! One thread does it all, step by step, each a frame of its own: so the same seed makes the same
//! directory, but for the random ids and the times that are in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use leveret_broker::engine::command::{Binding, DeclareQueue, Destination};
use leveret_broker::engine::{
    Batch, Command, Effects, Engine, Item, Load, Loaded, Operation, Outbound, Outcome, Token,
};
use leveret_model::{
    Chunk, FieldTable, Lsn, Message, PackId, QueueId, SessionId, ShortString, Time,
};
use leveret_storage::{Contents, Log, LogOptions, ReplayError};
use tempfile::TempDir;

/// A random number below a bound.
pub(crate) type Draw<'a> = dyn FnMut(usize) -> usize + 'a;

/// The files of a data directory: what is in each, by `folder/name`.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// The numbers of the messages that wait in each queue, in order.
pub(crate) type Waiting = BTreeMap<QueueId, Vec<u64>>;

pub(crate) const SEGMENT_BYTES: u64 = 12 * 1024;
pub(crate) const QUEUES: [&str; 3] = ["first", "second", "third"];
/// The client, and who brings what was loaded.
const CLIENT: SessionId = SessionId(1);
const NOBODY: SessionId = SessionId(0);
const PATIENCE: Duration = Duration::from_secs(30);

/// How the log of a directory ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was closed.
    Closed,
    /// With a kill, when nothing was being written.
    Killed,
    /// With a kill in the middle of a write.
    Torn,
    /// With a kill right after the first frame of a segment. All older ones are gone.
    Begun,
    /// With a kill right after packs were merged. Those are gone.
    Merged,
}

/// A sound data directory.
pub(crate) struct Sound {
    pub(crate) files: Files,
    /// What waited when the log ended at an address, from its beginning on.
    pub(crate) history: Vec<(Lsn, Waiting)>,
    /// Which message got which position, and where in the log.
    pub(crate) published: BTreeMap<QueueId, Vec<(u64, Lsn)>>,
    /// The packs that hold messages, and where the log first names each.
    pub(crate) packs: BTreeMap<PackId, Lsn>,
    /// The one that was made of others by the last frame.
    pub(crate) merged: Option<PackId>,
    /// Whether the last frame is the one that closes the log.
    pub(crate) closed: bool,
}

/// What a message says: its number, and something that no other one says.
pub(crate) fn body(number: u64) -> Vec<u8> {
    let len = 16 + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize % 500;
    let mut body = number.to_le_bytes().to_vec();
    body.extend((0..len as u64).map(|at| (number ^ at).wrapping_mul(0x9d) as u8));
    body
}

/// The number of a message, if it says what it should.
pub(crate) fn number(found: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*found.first_chunk()?);
    (found == body(number)).then_some(number)
}

impl Sound {
    pub(crate) fn make(draw: &mut Draw<'_>, end: End) -> Sound {
        let home = directory();
        let mut maker = Maker::new(home.path(), draw(2) == 0);
        maker.declare();
        for round in 0..90 {
            maker.act(draw);
            if round == 60 && draw(2) == 0 {
                maker = maker.reopen(home.path());
            }
        }
        let mut merged = None;
        match end {
            End::Begun => maker.begin_anew(),
            End::Merged => {
                maker.begin_anew();
                maker.publish(0, 3);
                merged = Some(maker.merge());
            }
            // Makes sure that the last frame frees nothing.
            End::Closed | End::Killed | End::Torn => maker.publish(0, 3),
        }
        let uses: Vec<_> = maker.engine.pack_uses().collect();
        let named = maker.named;
        let (mut history, published) = (maker.history, maker.published);
        maker.log.close();
        let mut files = read(home.path());
        let closed = tidy(&mut files, &mut history, end);
        // Of the others the log has everything still.
        let oldest = segments(&files)[0].1;
        let needed = uses.into_iter().filter(|it| it.end <= oldest);
        let packs = needed.map(|it| (it.pack, named[&it.pack])).collect();
        Sound { files, history, published, packs, merged, closed }
    }

    /// What waits.
    pub(crate) fn waiting(&self) -> &Waiting {
        &self.history.last().expect("a beginning").1
    }

    /// Writes the files to a new directory.
    pub(crate) fn write(files: &Files) -> TempDir {
        let home = directory();
        for folder in ["wal", "pack"] {
            fs::create_dir(home.path().join(folder)).expect("a folder");
        }
        for (name, bytes) in files {
            fs::write(home.path().join(name), bytes).expect("written");
        }
        home
    }
}

/// In memory if possible: nobody cuts the power here, and syncs would take most of the time.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
}

fn read(home: &Path) -> Files {
    let mut files = Files::new();
    for folder in ["wal", "pack"] {
        for entry in fs::read_dir(home.join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            files.insert(format!("{folder}/{name}"), fs::read(&path).expect("a file"));
        }
    }
    files
}

/// Ends the log in that way, and takes away what is not the same each time. Returns whether there
/// is a frame that closes it.
fn tidy(files: &mut Files, history: &mut Vec<(Lsn, Waiting)>, end: End) -> bool {
    files.retain(|name, _| !name.ends_with(".free") && !name.ends_with(".tmp"));
    let firsts = segments(files);
    let last = history.last().expect("a beginning").0;
    let before = history[history.len() - 2].0;
    let (newest, first) = firsts.last().cloned().expect("segments");
    // Of another segment, or of a former one.
    let others = files.iter().filter(|(name, _)| **name != newest && !name.ends_with(".idx"));
    let stale = others.map(|(_, bytes)| bytes.clone()).next_back().expect("another file");
    let at = |address: Lsn| 4096 + (address.0 - first.0) as usize;
    let bytes = files.get_mut(&newest).expect("the newest segment");
    // A segment that is full needs none: the next would be another's.
    let closed = end == End::Closed && last.0 - first.0 < SEGMENT_BYTES;
    match end {
        // The frame that closes the log has a header and nothing else.
        End::Closed if closed => bytes.truncate(at(last) + 40),
        End::Closed | End::Killed | End::Begun | End::Merged => bytes.truncate(at(last)),
        End::Torn => {
            bytes.truncate(at(before) + (at(last) - at(before)) / 2);
            history.pop();
        }
    }
    // What was in the file before it became a segment.
    let used = bytes.len();
    bytes.resize(used.max(4096 + SEGMENT_BYTES as usize).next_multiple_of(4096), 0);
    let old = stale.len().min(bytes.len());
    if !closed && old > used {
        bytes[used..old].copy_from_slice(&stale[used..old]);
    }
    files.insert("wal/00000007.free".to_owned(), stale);
    closed
}

/// The segments by name, with the address of the first frame, oldest first.
pub(crate) fn segments(files: &Files) -> Vec<(String, Lsn)> {
    let first = |name: &String| {
        let digits = name.strip_prefix("wal/")?.strip_suffix(".wal")?;
        Some((name.clone(), Lsn(digits.parse().ok()?)))
    };
    files.keys().filter_map(first).collect()
}

/// A broker in one thread.
struct Maker {
    engine: Engine,
    log: Log,
    effects: Effects,
    loads: Vec<Load>,
    told: Vec<Outbound>,
    history: Vec<(Lsn, Waiting)>,
    waiting: Waiting,
    published: BTreeMap<QueueId, Vec<(u64, Lsn)>>,
    named: BTreeMap<PackId, Lsn>,
    next: u64,
    /// Where the newest segment begins.
    newest: Lsn,
}

impl Maker {
    fn new(home: &Path, small: bool) -> Maker {
        let (engine, log) = open(home);
        let mut maker = Maker {
            engine,
            log,
            effects: Effects::default(),
            loads: Vec::new(),
            told: Vec::new(),
            history: vec![(Lsn(0), Waiting::new())],
            waiting: Waiting::new(),
            published: BTreeMap::new(),
            named: BTreeMap::new(),
            next: 0,
            newest: Lsn(0),
        };
        maker.begin(small);
        maker
    }

    fn reopen(self, home: &Path) -> Maker {
        let Maker { log, history, waiting, published, named, next, newest, .. } = self;
        log.close();
        let (engine, log) = open(home);
        let (effects, loads, told) = (Effects::default(), Vec::new(), Vec::new());
        let mut maker = Maker {
            engine,
            log,
            effects,
            loads,
            told,
            history,
            waiting,
            published,
            named,
            next,
            newest,
        };
        maker.remember();
        maker.begin(false);
        maker
    }

    fn begin(&mut self, small: bool) {
        self.engine.set_memory_target(if small { 0 } else { usize::MAX });
        assert!(self.engine.connect(CLIENT, b"/"));
        self.ask(vec![Operation::Open]);
    }

    fn declare(&mut self) {
        for name in QUEUES {
            self.ask(vec![Operation::DeclareQueue(Box::new(DeclareQueue {
                name: ShortString::from_static(name),
                passive: false,
                durable: true,
                exclusive: false,
                auto_delete: false,
                arguments: FieldTable::new(),
                reply: false,
            }))]);
        }
        for name in &QUEUES[..2] {
            self.ask(vec![Operation::Bind(binding(name, "amq.fanout"))]);
        }
    }

    /// Writes what nobody needs, until a segment has begun.
    fn fill(&mut self) {
        let before = self.newest;
        while self.newest == before {
            let binding = || binding(QUEUES[2], "amq.direct");
            self.ask(vec![Operation::Bind(binding()), Operation::Unbind(binding())]);
        }
    }

    /// Leaves nothing in the log but the first frame of a segment.
    fn begin_anew(&mut self) {
        self.fill();
        let mut in_place = false;
        while self.pack(in_place, 1) {
            in_place = !in_place;
        }
        self.fill();
        let began = Instant::now();
        while self.log.oldest() < self.newest {
            assert!(began.elapsed() < PATIENCE, "they go in time");
            std::thread::yield_now();
        }
    }

    /// Makes one pack of all that there are.
    fn merge(&mut self) -> PackId {
        let mut ids: Vec<_> = self.engine.packs().collect();
        ids.sort_unstable();
        assert!(ids.len() > 1, "something to merge");
        let live = self.engine.survey_packs(&ids);
        let merged = self.log.packs().merge(&live).expect("a pack");
        self.named.insert(merged, self.log.durable());
        self.turn(|engine, _, effects| assert!(engine.merge(merged, &ids, effects)));
        merged
    }

    fn act(&mut self, draw: &mut Draw<'_>) {
        match draw(10) {
            0..6 => self.publish(draw(4), 1 + draw(8) as u64),
            6..9 => self.consume(draw(3), 1 + draw(12), draw(4)),
            _ => drop(self.pack(draw(2) == 0, 2)),
        }
    }

    /// Publishes to one queue, or to the first two.
    fn publish(&mut self, to: usize, count: u64) {
        let (exchange, key) = if to < 3 { ("", QUEUES[to]) } else { ("amq.fanout", "") };
        let mut envelope = Vec::new();
        for part in [exchange, key] {
            envelope.push(part.len() as u8);
            envelope.extend_from_slice(part.as_bytes());
        }
        let mut chunk = Chunk::default();
        let ids = if to < 3 { to as u64 + 1..to as u64 + 2 } else { 1..3 };
        let at = self.log.durable();
        for number in self.next..self.next + count {
            let (properties, body) = (&[0, 0][..], &body(number)[..]);
            let message = Message { envelope: &envelope, properties, body, persistent: true };
            chunk.push(message).expect("room");
            for id in ids.clone().map(QueueId) {
                self.waiting.entry(id).or_default().push(number);
                self.published.entry(id).or_default().push((number, at));
            }
        }
        self.next += count;
        let (first, count) = (0, count as u32);
        let publish = Operation::Publish { first, count, mandatory: false, special: false };
        self.run(CLIENT, chunk, vec![publish]);
    }

    /// Takes some messages of a queue: all of them for good, every second one, or none.
    fn consume(&mut self, queue: usize, count: usize, how: usize) {
        let get =
            || Operation::Get { queue: ShortString::from_static(QUEUES[queue]), no_ack: false };
        self.ask((0..count).map(|_| get()).collect());
        self.load();
        let mut accepted = BTreeSet::new();
        let mut settled = Vec::new();
        let mut taken = 0;
        for outbound in std::mem::take(&mut self.told) {
            taken += outbound.bytes;
            for item in &outbound.items {
                let Item::Got { chunk, message, lease, .. } = *item else { continue };
                let body = outbound.chunks[chunk as usize].get(message).body;
                let number = number(body).expect("a message of ours");
                let accept = how < 2 || how == 2 && number.is_multiple_of(2);
                let outcome = if accept { Outcome::Accept } else { Outcome::Requeue };
                settled.push(Operation::Settle { lease, multiple: false, outcome });
                if accept {
                    accepted.insert(number);
                }
            }
        }
        self.ask(vec![Operation::Taken { bytes: taken }]);
        let waiting = self.waiting.entry(QueueId(queue as u64 + 1)).or_default();
        waiting.retain(|number| !accepted.contains(number));
        self.ask(settled);
    }

    /// Makes a pack of the oldest segment, in place or by copying, if there are so many.
    fn pack(&mut self, in_place: bool, least: usize) -> bool {
        let sealed = self.log.sealed();
        let Some(&oldest) = sealed.first().filter(|_| sealed.len() >= least) else { return false };
        self.log.pin(&[oldest.first]);
        let part = oldest.first..oldest.end;
        let survey = self.engine.survey(&part);
        let packs = self.log.packs();
        let id = match (survey.live.is_empty(), in_place) {
            (true, _) => None,
            (_, true) => Some(packs.adopt(oldest, &survey.live).expect("a pack")),
            (_, false) => Some(packs.rewrite(oldest, &survey.live).expect("a pack")),
        };
        self.named.extend(id.map(|id| (id, self.log.durable())));
        let mut adopted = false;
        self.turn(|engine, _, effects| {
            adopted = engine.adopt(id.unwrap_or_default(), &part, effects);
        });
        assert_eq!(adopted, id.is_some());
        let contents = match id {
            None => Contents::Gone,
            Some(id) if in_place => Contents::Adopted(id),
            Some(_) => Contents::Copied,
        };
        self.log.retire(oldest, contents);
        self.log.release(&[oldest.first]);
        true
    }

    fn ask(&mut self, operations: Vec<Operation>) {
        self.run(CLIENT, Chunk::default(), operations);
    }

    fn run(&mut self, session: SessionId, chunk: Chunk, operations: Vec<Operation>) {
        let command = |operation| Command { holder: 1, token: Token(0), operation };
        let commands = operations.into_iter().map(command).collect();
        let batch = Batch { session, chunk, commands };
        self.turn(|engine, address, effects| engine.step(batch, Time(1), address, effects));
        while self.engine.can_resume() {
            self.turn(|engine, address, effects| engine.resume_next(Time(1), address, effects));
        }
    }

    /// Brings what the engine needs from packs.
    fn load(&mut self) {
        while let Some(load) = self.loads.pop() {
            let packs = self.log.packs();
            let found = packs.load(load.pack, load.queue, &load.runs, load.bytes_max);
            let found = found.expect("sound packs");
            let loaded = Loaded { load, messages: found.messages, damaged: false };
            self.run(NOBODY, found.chunk, vec![Operation::Loaded(Box::new(loaded))]);
        }
    }

    /// Has the engine do something, and writes what comes of it as one frame.
    fn turn(&mut self, work: impl FnOnce(&mut Engine, Lsn, &mut Effects)) {
        let mut slot = self.log.reserve();
        if slot.new_segment() {
            let mut snapshot = Vec::new();
            let records = self.engine.snapshot(&mut snapshot);
            slot.append(&snapshot, records, 0);
            self.newest = self.log.durable();
        }
        let effects = &mut self.effects;
        work(&mut self.engine, slot.position(), effects);
        slot.append(&effects.log, effects.records, effects.pinned);
        drop(slot);
        self.log.release(&std::mem::take(&mut effects.released));
        if !effects.emptied.is_empty() {
            self.log.remove_packs(std::mem::take(&mut effects.emptied));
        }
        self.loads.append(&mut effects.loads);
        self.told.append(&mut effects.outbound);
        *effects = Effects::default();
        let began = Instant::now();
        while self.log.backlog() > 0 {
            assert!(began.elapsed() < PATIENCE, "durable in time");
            std::thread::yield_now();
        }
        self.remember();
    }

    /// What waits is in the log, if that has grown.
    fn remember(&mut self) {
        let end = self.log.durable();
        if self.history.last().is_none_or(|(last, _)| *last < end) {
            self.history.push((end, self.waiting.clone()));
        }
    }
}

fn binding(queue: &'static str, source: &'static str) -> Box<Binding> {
    Box::new(Binding {
        destination: Destination::Queue(ShortString::from_static(queue)),
        source: ShortString::from_static(source),
        routing_key: ShortString::default(),
        arguments: FieldTable::new(),
        reply: false,
    })
}

/// As a broker opens its directory.
fn open(home: &Path) -> (Engine, Log) {
    let mut engine = Engine::new([7; 16]);
    let options =
        LogOptions { segment_bytes: SEGMENT_BYTES, pacing: Duration::ZERO, realtime: false };
    let mut replay =
        |address: Lsn, records: &[u8]| engine.restore(address, records).map_err(ReplayError::from);
    let log = Log::open(home, options, &mut replay, Box::new(|_| {})).expect("opens");
    engine.restored(Time(1));
    let packs = log.packs();
    packs.reserve_above(engine.last_pack());
    packs.settle(&engine.packs().collect::<Vec<_>>()).expect("sound packs");
    log.pin(&engine.addresses().collect::<Vec<_>>());
    (engine, log)
}

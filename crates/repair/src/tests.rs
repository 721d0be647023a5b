use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leveret_broker::{Broker, DiskOptions, Options};
use leveret_model::{
    FieldTable, Lsn, Message, PackId, Position, PositionSet, QueueId, ShortString,
};
use leveret_record::{
    BindingDefinition, Destination, ExtentDefinition, Origin, PackDefinition, QueueDefinition,
};
use leveret_storage::salvage::Pack;
use leveret_storage::{Contents, Log, LogOptions, Wanted};
use tempfile::TempDir;

use super::*;

const SEGMENT_BYTES: u64 = 16 * 1024;
const FIRST: QueueId = QueueId(1);
const SECOND: QueueId = QueueId(2);

/// A data directory in the making, with two queues.
struct Old {
    // Closed before its directory goes.
    log: Option<Log>,
    home: TempDir,
    next: [u64; 2],
    /// How many of the queues there are.
    queues: usize,
    /// What each segment begins with besides queues.
    packs: Vec<u8>,
}

fn name(text: &str) -> ShortString {
    ShortString::try_from(text).unwrap()
}

fn body(queue: QueueId, position: u64) -> Vec<u8> {
    format!("{queue}/{position} ").repeat(400).into_bytes()
}

impl Old {
    fn new() -> Old {
        let home = tempfile::tempdir().unwrap();
        let log = Some(open_log(&home.path().join("data")));
        Old { log, home, next: [0, 0], queues: 2, packs: Vec::new() }
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut log = Vec::new();
        for (index, id) in [FIRST, SECOND].into_iter().take(self.queues).enumerate() {
            let definition = QueueDefinition {
                id,
                vhost: name("/"),
                name: name(&format!("queue-{id}")),
                auto_delete: false,
                arguments: FieldTable::new(),
                next: Position(self.next[index]),
            };
            leveret_record::write_declare_queue(&mut log, &definition);
            let binding = BindingDefinition {
                vhost: name("/"),
                source: name("amq.direct"),
                destination: Destination::Queue(id),
                routing_key: name("key"),
                arguments: FieldTable::new(),
            };
            leveret_record::write_bind(&mut log, &binding);
        }
        log.extend_from_slice(&self.packs);
        log
    }

    /// Appends a frame of its own, with something that lives as long as the log.
    fn append(&self, records: &[u8]) {
        self.append_live(records, 1);
    }

    fn append_live(&self, records: &[u8], live: u32) {
        let mut slot = self.log().reserve();
        if slot.new_segment() {
            slot.append(&self.snapshot(), 2 * self.queues as u32, 0);
        }
        let end = slot.append(records, 1, live);
        drop(slot);
        while self.log().durable() < end {
            std::thread::yield_now();
        }
    }

    fn publish(&mut self, queue: QueueId) {
        let next = &mut self.next[queue.0 as usize - 1];
        let (position, body) = (*next, body(queue, *next));
        *next += 1;
        let message =
            Message { envelope: b"\0\x03key", properties: b"\0\0", body: &body, persistent: true };
        let mut record = Vec::new();
        let targets = [(queue, Position(position))];
        leveret_record::write_publish(&mut record, message, Origin::default(), &targets);
        self.append(&record);
    }

    fn settle(&self, queue: QueueId, first: u64, count: u64) {
        let mut record = Vec::new();
        leveret_record::write_settle(&mut record, queue, Position(first), count);
        self.append(&record);
    }

    /// Makes packs of all segments but the last, adopted and written in turn.
    fn pack(&mut self) -> Vec<PackId> {
        let mut ids = Vec::new();
        while let [oldest, _, ..] = self.log().sealed()[..] {
            let data = fs::read(self.path().join(format!("wal/{:020}.wal", oldest.first.0)));
            let mut wanted: Wanted = Wanted::new();
            let end = 4096 + (oldest.end.0 - oldest.first.0) as usize;
            let text = String::from_utf8_lossy(&data.unwrap()[..end]).into_owned();
            for queue in [FIRST, SECOND] {
                let held = (0..self.next[queue.0 as usize - 1])
                    .filter(|at| text.contains(&format!("{queue}/{at} {queue}/{at} ")));
                let sets = PositionSet::of_sorted(held.map(Position));
                if !sets.is_empty() {
                    wanted.insert(queue, sets);
                }
            }
            let packs = self.log().packs();
            let adopt = ids.len() % 2 == 0;
            let id =
                if adopt { packs.adopt(oldest, &wanted) } else { packs.rewrite(oldest, &wanted) };
            let id = id.unwrap();
            let mut records = Vec::new();
            let definition = PackDefinition { id, end: oldest.end, replaces: Vec::new() };
            leveret_record::write_pack(&mut records, &definition);
            for (queue, sets) in &wanted {
                let extent = ExtentDefinition {
                    pack: id,
                    queue: *queue,
                    priority: 0,
                    expires: None,
                    body_bytes: 1,
                    runs: sets.iter().flat_map(|set| set.runs(Position(0))).collect(),
                };
                leveret_record::write_extent(&mut records, &extent);
            }
            self.packs.extend_from_slice(&records);
            self.append_live(&records, 0);
            let contents = if adopt { Contents::Adopted(id) } else { Contents::Copied };
            self.log().retire(oldest, contents);
            ids.push(id);
        }
        self.move_on();
        ids
    }

    /// Begins another segment, so that those before it may leave the log.
    fn move_on(&self) {
        let mut records = Vec::new();
        leveret_record::write_delivered(&mut records, FIRST, Position(0));
        self.append_live(&records.repeat(SEGMENT_BYTES as usize / records.len() + 1), 0);
        self.append_live(&records, 0);
    }

    /// Moves everything into packs. The log has one segment then, and that one frame.
    fn pack_all(&mut self) -> Vec<PackId> {
        // Each time the segment that was being written is sealed.
        let ids = (0..3).flat_map(|_| self.pack()).collect();
        let began = std::time::Instant::now();
        while self.files("wal", ".wal").len() > 1 {
            assert!(began.elapsed() < Duration::from_secs(10), "segments stay");
            std::thread::sleep(Duration::from_millis(1));
        }
        ids
    }

    /// Makes one pack of all, which the last frame names in their place.
    fn merge(&mut self, ids: &[PackId]) -> PackId {
        let packs = self.log().packs();
        let mut wanted: Vec<(PackId, Wanted)> = Vec::new();
        for id in ids {
            let pack = Pack::open(&self.path(), *id).unwrap();
            let own = pack.queues().map(|(queue, _)| queue);
            let own = own.map(|queue| (queue, PositionSet::of_sorted(pack.positions(queue))));
            wanted.push((*id, own.collect()));
        }
        let merged = packs.merge(&wanted).unwrap();
        let mut records = Vec::new();
        let definition = PackDefinition { id: merged, end: Lsn(0), replaces: ids.to_vec() };
        leveret_record::write_pack(&mut records, &definition);
        for (queue, sets) in wanted.iter().flat_map(|(_, own)| own) {
            let runs = sets.iter().flat_map(|set| set.runs(Position(0))).collect();
            let extent = ExtentDefinition {
                pack: merged,
                queue: *queue,
                priority: 0,
                expires: None,
                body_bytes: 1,
                runs,
            };
            leveret_record::write_extent(&mut records, &extent);
        }
        self.append_live(&records, 0);
        self.log().remove_packs(ids.to_vec());
        merged
    }

    fn close(&mut self) {
        self.log.take().unwrap().close();
    }

    /// Repairs it, opens a broker there, and returns what is in the queues.
    fn repaired(&self) -> (Report, [Vec<u64>; 2]) {
        let before = image(&self.path());
        let to = self.home.path().join("new");
        let _ = fs::remove_dir_all(&to);
        let what = Repair { data_dir: self.path(), to: to.clone() };
        let report = repair(&what).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(image(&self.path()), before, "the old directory was written to");
        assert!(matches!(repair(&what), Err(Error::Exists(_))));
        let found = contents(&to);
        let broker = open_broker(&to);
        for status in broker.queues() {
            let index = status.name.to_string().ends_with('2') as usize;
            assert_eq!(status.ready, found[index].len(), "{report}");
        }
        assert_eq!(report.saved as usize, found[0].len() + found[1].len(), "{report}");
        broker.close();
        let mut shown = Vec::new();
        let sound = inspect(&Inspect { data_dir: to, ..Inspect::default() }, &mut shown).unwrap();
        assert!(sound, "{}", String::from_utf8_lossy(&shown));
        (report, found)
    }

    fn shown(&self, more: Inspect) -> (bool, String) {
        let mut shown = Vec::new();
        let what = Inspect { data_dir: self.path(), ..more };
        let sound = inspect(&what, &mut shown).unwrap();
        (sound, String::from_utf8(shown).unwrap())
    }

    fn files(&self, folder: &str, ending: &str) -> Vec<PathBuf> {
        let all = fs::read_dir(self.path().join(folder)).unwrap();
        let mut all: Vec<_> = all.map(|entry| entry.unwrap().path()).collect();
        all.retain(|path| path.to_str().unwrap().ends_with(ending));
        all.sort();
        all
    }
}

fn open_log(path: &Path) -> Log {
    let options =
        LogOptions { segment_bytes: SEGMENT_BYTES, pacing: Duration::ZERO, realtime: false };
    Log::open(path, options, &mut |_, _| Ok(()), Box::new(|_| {})).unwrap()
}

fn open_broker(path: &Path) -> Broker {
    let options = Options {
        data_dir: path.to_owned(),
        users: Vec::new(),
        memory_max: 1 << 30,
        memory_target: 1 << 29,
        segment_bytes: 1 << 20,
        disk: DiskOptions::default(),
    };
    Broker::open(options).unwrap_or_else(|error| panic!("{error}"))
}

/// All files and what is in them.
fn image(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for folder in ["", "wal", "pack"] {
        for entry in fs::read_dir(path.join(folder)).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_file() {
                all.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

/// The live messages of the queues in a sound directory, each checked.
fn contents(path: &Path) -> [Vec<u64>; 2] {
    let mut shown = Vec::new();
    let what =
        Inspect { data_dir: path.to_owned(), records: true, bodies: true, ..Inspect::default() };
    assert!(inspect(&what, &mut shown).unwrap());
    let shown = String::from_utf8(shown).unwrap();
    let mut packed: [Vec<u64>; 2] = Default::default();
    let mut found: [Vec<u64>; 2] = Default::default();
    let mut records = Vec::new();
    let options = LogOptions { realtime: false, ..LogOptions::default() };
    let mut replay = |_: Lsn, bytes: &[u8]| {
        records.push(bytes.to_vec());
        Ok(())
    };
    let log = Log::open(path, options, &mut replay, Box::new(|_| {})).unwrap();
    for bytes in &records {
        for record in leveret_record::Records::new(bytes) {
            match record.unwrap().1 {
                leveret_record::Record::Publish { message, targets, .. } => {
                    for (queue, position) in targets {
                        assert_eq!(message.body, body(queue, position.0));
                        found[queue.0 as usize - 1].push(position.0);
                    }
                }
                leveret_record::Record::Extent(extent) => {
                    for (first, count) in &extent.runs {
                        for position in first.0..first.0 + count {
                            let run = [(Position(position), 1)];
                            let loaded =
                                log.packs().load(extent.pack, extent.queue, &run, 1).unwrap();
                            let loaded = loaded.chunk.get(0).body;
                            assert_eq!(loaded, body(extent.queue, position));
                            packed[extent.queue.0 as usize - 1].push(position);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    log.close();
    assert!(shown.contains("no damage found"));
    for (found, packed) in found.iter_mut().zip(packed) {
        // Each segment repeats them.
        found.extend(packed);
        found.sort_unstable();
        found.dedup();
    }
    found
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Where in a file a message's body begins.
fn place(path: &Path, queue: QueueId, position: u64) -> Option<usize> {
    let bytes = fs::read(path).unwrap();
    let wanted = body(queue, position);
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Forty messages in each queue; the first ten of the first are settled.
fn full() -> Old {
    let mut old = Old::new();
    for _ in 0..40 {
        old.publish(FIRST);
        old.publish(SECOND);
    }
    old.settle(FIRST, 0, 10);
    old
}

#[test]
fn nothing_is_lost_of_what_is_sound() {
    let mut old = full();
    old.close();
    let (report, [first, second]) = old.repaired();
    assert!(report.is_whole(), "{report}");
    assert_eq!((first, second), ((10..40).collect(), (0..40).collect()));
    let mut old = full();
    assert!(old.pack().len() > 2);
    old.settle(SECOND, 5, 3);
    old.close();
    let (report, [first, second]) = old.repaired();
    assert!(report.is_whole(), "{report}");
    assert_eq!(first, (10..40).collect::<Vec<_>>());
    assert_eq!(second, (0..40).filter(|at| !(5..8).contains(at)).collect::<Vec<_>>());
}

#[test]
fn a_damaged_frame_costs_its_messages() {
    let mut old = full();
    old.close();
    let path = old.files("wal", ".wal").remove(1);
    let lost = (0..40).find(|at| place(&path, SECOND, *at).is_some()).unwrap() + 1;
    let at = place(&path, SECOND, lost).unwrap();
    edit(&path, |bytes| bytes[at + 7] ^= 1);
    let (sound, shown) = old.shown(Inspect::default());
    assert!(!sound && shown.contains("DAMAGED"), "{shown}");
    assert!(shown.contains(path.file_name().unwrap().to_str().unwrap()), "{shown}");
    let (report, [first, second]) = old.repaired();
    assert!(!report.is_whole());
    assert_eq!(first, (10..40).collect::<Vec<_>>());
    assert_eq!(second, (0..40).filter(|at| *at != lost).collect::<Vec<_>>());
    let text = report.to_string();
    assert!(text.contains(&format!("perhaps lost: up to 1, at positions {lost}")), "{text}");
    assert!(text.contains("perhaps back: up to"), "{text}");
    let damage = &report.log[0];
    assert!(damage.file == path && (damage.start..damage.end).contains(&(at as u64)), "{text}");
}

#[test]
fn a_lost_settlement_brings_messages_back() {
    let mut old = Old::new();
    (0..5).for_each(|_| old.publish(FIRST));
    old.settle(FIRST, 1, 2);
    (0..5).for_each(|_| old.publish(FIRST));
    old.close();
    let path = old.files("wal", ".wal").remove(0);
    let at = place(&path, FIRST, 4).unwrap() + body(FIRST, 4).len();
    // Behind the header of the next frame.
    edit(&path, |bytes| bytes[at.next_multiple_of(8) + 42] ^= 1);
    let (report, [first, _]) = old.repaired();
    assert_eq!(first, (0..10).collect::<Vec<_>>());
    assert!(!report.is_whole());
    assert!(report.to_string().contains("perhaps back: up to 5"), "{report}");
}

#[test]
fn a_segment_that_is_cut_missing_or_headless() {
    let mut old = full();
    old.close();
    let path = old.files("wal", ".wal").remove(1);
    let whole = fs::read(&path).unwrap();
    edit(&path, |bytes| bytes[..4096].fill(0));
    let (report, [first, second]) = old.repaired();
    assert!(report.is_whole() && report.headers.len() == 1, "{report}");
    assert_eq!((first, second), ((10..40).collect(), (0..40).collect()));
    for cut in [Some(9000), Some(100), None] {
        match cut {
            Some(len) => fs::write(&path, &whole[..len]).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let (report, [first, second]) = old.repaired();
        assert!(!report.is_whole() && first.len() + second.len() < 70, "{report}");
        assert_eq!((first[0], *first.last().unwrap()), (10, 39));
        assert_eq!((second[0], *second.last().unwrap()), (0, 39));
        let text = report.to_string();
        assert!(text.contains("missing") && text.contains("perhaps lost"), "{text}");
    }
}

#[test]
fn definitions_come_from_later_segments_or_are_made_up() {
    let mut old = full();
    old.close();
    // The frame that declares the queues: the next segment does it again.
    edit(&old.files("wal", ".wal")[0], |bytes| bytes[4096 + 50] ^= 1);
    let (report, [first, second]) = old.repaired();
    // The message in that frame is lost, too; it was settled.
    assert_eq!((first.len(), second.len()), (30, 40), "{report}");
    assert!(report.nameless.is_empty());
    let mut old = Old::new();
    (0..3).for_each(|_| old.publish(SECOND));
    old.close();
    edit(&old.files("wal", ".wal")[0], |bytes| bytes[4096 + 50] ^= 1);
    let (report, [_, second]) = old.repaired();
    assert_eq!(second, [1, 2]);
    assert_eq!(report.nameless, ["leveret.recovered.2"]);
}

#[test]
fn damaged_packs_cost_what_is_damaged() {
    let mut old = full();
    let ids = old.pack();
    old.close();
    let whole = image(&old.path());
    let restore = || whole.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    for id in &ids[..2] {
        let data = old.path().join(format!("pack/{:020}.pack", id.0));
        let index = old.path().join(format!("pack/{:020}.idx", id.0));
        let lost = (0..40).find(|at| place(&data, SECOND, *at).is_some()).unwrap() + 1;
        let at = place(&data, SECOND, lost).unwrap();
        edit(&data, |bytes| bytes[at] ^= 1);
        let (sound, shown) = old.shown(Inspect::default());
        assert!(!sound && shown.contains(&format!("{:020}.pack", id.0)), "{shown}");
        let (report, [first, second]) = old.repaired();
        assert!(!report.is_whole());
        assert_eq!(first, (10..40).collect::<Vec<_>>());
        assert_eq!(second, (0..40).filter(|at| *at != lost).collect::<Vec<_>>());
        let name = "queue-2 (queue 2)".to_owned();
        assert_eq!(report.lost_messages(), [(name, lost.to_string())]);
        restore();
        for index_damage in 0..3 {
            match index_damage {
                0 => fs::remove_file(&index).unwrap(),
                1 => edit(&index, |bytes| bytes[30] ^= 1),
                _ => edit(&index, |bytes| *bytes.last_mut().unwrap() ^= 1),
            }
            assert!(!old.shown(Inspect::default()).0);
            let (report, [first, second]) = old.repaired();
            assert_eq!((first.len(), second.len()), (30, 40), "{report}");
            assert!(!report.pack_files.is_empty());
            restore();
        }
        fs::remove_file(&data).unwrap();
        let (report, [first, second]) = old.repaired();
        assert!(first.len() < 30 || second.len() < 40, "{report}");
        assert!(!report.is_whole() && first.is_sorted() && second.is_sorted());
        restore();
    }
}

#[test]
fn packs_that_only_lost_records_named_are_saved() {
    let mut old = full();
    let ids = old.pack();
    // They are named by what follows, and by the beginning of the last segment. A later frame
    // proves that it was there.
    old.publish(FIRST);
    old.close();
    let files = old.files("wal", ".wal");
    let [.., before, last] = &files[..] else { panic!("two segments") };
    let from = place(before, SECOND, 39).unwrap() + body(SECOND, 39).len() + 8;
    edit(before, |bytes| bytes[from..].fill(0));
    let at = place(last, FIRST, 40).unwrap();
    edit(last, |bytes| bytes[4096..at - 64].fill(0));
    let (report, [first, second]) = old.repaired();
    // What was settled is back, since nobody knows.
    assert_eq!((first.len(), second.len()), (41, 40), "{report}");
    assert_eq!(report.unnamed, ids);
    assert!(!report.is_whole());
}

#[test]
fn a_log_of_which_nothing_is_left_costs_only_what_it_alone_knew() {
    let mut old = full();
    let ids = old.pack_all();
    let whole = image(&old.path());
    old.close();
    for damage in 0..4 {
        fs::remove_dir_all(old.path().join("wal")).unwrap();
        fs::create_dir(old.path().join("wal")).unwrap();
        whole.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        let segment = old.files("wal", ".wal").remove(0);
        match damage {
            0 => edit(&segment, |bytes| bytes[4096 + 50] ^= 1),
            1 => edit(&segment, |bytes| bytes.truncate(4096)),
            2 => fs::remove_file(&segment).unwrap(),
            _ => fs::remove_dir_all(old.path().join("wal")).unwrap(),
        }
        let (sound, shown) = old.shown(Inspect::default());
        assert!(!sound && shown.contains("DAMAGED") && !shown.contains("removes it"), "{shown}");
        let (report, [first, second]) = old.repaired();
        // What was settled is back, since nobody knows.
        assert_eq!((first.len(), second.len()), (40, 40), "{report}");
        assert_eq!((report.nameless.len(), &report.unnamed), (2, &ids), "{report}");
        assert!(!report.is_whole() && report.unchecked.is_empty());
    }
    // Without its index, nothing vouches for what a copied pack holds.
    fs::remove_file(old.path().join(format!("pack/{:020}.idx", ids[1].0))).unwrap();
    assert_eq!(old.repaired().0.unchecked, ids[1..2]);
}

#[test]
fn merged_messages_are_saved_though_nothing_names_their_pack() {
    let mut old = full();
    let ids = old.pack_all();
    let at = old.log().durable();
    let merged = old.merge(&ids);
    old.close();
    for id in &ids {
        assert!(!old.path().join(format!("pack/{:020}.pack", id.0)).exists());
    }
    let segment = old.files("wal", ".wal").remove(0);
    let first: u64 = segment.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    edit(&segment, |bytes| bytes[4096 + (at.0 - first) as usize..].fill(0));
    assert!(!old.shown(Inspect::default()).0);
    let (report, [first, second]) = old.repaired();
    assert_eq!(first, (0..40).collect::<Vec<_>>(), "{report}");
    assert_eq!(second, (0..40).collect::<Vec<_>>(), "{report}");
    assert_eq!((report.unnamed.as_slice(), report.lost_messages()), (&[merged][..], vec![]));
    assert!(!report.is_whole() && report.nameless.is_empty());
}

#[test]
fn a_queue_that_is_gone_does_not_come_back_from_packs() {
    let mut old = full();
    let ids = old.pack_all();
    // From here on nothing is said of one of them, nor of the packs, whose files are left.
    (old.queues, old.packs) = (1, Vec::new());
    old.move_on();
    (0..3).for_each(|_| old.publish(FIRST));
    old.move_on();
    old.close();
    let files = old.files("wal", ".wal");
    let [before, _] = &files[..] else { panic!("two segments: {files:?}") };
    let at = place(before, FIRST, 41).unwrap();
    edit(before, |bytes| bytes[at] ^= 1);
    let (report, [first, second]) = old.repaired();
    assert_eq!((first.len(), second.len()), (42, 0), "{report}");
    assert!(report.nameless.is_empty() && report.unnamed == ids, "{report}");
}

#[test]
fn messages_between_those_of_a_pack_go_to_the_log_with_them() {
    let mut old = Old::new();
    (0..20).for_each(|_| old.publish(FIRST));
    let oldest = old.log().sealed()[0];
    let segment = old.files("wal", ".wal").remove(0);
    let held = (0..20).filter(|at| place(&segment, FIRST, *at).is_some()).map(Position);
    let (even, odd): (Vec<_>, Vec<_>) = held.partition(|at| at.0 % 2 == 0);
    let wanted =
        |positions: Vec<Position>| Wanted::from([(FIRST, PositionSet::of_sorted(positions))]);
    let packs = old.log().packs();
    let id = packs.rewrite(oldest, &wanted(even.clone())).unwrap();
    packs.rewrite(oldest, &wanted(odd)).unwrap();
    let definition = PackDefinition { id, end: oldest.end, replaces: Vec::new() };
    leveret_record::write_pack(&mut old.packs, &definition);
    let runs = even.into_iter().map(|at| (at, 1)).collect();
    let (pack, queue) = (id, FIRST);
    let extent = ExtentDefinition { pack, queue, priority: 0, expires: None, body_bytes: 1, runs };
    leveret_record::write_extent(&mut old.packs, &extent);
    old.append(&old.packs);
    old.log().retire(oldest, Contents::Copied);
    old.move_on();
    (20..22).for_each(|_| old.publish(FIRST));
    old.close();
    // What named the other pack may have been here.
    let last = old.files("wal", ".wal").pop().unwrap();
    let at = place(&last, FIRST, 20).unwrap();
    edit(&last, |bytes| bytes[at] ^= 1);
    let (report, [first, _]) = old.repaired();
    assert_eq!(first, (0..20).chain([21]).collect::<Vec<_>>(), "{report}");
    assert_eq!(report.unnamed.len(), 1);
    // A broker expects what packs hold to come before all else.
    let packs = fs::read_dir(old.home.path().join("new/pack")).unwrap();
    assert_eq!(packs.count(), 0);
}

#[test]
fn a_directory_in_use_is_left_alone_and_can_be_looked_at() {
    let old = full();
    let to = old.home.path().join("new");
    let refused = repair(&Repair { data_dir: old.path(), to: to.clone() });
    assert!(matches!(refused, Err(Error::Storage(OpenError::Locked { .. }))));
    assert!(!to.exists());
    let (sound, shown) = old.shown(Inspect { records: true, frames: true, ..Inspect::default() });
    assert!(sound && shown.contains("queue-1 (queue 1)"), "{shown}");
    let nowhere = repair(&Repair { data_dir: to.clone(), to });
    assert!(matches!(nowhere, Err(Error::NoData(_))));
}

#[test]
fn records_are_chosen_and_bodies_cannot_speak_to_the_terminal() {
    let mut old = Old::new();
    old.publish(FIRST);
    old.publish(SECOND);
    let mut record = Vec::new();
    let message = Message {
        envelope: b"\0\x02\x1b[",
        properties: b"",
        body: b"\x1b[31mred\n",
        persistent: true,
    };
    leveret_record::write_publish(
        &mut record,
        message,
        Origin::default(),
        &[(SECOND, Position(1))],
    );
    old.append(&record);
    old.close();
    let queue = Some("queue-2".to_owned());
    let what = Inspect { records: true, bodies: true, queue, ..Inspect::default() };
    let (sound, shown) = old.shown(what);
    assert!(sound && shown.contains("2/0 2/0") && !shown.contains("1/0 1/0"), "{shown}");
    assert!(shown.contains("\\u{1b}[31mred\\n") && !shown.contains('\x1b'), "{shown}");
    let files = vec![old.files("wal", ".wal").remove(0)];
    let (sound, shown) = old.shown(Inspect { files, ..Inspect::default() });
    assert!(sound && shown.contains("1 segments"), "{shown}");
}

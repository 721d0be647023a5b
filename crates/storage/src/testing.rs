//! What the tests of the log and of recovery share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leveret_model::message::Past;
use leveret_model::{Lsn, Message, Position, PositionSet, QueueId, Time};
use leveret_record::Origin;
use tempfile::TempDir;

use crate::{Disk, Loaded, Log, LogOptions, OpenError, RealDisk, Sealed, Wanted};

/// Stands for the definitions that begin each segment.
/// It is a record, since packs are made of records.
pub(crate) const SNAPSHOT: &[u8] = b"\x06\x08\xff\xff\xff\xff\xff\xff\xff\x01";
pub(crate) const SEGMENT_BYTES: u64 = 16 * 1024;

/// The frames a restart replays: the address of the records, and the records.
pub(crate) type Frames = Vec<(Lsn, Vec<u8>)>;

pub(crate) fn real() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

pub(crate) fn options() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT_BYTES, pacing: Duration::ZERO, realtime: false }
}

pub(crate) fn try_open(directory: &Path) -> Result<(Log, Frames), OpenError> {
    let mut frames = Vec::new();
    let mut replay = |lsn, records: &[u8]| {
        frames.push((lsn, records.to_vec()));
        Ok(())
    };
    let log = Log::open(directory, options(), &mut replay, Box::new(|_| {}))?;
    Ok((log, frames))
}

/// Opens a log and pins every frame in it, so that nothing is recycled.
pub(crate) fn open(directory: &Path) -> (Log, Frames) {
    let (log, frames) = try_open(directory).unwrap_or_else(|error| panic!("{error}"));
    let lsns: Vec<_> = frames.iter().map(|(lsn, _)| *lsn).collect();
    log.pin(&lsns);
    (log, frames)
}

/// Appends as the broker does. Returns the address of the record and the one after it.
pub(crate) fn append(log: &Log, record: &[u8], live: u32) -> (Lsn, Lsn) {
    let mut slot = log.reserve();
    if slot.new_segment() {
        slot.append(SNAPSHOT, 1, 0);
    }
    let start = slot.position();
    (start, slot.append(record, 1, live))
}

/// Appends one frame of its own and waits until it is durable. Returns the record's address.
pub(crate) fn commit(log: &Log, record: &[u8]) -> Lsn {
    let (start, end) = append(log, record, 1);
    wait(log, end);
    start
}

pub(crate) fn wait(log: &Log, end: Lsn) {
    while log.durable() < end {
        std::thread::yield_now();
    }
}

/// The record that lies at `start`, if a frame holds it.
pub(crate) fn holds(frames: &Frames, start: Lsn, record: &[u8]) -> bool {
    let index = frames.partition_point(|(lsn, _)| *lsn <= start);
    let Some((lsn, records)) = index.checked_sub(1).map(|index| &frames[index]) else {
        return false;
    };
    let at = (start.0 - lsn.0) as usize;
    records.get(at..at + record.len()) == Some(record)
}

/// A copy of a data directory as it is now: what a crash would leave.
pub(crate) fn image(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["wal", "pack"] {
        fs::create_dir(copy.path().join(folder)).unwrap();
        for file in files_in(directory, folder, "") {
            // The keeper may rename or remove what is being copied.
            let _ = fs::copy(&file, copy.path().join(folder).join(file.file_name().unwrap()));
        }
    }
    copy
}

/// The log's files whose names end in that way, in order.
pub(crate) fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    files_in(directory, "wal", suffix)
}

/// The same of another folder.
pub(crate) fn files_in(directory: &Path, folder: &str, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join(folder)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_str().unwrap().ends_with(suffix));
    files.sort();
    files
}

pub(crate) fn segments(directory: &Path) -> Vec<PathBuf> {
    files(directory, ".wal")
}

/// Changes a file's bytes.
pub(crate) fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// The queue of messages that only fill segments.
const FILLER: u64 = 999;

/// The record of a message that goes to these queues and positions. What it says depends on the
/// first of them alone.
pub(crate) fn message(targets: &[(u64, u64)], body_bytes: usize) -> Vec<u8> {
    let (queue, position) = targets[0];
    let targets: Vec<_> = targets.iter().map(|(q, p)| (QueueId(*q), Position(*p))).collect();
    let body = vec![queue.wrapping_add(position) as u8; body_bytes];
    let properties = [position as u8; 5];
    let message = Message {
        envelope: b"\x02ex\x03key",
        properties: &properties,
        body: &body,
        persistent: position % 2 == 0,
    };
    let past = [Past::None, Past::Died, Past::Rekeyed][position as usize % 3];
    let time = (position % 5 == 0).then_some(Time(position));
    let mut record = Vec::new();
    leveret_record::write_publish(&mut record, message, Origin { time, past }, &targets);
    record
}

/// Writes messages to one segment, in two frames, and ends it. Returns it.
pub(crate) fn seal(log: &Log, messages: &[Vec<u8>]) -> Sealed {
    let filler = |address: Lsn, bytes| message(&[(FILLER, address.0)], bytes);
    wait(log, append(log, &filler(log.durable(), 1), 1).1);
    let mut slot = log.reserve();
    assert!(!slot.new_segment(), "the first frame was small");
    for record in messages {
        slot.append(record, 1, 1);
    }
    let end = slot.append(&filler(slot.position(), SEGMENT_BYTES as usize), 1, 1);
    drop(slot);
    wait(log, end);
    wait(log, append(log, &filler(end, 1), 1).1);
    *log.sealed().last().unwrap()
}

/// What a pack is to hold.
pub(crate) fn wanted<const N: usize>(queues: [(u64, &[u64]); N]) -> Wanted {
    let sets = |positions: &[u64]| PositionSet::of_sorted(positions.iter().copied().map(Position));
    queues.into_iter().map(|(queue, positions)| (QueueId(queue), sets(positions))).collect()
}

/// Checks that loaded messages are those that [`message`] made, and returns their positions.
/// `origin` is the first target of the message at a position.
pub(crate) fn positions(
    loaded: &Loaded,
    body_bytes: usize,
    origin: impl Fn(u64) -> (u64, u64),
) -> Vec<u64> {
    assert_eq!(loaded.chunk.len(), loaded.messages.len());
    let mut positions = Vec::new();
    for (index, (Position(position), found)) in loaded.messages.iter().enumerate() {
        let first = origin(*position);
        let record = message(&[first], body_bytes);
        let record = leveret_record::Records::new(&record).next().unwrap().unwrap().1;
        let leveret_record::Record::Publish { message, origin, .. } = record else { panic!() };
        assert_eq!(loaded.chunk.get(index as u32), message);
        assert_eq!((loaded.chunk.past(index as u32), *found), (origin.past, origin));
        positions.push(*position);
    }
    positions
}

/// Waits for the keeper: its work is not part of any promise.
pub(crate) fn eventually(what: &str, is: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

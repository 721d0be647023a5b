//! What the tests of the log and of recovery share.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leveret_model::Lsn;
use tempfile::TempDir;

use crate::{Log, LogOptions, OpenError};

/// Stands for the definitions that begin each segment.
pub(crate) const SNAPSHOT: &[u8] = b"<snapshot>";
pub(crate) const SEGMENT_BYTES: u64 = 16 * 1024;

/// The frames a restart replays: the address of the records, and the records.
pub(crate) type Frames = Vec<(Lsn, Vec<u8>)>;

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
    fs::create_dir(copy.path().join("wal")).unwrap();
    for file in files(directory, "") {
        // The keeper may rename or remove what is being copied.
        let _ = fs::copy(&file, copy.path().join("wal").join(file.file_name().unwrap()));
    }
    copy
}

/// The log's files whose names end in that way, in order.
pub(crate) fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("wal")).unwrap();
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

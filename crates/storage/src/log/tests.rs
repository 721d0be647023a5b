use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Instant;

use super::*;
use crate::testing::*;

#[test]
fn what_is_appended_is_there_after_each_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut written: Vec<(Lsn, Vec<u8>)> = Vec::new();
    for round in 0..5_u8 {
        let (log, frames) = open(directory.path());
        for (start, record) in &written {
            assert!(holds(&frames, *start, record), "round {round}: {start} is missing");
        }
        for size in [1, 7, 8, 9, 300] {
            let record = vec![round; size];
            written.push((append(&log, &record, 1).0, record));
        }
        log.close();
    }
    assert_eq!(segments(directory.path()).len(), 5, "a segment for each opening");
}

#[test]
fn ten_thousand_small_appends() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let mut written = Vec::new();
    for number in 0..10_000_u32 {
        written.push((append(&log, &number.to_le_bytes(), 1), number));
    }
    let end = written.last().unwrap().0.1;
    wait(&log, end);
    assert_eq!(log.backlog(), 0);
    log.close();
    let (_log, frames) = open(directory.path());
    for ((start, _), number) in written {
        assert!(holds(&frames, start, &number.to_le_bytes()));
    }
}

#[test]
fn every_segment_begins_with_the_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    for _ in 0..60 {
        commit(&log, &[1; 1500]);
    }
    log.close();
    let (_log, frames) = open(directory.path());
    let segments = segments(directory.path());
    assert!(segments.len() >= 5);
    for path in segments {
        let name = path.file_name().unwrap().to_str().unwrap();
        let first = crate::segment::parse_name(name).unwrap();
        assert!(holds(&frames, first.advance(40), SNAPSHOT), "{name}");
    }
    let snapshots = frames.iter().filter(|(_, records)| records.starts_with(SNAPSHOT)).count();
    assert_eq!(snapshots, files(directory.path(), ".wal").len());
}

#[test]
fn an_unused_slot_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let slot = log.reserve();
    let (position, new_segment) = (slot.position(), slot.new_segment());
    assert!(new_segment);
    drop(slot);
    let mut slot = log.reserve();
    assert_eq!((slot.position(), slot.new_segment()), (position, new_segment));
    assert_eq!(slot.append(&[], 0, 0), position);
    assert!(slot.new_segment());
    drop(slot);
    log.close();
    assert_eq!(segments(directory.path()).len(), 0);
}

#[test]
fn a_slot_keeps_its_address_while_the_commit_thread_waits() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let mut slot = log.reserve();
    slot.append(SNAPSHOT, 1, 0);
    let before = slot.position();
    thread::sleep(Duration::from_millis(20));
    let end = slot.append(b"later", 1, 1);
    assert_eq!(end, before.advance(5));
    assert_eq!(log.durable(), Lsn(0), "the frame was still open");
    drop(slot);
    wait(&log, end);
    log.close();
    assert!(holds(&open(directory.path()).1, before, b"later"));
}

#[test]
fn durable_is_announced_in_order_and_never_early() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let directory = tempfile::tempdir().unwrap();
    let last = Mutex::new(Lsn(0));
    let on_durable = Box::new(move |durable| {
        let mut last = last.lock().unwrap();
        assert!(durable > *last);
        *last = durable;
        CALLS.fetch_add(1, Ordering::Relaxed);
    });
    let log = Log::open(directory.path(), options(), &mut |_, _| Ok(()), on_durable).unwrap();
    for _ in 0..200 {
        let (start, end) = append(&log, &[3; 100], 1);
        wait(&log, end);
        // What is durable is on the disk in the eyes of anyone who reads it now.
        if start.0 % 7 == 0 {
            let copy = image(directory.path());
            assert!(holds(&open(copy.path()).1, start, &[3; 100]));
        }
    }
    log.close();
    assert!(CALLS.load(Ordering::Relaxed) >= 200);
}

#[test]
fn a_lone_append_is_never_paced() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { pacing: Duration::from_secs(30), ..options() };
    let log = Log::open(directory.path(), options, &mut |_, _| Ok(()), Box::new(|_| {})).unwrap();
    let began = Instant::now();
    for _ in 0..20 {
        commit(&log, b"one at a time");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    log.close();
}

#[test]
fn pacing_ends_early_for_many_bytes_and_for_closing() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { pacing: Duration::from_secs(30), ..options() };
    let log = Log::open(directory.path(), options, &mut |_, _| Ok(()), Box::new(|_| {})).unwrap();
    let began = Instant::now();
    // Some of these find a sync under way, and so a pause ahead of them.
    for _ in 0..40 {
        append(&log, &[1; 100_000], 1);
    }
    let end = append(&log, b"last", 1).1;
    log.close();
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(open(directory.path()).0.durable() >= end);
}

#[test]
fn a_directory_is_open_once() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let error = try_open(directory.path()).unwrap_err().to_string();
    let (path, pid) = (directory.path().display(), std::process::id());
    assert_eq!(error, format!("data directory {path} is in use by process {pid}"));
    log.close();
    open(directory.path()).0.close();
}

#[test]
fn segments_nobody_needs_are_recycled_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (log, _) = open(path);
    let records: Vec<_> = (0..100).map(|_| commit(&log, &[9; 1500])).collect();
    let all = segments(path).len();
    assert!(all >= 9);
    // The first record pins its segment, and so all.
    log.release(&records[1..90]);
    commit(&log, b"settled");
    thread::sleep(Duration::from_millis(20));
    assert_eq!(segments(path).len(), all);
    log.release(&records[..1]);
    commit(&log, b"settled");
    eventually("recycled", || segments(path).len() <= 2);
    assert!(files(path, ".free").len() <= crate::files::SPARES_MAX);
    log.close();

    let (log, frames) = try_open(path).unwrap();
    assert!(frames[0].1.starts_with(SNAPSHOT), "what is left begins with the definitions");
    records[90..].iter().for_each(|&start| assert!(holds(&frames, start, &[9; 1500])));
    log.pin(&records[90..]);
    commit(&log, b"on");
    log.release(&records[90..]);
    commit(&log, b"settled");
    eventually("recycled again", || segments(path).len() == 1);
}

#[test]
fn recycled_files_do_not_bring_the_past_back() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let mut kept = Vec::new();
    for round in 0..200_u8 {
        let start = commit(&log, &[round; 1500]);
        kept.push((start, round));
        if kept.len() > 12 {
            let (start, _) = kept.remove(0);
            log.release(&[start]);
        }
        if round % 20 == 19 {
            // The keeper must not rename while the image is taken.
            thread::sleep(Duration::from_millis(10));
            let copy = image(directory.path());
            let (_log, frames) = open(copy.path());
            let rounds: Vec<_> = frames.iter().map(|(_, records)| records[1499]).collect();
            let expected: Vec<_> = (rounds[0]..=round).collect();
            assert_eq!(rounds, expected, "each frame once and in order");
            for (start, round) in &kept {
                assert!(holds(&frames, *start, &[*round; 1500]));
            }
        }
    }
}

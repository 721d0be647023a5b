//! A disk without room.

use std::thread;
use std::time::Instant;

use super::*;
use crate::simulated::{Faults, SimulatedDisk};
use crate::testing::*;

/// Whether the disk is full, from now on.
fn fill(log: &Log, full: bool) {
    log.shared.space.full.store(full, Ordering::Relaxed);
}

fn spares(directory: &Path) -> usize {
    files(directory, ".free").len()
}

/// Appends until there is no room, and returns what was appended.
fn until_out(log: &Log) -> Vec<(Lsn, Lsn, u8)> {
    let mut written = Vec::new();
    for number in 0.. {
        if log.is_out_of_space() {
            break;
        }
        let (start, end) = append(log, &[number; 3000], 1);
        written.push((start, end, number));
        thread::sleep(Duration::from_millis(1));
    }
    written
}

#[test]
fn two_spares_are_kept_ready() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    eventually("prepared", || spares(directory.path()) == 2);
    for _ in 0..20 {
        commit(&log, &[1; 1500]);
        // Each segment takes one.
        eventually("prepared again", || spares(directory.path()) == 2);
    }
    assert!(segments(directory.path()).len() >= 2);
}

#[test]
fn a_full_disk_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let before = commit(&log, b"before");
    fill(&log, true);
    let written = until_out(&log);
    let durable = log.durable();
    assert!(before < durable && durable < written.last().unwrap().1);
    thread::sleep(Duration::from_millis(150));
    assert_eq!(log.durable(), durable);
    fill(&log, false);
    wait(&log, written.last().unwrap().1);
    assert!(!log.is_out_of_space());
    eventually("prepared", || spares(directory.path()) == 2);
    log.close();
    let (_log, frames) = open(directory.path());
    assert!(holds(&frames, before, b"before"));
    for (start, _, number) in written {
        assert!(holds(&frames, start, &[number; 3000]));
    }
}

#[test]
fn room_for_a_large_frame_is_found_before_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    commit(&log, b"before");
    fill(&log, true);
    let (start, end) = append(&log, &[5; 200_000], 1);
    eventually("out of space", || log.is_out_of_space());
    fill(&log, false);
    wait(&log, end);
    log.close();
    assert!(holds(&open(directory.path()).1, start, &[5; 200_000]));
}

#[test]
fn a_spare_that_could_not_be_prepared_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    eventually("prepared", || spares(directory.path()) == 2);
    fill(&log, true);
    commit(&log, b"takes one");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(spares(directory.path()), 1);
    assert_eq!(files(directory.path(), ".tmp").len(), 0, "what could not be finished is gone");
    assert!(!log.is_out_of_space());
    fill(&log, false);
    eventually("prepared", || spares(directory.path()) == 2);
}

#[test]
fn closing_on_a_full_disk_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    commit(&log, b"before");
    fill(&log, true);
    let written = until_out(&log);
    let durable = log.durable();
    let began = Instant::now();
    log.close();
    assert!(began.elapsed() < Duration::from_secs(3));
    let (_log, frames) = open(directory.path());
    for (start, end, number) in written {
        let there = holds(&frames, start, &[number; 3000]);
        assert!(there || end > durable, "what was durable is there");
    }
}

#[test]
fn closing_waits_a_while_for_room() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    fill(&log, true);
    let written = until_out(&log);
    let space = Arc::clone(&log.shared.space);
    let relief = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        space.full.store(false, Ordering::Relaxed);
    });
    log.close();
    relief.join().unwrap();
    let (_log, frames) = open(directory.path());
    for (start, _, number) in written {
        assert!(holds(&frames, start, &[number; 3000]));
    }
}

/// A stepped log on a disk that is full, with a frame that needs room; and where the frame ends.
fn stepped() -> (SimulatedDisk, Log, Stepper, Lsn) {
    let disk = SimulatedDisk::new(1);
    let (shared, path) = (Arc::new(disk.clone()), Path::new("/data"));
    let opened =
        Log::open_stepped(shared, path, options(), &mut |_, _| Ok(()), Box::new(|_| {})).unwrap();
    let (log, mut stepper) = opened;
    while stepper.keep() {}
    append(&log, b"before", 1);
    assert!(stepper.commit() && !stepper.commit());
    disk.set_faults(Faults { capacity: Some(0), ..Faults::default() });
    let end = append(&log, &[5; 200_000], 1).1;
    assert!(!stepper.commit() && log.is_out_of_space());
    (disk, log, stepper, end)
}

#[test]
fn a_stepped_log_asks_for_room_each_time() {
    let (disk, log, mut stepper, end) = stepped();
    assert!(stepper.keep(), "it was told to, once");
    assert!(!stepper.commit() && !stepper.keep());
    assert_eq!(disk.now(), Duration::ZERO);
    disk.set_faults(Faults::default());
    assert!(stepper.commit() && !log.is_out_of_space());
    assert_eq!(log.durable(), end);
    assert!(stepper.keep(), "the spare that was used");
}

#[test]
fn a_stepped_log_waits_for_room_when_it_closes() {
    let (disk, log, stepper, end) = stepped();
    stepper.close();
    assert!(log.durable() < end && disk.now() > Duration::ZERO);
}

#[test]
fn a_segment_begins_early_where_that_gives_room_back() {
    let disk = SimulatedDisk::new(1);
    let (shared, path) = (Arc::new(disk.clone()), Path::new("/data"));
    let opened =
        Log::open_stepped(shared, path, options(), &mut |_, _| Ok(()), Box::new(|_| {})).unwrap();
    let (log, mut stepper) = opened;
    let segments =
        || disk.files().iter().filter(|(path, _)| path.to_string_lossy().ends_with(".wal")).count();
    for _ in 0..2 {
        append(&log, &[1; SEGMENT_BYTES as usize], 1);
        assert!(stepper.commit());
    }
    append(&log, b"in the third", 1);
    assert!(stepper.commit() && !log.begin_early());
    for (waiting, segment) in log.sealed().into_iter().enumerate() {
        append(&log, b"a pack has all of it", 0);
        log.retire(segment, Contents::Copied);
        assert!(!log.begin_early(), "{waiting} and one that is not durable wait");
        assert!(stepper.commit());
        assert!(!log.begin_early(), "it takes as much as it gives, or there is no file for it");
    }
    while stepper.keep() {}
    assert_eq!(segments(), 3);
    append(&log, b"open", 1);
    assert!(!log.begin_early(), "a frame is open");
    assert!(stepper.commit() && log.begin_early());
    assert!(log.begin_early(), "nothing was appended");
    append(&log, b"in the fourth", 1);
    assert!(!log.begin_early() && stepper.commit() && !log.begin_early());
    while stepper.keep() {}
    assert_eq!(segments(), 2);
    stepper.close();
}

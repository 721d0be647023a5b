//! What a crash leaves of files and directories, and what goes wrong when it is to.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::disk::{Disk, DiskFile};

const SEEDS: u64 = 200;

/// A disk with a durable directory `d`.
fn disk(seed: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new(seed);
    disk.create_directory(Path::new("/d")).unwrap();
    disk.sync_directory(Path::new("/")).unwrap();
    disk
}

/// A file with this content, its name and content durable.
fn file(disk: &SimulatedDisk, name: &str, content: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create(&at(name)).unwrap();
    file.write_all_at(content, 0).unwrap();
    file.sync_all().unwrap();
    disk.sync_directory(Path::new("/d")).unwrap();
    file
}

fn at(name: &str) -> PathBuf {
    Path::new("/d").join(name)
}

fn read(disk: &SimulatedDisk, name: &str) -> Vec<u8> {
    let file = disk.open(&at(name)).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// How a disk is on which something was done before a crash, for many seeds.
fn after_crashes<T: Ord>(
    before: impl Fn(&SimulatedDisk),
    after: impl Fn(&SimulatedDisk) -> T,
) -> BTreeMap<T, u32> {
    let mut seen = BTreeMap::new();
    for seed in 0..SEEDS {
        let disk = disk(seed);
        before(&disk);
        disk.crash();
        *seen.entry(after(&disk)).or_default() += 1;
    }
    seen
}

fn stop_of(run: impl FnOnce()) -> Option<SimulatedStop> {
    let stopped = catch_unwind(AssertUnwindSafe(run)).err()?;
    Some(*stopped.downcast().expect("no other panic"))
}

#[test]
fn what_is_synced_is_there_and_what_is_not_may_be() {
    let seen = after_crashes(
        |disk| {
            let file = file(disk, "a", &[1; 1024]);
            file.write_all_at(&[2; 512], 0).unwrap();
            file.sync_data().unwrap();
            file.write_all_at(&[3; 1024], 512).unwrap();
            assert_eq!(read(disk, "a")[512..], [3; 1024]);
        },
        |disk| read(disk, "a"),
    );
    for bytes in seen.keys() {
        assert_eq!(bytes[..512], [2; 512]);
        assert!(bytes[512..1024] == [1; 512] || bytes[512..1024] == [3; 512]);
        // What the file grew by may be there without having been written.
        let grown = &bytes[1024..];
        assert!(grown.iter().all(|byte| *byte == 3 && grown.len() == 512 || *byte == 0));
    }
    let whole = [[2; 512], [3; 512], [3; 512]].concat();
    assert!(seen.contains_key(&whole) && seen.contains_key(&[[2; 512], [1; 512]].concat()));
    assert!(seen.keys().any(|bytes| !(bytes.len() - 1024).is_multiple_of(512)), "any length");
    assert!(seen.keys().any(|bytes| bytes[512] == 1 && bytes.last() == Some(&3)), "reordered");
}

#[test]
fn writes_are_lost_each_on_its_own() {
    let seen = after_crashes(
        |disk| {
            let file = file(disk, "a", &[0; 3]);
            for index in 0..3 {
                file.write_all_at(&[1], index).unwrap();
            }
        },
        |disk| read(disk, "a"),
    );
    assert_eq!(seen.len(), 8, "{seen:?}");
}

#[test]
fn names_are_durable_when_their_directory_is_synced() {
    for (synced, outcomes) in [(false, 2), (true, 1)] {
        let seen = after_crashes(
            |disk| {
                file(disk, "a", b"content");
                disk.rename(&at("a"), &at("b")).unwrap();
                if synced {
                    disk.sync_directory(Path::new("/d")).unwrap();
                }
            },
            SimulatedDisk::files,
        );
        assert_eq!(seen.len(), outcomes, "{seen:?}");
        assert!(seen.contains_key(&vec![(at("b"), 7)]));
        assert_eq!(seen.contains_key(&vec![(at("a"), 7)]), !synced);
    }
}

#[test]
fn a_synced_file_may_lose_its_name_and_a_removed_one_come_back() {
    let seen = after_crashes(
        |disk| {
            file(disk, "old", b"x");
            disk.create(&at("new")).unwrap().sync_all().unwrap();
            disk.remove(&at("old")).unwrap();
        },
        |disk| disk.files().into_iter().map(|(path, _)| path).collect::<Vec<_>>(),
    );
    let orders = [vec![at("old")], vec![at("new"), at("old")], vec![at("new")]];
    assert!(seen.keys().eq([&orders[2], &orders[1], &orders[0]]), "in order: {seen:?}");
}

#[test]
fn a_rename_across_directories_is_all_or_nothing() {
    let to = Path::new("/e/a");
    let seen = after_crashes(
        |disk| {
            file(disk, "a", b"x");
            disk.create_directory(Path::new("/e")).unwrap();
            disk.rename(&at("a"), to).unwrap();
        },
        SimulatedDisk::files,
    );
    assert!(seen.keys().eq([&vec![(at("a"), 1)], &vec![(to.to_owned(), 1)]]), "{seen:?}");
}

#[test]
fn after_a_failed_sync_the_kernel_lies_or_forgets() {
    let (mut shown, mut lost) = ([0; 2], 0);
    for seed in 0..SEEDS {
        let disk = disk(seed);
        let file = file(&disk, "a", b"old");
        file.write_all_at(b"new", 0).unwrap();
        disk.set_faults(Faults { sync_error: 1.0, ..Faults::default() });
        assert!(file.sync_data().is_err());
        disk.set_faults(Faults::default());
        let before = read(&disk, "a");
        shown[usize::from(before == b"new")] += 1;
        file.sync_data().unwrap();
        disk.crash();
        lost += u32::from(read(&disk, "a") != before);
    }
    assert!(shown.iter().all(|times| *times > 20) && lost > 20, "{shown:?} {lost}");
}

#[test]
fn a_full_disk_refuses_what_grows() {
    let disk = disk(1);
    let file = file(&disk, "a", &[1; 100]);
    disk.set_faults(Faults { capacity: Some(150), ..Faults::default() });
    assert!(file.reserve(120).unwrap());
    assert_eq!(file.reserve(151).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_all_at(&[2; 50], 70).unwrap();
    assert_eq!(disk.files(), [(at("a"), 120)]);
    let other = disk.create(&at("b")).unwrap();
    assert_eq!(other.write_all_at(&[3; 31], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(read(&disk, "b"), [3; 30], "what there was room for");
    disk.remove(&at("b")).unwrap();
    assert!(file.reserve(150).unwrap());
}

#[test]
fn a_stop_comes_at_the_call_it_is_planned_for() {
    let mut done = [0; 2];
    for seed in 0..SEEDS {
        let disk = disk(seed);
        let file = file(&disk, "a", b"old");
        let calls = disk.calls();
        disk.stop_after(Some(2));
        file.set_len(3).unwrap();
        assert!(stop_of(|| file.write_all_at(b"new", 0).unwrap()).is_some());
        assert_eq!(disk.calls(), calls + 2);
        assert!(stop_of(|| drop(disk.open(&at("a")))).is_some(), "it is over");
        disk.kill();
        assert!(file.len().is_err(), "it was another process that had it open");
        done[usize::from(read(&disk, "a") == b"new")] += 1;
    }
    assert!(done.iter().all(|times| *times > 50), "before and after: {done:?}");
}

#[test]
fn what_is_fatal_stops_and_the_lock_is_free_then() {
    let disk = disk(1);
    let held = Disk::lock(&disk, Path::new("/d")).unwrap();
    assert!(matches!(Disk::lock(&disk, Path::new("/d")), Err(crate::OpenError::Locked { .. })));
    let stop = stop_of(|| disk.fatal("write", &at("a"), &broken())).unwrap();
    assert!(stop.why.starts_with("cannot write /d/a: "), "{stop:?}");
    disk.crash();
    let next = Disk::lock(&disk, Path::new("/d")).unwrap();
    drop(held);
    assert!(Disk::lock(&disk, Path::new("/d")).is_err(), "the next one has it");
    drop(next);
    assert!(Disk::lock(&disk, Path::new("/d")).is_ok());
}

#[test]
fn a_bit_flips_in_one_byte_of_a_file_that_is_meant() {
    let disk = disk(7);
    file(&disk, "a.x", &[0; 20]);
    file(&disk, "b.x", &[]);
    file(&disk, "c", &[0; 20]);
    let (path, offset) = disk.flip_bit(".x").unwrap();
    assert_eq!(path, at("a.x"));
    let bytes = read(&disk, "a.x");
    assert!(bytes.iter().enumerate().all(|(at, byte)| (*byte != 0) == (at as u64 == offset)));
    assert_eq!(bytes[offset as usize].count_ones(), 1);
    assert_eq!(disk.flip_bit(".y"), None);
}

#[test]
fn time_passes_when_calls_stall_and_when_somebody_sleeps() {
    let disk = disk(1);
    disk.sleep(Duration::from_secs(2));
    disk.advance(Duration::from_secs(1));
    assert_eq!(disk.now(), Duration::from_secs(3));
    disk.set_faults(Faults { stall: 1.0, ..Faults::default() });
    file(&disk, "a", b"x");
    assert!(disk.now() > Duration::from_secs(3));
}

use std::fs;
use std::path::Path;

use leveret_model::{PackId, Position, QueueId};
use leveret_record::{Record, Records};
use tempfile::TempDir;

use super::*;
use crate::Log;
use crate::testing::{Frames, segments as paths};
use crate::testing::{append, commit, edit, files_in, message, open, seal, wait, wanted};

/// What can be read of a directory: bodies' lengths by position, and what is damaged.
fn survey(directory: &Path) -> (Vec<u64>, Vec<Damage>, Vec<Tail>) {
    let (mut found, mut damaged, mut tails) = (Vec::new(), Vec::new(), Vec::new());
    let all = segments(directory).unwrap();
    for (index, segment) in all.iter().enumerate() {
        let next = all.get(index + 1).map(|next| next.first);
        let tail = read(segment, next, &mut |piece| match piece {
            Piece::Frame(frame) => {
                for record in Records::new(frame.records) {
                    if let Record::Publish { targets, .. } = record.unwrap().1 {
                        found.extend(targets.map(|(_, position)| position.0));
                    }
                }
            }
            Piece::Damage(damage) => damaged.push(damage),
        });
        tails.push(tail.unwrap());
    }
    (found, damaged, tails)
}

/// A log of messages 0 to 59, each in a frame of its own, in several segments.
fn full() -> (TempDir, Vec<u64>) {
    let directory = tempfile::tempdir().unwrap();
    let (log, _): (Log, Frames) = open(directory.path());
    for position in 0..60 {
        commit(&log, &message(&[(1, position)], 1000));
    }
    log.close();
    assert!(paths(directory.path()).len() > 2);
    (directory, (0..60).collect())
}

#[test]
fn what_is_sound_is_read_whole() {
    let (directory, all) = full();
    let (found, damaged, tails) = survey(directory.path());
    assert_eq!((found, damaged), (all, vec![]));
    let (last, others) = tails.split_last().unwrap();
    assert_eq!(*last, Tail::Closed);
    assert!(others.iter().all(|tail| *tail == Tail::Followed));
}

#[test]
fn the_first_frame_of_all_is_damaged_rather_than_torn() {
    let (directory, _) = full();
    let all = paths(directory.path());
    let (last, older) = all.split_last().unwrap();
    edit(last, |bytes| bytes[4096..].fill(0));
    // With its predecessors it may never have been written.
    assert_eq!(survey(directory.path()).1, []);
    older.iter().for_each(|path| fs::remove_file(path).unwrap());
    let (found, damaged, _) = survey(directory.path());
    assert_eq!((found, damaged.len()), (vec![], 1));
    assert!(damaged[0].file == *last && damaged[0].start == 4096, "{damaged:?}");
}

#[test]
fn a_damaged_frame_costs_its_own_messages_only() {
    let (directory, all) = full();
    let path = paths(directory.path()).remove(1);
    let before = fs::read(&path).unwrap();
    for at in (4096..12_000).step_by(333) {
        fs::write(&path, &before).unwrap();
        edit(&path, |bytes| bytes[at] ^= 0x10);
        let (found, damaged, _) = survey(directory.path());
        let missing: Vec<_> = all.iter().filter(|each| !found.contains(each)).collect();
        assert!(missing.len() <= 1, "byte {at}: {missing:?}");
        assert!(found.is_sorted());
        assert_eq!(damaged.len(), 1, "byte {at}: {damaged:?}");
        assert!((damaged[0].start..damaged[0].end).contains(&(at as u64)), "{at}: {damaged:?}");
        assert_eq!(damaged[0].file, path);
    }
}

#[test]
fn addresses_that_no_log_has_are_not_believed() {
    let (directory, all) = full();
    let path = paths(directory.path()).remove(0);
    // Neither from a name …
    fs::copy(&path, directory.path().join("wal/18446744073709551615.wal")).unwrap();
    assert_eq!(survey(directory.path()).0, all);
    // … nor from a frame, where there is no header and no such name.
    let pack = directory.path().join("pack/00000000000000000001.pack");
    fs::copy(&path, &pack).unwrap();
    edit(&pack, |bytes| {
        bytes[..8].fill(0);
        bytes[4096 + 8..4096 + 16].fill(0xff);
    });
    let segment = segment(&pack).unwrap();
    assert!(segment.broken.is_some());
    read(&segment, None, &mut |_| {}).unwrap();
}

#[test]
fn frames_are_found_without_their_header() {
    let (directory, all) = full();
    let path = paths(directory.path()).remove(1);
    for range in [0..4096, 32..48, 0..8] {
        let before = fs::read(&path).unwrap();
        edit(&path, |bytes| bytes[range].fill(0xff));
        let (found, damaged, _) = survey(directory.path());
        assert_eq!(found, all);
        assert_eq!(damaged.len(), 1);
        assert_eq!((damaged[0].start, damaged[0].end), (0, 4096));
        fs::write(&path, before).unwrap();
    }
}

#[test]
fn a_cut_or_missing_segment_is_told_from_a_torn_tail() {
    let (directory, all) = full();
    let all_paths = paths(directory.path());
    let middle = fs::read(&all_paths[1]).unwrap();
    for len in [0, 100, 4096, 4100, 6000, 9000] {
        fs::write(&all_paths[1], &middle[..len]).unwrap();
        let (found, damaged, _) = survey(directory.path());
        assert!(!damaged.is_empty() && found.len() < all.len(), "{len}");
        assert!(damaged.iter().any(|damage| damage.what.contains("missing")), "{damaged:?}");
        assert_eq!((found[0], found.last()), (0, all.last()));
    }
    fs::remove_file(&all_paths[1]).unwrap();
    let (_, damaged, _) = survey(directory.path());
    assert_eq!((damaged.len(), &damaged[0].file), (1, &all_paths[0]));
    fs::write(&all_paths[1], &middle).unwrap();
    let last = all_paths.last().unwrap();
    let first = segment(last).unwrap();
    let mut ends = Vec::new();
    let _ = read(&first, None, &mut |piece| {
        if let Piece::Frame(frame) = piece {
            ends.push(frame.offset);
        }
    });
    // The last frame closes the log; the one before it is cut off.
    let at = ends[ends.len() - 2];
    edit(last, |bytes| bytes.truncate(at as usize + 60));
    let (found, damaged, tails) = survey(directory.path());
    assert_eq!((found.len(), damaged.len()), (all.len() - 1, 0));
    assert_eq!(*tails.last().unwrap(), Tail::Torn(at));
}

#[test]
fn what_the_disk_does_not_give_is_zeros() {
    let disk: Vec<u8> = (0..20_000_u32).map(|at| (at / 4096) as u8 + 1).collect();
    let read = |bytes: &mut [u8], at: u64| {
        let (from, to) = (at as usize, at as usize + bytes.len());
        if to > 4096 && from < 8192 {
            return Err(std::io::Error::other("a bad page"));
        }
        bytes.copy_from_slice(&disk[from..to]);
        Ok(())
    };
    let mut bytes = vec![9; 10_000];
    crate::scan::read_pages(&mut bytes, 100, read);
    for (at, byte) in (100..).zip(bytes) {
        let bad = (4096..8192).contains(&at);
        assert_eq!(byte, if bad { 0 } else { disk[at] }, "byte {at}");
    }
}

/// A log with two packs of messages 0 to 7 of queue 1: one adopted, one written.
fn packed() -> (TempDir, [PackId; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let records: Vec<_> = (0..8).map(|at| message(&[(1, at), (2, at + 10)], 700)).collect();
    let segment = seal(&log, &records);
    let all: &[u64] = &[0, 1, 2, 3, 4, 5, 6, 7];
    let shared: Vec<u64> = all.iter().map(|at| at + 10).collect();
    let wanted = wanted([(1, all), (2, &shared)]);
    let packs = log.packs();
    let ids = [packs.adopt(segment, &wanted), packs.rewrite(segment, &wanted)];
    let ids = ids.map(Result::unwrap);
    log.retire(segment, crate::Contents::Adopted(ids[0]));
    seal(&log, &[]);
    wait(&log, append(&log, &message(&[(1, 100)], 10), 1).1);
    log.close();
    assert_eq!(files_in(directory.path(), "pack", ".pack").len(), 2);
    (directory, ids)
}

/// The positions of a queue that can be read, and that cannot.
fn readable(pack: &Pack, queue: u64) -> (Vec<u64>, Vec<u64>) {
    let (mut sound, mut lost) = (Vec::new(), Vec::new());
    let less = if queue == 2 { 10 } else { 0 };
    pack.read(QueueId(queue), (0..8).map(|at| Position(at + less)), &mut |position, found| {
        match found {
            Ok(found) => {
                assert_eq!(found.message.body, [(1 + position.0 - less) as u8; 700]);
                sound.push(position.0 - less);
            }
            Err(_) => lost.push(position.0 - less),
        }
    });
    (sound, lost)
}

/// Opens a damaged pack, takes it over, and reads the new one as a broker would.
fn take_over(directory: &Path, id: PackId) -> (Vec<u64>, Vec<u64>) {
    let pack = Pack::open(directory, id).unwrap();
    let (sound, lost) = readable(&pack, 1);
    assert_eq!(readable(&pack, 2), (sound.clone(), lost.clone()));
    let new = tempfile::tempdir().unwrap();
    // Packs without a log would be refused.
    let (log, _) = open(new.path());
    if pack.take_over(new.path()).unwrap() {
        log.packs().settle(&[id]).unwrap();
        for &position in &sound {
            let loaded = log.packs().load(id, QueueId(1), &[(Position(position), 1)], 1).unwrap();
            assert_eq!(loaded.chunk.get(0).body, [(1 + position) as u8; 700]);
        }
    } else {
        assert!(sound.is_empty());
    }
    (sound, lost)
}

#[test]
fn packs_are_taken_over_whole() {
    let (directory, ids) = packed();
    assert_eq!(packs(directory.path()).unwrap().len(), 2);
    for id in ids {
        assert!(Pack::open(directory.path(), id).unwrap().damage.is_empty());
        assert_eq!(take_over(directory.path(), id), ((0..8).collect(), vec![]));
    }
}

#[test]
fn a_damaged_record_costs_itself_only() {
    let (directory, ids) = packed();
    for id in ids {
        let path = directory.path().join(format!("pack/{:020}.pack", id.0));
        let pack = Pack::open(directory.path(), id).unwrap();
        let mut at = 0;
        pack.read(QueueId(1), [Position(3)], &mut |_, found| at = found.unwrap().offset);
        edit(&path, |bytes| bytes[at as usize + 50] ^= 1);
        assert_eq!(take_over(directory.path(), id), (vec![0, 1, 2, 4, 5, 6, 7], vec![3]));
        edit(&path, |bytes| bytes[at as usize + 50] ^= 1);
        // A broken header is replaced.
        for range in [0..8, 20..40, 0..4096] {
            let before = fs::read(&path).unwrap();
            edit(&path, |bytes| bytes[range].fill(0xee));
            assert_eq!(take_over(directory.path(), id), ((0..8).collect(), vec![]));
            fs::write(&path, before).unwrap();
        }
        // So is what a missing end would have held.
        edit(&path, |bytes| bytes.truncate(at as usize + 50));
        assert_eq!(take_over(directory.path(), id), (vec![0, 1, 2], vec![3, 4, 5, 6, 7]));
    }
}

#[test]
fn messages_are_found_without_an_index() {
    let (directory, ids) = packed();
    for id in ids {
        let index = directory.path().join(format!("pack/{:020}.idx", id.0));
        let before = fs::read(&index).unwrap();
        for at in [0, 20, 70, before.len() - 3] {
            edit(&index, |bytes| bytes[at] ^= 0x40);
            assert_eq!(take_over(directory.path(), id), ((0..8).collect(), vec![]), "byte {at}");
            assert!(!Pack::open(directory.path(), id).unwrap().damage.is_empty());
            fs::write(&index, &before).unwrap();
        }
        fs::remove_file(&index).unwrap();
        assert_eq!(take_over(directory.path(), id), ((0..8).collect(), vec![]));
        // Damage on top of that costs what it hits; a former segment loses the whole frame.
        let path = directory.path().join(format!("pack/{:020}.pack", id.0));
        let pack = Pack::open(directory.path(), id).unwrap();
        let mut at = 0;
        pack.read(QueueId(1), [Position(3)], &mut |_, found| at = found.unwrap().offset);
        edit(&path, |bytes| bytes[at as usize..][..3].fill(0xff));
        let (sound, _) = take_over(directory.path(), id);
        assert!(sound.is_empty() || sound == [0, 1, 2, 4, 5, 6, 7], "{sound:?}");
        fs::remove_file(&path).unwrap();
        assert_eq!(take_over(directory.path(), id), (vec![], (0..8).collect()));
    }
}

#[test]
fn nothing_panics_on_noise() {
    let (directory, ids) = packed();
    let mut seed = 7_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    for _ in 0..300 {
        let mut changed = Vec::new();
        let all = [paths(directory.path()), files_in(directory.path(), "pack", "")].concat();
        for _ in 0..=random(3) {
            let path = all[random(all.len())].clone();
            let before = fs::read(&path).unwrap();
            let mut bytes = before.clone();
            if random(4) == 0 {
                bytes.truncate(random(bytes.len().max(1)));
            }
            for _ in 0..random(6) {
                let at = random(bytes.len().clamp(1, 10_000));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random(256) as u8;
                }
            }
            fs::write(&path, bytes).unwrap();
            changed.push((path, before));
        }
        if let Ok(all) = segments(directory.path()) {
            for (index, segment) in all.iter().enumerate() {
                let next = all.get(index + 1).map(|next| next.first);
                let _ = read(segment, next, &mut |_| {});
            }
        }
        for id in ids {
            if let Ok(pack) = Pack::open(directory.path(), id) {
                // Without an index, what is in a record may be anything.
                let mut told = 0;
                pack.read(QueueId(1), (0..8).map(Position), &mut |_, _| told += 1);
                assert_eq!(told, 8);
            }
        }
        changed.reverse();
        changed.into_iter().for_each(|(path, before)| fs::write(path, before).unwrap());
    }
}

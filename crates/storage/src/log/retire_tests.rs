//! Segments that leave the log, and packs that go.

use std::fs;
use std::path::PathBuf;

use leveret_model::{Position, QueueId};
use tempfile::TempDir;

use super::*;
use crate::testing::*;

const BODY: usize = 30;
const SOME: [u64; 3] = [2, 3, 7];

/// A log with a sealed segment of ten messages of queue 1.
fn sealed_log() -> (TempDir, Log, Sealed) {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let segment = seal_ten(&log, 0);
    (directory, log, segment)
}

fn seal_ten(log: &Log, first: u64) -> Sealed {
    let messages: Vec<_> = (first..first + 10).map(|at| message(&[(1, at)], BODY)).collect();
    seal(log, &messages)
}

fn load_some(packs: &Packs, id: PackId) -> Vec<u64> {
    let runs = SOME.map(|position| (Position(position), 1));
    let loaded = packs.load(id, QueueId(1), &runs, usize::MAX).unwrap();
    positions(&loaded, BODY, |position| (1, position))
}

fn path_of(directory: &TempDir, segment: Sealed) -> PathBuf {
    crate::segment::path(&directory.path().join("wal"), segment.first)
}

fn packed(directory: &Path) -> usize {
    files_in(directory, "pack", "").len()
}

#[test]
fn sealed_segments_are_listed_until_they_are_retired() {
    let (directory, log, first) = sealed_log();
    assert_eq!(log.sealed(), [first]);
    let second = seal_ten(&log, 10);
    assert_eq!(log.sealed(), [first, second]);
    assert_eq!(first.end, second.first);
    log.retire(first, Contents::Copied);
    assert_eq!(log.sealed(), [second]);
    commit(&log, b"it is not needed any more");
    std::thread::sleep(Duration::from_millis(20));
    assert!(path_of(&directory, first).exists(), "damage could hide what says so");
    let third = seal_ten(&log, 20);
    eventually("recycled", || !path_of(&directory, first).exists());
    log.close();

    let (log, _) = open(directory.path());
    let found = log.sealed();
    assert_eq!((found.len(), found[0], found[1]), (3, second, third), "the last one is, too");
    assert_eq!(found[2].end, log.durable());
    // Making packs of them is as good as ever, and nothing goes before something is appended.
    let packs = log.packs();
    assert!(packs.adopt(found[2], &wanted([])).is_ok());
    for segment in found {
        log.retire(segment, Contents::Copied);
    }
    std::thread::sleep(Duration::from_millis(20));
    assert!(path_of(&directory, second).exists());
    commit(&log, SNAPSHOT);
    eventually("recycled", || segments(directory.path()).len() == 1);
    assert_eq!(log.sealed(), []);
}

#[test]
fn a_retired_segment_becomes_a_pack() {
    let (directory, log, segment) = sealed_log();
    let packs = log.packs();
    let id = packs.adopt(segment, &wanted([(1, &SOME)])).unwrap();
    assert_eq!(load_some(&packs, id), SOME, "from the segment");
    log.retire(segment, Contents::Adopted(id));
    let end = commit(&log, SNAPSHOT);
    seal_ten(&log, 10);
    // It has pins still; they count no more, here or later.
    eventually("moved", || packs.data_path(id).exists());
    assert!(!path_of(&directory, segment).exists());
    log.release(&[segment.first.advance(100), segment.first]);
    log.pin(&[segment.first]);
    log.release(&[end]);
    assert_eq!(load_some(&packs, id), SOME, "with the files that were open");
    let fresh = Packs::open(real(), directory.path()).unwrap();
    assert_eq!(load_some(&fresh, id), SOME, "from the pack");
    let bytes = fs::metadata(packs.data_path(id)).unwrap().len();
    assert_eq!(bytes, segment.file_bytes(), "without what was reserved");
    log.close();

    let (log, frames) = open(directory.path());
    assert!(frames[0].0 >= segment.end && frames[0].1.starts_with(SNAPSHOT));
    log.packs().settle(&[id]).unwrap();
    assert_eq!(load_some(&log.packs(), id), SOME);
    assert!(log.packs().adopt(log.sealed()[0], &wanted([])).unwrap() > id);
}

#[test]
fn a_rewritten_segment_is_recycled() {
    let (directory, log, segment) = sealed_log();
    let packs = log.packs();
    let id = packs.rewrite(segment, &wanted([(1, &SOME)])).unwrap();
    log.retire(segment, Contents::Copied);
    seal_ten(&log, 10);
    eventually("recycled", || !path_of(&directory, segment).exists());
    assert_eq!(load_some(&packs, id), SOME);
    log.close();
    let (log, _) = open(directory.path());
    log.packs().settle(&[id]).unwrap();
    assert_eq!(load_some(&log.packs(), id), SOME);
}

/// What a crash leaves at each step, and what a restart makes of it.
#[test]
fn a_crash_loses_nothing_and_leaves_nothing() {
    for adopted in [true, false] {
        let (directory, log, segment) = sealed_log();
        let pack = |log: &Log| {
            let (packs, some) = (log.packs(), wanted([(1, &SOME)]));
            let id =
                if adopted { packs.adopt(segment, &some) } else { packs.rewrite(segment, &some) };
            (packs, id.unwrap())
        };
        let (packs, id) = pack(&log);
        let contents = if adopted { Contents::Adopted(id) } else { Contents::Copied };
        let retire = |log: &Log| log.retire(segment, contents);
        let mut images = vec![image(directory.path())];
        commit(&log, b"the records that name the pack");
        images.push(image(directory.path()));
        for image in images {
            // The segment is there, so its messages are found; the pack is nothing.
            let (log, frames) = open(image.path());
            assert!(holds(&frames, frames[0].0, SNAPSHOT) && log.sealed()[0] == segment);
            assert!(
                frames.iter().any(|(_, records)| records.starts_with(&message(&[(1, 0)], BODY)))
            );
            log.packs().reserve_above(id);
            log.packs().settle(&[]).unwrap();
            assert_eq!(packed(image.path()), 0);
            let (packs, again) = pack(&log);
            assert!(again > id);
            assert_eq!(load_some(&packs, again), SOME);
        }
        retire(&log);
        seal_ten(&log, 10);
        eventually("gone", || !path_of(&directory, segment).exists());
        log.close();
        for wrong in [false, true] {
            let after = image(directory.path());
            let (log, frames) = open(after.path());
            assert!(frames[0].0 >= segment.end);
            if wrong {
                fs::remove_file(log.packs().data_path(id)).unwrap();
                assert!(matches!(log.packs().settle(&[id]), Err(OpenError::Damaged { .. })));
            } else {
                log.packs().settle(&[id]).unwrap();
                assert_eq!(load_some(&log.packs(), id), SOME);
            }
        }
        drop(packs);
    }
}

#[test]
fn segments_go_in_order() {
    let (directory, log, first) = sealed_log();
    let second = seal_ten(&log, 10);
    let packs = log.packs();
    let id = packs.adopt(second, &wanted([(1, &[10])])).unwrap();
    log.retire(second, Contents::Adopted(id));
    commit(&log, b"more");
    std::thread::sleep(Duration::from_millis(20));
    assert!(path_of(&directory, first).exists() && path_of(&directory, second).exists());
    log.retire(first, Contents::Copied);
    seal_ten(&log, 20);
    eventually("both gone", || !path_of(&directory, second).exists());
    assert!(!path_of(&directory, first).exists() && packs.data_path(id).exists());
}

#[test]
fn nothing_goes_before_what_is_appended_is_durable() {
    let (directory, log, segment) = sealed_log();
    let packs = log.packs();
    let some = wanted([(1, &SOME)]);
    let old = packs.rewrite(segment, &some).unwrap();
    let id = packs.adopt(segment, &some).unwrap();
    let mut slot = log.reserve();
    slot.append(b"it says that the old pack is empty", 1, 0);
    log.remove_packs(vec![old]);
    log.retire(segment, Contents::Adopted(id));
    std::thread::sleep(Duration::from_millis(20));
    assert!(path_of(&directory, segment).exists());
    assert_eq!(load_some(&packs, old), SOME);
    drop(slot);
    seal_ten(&log, 10);
    eventually("moved", || packs.data_path(id).exists());
    eventually("removed", || packed(directory.path()) == 2);
    assert!(packs.load(old, QueueId(1), &[(Position(2), 1)], 1).is_err());
    // With nothing to wait for it is done at once.
    log.remove_packs(vec![id, PackId(999)]);
    eventually("removed", || packed(directory.path()) == 0);
}

#[test]
fn a_segment_whose_pack_is_gone_is_recycled() {
    let (directory, log, first) = sealed_log();
    let second = seal_ten(&log, 10);
    let id = log.packs().adopt(second, &wanted([(1, &[10])])).unwrap();
    log.retire(second, Contents::Adopted(id));
    log.remove_packs(vec![id]);
    log.retire(first, Contents::Copied);
    seal_ten(&log, 20);
    // Nothing is left behind for a restart to find.
    eventually("both gone", || segments(directory.path()).len() == 2);
    log.close();
    assert_eq!(packed(directory.path()), 0);
}

#[test]
fn the_last_word_is_kept_when_the_log_closes() {
    let (directory, log, segment) = sealed_log();
    let packs = log.packs();
    let id = packs.adopt(segment, &wanted([(1, &SOME)])).unwrap();
    log.retire(segment, Contents::Adopted(id));
    seal_ten(&log, 10);
    append(&log, b"not durable yet, perhaps", 1);
    log.close();
    assert!(packs.data_path(id).exists());
    assert!(!path_of(&directory, segment).exists());
}

#[test]
fn packs_without_a_log_are_no_new_directory() {
    let (directory, log, segment) = sealed_log();
    let id = log.packs().rewrite(segment, &wanted([(1, &SOME)])).unwrap();
    let packs = files_in(directory.path(), "pack", "");
    log.close();
    let wal = directory.path().join("wal");
    fs::remove_dir_all(&wal).unwrap();
    // The first try makes the folder anew.
    for _ in 0..2 {
        let error = try_open(directory.path()).unwrap_err();
        assert!(matches!(error, OpenError::Lost { .. }));
        let text = error.to_string();
        assert!(text.contains(wal.to_str().unwrap()) && text.contains("leveret repair"), "{text}");
        assert!(text.contains(directory.path().join("pack").to_str().unwrap()), "{text}");
        assert_eq!(files_in(directory.path(), "pack", ""), packs);
    }
    // What was never finished is nobody's, and so is what others have put there.
    let folder = directory.path().join("pack");
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    let spilled = format!("{:020}", 1_u64 << 63);
    for name in [format!("{:020}.pack.tmp", id.0), spilled.clone() + ".idx.tmp", "notes".into()] {
        fs::write(folder.join(name), b"junk").unwrap();
    }
    fs::write(folder.join(spilled + ".pack.tmp"), b"junk").unwrap();
    let (log, frames) = open(directory.path());
    assert!(frames.is_empty());
    log.close();
    assert_eq!(packed(directory.path()), 1);
}

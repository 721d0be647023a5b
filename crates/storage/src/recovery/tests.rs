use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::RealDisk;
use crate::error::OpenError;
use crate::testing::*;

/// A log that was killed after its third frame was durable; where those frames' records lie.
fn killed() -> (TempDir, [Lsn; 3]) {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let starts = [b"first record", b"other record", b"third record"].map(|r| commit(&log, r));
    let image = image(directory.path());
    (image, starts)
}

/// Where the frame with its one record at `start` begins in the first segment file.
fn frame_at(start: Lsn) -> usize {
    segment::HEADER_BYTES + start.0 as usize - frame::HEADER_BYTES
}

fn copy(directory: &TempDir) -> TempDir {
    image(directory.path())
}

fn segment(directory: &TempDir) -> PathBuf {
    segments(directory.path()).remove(0)
}

fn damage(directory: &TempDir) -> String {
    match try_open(directory.path()) {
        Err(error @ OpenError::Damaged { .. }) => error.to_string(),
        Err(error) => panic!("another error: {error}"),
        Ok((_, frames)) => panic!("opened with {} frames", frames.len()),
    }
}

#[test]
fn a_tail_torn_at_any_byte_is_left_out() {
    let (killed, [first, second, third]) = killed();
    let frame = frame_at(third);
    let len = frame::HEADER_BYTES + b"third record".len();
    for cut in 0..=len {
        for truncate in [false, true] {
            let torn = copy(&killed);
            edit(&segment(&torn), |bytes| {
                if truncate {
                    bytes.truncate(frame + cut);
                } else {
                    bytes[frame + cut..].fill(0);
                }
            });
            let (log, frames) = open(torn.path());
            assert!(holds(&frames, first, b"first record"));
            assert!(holds(&frames, second, b"other record"));
            let whole = cut == len && !truncate;
            assert_eq!(holds(&frames, third, b"third record"), whole, "cut at {cut}");
            let fourth = commit(&log, b"after the crash");
            log.close();
            let (_log, frames) = open(torn.path());
            assert!(holds(&frames, first, b"first record"));
            assert!(holds(&frames, fourth, b"after the crash"));
        }
    }
}

#[test]
fn a_flipped_bit_in_confirmed_data_is_damage() {
    let (killed, [_, second, third]) = killed();
    for at in frame_at(second)..frame_at(third) {
        let flipped = copy(&killed);
        edit(&segment(&flipped), |bytes| bytes[at] ^= 0x10);
        let message = damage(&flipped);
        assert!(message.contains(&format!("at byte {}", frame_at(second))), "{message}");
        // Nothing was changed by looking.
        edit(&segment(&flipped), |bytes| bytes[at] ^= 0x10);
        assert_eq!(open(flipped.path()).1.len(), 3);
    }
}

#[test]
fn a_clean_stop_proves_the_last_frame_too() {
    let (killed, [_, _, third]) = killed();
    let (log, _) = open(killed.path());
    let last = commit(&log, b"last");
    log.close();
    let damaged = copy(&killed);
    let newest = segments(damaged.path()).remove(1);
    let at = frame::HEADER_BYTES + segment::HEADER_BYTES + SNAPSHOT.len();
    assert!(last > third);
    edit(&newest, |bytes| bytes[at] ^= 1);
    assert!(damage(&damaged).contains("was durable"));
}

#[test]
fn the_next_segment_proves_the_one_before() {
    let (killed, [_, _, third]) = killed();
    let (log, _) = open(killed.path());
    commit(&log, b"in the next segment");
    log.close();
    let damaged = copy(&killed);
    edit(&segment(&damaged), |bytes| bytes[frame_at(third) + 45] ^= 1);
    assert!(damage(&damaged).contains("was begun when"));

    let missing = copy(&killed);
    let (log, _) = open(missing.path());
    commit(&log, b"in a third segment");
    log.close();
    fs::remove_file(segments(missing.path()).remove(1)).unwrap();
    assert!(damage(&missing).contains("was begun when"));
}

#[test]
fn a_broken_header_is_damage() {
    for at in [0, 20, 48, 3000, 4095] {
        let (killed, _) = killed();
        edit(&segment(&killed), |bytes| bytes[at] ^= 1);
        assert!(damage(&killed).contains("header"));
        edit(&segment(&killed), |bytes| bytes.truncate(at));
        assert!(damage(&killed).contains("header"));
    }
}

#[test]
fn another_version_or_broker_is_refused() {
    let (newer, _) = killed();
    edit(&segment(&newer), |bytes| {
        bytes[8] = 99;
        let crc = crc32c::crc32c(&bytes[..4092]).to_le_bytes();
        bytes[4092..4096].copy_from_slice(&crc);
    });
    let error = try_open(newer.path()).unwrap_err();
    assert!(error.to_string().contains("format version 99, this build reads version 3"));

    let ((ours, _), (theirs, _)) = (killed(), killed());
    let (log, _) = open(theirs.path());
    commit(&log, b"theirs");
    log.close();
    let foreign = segments(theirs.path()).remove(1);
    fs::copy(&foreign, ours.path().join("wal").join(foreign.file_name().unwrap())).unwrap();
    assert!(matches!(try_open(ours.path()), Err(OpenError::Foreign { .. })));
}

#[test]
fn a_refused_replay_names_the_frame() {
    let (killed, [_, second, _]) = killed();
    let mut replay =
        |lsn, _: &[u8]| if lsn == second { Err("no such queue".into()) } else { Ok(()) };
    let error =
        recover(&RealDisk, &killed.path().join("wal"), &mut replay).unwrap_err().to_string();
    assert!(error.contains(&format!("frame at address {second}")), "{error}");
    assert!(error.ends_with("no such queue"), "{error}");
}

/// The state of a directory as a reader sees it.
fn read(directory: &TempDir) -> (Frames, Lsn) {
    let mut frames = Vec::new();
    let recovered = recover(&RealDisk, &directory.path().join("wal"), &mut |lsn, records| {
        frames.push((lsn, records.to_vec()));
        Ok(())
    });
    (frames, recovered.unwrap().end)
}

#[test]
fn recovery_may_be_killed_and_repeated() {
    let (killed, [_, _, third]) = killed();
    edit(&segment(&killed), |bytes| bytes[frame_at(third) + 41] ^= 1);
    let expected = read(&killed);
    assert_eq!(expected.0.len(), 2);
    assert_eq!(read(&killed), expected, "again");
    // Killed once the new segment has its header and half of its first frame.
    for kept in [0, 1, 40, 60] {
        let once = copy(&killed);
        let (log, _) = open(once.path());
        commit(&log, b"never confirmed");
        let twice = copy(&once);
        drop(log);
        let newest = segments(twice.path()).remove(1);
        edit(&newest, |bytes| bytes[segment::HEADER_BYTES + kept..].fill(0));
        assert_eq!(read(&twice), expected);
        let (log, frames) = open(twice.path());
        assert_eq!(frames, expected.0);
        let start = commit(&log, b"confirmed");
        let thrice = copy(&twice);
        assert!(holds(&read(&thrice).0, start, b"confirmed"));
        assert_eq!(read(&thrice).0.len(), 3);
    }
}

/// A log whose only segment has only its first frame: all older segments are gone.
fn begun_anew() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    wait(&log, append(&log, &[1; SEGMENT_BYTES as usize], 0).1);
    wait(&log, append(&log, b"in the next segment", 0).1);
    eventually("gone", || segments(directory.path()).len() == 1);
    assert!(!segments(directory.path())[0].ends_with(format!("{:020}.wal", 0)));
    image(directory.path())
}

#[test]
fn the_first_frame_of_the_oldest_segment_was_durable_once() {
    let whole = begun_anew();
    assert_eq!(read(&whole).0.len(), 1);
    let first = segment::HEADER_BYTES;
    for at in first..first + frame::HEADER_BYTES + SNAPSHOT.len() {
        let flipped = copy(&whole);
        edit(&segment(&flipped), |bytes| bytes[at] ^= 1);
        assert!(damage(&flipped).contains("at byte 4096"));
        edit(&segment(&flipped), |bytes| bytes.truncate(at));
        assert!(damage(&flipped).contains("at byte 4096"));
    }
    // Of a log that was never finished beginning nothing was promised.
    let (new, [first, ..]) = killed();
    edit(&segment(&new), |bytes| bytes[frame_at(first) + 3..].fill(0));
    assert_eq!(read(&new), (vec![], Lsn(0)));
}

#[test]
fn each_opening_has_an_epoch_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    for epoch in 1..4 {
        let (log, _) = open(directory.path());
        commit(&log, b"x");
        log.close();
        let newest = segments(directory.path()).pop().unwrap();
        let header = segment::Header::decode(&read_header(&RealDisk, &newest).unwrap()).unwrap();
        assert_eq!(header.epoch, epoch);
    }
}

#[test]
fn unfinished_files_go_and_spare_ones_stay() {
    let (killed, _) = killed();
    let wal = killed.path().join("wal");
    for name in ["00000007.tmp", "00000008.free", "00000009.free", "00000010.free"] {
        fs::write(wal.join(name), b"junk").unwrap();
    }
    fs::write(wal.join("notes.txt"), b"not ours").unwrap();
    let (log, frames) = open(killed.path());
    assert_eq!(frames.len(), 3);
    let start = commit(&log, b"into a spare");
    log.close();
    assert!(wal.join("notes.txt").exists() && !wal.join("00000007.tmp").exists());
    assert!(files(killed.path(), ".free").len() <= crate::files::SPARES_MAX);
    assert!(holds(&open(killed.path()).1, start, b"into a spare"));
}

/// A segment made by hand: frames with the durable address each claims.
fn build(wal: &Path, frames: &[(&[u8], u64)]) -> Vec<u64> {
    let header = segment::Header::new(&RealDisk, [1; 16], 1, Lsn(0), 0).unwrap();
    let mut bytes = header.encode();
    let (mut first, mut prev_crc, mut starts) = (Lsn(0), 0, Vec::new());
    for &(records, durable) in frames {
        let mut frame_bytes = vec![0; frame::HEADER_BYTES];
        frame_bytes.extend_from_slice(records);
        frame_bytes.resize(frame_bytes.len().next_multiple_of(frame::ALIGNMENT), 0);
        let len = records.len() as u32;
        let durable = Lsn(durable);
        let frame = frame::Header { len, first, durable, epoch: 1, prev_crc, records: 1 };
        prev_crc = frame::finish(&mut frame_bytes, &frame, header.seed());
        starts.push(bytes.len() as u64);
        bytes.extend_from_slice(&frame_bytes);
        first = frame.end();
    }
    fs::write(segment::path(wal, Lsn(0)), bytes).unwrap();
    starts
}

#[test]
fn a_later_frame_alone_proves_nothing() {
    // Three frames of 48 bytes whose writes nobody waited for: the middle one got lost.
    for (durable, damaged) in [(0, false), (48, false), (96, true)] {
        let directory = tempfile::tempdir().unwrap();
        let wal = directory.path().join("wal");
        fs::create_dir(&wal).unwrap();
        let starts = build(&wal, &[(b"one", 0), (b"two", 0), (b"three", durable)]);
        edit(&segment(&directory), |bytes| bytes[starts[1] as usize + 40] ^= 1);
        if damaged {
            damage(&directory);
        } else {
            assert_eq!(read(&directory).0, [(Lsn(40), b"one".to_vec())]);
        }
    }
}

#[test]
fn frames_of_an_earlier_use_of_the_file_are_junk() {
    let (killed, [_, second, _]) = killed();
    let path = segment(&killed);
    edit(&path, |bytes| {
        let mut header = segment::Header::decode(&bytes[..segment::HEADER_BYTES]).unwrap();
        header.segment = [5; 16];
        bytes[..segment::HEADER_BYTES].copy_from_slice(&header.encode());
    });
    assert_eq!(read(&killed), (vec![], Lsn(0)), "all frames have another segment's seed");
    assert!(second > Lsn(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happened_to_the_file_recovery_gives_a_prefix_or_refuses(
        changes in proptest::collection::vec((0_usize..4300, any::<u8>()), 1..4),
        cut in proptest::option::of(0_usize..4300),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let wal = directory.path().join("wal");
        fs::create_dir(&wal).unwrap();
        build(&wal, &[(b"one", 0), (b"two", 48), (b"three", 96), (b"four", 144)]);
        let whole = read(&directory).0;
        edit(&segment(&directory), |bytes| {
            for (at, to) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = to;
                }
            }
            bytes.truncate(cut.unwrap_or(usize::MAX));
        });
        let mut frames = Vec::new();
        let recovered = recover(&RealDisk, &wal, &mut |lsn, records| {
            frames.push((lsn, records.to_vec()));
            Ok(())
        });
        prop_assert!(whole.starts_with(&frames), "{:?}", recovered);
    }
}

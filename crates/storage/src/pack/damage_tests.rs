//! Whatever becomes of a pack's files, what is loaded is right, or there is an error.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use leveret_model::PositionSet;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::RealDisk;
use crate::testing::*;

const BODY: usize = 20;
const ALL: Range<u64> = 10..40;

/// A data directory with an adopted and a rewritten pack; nobody has it open.
fn packed() -> (TempDir, [PackId; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let messages = ALL.map(|position| message(&[(1, position), (2, position << 33)], BODY));
    let (segment, packs) = (seal(&log, &messages.collect::<Vec<_>>()), log.packs());
    let ids = [packs.adopt(segment, &all()), packs.rewrite(segment, &all())].map(Result::unwrap);
    log.retire(segment, crate::Contents::Adopted(ids[0]));
    seal(&log, &[]);
    eventually("moved", || packs.data_path(ids[0]).exists());
    log.close();
    (directory, ids)
}

fn all() -> Wanted {
    let far: Vec<_> = ALL.map(|position| position << 33).collect();
    let near: Vec<_> = ALL.collect();
    wanted([(1, &near), (2, &far)])
}

/// Loads everything, as if the packs had just been opened. Fails with an error that
/// does not name a file, and if anything comes out wrong. Returns whether anything was refused.
fn is_refused(directory: &Path, id: PackId) -> bool {
    let packs = Packs::open(real(), directory).unwrap();
    let mut refused = false;
    let mut check = |result: Result<(), String>| {
        if let Err(error) = result {
            assert!(error.contains(&format!("{:020}", id.0)), "{error}");
            refused = true;
        }
    };
    check(packs.settle_check(id).map_err(|error| error.to_string()));
    for position in ALL.step_by(14) {
        for (queue, place) in [(1, position), (2, position << 33)] {
            let loaded = packs.load(id, QueueId(queue), &[(Position(place), 1)], usize::MAX);
            check(loaded.map_err(|error| error.to_string()).map(|loaded| {
                assert_eq!(positions(&loaded, BODY, |_| (1, position)), [place]);
            }));
        }
    }
    let near: Vec<_> = ALL.map(|position| (Position(position), 1)).collect();
    let far: Vec<_> = ALL.map(|position| (Position(position << 33), 1)).collect();
    for (queue, runs, shift) in [(1, near, 0), (2, far, 33)] {
        let loaded = packs.load(id, QueueId(queue), &runs, usize::MAX);
        check(loaded.map_err(|error| error.to_string()).map(|loaded| {
            let found = positions(&loaded, BODY, |position| (1, position >> shift));
            assert!(found.into_iter().eq(ALL.map(|position| position << shift)));
        }));
    }
    refused
}

impl Packs {
    /// What [`Packs::settle`] says of one pack, without deleting others.
    fn settle_check(&self, id: PackId) -> Result<(), OpenError> {
        let others = files_in(self.directory().parent().unwrap(), "pack", ".idx");
        let others = others.iter().filter_map(|path| parse_name(path)).map(|(other, _)| other);
        let live: Vec<_> = others.collect();
        let result = self.settle(&live);
        assert!(live.contains(&id) || result.is_ok());
        result
    }
}

fn names(packs: &Packs, id: PackId) -> [PathBuf; 2] {
    [packs.index_path(id), packs.data_path(id)]
}

/// Flips a bit of one byte, in place: much faster than writing the file anew.
fn flip(path: &Path, at: usize) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (at % 8)], at as u64).unwrap();
}

#[test]
fn a_flipped_bit_anywhere_in_an_index_is_found() {
    let (directory, ids) = packed();
    let packs = Packs::open(real(), directory.path()).unwrap();
    for id in ids {
        assert!(!is_refused(directory.path(), id));
        let path = packs.index_path(id);
        for at in 0..fs::metadata(&path).unwrap().len() as usize {
            flip(&path, at);
            assert!(is_refused(directory.path(), id), "byte {at} of the index");
            flip(&path, at);
        }
    }
}

#[test]
fn a_flipped_bit_in_the_version_of_an_index_is_no_other_version() {
    let (directory, [id, _]) = packed();
    let packs = Packs::open(real(), directory.path()).unwrap();
    let [index, _] = names(&packs, id);
    flip(&index, 9);
    assert!(matches!(packs.settle_check(id), Err(OpenError::Damaged { .. })));
    // A repair is for damage, and not for other versions.
    let saved = crate::salvage::Pack::open(directory.path(), id).unwrap();
    assert_eq!(saved.positions(QueueId(1)).count(), ALL.count());
}

#[test]
fn a_flipped_bit_in_a_header_or_a_record_is_found() {
    let (directory, [_, id]) = packed();
    let path = Packs::open(real(), directory.path()).unwrap().data_path(id);
    let bytes = fs::metadata(&path).unwrap().len() as usize;
    for at in (0..100).chain(4090..bytes) {
        flip(&path, at);
        assert!(is_refused(directory.path(), id), "byte {at} of the data file");
        flip(&path, at);
    }
}

#[test]
fn a_file_cut_off_anywhere_is_found() {
    let (directory, ids) = packed();
    let packs = Packs::open(real(), directory.path()).unwrap();
    for path in ids.iter().flat_map(|id| names(&packs, *id)) {
        let whole = fs::read(&path).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for cut in (0..whole.len()).rev().step_by(if whole.len() < 3_000 { 1 } else { 97 }) {
            file.set_len(cut as u64).unwrap();
            let id = parse_name(&path).unwrap().0;
            assert!(is_refused(directory.path(), id), "{} cut at {cut}", path.display());
        }
        fs::write(&path, &whole).unwrap();
    }
}

fn rewrite(path: &Path, header: &index::Header, entries: &Entries) {
    fs::remove_file(path).unwrap();
    index::write(&RealDisk, path, header, entries).unwrap();
}

/// An index whose checksums are right and whose content is not.
#[test]
fn an_index_that_lies_cannot_do_harm() {
    let (directory, [_, id]) = packed();
    let packs = Packs::open(real(), directory.path()).unwrap();
    let header = index::Index::open(&RealDisk, &packs.index_path(id), id).unwrap().header;
    let entry = |position, offset, len, crc| Entry {
        position: Position(position),
        place: Place { offset, len, crc },
    };
    let record = message(&[(1, 10), (2, 10 << 33)], BODY);
    let (len, crc) = (record.len() as u32, crc32c::crc32c(&record));
    let lies = [
        entry(10, u32::MAX, u32::MAX, 0),
        entry(10, 4096, u32::MAX, crc),
        entry(10, 0, 0, 0),
        entry(10, 4096, len - 1, crc),
        entry(11, 4096, len, crc),
        entry(u64::MAX - 1, 4096, len, crc),
    ];
    for lie in lies {
        let entries = vec![(QueueId(1), vec![lie])];
        rewrite(&packs.index_path(id), &header, &entries);
        let fresh = Packs::open(real(), directory.path()).unwrap();
        let error = fresh.load(id, QueueId(1), &[(lie.position, 1)], usize::MAX).unwrap_err();
        let PackError::Io { .. } = error else {
            assert!(error.to_string().contains("of queue 1"), "{error}");
            continue;
        };
        panic!("{error}");
    }
    // The same place for all, and out of order.
    let same: Vec<_> = (0..2_000).map(|position| entry(position, 4096, len, crc)).collect();
    rewrite(&packs.index_path(id), &header, &vec![(QueueId(1), same)]);
    let fresh = Packs::open(real(), directory.path()).unwrap();
    assert!(fresh.load(id, QueueId(1), &[(Position(0), 2_000)], usize::MAX).is_err());
    let sets = PositionSet::of_runs([(Position(0), 2_000)]);
    assert!(fresh.merge(&[(id, [(QueueId(1), sets)].into())]).is_err());
    let back = vec![entry(10, 4096 + 2 * len, len, crc), entry(11, 4096, len, crc)];
    rewrite(&packs.index_path(id), &header, &vec![(QueueId(1), back)]);
    let fresh = Packs::open(real(), directory.path()).unwrap();
    assert!(fresh.load(id, QueueId(1), &[(Position(10), 2)], usize::MAX).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn whatever_happens_to_a_file(
        edits in proptest::collection::vec(
            (any::<bool>(), any::<bool>(), any::<u32>(), 1..=255_u8),
            1..4,
        ),
        cut in proptest::option::weighted(0.2, any::<u32>()),
    ) {
        let (directory, ids) = FIXTURE.with(|(fixture, ids)| (image(fixture.path()), *ids));
        let packs = Packs::open(real(), directory.path()).unwrap();
        for (which, file, at, flip) in edits {
            edit(&names(&packs, ids[usize::from(which)])[usize::from(file)], |bytes| {
                if let Some(cut) = cut {
                    bytes.truncate(cut as usize % bytes.len().max(1));
                }
                let at = at as usize % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= flip;
                }
            });
        }
        for id in ids {
            let loads = Packs::open(real(), directory.path()).unwrap();
            for position in ALL {
                let runs = [(Position(position), 1)];
                match loads.load(id, QueueId(1), &runs, usize::MAX) {
                    Ok(loaded) => {
                        prop_assert_eq!(positions(&loaded, BODY, |p| (1, p)), [position]);
                    }
                    Err(error) => {
                        let named = error.to_string().contains(&format!("{:020}.", id.0));
                        prop_assert!(named, "{}", error);
                    }
                }
            }
            if let Ok(copy) = loads.merge(&[(id, all())]) {
                let count = ALL.end - ALL.start;
                let runs = [(Position(ALL.start), count)];
                let loaded = loads.load(copy, QueueId(1), &runs, usize::MAX).unwrap();
                prop_assert!(positions(&loaded, BODY, |p| (1, p)).into_iter().eq(ALL));
            }
        }
        let _ = packs.settle(&ids);
    }
}

std::thread_local! {
    static FIXTURE: (TempDir, [PackId; 2]) = packed();
}

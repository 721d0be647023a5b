use std::fs;
use std::io::ErrorKind;

use leveret_model::Lsn;
use tempfile::TempDir;

use super::*;
use crate::Log;
use crate::testing::*;

const BODY: usize = 50;

/// A log with one sealed segment that holds these messages, each with the queues it goes to.
fn log_with(messages: &[&[(u64, u64)]], body_bytes: usize) -> (TempDir, Log, Sealed) {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let messages: Vec<_> = messages.iter().map(|targets| message(targets, body_bytes)).collect();
    let segment = seal(&log, &messages);
    (directory, log, segment)
}

fn load(packs: &Packs, id: PackId, queue: u64, runs: &[(u64, u64)]) -> Result<Loaded, PackError> {
    let runs: Vec<_> = runs.iter().map(|(first, count)| (Position(*first), *count)).collect();
    packs.load(id, QueueId(queue), &runs, usize::MAX)
}

/// What is loaded of messages that went to this queue first.
fn own(packs: &Packs, id: PackId, queue: u64, runs: &[(u64, u64)]) -> Vec<u64> {
    let loaded = load(packs, id, queue, runs).unwrap();
    positions(&loaded, BODY, |position| (queue, position))
}

/// Two queues, one after the other in turn.
fn in_turn() -> (TempDir, Log, Sealed) {
    let targets: Vec<_> = (0..20).map(|number| [(1 + number % 2, number)]).collect();
    let messages: Vec<_> = targets.iter().map(|targets| &targets[..]).collect();
    log_with(&messages, BODY)
}

#[test]
fn an_adopted_segment_gives_its_messages_back() {
    let (_directory, log, segment) = in_turn();
    let packs = log.packs();
    let id = packs.adopt(segment, &wanted([(1, &[0, 4, 6, 8, 18]), (2, &[1, 3])])).unwrap();
    assert_eq!(own(&packs, id, 1, &[(4, 1), (6, 1), (8, 1)]), [4, 6, 8]);
    assert_eq!(own(&packs, id, 1, &[(18, 1), (0, 1)]), [18, 0], "in the order of the runs");
    assert_eq!(own(&packs, id, 2, &[(1, 1), (3, 1)]), [1, 3]);
    assert_eq!(own(&packs, id, 2, &[]), []);
}

#[test]
fn a_rewritten_segment_has_only_what_is_wanted_in_order() {
    let (directory, log, segment) = in_turn();
    let packs = log.packs();
    let id = packs.rewrite(segment, &wanted([(1, &[2, 16]), (2, &[1, 7])])).unwrap();
    assert_eq!(own(&packs, id, 1, &[(2, 1), (16, 1)]), [2, 16]);
    assert_eq!(own(&packs, id, 2, &[(7, 1), (1, 1)]), [7, 1]);
    let bytes = fs::read(packs.data_path(id)).unwrap();
    let all = [(1, 2), (1, 16), (2, 1), (2, 7)].map(|target| message(&[target], BODY));
    assert_eq!(bytes[data::HEADER_BYTES..], all.concat());
    assert_eq!(files_in(directory.path(), "pack", "").len(), 2, "nothing unfinished");
}

#[test]
fn a_message_to_many_queues_is_there_once() {
    let fan: &[(u64, u64)] = &[(1, 5), (2, 50), (3, 500)];
    let (_directory, log, segment) = log_with(&[&[(1, 4)], fan, &[(2, 49)]], BODY);
    let packs = log.packs();
    let all = wanted([(1, &[4, 5]), (2, &[49, 50]), (3, &[500])]);
    let adopted = packs.adopt(segment, &all).unwrap();
    let rewritten = packs.rewrite(segment, &all).unwrap();
    let merged = packs.merge(&[(rewritten, all)]).unwrap();
    for id in [adopted, rewritten, merged] {
        for (queue, position) in [(2, 50), (3, 500)] {
            let loaded = load(&packs, id, queue, &[(position, 1)]).unwrap();
            assert_eq!(positions(&loaded, BODY, |_| (1, 5)), [position]);
        }
        assert_eq!(own(&packs, id, 1, &[(4, 2)]), [4, 5]);
    }
    let records = [message(&[(1, 4)], BODY), message(fan, BODY), message(&[(2, 49)], BODY)];
    for id in [rewritten, merged] {
        let bytes = fs::read(packs.data_path(id)).unwrap();
        assert_eq!(bytes[data::HEADER_BYTES..], records.concat());
    }
    // Nobody needs to want all of it.
    let some = packs.merge(&[(merged, wanted([(3, &[500])]))]).unwrap();
    let loaded = load(&packs, some, 3, &[(500, 1)]).unwrap();
    assert_eq!(positions(&loaded, BODY, |_| (1, 5)), [500]);
}

#[test]
fn packs_are_merged_queue_by_queue() {
    let (directory, log, first) = in_turn();
    let second = [message(&[(1, 21), (3, 0)], BODY), message(&[(1, 20)], BODY)];
    let second = seal(&log, &second);
    let packs = log.packs();
    let adopted = packs.adopt(first, &wanted([(1, &[0, 2, 18]), (2, &[1, 3])])).unwrap();
    let rewritten = packs.rewrite(second, &wanted([(1, &[20, 21]), (3, &[0])])).unwrap();
    let merged = packs.merge(&[
        (rewritten, wanted([(1, &[20, 21]), (3, &[0])])),
        (adopted, wanted([(1, &[2, 18]), (2, &[3])])),
    ]);
    let merged = merged.unwrap();
    let bytes = fs::metadata(packs.data_path(merged)).unwrap().len();
    assert_eq!(packs.size(merged).unwrap(), PackSize { messages: 6, bytes });
    packs.remove(&[adopted, rewritten, PackId(77)]);
    assert_eq!(files_in(directory.path(), "pack", "").len(), 2);
    assert_eq!(own(&packs, merged, 1, &[(2, 1), (18, 1), (20, 2)]), [2, 18, 20, 21]);
    assert_eq!(own(&packs, merged, 2, &[(3, 1)]), [3]);
    assert!(load(&packs, adopted, 1, &[(2, 1)]).is_err(), "it is gone, though it was open");
    let records: [&[(u64, u64)]; 5] =
        [&[(1, 2)], &[(1, 18)], &[(1, 20)], &[(1, 21), (3, 0)], &[(2, 3)]];
    let records = records.map(|targets| message(targets, BODY));
    assert_eq!(fs::read(packs.data_path(merged)).unwrap()[data::HEADER_BYTES..], records.concat());
}

#[test]
fn positions_may_be_far_apart() {
    let far = [0, 5, 600, (1 << 32) + 4, (1 << 32) + 5, 1 << 60, 1 << 62];
    let targets = far.map(|position| [(7, position)]);
    let messages: Vec<_> = targets.iter().rev().map(|targets| &targets[..]).collect();
    let (_directory, log, segment) = log_with(&messages, BODY);
    let packs = log.packs();
    let all = wanted([(7, &far)]);
    let adopted = packs.adopt(segment, &all).unwrap();
    let rewritten = packs.rewrite(segment, &all).unwrap();
    for id in [adopted, rewritten, packs.merge(&[(adopted, all)]).unwrap()] {
        assert_eq!(own(&packs, id, 7, &far.map(|position| (position, 1))), far);
        for none in [1, 4, 6, 1 << 32, (1 << 60) + 1, (1 << 62) + 1] {
            let error = load(&packs, id, 7, &[(none - 1, 1), (none, 1)]).unwrap_err();
            assert!(matches!(error, PackError::Missing { queue: QueueId(7), .. }), "{error}");
        }
    }
}

#[test]
fn a_queue_may_have_many_sections() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let messages = (0..5_000).map(|position| message(&[(1 + position % 2, position)], BODY));
    let (segment, packs) = (seal(&log, &messages.collect::<Vec<_>>()), log.packs());
    let even: Vec<_> = (0..5_000).step_by(2).collect();
    let odd: Vec<_> = (1..5_000).step_by(2).filter(|odd| odd % 3 != 0).collect();
    let all = wanted([(1, &even), (2, &odd)]);
    for id in [packs.adopt(segment, &all).unwrap(), packs.rewrite(segment, &all).unwrap()] {
        for (queue, all) in [(1, &even), (2, &odd)] {
            let runs: Vec<_> = all.iter().map(|position| (*position, 1)).collect();
            assert_eq!(own(&packs, id, queue, &runs), *all);
            let back: Vec<_> = runs.iter().copied().rev().collect();
            assert!(own(&packs, id, queue, &back).into_iter().rev().eq(all.iter().copied()));
        }
    }
}

#[test]
fn a_load_is_as_large_as_is_asked_for() {
    let targets: Vec<_> = (0..9).map(|position| [(1, position)]).collect();
    let messages: Vec<_> = targets.iter().map(|targets| &targets[..]).collect();
    let (_directory, log, segment) = log_with(&messages, 300_000);
    let packs = log.packs();
    let id = packs.adopt(segment, &wanted([(1, &[0, 1, 2, 3, 4, 5, 6, 7, 8])])).unwrap();
    let record = message(&[(1, 1)], 300_000).len();
    let count = |bytes_max| {
        let loaded = packs.load(id, QueueId(1), &[(Position(1), 8)], bytes_max).unwrap();
        let found = positions(&loaded, 300_000, |position| (1, position));
        assert!(found.iter().copied().eq(1..=found.len() as u64));
        found.len()
    };
    assert_eq!((count(0), count(1), count(record - 1), count(record)), (1, 1, 1, 1));
    // Every fifth message says when it was published, which takes a byte.
    assert_eq!((count(2 * record), count(3 * record + 100), count(usize::MAX)), (2, 3, 8));
    // What is behind the limit is not looked at, whether it is there or not.
    assert_eq!(packs.load(id, QueueId(1), &[(Position(8), 9)], 1).unwrap().messages.len(), 1);
}

#[test]
fn a_record_may_be_larger_than_a_read() {
    let (_directory, log, segment) = log_with(&[&[(1, 1)], &[(1, 2)]], 3_000_000);
    let packs = log.packs();
    let id = packs.rewrite(segment, &wanted([(1, &[1, 2])])).unwrap();
    let loaded = load(&packs, id, 1, &[(1, 2)]).unwrap();
    assert_eq!(positions(&loaded, 3_000_000, |position| (1, position)), [1, 2]);
}

#[test]
fn what_is_not_there_cannot_be_packed() {
    let (directory, log, segment) = in_turn();
    let packs = log.packs();
    for absent in [wanted([(1, &[0, 1])]), wanted([(1, &[0]), (5, &[1])]), wanted([(2, &[21])])] {
        for result in [packs.adopt(segment, &absent), packs.rewrite(segment, &absent)] {
            let error = result.unwrap_err();
            assert!(matches!(error, PackError::Missing { .. }), "{error}");
            assert!(error.to_string().contains(".wal does not have message"), "{error}");
        }
    }
    let id = packs.adopt(segment, &wanted([(1, &[0])])).unwrap();
    let error = packs.merge(&[(id, wanted([(1, &[2])]))]).unwrap_err();
    assert!(error.to_string().ends_with(".idx does not have message 2 of queue 1"), "{error}");
    let twice = [(id, wanted([(1, &[0])])), (id, wanted([(1, &[0])]))];
    let error = packs.merge(&twice).unwrap_err().to_string();
    assert!(error.ends_with("a message is there twice (message 0 of queue 1)"), "{error}");
    let nowhere = Sealed { first: Lsn(8), end: Lsn(80) };
    let error = packs.adopt(nowhere, &wanted([])).unwrap_err();
    let PackError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!((source.kind(), error.is_out_of_space()), (ErrorKind::NotFound, false));
    let endless = Sealed { first: Lsn(0), end: Lsn(u64::from(u32::MAX)) };
    let error = packs.adopt(endless, &wanted([])).unwrap_err();
    assert!(matches!(error, PackError::TooLarge { .. }), "{error}");
    assert_eq!(files_in(directory.path(), "pack", "").len(), 1, "the one that succeeded");
}

#[test]
fn a_pack_may_hold_nothing() {
    let (_directory, log, segment) = in_turn();
    let packs = log.packs();
    let ids = [packs.adopt(segment, &wanted([])), packs.rewrite(segment, &wanted([(1, &[])]))];
    for id in ids.map(Result::unwrap).into_iter().chain(packs.merge(&[])) {
        assert!(matches!(load(&packs, id, 1, &[(0, 1)]), Err(PackError::Missing { .. })));
        assert!(load(&packs, id, 1, &[(0, 0)]).unwrap().messages.is_empty());
    }
}

#[test]
fn no_id_is_given_twice() {
    let (directory, log, segment) = in_turn();
    let packs = log.packs();
    let new = |packs: &Packs| packs.adopt(segment, &wanted([])).unwrap().0;
    let first = new(&packs);
    assert!(new(&packs) > first);
    packs.reserve_above(PackId(100));
    assert_eq!(new(&packs), 101);
    packs.reserve_above(PackId(50));
    assert_eq!(new(&packs), 102);
    packs.remove(&[PackId(200)]);
    assert_eq!(new(&packs), 201);
    assert_eq!(new(&Packs::open(real(), directory.path()).unwrap()), 202);
    packs.reserve_above(PackId(SPILLED));
    assert_eq!(new(&packs), 202, "those have numbers of their own");
    packs.reserve_above(PackId(SPILLED - 1));
    assert!(packs.adopt(segment, &wanted([])).is_err());
}

#[test]
fn settling_leaves_the_live_packs_only() {
    let (directory, log, segment) = in_turn();
    let (packs, path) = (log.packs(), directory.path());
    let some = wanted([(1, &[0, 2])]);
    let ids: Vec<_> = (0..3).map(|_| packs.rewrite(segment, &some).unwrap()).collect();
    let adopted = packs.adopt(segment, &some).unwrap();
    let folder = path.join("pack");
    fs::write(folder.join("00000000000000000055.tmp"), b"x").unwrap();
    fs::write(folder.join("not ours"), b"x").unwrap();
    // Its data file is in the log still: then the log has its messages.
    let before = files_in(path, "pack", "");
    let error = packs.settle(&[ids[0], adopted]).unwrap_err();
    assert!(error.to_string().contains("the file is missing"), "{error}");
    let error = packs.settle(&[ids[0], PackId(44)]).unwrap_err().to_string();
    assert!(error.contains("44.idx") && error.contains("pack 44 holds messages"), "{error}");
    assert_eq!(files_in(path, "pack", ""), before, "nothing is deleted then");
    packs.settle(&[ids[1]]).unwrap();
    let left: Vec<_> = files_in(path, "pack", "");
    assert_eq!(left, [packs.index_path(ids[1]), packs.data_path(ids[1]), folder.join("not ours")]);
    assert_eq!(own(&packs, ids[1], 1, &[(0, 1)]), [0]);
    packs.settle(&[]).unwrap();
    assert_eq!(files_in(path, "pack", "").len(), 1);
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let (_directory, log, segment) = in_turn();
    let packs = log.packs();
    let some = wanted([(1, &[0])]);
    let ids = [packs.rewrite(segment, &some).unwrap(), packs.rewrite(segment, &some).unwrap()];
    fs::copy(packs.data_path(ids[0]), packs.data_path(ids[1])).unwrap();
    let error = packs.settle(&ids).unwrap_err().to_string();
    assert!(error.contains("does not belong to the pack's index"), "{error}");
    assert!(load(&packs, ids[1], 1, &[(0, 1)]).is_err());
    fs::copy(packs.index_path(ids[0]), packs.index_path(ids[1])).unwrap();
    let error = packs.settle(&ids).unwrap_err().to_string();
    assert!(error.contains("the index of another pack"), "{error}");
    assert!(load(&packs, ids[1], 1, &[(0, 1)]).is_err());
    assert_eq!(own(&packs, ids[0], 1, &[(0, 1)]), [0]);
}

#[test]
fn unfinished_files_go_when_the_log_is_opened() {
    let (directory, log, segment) = in_turn();
    let id = log.packs().adopt(segment, &wanted([(1, &[0])])).unwrap();
    fs::write(log.packs().index_path(PackId(id.0 + 9)).with_extension("tmp"), b"x").unwrap();
    log.close();
    let (log, _) = open(directory.path());
    // What has a name is left to `settle`.
    assert_eq!(files_in(directory.path(), "pack", ""), [log.packs().index_path(id)]);
    assert_eq!(log.packs().adopt(segment, &wanted([])).unwrap(), PackId(id.0 + 10));
}

#[test]
fn not_all_packs_are_kept_open() {
    let (_directory, log, segment) = in_turn();
    let packs = log.packs();
    let ids: Vec<_> =
        (0..70).map(|_| packs.adopt(segment, &wanted([(1, &[4])])).unwrap()).collect();
    for id in ids.iter().chain(&ids[..10]) {
        assert_eq!(own(&packs, *id, 1, &[(4, 1)]), [4]);
    }
    assert_eq!(packs.cache().len(), 64);
    packs.remove(&ids);
    assert_eq!(packs.cache().len(), 0);
}

#[test]
fn a_damaged_segment_is_not_packed() {
    let (directory, log, segment) = in_turn();
    let path = segments(directory.path()).remove(0);
    let packs = log.packs();
    let used = segment.file_bytes() as usize;
    for at in [0, 40, 4090, 4096, 4100, 4096 + 40, 5000, used - 1] {
        edit(&path, |bytes| bytes[at] ^= 4);
        let error = packs.adopt(segment, &wanted([(1, &[0])])).unwrap_err();
        assert!(matches!(error, PackError::Damaged { .. }), "byte {at}: {error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(packs.rewrite(segment, &wanted([(1, &[0])])).is_err());
        edit(&path, |bytes| bytes[at] ^= 4);
    }
    edit(&path, |bytes| bytes.truncate(used - 1));
    assert!(packs.adopt(segment, &wanted([(1, &[0])])).is_err());
    assert_eq!(files_in(directory.path(), "pack", ""), [] as [PathBuf; 0]);
}

/// What the record of a message says, and where it goes.
fn spilled(record: &[u8]) -> Spilled<'_> {
    let record = leveret_record::Records::new(record).next().unwrap().unwrap().1;
    let leveret_record::Record::Publish { message, origin, targets } = record else { panic!() };
    (message, origin, targets.collect())
}

#[test]
fn spilled_messages_are_there_until_the_next_opening() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let packs = log.packs();
    let targets: [&[(u64, u64)]; 4] = [&[(1, 5), (2, 3)], &[(1, 4)], &[(2, 900)], &[(1, 6)]];
    let records = targets.map(|targets| message(targets, BODY));
    let first = packs.spill(records[..2].iter().map(|record| spilled(record))).unwrap();
    let second = packs.spill(records[2..].iter().map(|record| spilled(record))).unwrap();
    assert_eq!(own(&packs, first, 1, &[(4, 2)]), [4, 5]);
    let shared = load(&packs, first, 2, &[(3, 1)]).unwrap();
    assert_eq!(positions(&shared, BODY, |_| (1, 5)), [3]);
    assert_eq!(own(&packs, second, 2, &[(900, 1)]), [900]);
    assert!(load(&packs, second, 1, &[(5, 1)]).is_err(), "that is in the other one");
    assert_eq!(files_in(directory.path(), "pack", "").len(), 4);
    assert!(crate::salvage::packs(directory.path()).unwrap().is_empty(), "nobody misses them");

    // What a crash leaves of them is of no interest, whatever it is.
    for damage in 0..4 {
        let copy = image(directory.path());
        for file in files_in(copy.path(), "pack", "") {
            match damage {
                0 => edit(&file, |bytes| bytes.truncate(10)),
                1 => edit(&file, |bytes| bytes.fill(0)),
                2 if file.to_str().unwrap().contains("idx") => fs::remove_file(file).unwrap(),
                _ => {}
            }
        }
        let (log, _) = open(copy.path());
        assert_eq!(files_in(copy.path(), "pack", ""), [] as [PathBuf; 0]);
        let packs = log.packs();
        packs.settle(&[]).unwrap();
        let segment = seal(&log, &records);
        let durable = packs.adopt(segment, &wanted([(1, &[4])])).unwrap();
        assert_eq!(durable, PackId(0), "the others take no numbers away");
    }

    packs.remove(&[first]);
    assert_eq!(files_in(directory.path(), "pack", "").len(), 2);
    assert!(load(&packs, first, 1, &[(4, 1)]).is_err());
    let segment = seal(&log, &records);
    let durable = packs.adopt(segment, &wanted([(1, &[4])])).unwrap();
    assert_eq!(durable, PackId(0));
    packs.remove(&[second, durable]);
    assert_eq!(files_in(directory.path(), "pack", ""), [] as [PathBuf; 0]);
}

#[test]
fn what_cannot_be_spilled_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let packs = log.packs();
    let record = message(&[(1, 5)], BODY);
    let in_the_way = packs.index_path(PackId(SPILLED));
    fs::create_dir(&in_the_way).unwrap();
    let error = packs.spill([spilled(&record)]).unwrap_err();
    assert!(matches!(error, PackError::Io { action: "write", .. }), "{error}");
    assert_eq!(files_in(directory.path(), "pack", ""), std::slice::from_ref(&in_the_way));
    fs::remove_dir(in_the_way).unwrap();
    let id = packs.spill([spilled(&record)]).unwrap();
    assert_eq!(own(&packs, id, 1, &[(5, 1)]), [5]);
}

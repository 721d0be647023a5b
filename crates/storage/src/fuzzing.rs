//! Files of a data directory that hold anything, for tests and for `fuzz/`. Checksums are mended
//! first, so that what they keep out is read too; what is read may be nonsense, but must be there.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use leveret_model::{Lsn, PackId, Position, QueueId};

use crate::pack::data;
use crate::pack::{Entries, Entry, Place, index};
use crate::salvage::{self, Piece};
use crate::{Packs, RealDisk, frame, recovery, segment};

const UUID: segment::Uuid = [7; 16];
const FIRST: Lsn = Lsn(0);
const PACK: PackId = PackId(1);
/// How much is loaded at a time, in bytes.
const LOAD_BYTES: usize = 4096;

/// Reads bytes as the frames of a segment: as a start of the broker does, and as a repair. `home`
/// is a directory that nothing else uses, the same each time or another.
///
/// # Panics
/// If the two do not read the same.
pub fn segment(home: &Path, bytes: &[u8]) {
    let header = segment::Header {
        epoch: 1,
        node: UUID,
        segment: UUID,
        first: FIRST,
        created_ms: 0,
        prev_crc: 0,
    };
    let mut file = header.encode();
    file.extend_from_slice(bytes);
    // The first byte says how many frames are whole.
    let whole = bytes.first().copied().unwrap_or(0);
    mend_frames(&mut file, &header, whole);
    let wal = home.join("wal");
    write(&segment::path(&wal, FIRST), &file);

    let mut replayed: Vec<(Lsn, Vec<u8>)> = Vec::new();
    let mut replay = |address, records: &[u8]| {
        replayed.push((address, records.to_vec()));
        Ok(())
    };
    let recovered = recovery::recover(&RealDisk, &wal, &mut replay);
    let mut saved: Vec<(Lsn, Vec<u8>)> = Vec::new();
    for segment in salvage::segments(home).expect("a directory") {
        let mut each = |piece: Piece<'_>| match piece {
            Piece::Frame(frame) if frame.records.is_empty() => {}
            Piece::Frame(frame) => saved.push((frame.address, frame.records.to_vec())),
            Piece::Damage(damage) => assert!(damage.start <= damage.end, "{damage}"),
        };
        salvage::read(&segment, None, &mut each).expect("a file");
    }
    // A repair goes on behind damage, and does not mind what a frame says of the one before.
    assert!(saved.starts_with(&replayed), "what is replayed is saved");
    if let Ok(recovered) = recovered {
        let end = segment::HEADER_BYTES as u64 + recovered.end.0;
        assert!(end <= (file.len() as u64).max(segment::HEADER_BYTES as u64), "it is there");
    }
}

/// Reads bytes as the index of a pack that has a few messages.
///
/// # Panics
/// If something is read that is not there.
pub fn pack_index(home: &Path, bytes: &[u8]) {
    let (data, places) = messages();
    let mut index = index_of(&places, &data);
    let (how, rest) = bytes.split_first().unwrap_or((&0, &[]));
    // All of it may be anything, or all but the head.
    index.truncate(if how % 2 == 0 { index::HEADER_BYTES } else { 0 });
    index.extend_from_slice(rest);
    mend_index(&mut index, how % 4 < 2);
    pack(home, &index, &data);
}

/// Reads bytes as the records of a pack, and as where its index says that they are.
///
/// # Panics
/// If something is read that is not there.
pub fn pack_data(home: &Path, bytes: &[u8]) {
    let (places, records) = bytes.split_at(bytes.len().min(64));
    let mut data = data::header(PACK, UUID);
    data.extend_from_slice(records);
    let mut entries = Vec::new();
    for (position, place) in places.as_chunks::<4>().0.iter().enumerate() {
        let [low, high, len, more] = place.map(u32::from);
        let offset = data::HEADER_BYTES as u32 + (low | high << 8) % 4096;
        let len = if more == 255 { u32::MAX - len } else { len | (more % 16) << 8 };
        let record = data.get(offset as usize..).and_then(|rest| rest.get(..len as usize));
        let crc = record.map_or(0, crc32c::crc32c);
        let position = Position(position as u64);
        entries.push(Entry { position, place: Place { offset, len, crc } });
    }
    let index = index_of(&vec![(QueueId(1), entries)], &data);
    pack(home, &index, &data);
}

/// Loads all that an index claims, and reads it as a repair does.
fn pack(home: &Path, index: &[u8], data: &[u8]) {
    let named = |kind: &str| home.join("pack").join(format!("{:020}.{kind}", PACK.0));
    write(&named("idx"), index);
    write(&named("pack"), data);
    // Which of the claims are believed, only they know.
    let saved = salvage::Pack::open(home, PACK).expect("files of this version");
    let packs = Packs::open(Arc::new(RealDisk), home).expect("a directory");
    let settled = packs.settle(&[PACK]).is_ok();
    let queues: Vec<_> = saved.queues().map(|(queue, _)| queue).collect();
    for queue in queues {
        let positions: Vec<_> = saved.positions(queue).collect();
        let mut found = Vec::new();
        saved.read(queue, positions.iter().copied(), &mut |position, message| {
            if let Ok(message) = message {
                let end = message.offset + message.bytes as u64;
                assert!(end <= data.len() as u64, "it is there");
                found.push(position);
            }
        });
        assert!(found.len() <= positions.len());
        if !positions.is_sorted_by(|one, next| one < next) {
            // Nobody writes such an index.
            continue;
        }
        // No message has the last position.
        for position in positions.iter().filter(|at| at.0 < u64::MAX).take(100) {
            let runs = [(*position, 1), (*position, u64::MAX)];
            for runs in [&runs[..1], &runs[..]] {
                let Ok(loaded) = packs.load(PACK, queue, runs, LOAD_BYTES) else { continue };
                assert!(settled, "only what fits together is loaded");
                assert_eq!(loaded.messages[0].0, *position);
                assert!(found.contains(position), "what is loaded is saved");
                assert!(loaded.chunk.content_len() <= data.len());
            }
        }
    }
}

/// A data file with a few messages, and where they are.
fn messages() -> (Vec<u8>, Entries) {
    let mut data = data::header(PACK, UUID);
    let mut queues: Entries = vec![(QueueId(1), Vec::new()), (QueueId(2), Vec::new())];
    for position in (0..8).map(Position) {
        let offset = data.len();
        let targets: Vec<_> = queues.iter().map(|(queue, _)| (*queue, position)).collect();
        let body = &[position.0 as u8; 40];
        let message =
            leveret_model::Message { envelope: b"\0\0", properties: b"", body, persistent: true };
        let origin = leveret_record::Origin::default();
        leveret_record::write_publish(&mut data, message, origin, &targets);
        let record = &data[offset..];
        let (len, crc) = (record.len() as u32, crc32c::crc32c(record));
        let place = Place { offset: offset as u32, len, crc };
        queues.iter_mut().for_each(|(_, entries)| entries.push(Entry { position, place }));
    }
    (data, queues)
}

fn index_of(entries: &Entries, data: &[u8]) -> Vec<u8> {
    let data_bytes = data.len() as u64;
    index::encode(&index::Header { pack: PACK, data: UUID, segment: None, data_bytes }, entries)
}

/// Gives an index checksums that are right, and with `tidy` sections that follow each other.
fn mend_index(index: &mut Vec<u8>, tidy: bool) {
    let least = index::HEADER_BYTES + index::CRC_BYTES;
    let Some(room) = index.len().checked_sub(least) else { return };
    let whole = index_of(&Vec::new(), &[]);
    index[..12].copy_from_slice(&whole[..12]);
    let sections = number(index, 12) as usize % (room / index::SECTION_BYTES + 1);
    index[12..16].copy_from_slice(&(sections as u32).to_le_bytes());
    if tidy {
        index[16..48].copy_from_slice(&whole[16..48]);
    }
    let directory_end = index::HEADER_BYTES + sections * index::SECTION_BYTES;
    let mut at = directory_end + index::CRC_BYTES;
    let mut all = 0_u64;
    for section in 0..sections {
        let head = index::HEADER_BYTES + section * index::SECTION_BYTES;
        let left = ((index.len() - at) / index::ENTRY_BYTES).min(2000) as u32;
        let count = number(index, head + 24) % (left + 1);
        let end = at + count as usize * index::ENTRY_BYTES;
        let crc = crc32c::crc32c(&index[at..end]);
        if tidy {
            index[head..head + 8].copy_from_slice(&(section as u64 / 2).to_le_bytes());
            index[head + 16..head + 24].copy_from_slice(&(at as u64).to_le_bytes());
            index[head + 24..head + 28].copy_from_slice(&count.to_le_bytes());
        }
        index[head + 28..head + 32].copy_from_slice(&crc.to_le_bytes());
        (at, all) = (end, all + u64::from(count));
    }
    if tidy {
        index[56..64].copy_from_slice(&all.to_le_bytes());
        index.truncate(at);
    }
    let crc = crc32c::crc32c(&index[..directory_end]);
    index[directory_end..directory_end + 4].copy_from_slice(&crc.to_le_bytes());
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(segment::array(bytes, at))
}

/// Makes frames of what lies where frames should, as far as they fit.
fn mend_frames(file: &mut [u8], segment: &segment::Header, whole: u8) {
    let mut at = segment::HEADER_BYTES;
    let mut prev_crc = 0;
    for _ in 0..whole % 16 {
        let Some(head) = file.get(at..).and_then(<[u8]>::first_chunk) else { return };
        let mut head: [u8; frame::HEADER_BYTES] = *head;
        head[36..40].copy_from_slice(&[0, 0, 1, 0]);
        let Some((mut header, _)) = frame::Header::decode(&head) else { return };
        header.len %= 512;
        header.first = Lsn((at - segment::HEADER_BYTES) as u64);
        header.epoch = segment.epoch;
        // Mostly sound.
        if header.prev_crc % 8 > 0 {
            header.prev_crc = prev_crc;
        }
        header.durable = Lsn(header.durable.0 % (header.first.0 + 2));
        let bytes = header.frame_bytes() as usize;
        let Some(frame) = file.get_mut(at..at + bytes) else { return };
        prev_crc = frame::finish(frame, &header, segment.seed());
        at += bytes;
    }
}

fn write(path: &Path, bytes: &[u8]) {
    let folder = path.parent().expect("a folder");
    fs::create_dir_all(folder).and_then(|()| fs::write(path, bytes)).expect("written");
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn any_file_can_be_read(bytes in vec(any::<u8>(), 0..2000)) {
            let home = tempfile::tempdir().unwrap();
            super::segment(home.path(), &bytes);
            super::pack_index(home.path(), &bytes);
            super::pack_data(home.path(), &bytes);
        }
    }
}

//! Loading messages.

use leveret_model::{Chunk, Position, QueueId};
use leveret_record::Origin;

use super::cache::OpenPack;
use super::{Entry, PackError};

/// Messages read from a pack.
#[derive(Debug)]
pub struct Loaded {
    /// Their content; it is noted whether they were dead-lettered.
    pub chunk: Chunk,
    /// One for each message of the chunk, in the same order.
    pub messages: Vec<(Position, Origin)>,
}

/// As [`super::Packs::load`].
pub(super) fn load(
    pack: &OpenPack,
    queue: QueueId,
    runs: &[(Position, u64)],
    bytes_max: usize,
) -> Result<Loaded, PackError> {
    let (entries, bytes) = choose(pack, queue, runs, bytes_max)?;
    // An index may claim more than there is, if it says of many messages that they lie in the same
    // place.
    let bytes = bytes.min(pack.data.bytes());
    let mut chunk = Chunk::with_capacity(bytes as usize);
    let mut messages = Vec::with_capacity(entries.len());
    pack.data.read(queue, &entries, |entry, publish, _| {
        let index = chunk.push(publish.message).map_err(|_| {
            let offset = u64::from(entry.place.offset);
            let what = "more than 4 GiB of messages at once";
            PackError::damaged(pack.data.path(), offset, what).of(queue, entry.position)
        })?;
        chunk.set_past(index, publish.origin.past);
        messages.push((entry.position, publish.origin));
        Ok(())
    })?;
    Ok(Loaded { chunk, messages })
}

/// The entries of the first messages of `runs`, as many as `bytes_max` allows but at least one;
/// and how many bytes of records that is.
fn choose(
    pack: &OpenPack,
    queue: QueueId,
    runs: &[(Position, u64)],
    bytes_max: usize,
) -> Result<(Vec<Entry>, u64), PackError> {
    let mut cursor = pack.index.cursor();
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let positions = runs.iter().flat_map(|(first, count)| {
        let end = first.0.saturating_add(*count);
        first.0..end
    });
    for position in positions {
        if bytes >= bytes_max as u64 && !entries.is_empty() {
            break;
        }
        let entry = cursor.find(queue, Position(position))?;
        let more = bytes + u64::from(entry.place.len);
        if more > bytes_max as u64 && !entries.is_empty() {
            break;
        }
        bytes = more;
        entries.push(entry);
    }
    Ok((entries, bytes))
}

//! Finding the records of messages where no index says where they are.

use leveret_model::limits::MESSAGE_BYTES_MAX;
use leveret_record::{Record, Records, Targets};

use super::Damage;
use crate::pack::data::{Data, HEADER_BYTES};

/// How much of a data file is looked at at once, in bytes.
const WINDOW_BYTES: u64 = 1024 * 1024;
/// No record is larger than a message and what is said of it.
const RECORD_BYTES_MAX: u64 = 2 * MESSAGE_BYTES_MAX;

/// Gives each record of a message to `add`, with where in the file it is.
pub(super) fn publishes(bytes: &[u8], offset: u64, add: &mut impl FnMut(u64, &[u8], Targets<'_>)) {
    let mut at = 0;
    while let Some((record, len)) = first_record(&bytes[at..]) {
        if let Record::Publish { targets, .. } = record {
            add(offset + at as u64, &bytes[at..at + len], targets);
        }
        at += len;
    }
}

/// The record that bytes begin with, and how many of them it takes.
fn first_record(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    use leveret_record::RecordError::{Malformed, Truncated, UnknownType};
    let mut records = Records::new(bytes);
    let (_, record) = records.next()?.ok()?;
    let len = match records.next() {
        None => bytes.len(),
        Some(Ok((next, _))) => next,
        Some(Err(Truncated { offset } | UnknownType { offset, .. } | Malformed { offset, .. })) => {
            offset
        }
    };
    Some((record, len))
}

/// Goes through a file of records back to back, without knowing where they begin.
pub(super) fn scan(
    data: &Data,
    add: &mut impl FnMut(u64, &[u8], Targets<'_>),
    damage: &mut Vec<Damage>,
) {
    let mut at = HEADER_BYTES as u64;
    let mut window = Vec::new();
    let mut lost: Option<u64> = None;
    let mut note = |start: u64, end: u64| {
        let what = "no record of a message can be read".to_owned();
        damage.push(Damage { file: data.path().to_owned(), start, end, what });
    };
    let mut want = WINDOW_BYTES;
    while at < data.bytes() {
        let len = (data.bytes() - at).min(want) as usize;
        window.resize(len, 0);
        data.read_leniently(&mut window, at);
        let mut used = 0;
        while used < len {
            let rest = &window[used..];
            let whole = first_record(rest).and_then(|(record, len)| match record {
                Record::Publish { targets, .. } if targets.len() > 0 => Some((targets, len)),
                _ => None,
            });
            if let Some((targets, len)) = whole {
                if let Some(start) = lost.take() {
                    note(start, at + used as u64);
                }
                add(at + used as u64, &rest[..len], targets);
                used += len;
                continue;
            }
            let more = at + (len as u64) < data.bytes();
            if lost.is_none() && more && (used > 0 || want < RECORD_BYTES_MAX) {
                // It may be cut off by the window only.
                break;
            }
            lost.get_or_insert(at + used as u64);
            used += 1;
        }
        want = if used == 0 { RECORD_BYTES_MAX } else { WINDOW_BYTES };
        at += used as u64;
    }
    if let Some(start) = lost {
        note(start, data.bytes());
    }
}

//! What disks, file systems and people do to files.

use crate::making::{Draw, Files};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// Damages files, and says how.
pub(crate) fn mutate(files: &mut Files, draw: &mut Draw<'_>) -> String {
    let name = pick(files, draw);
    match draw(13) {
        8 => {
            let other = pick(files, draw);
            let bytes = files[&name].clone();
            let swapped = files.insert(other.clone(), bytes).expect("it was there");
            files.insert(name.clone(), swapped);
            format!("{name} and {other} swapped")
        }
        9 => {
            files.remove(&name);
            format!("{name} removed")
        }
        10 => copy_file(files, &name, draw),
        11 | 12 => {
            let from = if draw(2) == 0 { name.clone() } else { pick(files, draw) };
            copy_sector(files, &from, &name, draw)
        }
        how => {
            let bytes = files.get_mut(&name).expect("it is there");
            let what = if bytes.is_empty() { grow(bytes, draw) } else { edit(bytes, how, draw) };
            format!("{name}: {what}")
        }
    }
}

/// Changes the bytes of a file, of which there are some.
fn edit(bytes: &mut Vec<u8>, how: usize, draw: &mut Draw<'_>) -> String {
    let len = bytes.len();
    let at = draw(len);
    match how {
        0 => flip(bytes, at, draw),
        1 => {
            // Where headers, directories and first frames are.
            let at = [0, PAGE][draw(2)] + at % 200;
            flip(bytes, at.min(len - 1), draw)
        }
        2 => {
            let end = (at + 1 + draw(64)).min(len);
            bytes[at..end].fill_with(|| draw(256) as u8);
            format!("bytes {at} to {end} overwritten")
        }
        3 => {
            let number = [0, 1, u32::MAX, i32::MAX as u32, len as u32][draw(5)];
            let (at, end) = (at / 4 * 4, (at / 4 * 4 + 4).min(len));
            bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            format!("{number} at byte {at}")
        }
        4 => {
            bytes.truncate(at);
            format!("cut off at byte {at}")
        }
        5 => grow(bytes, draw),
        _ => {
            let size = [SECTOR, PAGE][how % 2];
            let start = at / size * size;
            bytes[start..(start + size).min(len)].fill(0);
            format!("{size} zeros at byte {start}")
        }
    }
}

fn flip(bytes: &mut [u8], at: usize, draw: &mut Draw<'_>) -> String {
    bytes[at] ^= 1 << draw(8);
    format!("a bit at byte {at} flipped")
}

fn grow(bytes: &mut Vec<u8>, draw: &mut Draw<'_>) -> String {
    let more = 1 + draw(3 * PAGE);
    let junk: Vec<u8> = (0..16).map(|_| draw(256) as u8).collect();
    bytes.extend(junk.iter().cycle().take(more));
    format!("{more} bytes behind it")
}

/// Copies a file to a name that leveret knows.
fn copy_file(files: &mut Files, from: &str, draw: &mut Draw<'_>) -> String {
    let number = [0, 1, 3, 4096, draw(1 << 16) as u64, u64::MAX][draw(6)];
    let to = match draw(4) {
        0 => format!("wal/{number:020}.wal"),
        1 => format!("pack/{number:020}.pack"),
        2 => format!("pack/{number:020}.idx"),
        _ => {
            // A former segment may come back under the name it had.
            let first = files[from].get(48..56).and_then(|bytes| bytes.try_into().ok());
            format!("wal/{:020}.wal", u64::from_le_bytes(first.unwrap_or_default()))
        }
    };
    files.insert(to.clone(), files[from].clone());
    format!("{to} is a copy of {from}")
}

/// Writes a part of a file to another place, or to another file.
fn copy_sector(files: &mut Files, from: &str, to: &str, draw: &mut Draw<'_>) -> String {
    let mut sector = |bytes: &[u8]| draw(bytes.len().div_ceil(SECTOR)) * SECTOR;
    let (source, target) = (sector(&files[from]), sector(&files[to]));
    let copied: Vec<u8> = files[from][source..].iter().copied().take(SECTOR).collect();
    let there = files.get_mut(to).into_iter().flat_map(|bytes| &mut bytes[target..]);
    there.zip(copied).for_each(|(byte, copied)| *byte = copied);
    format!("{to}: the sector at byte {target} is that at byte {source} of {from}")
}

fn pick(files: &Files, draw: &mut Draw<'_>) -> String {
    files.keys().nth(draw(files.len())).expect("one of them").clone()
}

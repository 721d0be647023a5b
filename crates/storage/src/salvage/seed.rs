//! The seed of a segment whose header is lost, from its frames: a checksum can be run backwards
//! over the bytes it was made of, and what two frames say independently is no accident.

use std::collections::HashSet;
use std::io;

use leveret_model::Lsn;

use crate::scan::Scan;

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The seed and the epoch of the segment from `first` on.
pub(super) fn find(scan: &mut Scan, first: Lsn) -> io::Result<Option<(u32, u32)>> {
    let table = table();
    let mut known = HashSet::new();
    let mut at = first;
    while let Some((header, crc)) = scan.likely(at)? {
        at = header.first.advance(8);
        let Some(bytes) = scan.whole(&header)? else { continue };
        let Some(content) = bytes.get(4..) else { continue };
        let found = (undo(crc, content, &table), header.epoch);
        if !known.insert(found) {
            return Ok(Some(found));
        }
        at = header.end();
    }
    Ok(None)
}

/// What a checksum began from that became `crc` over these bytes.
fn undo(crc: u32, bytes: &[u8], table: &[u32; 256]) -> u32 {
    let mut by_top = [0; 256];
    for (index, entry) in (0_u32..).zip(table) {
        by_top[(entry >> 24) as usize] = index;
    }
    let mut state = !crc;
    for &byte in bytes.iter().rev() {
        let index = by_top[(state >> 24) as usize];
        state = ((state ^ table[index as usize]) << 8) | (index ^ u32::from(byte));
    }
    !state
}

fn table() -> [u32; 256] {
    let mut table = [0; 256];
    for (index, entry) in (0_u32..).zip(&mut table) {
        *entry =
            (0..8).fold(
                index,
                |state, _| {
                    if state & 1 == 1 { (state >> 1) ^ POLYNOMIAL } else { state >> 1 }
                },
            );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_runs_backwards() {
        let bytes: Vec<u8> = (0..1000).map(|n| (n * 7) as u8).collect();
        for seed in [0, 1, 0xdead_beef, u32::MAX] {
            for len in [0, 1, 8, 1000] {
                let crc = crc32c::crc32c_append(seed, &bytes[..len]);
                assert_eq!(undo(crc, &bytes[..len], &table()), seed);
            }
        }
    }
}

//! Chance that can be had again: by `LEVERET_FAULT_SEED`.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::Range;

/// Numbers that follow from a seed, which is printed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new() -> Chance {
        let given = std::env::var("LEVERET_FAULT_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("LEVERET_FAULT_SEED={seed}");
        Chance(seed)
    }

    /// A number from the range.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (mixed ^ (mixed >> 31)) % (range.end - range.start)
    }
}

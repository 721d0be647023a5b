//! Chance, and message bodies that vouch for themselves.

/// A small generator of pseudo-random numbers (splitmix64): the same seed, the same numbers.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Which message it is: the so manieth of that producer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Id {
    pub(super) producer: usize,
    pub(super) number: usize,
}

/// The body of a message: its id, then bytes that follow from the id and the seed of the run.
/// So a body can be checked to the last byte, and one from elsewhere does not pass.
pub(super) fn body(id: Id, seed: u64) -> Vec<u8> {
    let producer = (id.producer as u64) << 48;
    let mut random = Random::new(seed ^ producer ^ id.number as u64);
    let length = match random.below(64) {
        0 => 100_000 + random.below(100_000),
        1..=8 => random.below(10_000),
        _ => random.below(300),
    };
    let mut body = Vec::with_capacity(16 + length as usize + 8);
    body.extend_from_slice(&(id.producer as u64).to_le_bytes());
    body.extend_from_slice(&(id.number as u64).to_le_bytes());
    while body.len() < 16 + length as usize {
        body.extend_from_slice(&random.next().to_le_bytes());
    }
    body
}

/// The id in a body, or none if there is a byte wrong in it.
pub(super) fn id_of(found: &[u8], seed: u64) -> Option<Id> {
    let word = |at: usize| {
        let bytes = found.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let id = Id { producer: word(0)?, number: word(8)? };
    // Nonsense must not make us build a huge body.
    (id.producer < 64 && body(id, seed) == found).then_some(id)
}

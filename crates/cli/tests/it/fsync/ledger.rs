//! What was sent, what was confirmed, and what is there.

use std::collections::{BTreeMap, BTreeSet};

/// One publisher's messages: which of them were confirmed. They are numbered from 0 on.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    pub(super) publisher: usize,
    pub(super) count: u64,
    pub(super) confirmed: BTreeSet<u64>,
}

/// Publishers from this number on send large messages.
pub(super) const LARGE: usize = 1_000;

/// The body of a message.
pub(super) fn body(publisher: usize, number: u64) -> Vec<u8> {
    let text = format!("message {number} of publisher {publisher}.");
    // Of many lengths, and long enough to be torn.
    let times = if publisher >= LARGE { 2_000 } else { 1 + number as usize % 40 };
    text.repeat(times).into_bytes()
}

/// How many messages are there, if everything confirmed is, each once and in order, and nothing
/// else but what was sent next.
pub(super) fn compare(sent: &[Sent], found: &[Vec<u8>]) -> Result<usize, String> {
    let mut bodies = BTreeMap::new();
    for one in sent {
        bodies.extend((0..one.count).map(|n| (body(one.publisher, n), (one.publisher, n))));
    }
    let mut next: BTreeMap<usize, u64> = BTreeMap::new();
    for found in found {
        let Some((publisher, number)) = bodies.get(found) else {
            return Err(format!("never sent: {}", String::from_utf8_lossy(found)));
        };
        let next = next.entry(*publisher).or_default();
        if next != number {
            return Err(format!("publisher {publisher}: {number} where {next} should be"));
        }
        *next += 1;
    }
    for one in sent {
        let there = next.get(&one.publisher).copied().unwrap_or_default();
        if let Some(lost) = one.confirmed.range(there..).next() {
            return Err(format!("publisher {}: {lost} was confirmed and is lost", one.publisher));
        }
    }
    Ok(found.len())
}

#[test]
fn the_ledger_sees_what_is_lost_or_made_up() {
    let confirmed = BTreeSet::from([0, 1]);
    let sent = [Sent { publisher: 7, count: 4, confirmed }];
    let there = |numbers: &[u64]| numbers.iter().map(|n| body(7, *n)).collect::<Vec<_>>();
    assert_eq!(compare(&sent, &there(&[0, 1])), Ok(2));
    assert_eq!(compare(&sent, &there(&[0, 1, 2, 3])), Ok(4));
    for wrong in [&[0][..], &[], &[1, 0], &[0, 1, 1], &[0, 1, 3], &[0, 1, 2, 3, 4]] {
        assert!(compare(&sent, &there(wrong)).is_err(), "{wrong:?}");
    }
    let mut torn = there(&[0, 1]);
    torn[1].pop();
    assert!(compare(&sent, &torn).is_err());
}

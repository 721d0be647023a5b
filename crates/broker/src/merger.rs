//! Makes one pack of several that have lost most of what they held, so that the disk gets its
//! space back from queues of which a few messages stay.
//!
//! A pack is a file: it goes when its last message goes. Merging copies what is live, so it waits
//! until more is dead than alive in all packs together: copying then costs less than was consumed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leveret_engine::PackUse;
use leveret_model::PackId;
use leveret_storage::{PackError, PackSize, Packs};

use crate::broker::Shared;
use crate::core::Core;

/// How much must be dead at least, in segments. A few packs are not worth the work.
const DEAD_SEGMENTS_MIN: u64 = 2;
/// How much is merged at a time at most, in segments.
const MERGED_SEGMENTS_MAX: u64 = 4;

pub(crate) struct Merger {
    packs: Packs,
    segment_bytes: u64,
    /// Of the packs there are. They do not change.
    sizes: BTreeMap<PackId, PackSize>,
    /// Packs of which something cannot be read.
    left_alone: BTreeSet<PackId>,
}

/// How many bytes of a pack are live, by the number of messages, and how many are not.
#[derive(Debug, Clone, Copy)]
struct Share {
    pack: PackId,
    live: u64,
    dead: u64,
}

impl Merger {
    pub(crate) fn new(packs: Packs, segment_bytes: u64) -> Self {
        let (sizes, left_alone) = (BTreeMap::new(), BTreeSet::new());
        Merger { packs, segment_bytes, sizes, left_alone }
    }

    /// Merges packs, if that is due.
    pub(crate) fn merge_next(&mut self, broker: &Arc<Shared>) -> Result<bool, PackError> {
        match self.merge(broker) {
            // Its last message went meanwhile.
            Err(error) if error.is_gone() => Ok(false),
            result => result,
        }
    }

    fn merge(&mut self, broker: &Arc<Shared>) -> Result<bool, PackError> {
        let mut uses = broker.combiner.with(|core| core.packs_to_merge());
        uses.retain(|it| !self.left_alone.contains(&it.pack));
        let shares = self.shares(&uses);
        let chosen = choose(&shares, self.segment_bytes);
        if chosen.is_empty() {
            return Ok(false);
        }
        let live = broker.combiner.with(|core| core.engine.survey_packs(&chosen));
        let merged = self.packs.merge(&live).inspect_err(|error| {
            // Or it would be tried for ever.
            if !error.passes() {
                self.left_alone.extend(&chosen);
            }
        })?;
        broker.combiner.with(|core| core.merged(merged, &chosen));
        Ok(true)
    }

    /// Of the packs whose sizes can be read.
    fn shares(&mut self, uses: &[PackUse]) -> Vec<Share> {
        let known = std::mem::take(&mut self.sizes);
        let mut shares = Vec::with_capacity(uses.len());
        for &PackUse { pack, live, .. } in uses {
            let size = match known.get(&pack) {
                Some(size) => *size,
                None => match self.packs.size(pack) {
                    Ok(size) => size,
                    // Its last message went meanwhile, or its disk is away.
                    Err(error) if error.is_gone() => continue,
                    Err(error) => {
                        tracing::error!(pack = pack.0, %error, "a pack will not be merged");
                        self.left_alone.insert(pack);
                        continue;
                    }
                },
            };
            self.sizes.insert(pack, size);
            let PackSize { messages, bytes } = size;
            let share = u128::from(bytes) * u128::from(live) / u128::from(messages.max(1));
            let live = (share as u64).min(bytes);
            shares.push(Share { pack, live, dead: bytes - live });
        }
        shares
    }
}

/// Which packs should become one: half dead ones, the oldest first, once it is worth it.
fn choose(shares: &[Share], segment_bytes: u64) -> Vec<PackId> {
    let sum = |part: fn(&Share) -> u64| shares.iter().map(part).sum::<u64>();
    let dead = sum(|share| share.dead);
    if dead < DEAD_SEGMENTS_MIN * segment_bytes || dead < sum(|share| share.live) {
        return Vec::new();
    }
    let mut half_dead: Vec<_> = shares.iter().filter(|share| share.dead >= share.live).collect();
    half_dead.sort_unstable_by_key(|share| share.pack);
    let mut room = MERGED_SEGMENTS_MAX * segment_bytes;
    let fits = |share: &&&Share| {
        let fits = share.live <= room;
        room -= if fits { share.live } else { 0 };
        fits
    };
    half_dead.iter().filter(fits).map(|share| share.pack).collect()
}

impl Core {
    /// The packs that may be merged. Others may still be found in the log by a restart, which
    /// would have their messages twice then.
    fn packs_to_merge(&self) -> Vec<PackUse> {
        let Some(log) = self.log() else { return Vec::new() };
        let oldest = log.oldest();
        self.engine.pack_uses().filter(|pack| pack.end <= oldest).collect()
    }

    /// What is live of some packs is in another one.
    fn merged(&mut self, merged: PackId, packs: &[PackId]) {
        let mut used = false;
        self.turn(&mut Vec::new(), |engine, _, _, effects| {
            used = engine.merge(merged, packs, effects);
        });
        if let Some(log) = self.log().filter(|_| !used) {
            log.remove_packs(vec![merged]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// Packs with so much that is live and dead, in mebibytes, chosen among with segments of 32.
    fn chosen(packs: &[(u64, u64)]) -> Vec<u64> {
        let shares: Vec<Share> = (1..)
            .zip(packs)
            .map(|(id, (live, dead))| Share {
                pack: PackId(id),
                live: live * MIB,
                dead: dead * MIB,
            })
            .collect();
        choose(&shares, 32 * MIB).into_iter().map(|pack| pack.0).collect()
    }

    #[test]
    fn half_dead_packs_are_merged_when_more_is_dead_than_alive() {
        assert_eq!(chosen(&[(1, 31), (1, 31), (1, 31)]), [1, 2, 3]);
        assert_eq!(chosen(&[(1, 31), (32, 0), (1, 31), (10, 22)]), [1, 3, 4]);
    }

    #[test]
    fn what_is_mostly_alive_is_not_copied() {
        assert!(chosen(&[]).is_empty());
        assert!(chosen(&[(1, 31), (32, 0), (32, 0), (32, 0)]).is_empty());
    }

    #[test]
    fn one_that_is_too_large_keeps_no_other_from_being_merged() {
        let small = (1, 31);
        assert_eq!(chosen(&[(129, 130), small, small, small]), [2, 3, 4]);
        assert_eq!(chosen(&[small, (128, 130), small, small]), [1, 3, 4]);
    }

    #[test]
    fn a_few_packs_are_not_worth_it() {
        assert!(chosen(&[(1, 31)]).is_empty());
        assert_eq!(chosen(&[(1, 31), (0, 33)]), [1, 2]);
    }

    #[test]
    fn what_is_merged_at_a_time_is_bounded() {
        let eight = [(16, 16); 8];
        assert_eq!(chosen(&eight), [1, 2, 3, 4, 5, 6, 7, 8]);
        let ten = [(16, 16); 10];
        assert_eq!(chosen(&ten), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}

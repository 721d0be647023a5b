//! Making one pack of several that have lost most of what they held.

use std::collections::BTreeMap;

use leveret_model::{Lsn, PackId, Position, PositionSet, QueueId};
use leveret_record::PackDefinition;

use crate::effect::Effects;
use crate::engine::Engine;
use crate::packing::definition_of;

/// What is needed of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackUse {
    /// The pack.
    pub pack: PackId,
    /// How many messages; one that is in several queues counts for each.
    pub live: u64,
    /// Where the part of the log ended that it was made of. As long as a restart may begin before
    /// that, the pack must not be merged: the restart would have its messages twice.
    pub end: Lsn,
}

impl Engine {
    /// The packs there are.
    pub fn pack_uses(&self) -> impl Iterator<Item = PackUse> {
        self.chunks.packs.uses()
    }

    /// What is live of some packs: positions by queue, in order.
    #[must_use]
    pub fn survey_packs(
        &self,
        packs: &[PackId],
    ) -> Vec<(PackId, BTreeMap<QueueId, Vec<PositionSet>>)> {
        let mut found: BTreeMap<PackId, BTreeMap<QueueId, Vec<Position>>> = BTreeMap::new();
        for queue in self.queues.values() {
            for (_, extent) in queue.extents().filter(|(_, it)| packs.contains(&it.pack)) {
                let own = found.entry(extent.pack).or_default().entry(queue.id).or_default();
                let runs = extent.live.runs(Position(0));
                own.extend(runs.flat_map(|(first, count)| first.0..first.0 + count).map(Position));
            }
        }
        let sets = |mut positions: Vec<Position>| {
            // The lanes of a queue share its positions.
            positions.sort_unstable();
            PositionSet::of_sorted(positions)
        };
        let queues = |own: BTreeMap<_, _>| own.into_iter().map(|(id, own)| (id, sets(own)));
        found.into_iter().map(|(pack, own)| (pack, queues(own).collect())).collect()
    }

    /// What is live of some packs is in this one from now on, which holds at least that. `effects`
    /// are as for a step. `false` if nothing is live any more: the engine has no use for the pack.
    pub fn merge(&mut self, merged: PackId, packs: &[PackId], effects: &mut Effects) -> bool {
        let replaces: Vec<PackId> =
            packs.iter().copied().filter(|pack| self.chunks.packs.replace(*pack)).collect();
        if replaces.is_empty() {
            return false;
        }
        self.chunks.packs.mention(merged, Lsn(0));
        let definition = PackDefinition { id: merged, end: Lsn(0), replaces };
        leveret_record::write_pack(&mut effects.log, &definition);
        effects.records += 1;
        for queue in self.queues.values_mut() {
            let id = queue.id;
            for (index, lane) in queue.lanes().iter_mut().enumerate() {
                let Some(cold) = &mut lane.cold else { continue };
                for extent in cold.merge(&definition.replaces, merged) {
                    self.chunks.packs.gain(merged, extent.live.len());
                    let definition = definition_of(id, index, extent);
                    leveret_record::write_extent(&mut effects.log, &definition);
                    effects.records += 1;
                }
            }
        }
        effects.emptied.extend(self.chunks.packs.take_emptied());
        true
    }
}

//! What packs hold of a queue: messages that have left the log, and most of them memory too.
//!
//! In a lane of a queue, what packs hold lies in the order of positions: first what is out on
//! leases or was given back, then what was loaded, then what is *cold* (only on disk), then what
//! is still in memory since it was published. So one pair of positions says which are cold.
//!
//! Transient messages that were spilled lie in the same order among themselves, in a [`Cold`] of
//! their own: their packs are written at other times than those of durable messages between them.

use std::collections::VecDeque;

use leveret_model::{PackId, Position, PositionSet, Time};

use crate::packs::Packs;
use crate::queue::{Entry, Head, Lane};

/// Most messages loaded at a time.
const LOAD_MESSAGES_MAX: u64 = 1024;

/// The messages of one lane that are in packs: the durable ones, or the transient ones.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    /// In the order of their positions; none is empty.
    pub(crate) extents: VecDeque<Extent>,
    /// Read from packs, in order, all before `from`.
    loaded: VecDeque<Entry>,
    /// What `loaded` holds, in bytes.
    loaded_bytes: usize,
    /// Messages in extents at this position and behind it, but before `until`, are cold.
    from: Position,
    until: Position,
    /// How many that are.
    count: u64,
    /// Messages are being loaded.
    pub(crate) loading: bool,
    /// How many mentions of packs there had been in the log when the last of these was added, where
    /// the log is replayed.
    mentions: u64,
}

/// Messages of one queue and priority in one pack, those in memory included.
#[derive(Debug)]
pub(crate) struct Extent {
    pub(crate) pack: PackId,
    /// The positions that are not settled.
    pub(crate) live: PositionSet,
    /// The earliest moment at which one of them is too old.
    pub(crate) expires: Time,
    /// How many bytes their bodies have; an estimate if some were settled before a restart.
    pub(crate) body_bytes: u64,
    /// Which mention of the pack in the log it comes from, where the log is replayed.
    pub(crate) mention: u64,
}

/// A message that a pack holds.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) position: Position,
    pub(crate) expires: Time,
    pub(crate) body_bytes: u64,
}

/// Messages that were only on disk and are gone.
#[derive(Debug, Default)]
pub(crate) struct Purged {
    /// Which packs have lost how many.
    pub(crate) lost: Vec<(PackId, u64)>,
    /// The runs of their positions, of durable ones.
    pub(crate) runs: Vec<(Position, u64)>,
}

/// What packs hold of a lane.
impl Lane {
    /// Whether packs hold anything of it.
    #[inline]
    pub(crate) fn has_packs(&self) -> bool {
        self.cold.is_some() || self.spilled.is_some()
    }

    /// Where those are in packs that are durable, or that are not.
    pub(crate) fn cold_of(&mut self, durable: bool) -> &mut Option<Box<Cold>> {
        if durable { &mut self.cold } else { &mut self.spilled }
    }

    pub(crate) fn colds(&self) -> impl Iterator<Item = &Cold> {
        self.cold.iter().chain(&self.spilled).map(|cold| &**cold)
    }

    pub(crate) fn colds_mut(&mut self) -> impl Iterator<Item = &mut Cold> {
        self.cold.iter_mut().chain(&mut self.spilled).map(|cold| &mut **cold)
    }

    /// Which of those that are only on disk comes first: whether it is durable, and the cold.
    pub(crate) fn next_cold(&mut self) -> Option<(bool, &mut Cold)> {
        let colds = [(true, &mut self.cold), (false, &mut self.spilled)].into_iter();
        let colds = colds.filter_map(|(durable, cold)| Some((durable, &mut **cold.as_mut()?)));
        let some = colds.filter(|(_, cold)| cold.count() > 0);
        some.min_by_key(|(_, cold)| cold.first())
    }

    /// Forgets about packs when none holds anything of it.
    pub(crate) fn tidy(&mut self) {
        for cold in [&mut self.cold, &mut self.spilled] {
            cold.take_if(|cold| cold.is_empty());
        }
    }
}

impl Extent {
    /// Messages of one lane that a new pack holds, in order of position.
    pub(crate) fn of_messages(pack: PackId, mut found: &[Found]) -> Vec<Extent> {
        let sets = PositionSet::of_sorted(found.iter().map(|each| each.position)).into_iter();
        let extents = sets.map(|live| {
            let count = found.partition_point(|each| Some(each.position) <= live.last());
            let (own, others) = found.split_at(count);
            found = others;
            Extent {
                pack,
                expires: own.iter().map(|each| each.expires).min().unwrap_or(Time::NEVER),
                body_bytes: own.iter().map(|each| each.body_bytes).sum(),
                mention: 0,
                live,
            }
        });
        extents.collect()
    }

    /// The extent as several, of the same pack: one for each run of positions that are close to
    /// each other. They share the bytes of the bodies by how many messages they have.
    pub(crate) fn divided(
        self,
        runs: impl IntoIterator<Item = (Position, u64)>,
    ) -> impl Iterator<Item = Extent> {
        let Extent { pack, expires, body_bytes, mention, .. } = self;
        let sets = PositionSet::of_runs(runs);
        let all = sets.iter().map(PositionSet::len).sum::<u64>().max(1);
        sets.into_iter().map(move |live| {
            let share = u128::from(body_bytes) * u128::from(live.len()) / u128::from(all);
            Extent { pack, expires, body_bytes: share as u64, mention, live }
        })
    }

    /// Neighbours of one pack, which are taken out, as few extents as can be.
    fn join(neighbours: &mut Vec<Extent>) -> Vec<Extent> {
        let neighbours = std::mem::take(neighbours);
        let Some(first) = neighbours.first() else { return Vec::new() };
        let all = Extent {
            pack: first.pack,
            live: PositionSet::default(),
            expires: neighbours.iter().map(|it| it.expires).min().unwrap_or(Time::NEVER),
            body_bytes: neighbours.iter().map(|it| it.body_bytes).sum(),
            mention: first.mention,
        };
        let runs = neighbours.iter().flat_map(|it| it.live.runs(Position(0)));
        all.divided(runs).collect()
    }
}

impl Cold {
    /// How many messages are only on disk.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Whether nothing is left of it, and nothing comes that was meant for it.
    pub(crate) fn is_empty(&self) -> bool {
        self.extents.is_empty() && self.loaded.is_empty() && !self.loading
    }

    /// The first message, and its position.
    pub(crate) fn head(&self) -> Option<(Position, Head<'_>)> {
        let loaded = self.front().map(|entry| (entry.position, Head::Here(entry)));
        loaded.or_else(|| Some((self.first()?, Head::OnDisk(self))))
    }

    /// The first message that is only on disk.
    pub(crate) fn first(&self) -> Option<Position> {
        (self.count > 0).then_some(self.from)
    }

    /// When the first one may be too old.
    pub(crate) fn expires(&self) -> Time {
        let next = self.first().and_then(|first| self.find(first));
        next.map_or(Time::NEVER, |index| self.extents[index].expires)
    }

    /// Adds an extent, where its positions belong.
    pub(crate) fn add(&mut self, extent: Extent) {
        let at = self.extents.partition_point(|each| each.live.first() < extent.live.first());
        self.extents.insert(at, extent);
    }

    /// The pack that holds a live message at this position.
    pub(crate) fn pack_of(&self, position: Position) -> Option<PackId> {
        let extent = &self.extents[self.find(position)?];
        extent.live.contains(position).then_some(extent.pack)
    }

    /// What is in some packs is in another one from now on. Gives what is in that.
    pub(crate) fn merge(
        &mut self,
        packs: &[PackId],
        merged: PackId,
    ) -> impl Iterator<Item = &Extent> {
        if self.extents.iter().any(|extent| packs.contains(&extent.pack)) {
            let mut neighbours = Vec::new();
            for mut extent in std::mem::take(&mut self.extents) {
                if packs.contains(&extent.pack) {
                    extent.pack = merged;
                    neighbours.push(extent);
                } else {
                    self.extents.extend(Extent::join(&mut neighbours));
                    self.extents.push_back(extent);
                }
            }
            self.extents.extend(Extent::join(&mut neighbours));
        }
        self.extents.iter().filter(move |extent| extent.pack == merged)
    }

    /// The highest position in a pack.
    pub(crate) fn last(&self) -> Option<Position> {
        self.extents.back()?.live.last()
    }

    /// Ends a message that is in memory; says which pack has lost it.
    pub(crate) fn settle(&mut self, position: Position, body_bytes: u64) -> Option<PackId> {
        let index = self.find(position)?;
        let extent = &mut self.extents[index];
        if !extent.live.remove(position) {
            return None;
        }
        extent.body_bytes = extent.body_bytes.saturating_sub(body_bytes);
        let pack = extent.pack;
        if extent.live.is_empty() {
            self.extents.remove(index);
        }
        Some(pack)
    }

    /// Takes out what the log says is settled, before anything is in memory.
    pub(crate) fn forget(&mut self, first: Position, count: u64) -> u64 {
        let end = Position(first.0.saturating_add(count));
        let (mut gone, mut any_empty) = (0, false);
        let start = self.find(first).unwrap_or(0);
        let mut visited = start..start;
        for extent in self.extents.range_mut(start..) {
            visited.end += 1;
            let before = extent.live.len();
            while let Some(next) = extent.live.next(first).filter(|next| *next < end) {
                extent.live.remove(next);
            }
            let after = extent.live.len();
            gone += before - after;
            if before > 0 {
                let share = u128::from(extent.body_bytes) * u128::from(after) / u128::from(before);
                extent.body_bytes = share as u64;
            }
            any_empty |= after == 0;
            if extent.live.first().is_some_and(|first| first >= end) {
                break;
            }
        }
        if any_empty {
            // There may be very many others. Of these only the first and the last may stay.
            let visited: Vec<Extent> = self.extents.drain(visited).collect();
            for extent in visited.into_iter().rev().filter(|extent| !extent.live.is_empty()) {
                self.extents.insert(start, extent);
            }
        }
        gone
    }

    /// Takes out what the log has said anew since, where it is replayed: once for all packs that it
    /// has mentioned in the meantime.
    pub(crate) fn retain_current(&mut self, packs: &Packs) {
        if std::mem::replace(&mut self.mentions, packs.mentions()) != packs.mentions() {
            self.extents.retain(|extent| packs.mentioned(extent.pack) == Some(extent.mention));
        }
    }

    /// Everything in the extents is cold.
    pub(crate) fn chill(&mut self) {
        self.count = self.extents.iter().map(|extent| extent.live.len()).sum();
        let bounds = self.extents.front().and_then(|it| it.live.first()).zip(self.last());
        (self.from, self.until) = bounds.map_or_else(Default::default, |(a, b)| (a, b.next()));
    }

    /// A message that was in memory is only on disk from now on; it is behind all others that are.
    pub(crate) fn evict(&mut self, position: Position) {
        if self.count == 0 {
            self.from = position;
        }
        debug_assert!(self.count == 0 || position >= self.until, "messages go in order");
        self.until = position.next();
        self.count += 1;
    }

    /// The first message that was loaded.
    pub(crate) fn front(&self) -> Option<&Entry> {
        self.loaded.front()
    }

    /// Takes the first message that was loaded.
    pub(crate) fn take(&mut self) -> Option<Entry> {
        let entry = self.loaded.pop_front()?;
        self.loaded_bytes -= entry.bytes as usize;
        Some(entry)
    }

    /// Adds a message that has come into memory.
    pub(crate) fn put(&mut self, entry: Entry) {
        self.loaded_bytes += entry.bytes as usize;
        self.loaded.push_back(entry);
    }

    /// What was loaded, in bytes.
    pub(crate) fn loaded_bytes(&self) -> usize {
        self.loaded_bytes
    }

    /// All that was loaded, in order.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &Entry> {
        self.loaded.iter()
    }

    /// Takes out all that was loaded.
    pub(crate) fn drain(&mut self) -> VecDeque<Entry> {
        self.loaded_bytes = 0;
        std::mem::take(&mut self.loaded)
    }

    /// Has what was loaded only on disk again, if nothing is being loaded.
    pub(crate) fn unload(&mut self) -> VecDeque<Entry> {
        if self.loading {
            return VecDeque::new();
        }
        if let (Some(first), Some(last)) = (self.loaded.front(), self.loaded.back()) {
            if self.count == 0 {
                self.until = last.position.next();
            }
            self.from = first.position;
            self.count += self.loaded.len() as u64;
        }
        self.drain()
    }

    /// The next messages to load: their pack and runs of their positions.
    pub(crate) fn next_load(&self) -> Option<(PackId, Vec<(Position, u64)>)> {
        let extent = &self.extents[self.find(self.first()?)?];
        let mut left = LOAD_MESSAGES_MAX;
        let mut runs = Vec::new();
        for (first, count) in extent.live.runs(self.from) {
            let before = self.until.0.saturating_sub(first.0);
            let count = count.min(before).min(left);
            if count == 0 {
                break;
            }
            left -= count;
            runs.push((first, count));
        }
        Some((extent.pack, runs))
    }

    /// The message at a position comes into memory, or is passed over; those before it are done
    /// with. `false` if it is not cold any more.
    pub(crate) fn pass(&mut self, position: Position) -> bool {
        let cold = self.count > 0
            && position >= self.from
            && position < self.until
            && self.find(position).is_some_and(|at| self.extents[at].live.contains(position));
        if cold {
            self.count -= 1;
            self.from = position.next();
            if self.count > 0
                && let Some(next) = self.next_live(self.from)
            {
                self.from = next;
            }
        }
        cold
    }

    /// Takes out every message that is only on disk.
    pub(crate) fn purge(&mut self, purged: &mut Purged) {
        if self.count == 0 {
            return;
        }
        for extent in &mut self.extents {
            let mut count = 0;
            let cold = extent.live.runs(self.from).take_while(|(first, _)| *first < self.until);
            let cold: Vec<_> = cold.collect();
            for (first, run) in cold {
                let run = run.min(self.until.0 - first.0);
                (first.0..first.0 + run).for_each(|at| {
                    extent.live.remove(Position(at));
                });
                purged.runs.push((first, run));
                count += run;
            }
            if count > 0 {
                purged.lost.push((extent.pack, count));
                // What is left of it is in memory and counts for itself.
                extent.body_bytes = 0;
            }
        }
        self.extents.retain(|extent| !extent.live.is_empty());
        self.count = 0;
    }

    /// The positions of what is only on disk.
    #[cfg(test)]
    pub(crate) fn on_disk(&self) -> Vec<(PackId, Position)> {
        let extents = self.extents.iter().filter(|_| self.count > 0);
        let all = extents.flat_map(|extent| {
            let runs = extent.live.runs(self.from);
            let all = runs.flat_map(|(first, count)| first.0..first.0 + count);
            all.map(|at| (extent.pack, Position(at)))
        });
        let positions: Vec<_> = all.filter(|(_, at)| *at < self.until).collect();
        assert_eq!(positions.len() as u64, self.count, "what is counted is on disk");
        positions
    }

    /// The extent that holds a position, if any does.
    fn find(&self, position: Position) -> Option<usize> {
        // Most often it is the first.
        let after =
            self.extents.partition_point(|each| each.live.first().is_some_and(|it| it <= position));
        after.checked_sub(1)
    }

    fn next_live(&self, from: Position) -> Option<Position> {
        let start = self.find(from).unwrap_or(0);
        self.extents.range(start..).find_map(|extent| extent.live.next(from))
    }
}

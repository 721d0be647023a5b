//! Messages on their way from the log into packs, out of memory, and back.
//!
//! The engine reads and writes no pack. The runtime asks which messages of a sealed part of the log
//! are live ([`Engine::survey`]), writes them into a pack, and says so ([`Engine::adopt`]). From
//! then on they need not be in memory. When one is needed that is not, the engine names it
//! ([`Load`]), and the runtime brings it ([`Loaded`]).

use std::collections::BTreeMap;
use std::ops::Range;

use leveret_model::{Lsn, PackId, Position, PositionSet, QueueId, Time};
use leveret_record::{ExtentDefinition, Origin, PackDefinition};

use crate::chunks::Home;
use crate::cold::{Extent, Found};
use crate::effect::Effects;
use crate::engine::Engine;
use crate::queue::{Entry, Head, Lane, OVERHEAD_BYTES, Queue, mark_dirty};
use crate::recovery::expires;
use crate::step::Step;

/// How much is loaded at a time for a queue that is being consumed, in bytes.
const LOAD_BYTES: usize = 512 * 1024;
/// The same, when messages take as much memory as they should.
const TIGHT_LOAD_BYTES: usize = 32 * 1024;
/// How much of a queue that is being consumed stays in memory when the rest is evicted, in bytes.
pub(crate) const WINDOW_BYTES: u64 = 64 * 1024;

/// What is live of a part of the log.
#[derive(Debug, Default)]
pub struct Survey {
    /// Positions by queue, in order.
    pub live: BTreeMap<QueueId, Vec<PositionSet>>,
    /// How many bytes of content that is; what goes to several queues counts once.
    pub bytes: u64,
}

/// Messages the engine needs from a pack.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Their queue.
    pub queue: QueueId,
    /// Their lane in the queue.
    pub lane: usize,
    /// Whether they are durable, and the log knows of the pack.
    pub durable: bool,
    /// The pack.
    pub pack: PackId,
    /// Their positions, in the order in which they are needed.
    pub runs: Vec<(Position, u64)>,
    /// After how many bytes there are enough of them; at least one is.
    pub bytes_max: usize,
}

/// Messages from a pack: those of the batch's chunk, in the order in which they were asked for.
#[derive(Debug)]
pub struct Loaded {
    /// What was asked for.
    pub load: Load,
    /// The positions of those that come, and how they came to be published.
    pub messages: Vec<(Position, Origin)>,
    /// Whether the message after them is where it should be and cannot be read, and never will: it
    /// is lost.
    pub damaged: bool,
}

impl Engine {
    /// What is live of a part of the log that was appended by earlier steps.
    #[must_use]
    pub fn survey(&self, part: &Range<Lsn>) -> Survey {
        let mut survey = Survey::default();
        let mut positions: BTreeMap<QueueId, Vec<Position>> = BTreeMap::new();
        let mut messages = Vec::new();
        self.visit(part, |id, entry| {
            positions.entry(id).or_default().push(entry.position);
            messages.push((entry.chunk, entry.message, entry.bytes - OVERHEAD_BYTES as u32));
        });
        messages.sort_unstable();
        messages.dedup();
        survey.bytes = messages.iter().map(|(_, _, bytes)| u64::from(*bytes)).sum();
        for (id, mut positions) in positions {
            positions.sort_unstable();
            survey.live.insert(id, PositionSet::of_sorted(positions));
        }
        survey
    }

    /// What is live of a part of the log is in this pack from now on, which holds at least that.
    /// `address` is as for a step, and so are the effects. `false` if nothing is live any more: the
    /// engine has no use for the pack.
    pub fn adopt(&mut self, pack: PackId, part: &Range<Lsn>, effects: &mut Effects) -> bool {
        let mut found: BTreeMap<(QueueId, usize), Vec<Found>> = BTreeMap::new();
        self.visit(part, |id, entry| {
            let lane = self.queues[&id].lane(entry);
            let body_bytes = self.chunks.body_len(entry);
            let (position, expires) = (entry.position, entry.expires);
            found.entry((id, lane)).or_default().push(Found { position, expires, body_bytes });
        });
        self.chunks.pack(part);
        if found.is_empty() {
            return false;
        }
        self.chunks.packs.mention(pack, part.end);
        let replaces = self.chunks.packs.take_ignored();
        let definition = PackDefinition { id: pack, end: part.end, replaces };
        leveret_record::write_pack(&mut effects.log, &definition);
        effects.records += 1;
        for ((id, index), mut found) in found {
            found.sort_unstable_by_key(|each| each.position);
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            for extent in Extent::of_messages(pack, &found) {
                self.chunks.packs.gain(pack, extent.live.len());
                leveret_record::write_extent(&mut effects.log, &definition_of(id, index, &extent));
                effects.records += 1;
                queue.lanes()[index].cold.get_or_insert_default().add(extent);
            }
            if !std::mem::replace(&mut queue.listed, true) {
                self.listed.push(id);
            }
        }
        self.evict();
        true
    }

    /// Writes records of all packs and what they hold, and says how many.
    pub(crate) fn write_packs(&self, log: &mut Vec<u8>) -> u32 {
        let mut records = 0;
        for (id, end) in self.chunks.packs.iter() {
            leveret_record::write_pack(log, &PackDefinition { id, end, replaces: Vec::new() });
            records += 1;
        }
        for queue in self.queues.values() {
            for (lane, extent) in queue.extents() {
                leveret_record::write_extent(log, &definition_of(queue.id, lane, extent));
                records += 1;
            }
        }
        records
    }

    /// Calls `f` for every live message that the log alone holds, in this part of it.
    fn visit(&self, part: &Range<Lsn>, mut f: impl FnMut(QueueId, &Entry)) {
        let in_part = |entry: &Entry| {
            let home = self.chunks.home(entry.chunk);
            entry.durable && matches!(home, Home::Log(address) if part.contains(&address))
        };
        let mut visit = |id: QueueId, entry: &Entry| {
            if in_part(entry) && self.queues.contains_key(&id) {
                f(id, entry);
            }
        };
        for queue in self.queues.values().filter(|queue| queue.durable) {
            queue.here().for_each(|entry| visit(queue.id, entry));
        }
        self.dying.iter().for_each(|dying| visit(dying.queue, &dying.entry));
        for holder in self.sessions.values().flat_map(|session| session.holders.values()) {
            holder.leases().for_each(|lease| visit(lease.queue, &lease.entry));
            let settled = holder.transaction.iter().flat_map(|transaction| &transaction.settled);
            settled.for_each(|each| visit(each.lease.queue, &each.lease.entry));
        }
    }

    /// Gives up the memory of messages that packs hold too, if messages take more of it than they
    /// should.
    pub(crate) fn evict(&mut self) {
        // Sessions that are about to go on need what was loaded for them.
        while !self.can_resume()
            && self.chunks.memory() > self.memory_target
            && let Some(id) = self.listed.pop()
        {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            queue.listed = false;
            let consumed = queue.active.front().is_some();
            let mut evicted = Vec::new();
            for lane in queue.lanes() {
                evict_lane(lane, consumed, &mut evicted);
            }
            for entry in evicted {
                queue.ready_bytes -= u64::from(entry.bytes);
                self.chunks.release(entry.chunk, &mut Vec::new());
            }
        }
    }

    /// Asks for messages of a queue that are needed, or soon will be.
    pub(crate) fn load(&mut self, id: QueueId, step: &mut Step<'_>) {
        let short = self.is_short();
        let tight = short || self.chunks.memory() > self.memory_target;
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let wanted = std::mem::take(&mut queue.wanted);
        if !queue.has_packs() {
            return;
        }
        let consumed = queue.active.front().is_some();
        let bytes_max = if tight { TIGHT_LOAD_BYTES } else { LOAD_BYTES };
        let on_disk = matches!(queue.head(), Some(Head::OnDisk(_)));
        // The first lane, from the top, that has something.
        let mut lanes = queue.lanes().iter_mut().enumerate().rev();
        let next = lanes.find_map(|(index, lane)| Some((index, lane.next_cold()?)));
        let Some((lane, (durable, cold))) = next else { return };
        // Nothing is brought ahead of who needs it while that takes too much memory.
        let low = !short && cold.loaded_bytes() < bytes_max / 2;
        if cold.loading || !(on_disk && (wanted || consumed) || consumed && low) {
            return;
        }
        if let Some((pack, runs)) = cold.next_load() {
            cold.loading = true;
            step.effects.loads.push(Load { queue: id, lane, durable, pack, runs, bytes_max });
        }
    }

    /// Whether the first of these messages is needed still, and this pack has it. If not, it may
    /// be answered with nothing: what is needed instead is asked for then.
    #[must_use]
    pub fn needs(&self, load: &Load) -> bool {
        let Some((first, _)) = load.runs.first() else { return false };
        let queue = self.queues.get(&load.queue);
        let lane = queue.and_then(|queue| queue.each_lane().nth(load.lane));
        let mut colds = lane.into_iter().flat_map(Lane::colds);
        colds.any(|cold| cold.first() == Some(*first) && cold.pack_of(*first) == Some(load.pack))
    }

    /// Messages that were asked for are there, or cannot be had.
    pub(crate) fn loaded(&mut self, loaded: &Loaded, step: &mut Step<'_>) {
        let Loaded { load, messages, damaged } = loaded;
        let content = step.content.clone();
        self.chunks.set_packed(content.slot, load.durable);
        let Some(queue) = self.queues.get_mut(&load.queue) else { return };
        let mut waiting = std::mem::take(&mut queue.waiting);
        self.resume(&mut waiting);
        let Some(queue) = self.queues.get_mut(&load.queue) else { return };
        let ttl = queue.settings.ttl;
        let Some(lane) = queue.lanes().get_mut(load.lane) else { return };
        let Some(cold) = lane.cold_of(load.durable) else { return };
        cold.loading = false;
        let (mut bytes, mut timed, mut lost) = (0, false, None);
        for (message, (position, origin)) in (0..).zip(messages) {
            if !cold.pass(*position) {
                continue;
            }
            let own = content.chunk.get(message);
            let expires = expires(own, *origin, ttl);
            let entry = Entry {
                position: *position,
                expires,
                chunk: content.slot,
                message,
                bytes: (content.chunk.message_len(message) + OVERHEAD_BYTES) as u32,
                attempts: 0,
                priority: load.lane as u8,
                durable: load.durable,
            };
            timed |= expires != Time::NEVER;
            bytes += u64::from(entry.bytes);
            self.chunks.retain(content.slot, 1);
            cold.put(entry);
        }
        // A pack that was given up meanwhile cannot be read either: nothing of it is missed, or
        // another has it.
        let missing = load.positions().nth(messages.len()).filter(|_| *damaged);
        if let Some(next) = missing
            && cold.first() == Some(next)
            && cold.pack_of(next) == Some(load.pack)
            && cold.pass(next)
        {
            lost = Some((next, cold.settle(next, 0)));
        }
        lane.tidy();
        queue.count_loaded(bytes, lost.is_some(), timed);
        if let Some((position, pack)) = lost {
            pack.into_iter().for_each(|pack| self.chunks.packs.lose(pack, 1));
            if load.durable {
                step.settled_run(load.queue, position, 1);
            }
        }
        if !std::mem::replace(&mut queue.listed, true) {
            self.listed.push(load.queue);
        }
        mark_dirty(queue, &mut self.dirty);
    }
}

impl Load {
    fn positions(&self) -> impl Iterator<Item = Position> {
        self.runs.iter().flat_map(|(first, count)| (first.0..first.0 + count).map(Position))
    }
}

pub(crate) fn definition_of(queue: QueueId, lane: usize, extent: &Extent) -> ExtentDefinition {
    ExtentDefinition {
        pack: extent.pack,
        queue,
        priority: lane as u8,
        expires: (extent.expires != Time::NEVER).then_some(extent.expires),
        body_bytes: extent.body_bytes,
        runs: extent.live.runs(Position(0)).collect(),
    }
}

/// Takes what a pack holds out of a lane's memory, but for what is delivered next if it is being
/// consumed.
fn evict_lane(lane: &mut Lane, consumed: bool, evicted: &mut Vec<Entry>) {
    if let Some(spilled) = lane.spilled.as_mut().filter(|_| !consumed) {
        evicted.extend(spilled.unload());
    }
    let Some(cold) = &mut lane.cold else { return };
    if !consumed {
        evicted.extend(cold.unload());
    }
    let Some(last) = cold.last() else { return };
    let packed = lane.fresh.partition_point(|entry| entry.position <= last);
    let mut window = if consumed && cold.count() == 0 { WINDOW_BYTES } else { 0 };
    let mut kept = Vec::new();
    for entry in lane.fresh.drain(..packed) {
        if !entry.durable {
            kept.push(entry);
        } else if window > 0 {
            window = window.saturating_sub(u64::from(entry.bytes));
            cold.put(entry);
        } else {
            cold.evict(entry.position);
            evicted.push(entry);
        }
    }
    for entry in kept.into_iter().rev() {
        lane.fresh.push_front(entry);
    }
    lane.fresh.shrink_to(lane.fresh.len() * 2);
}

impl Queue {
    /// Messages have come into memory, or one cannot.
    fn count_loaded(&mut self, bytes: u64, lost: bool, timed: bool) {
        self.ready_bytes += bytes;
        self.timed |= timed;
        self.damaged += u64::from(lost);
        self.lose_ready(usize::from(lost));
    }
}

//! One queue: what is ready, in which order, and who consumes it.

use std::collections::{BTreeMap, VecDeque};

use leveret_model::{FieldTable, Lsn, PackId, Position, QueueId, SessionId, ShortString, Time};

use crate::bound::Bindings;
use crate::chunks::Chunks;
use crate::cold::{Cold, Extent, Purged};
use crate::rotation::Rotation;
use crate::settings::{Kind, Settings};

/// What a message costs besides its content, in a queue and of a session's output credit, in
/// bytes.
pub(crate) const OVERHEAD_BYTES: usize = 64;

/// A message in a queue or out on a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    /// When it is too old.
    pub(crate) expires: Time,
    /// Slot in [`Chunks`].
    pub(crate) chunk: u32,
    /// Index in the chunk.
    pub(crate) message: u32,
    /// Length of its content, and what it costs besides.
    pub(crate) bytes: u32,
    /// How often it was given back.
    pub(crate) attempts: u16,
    /// Its lane in the queue.
    pub(crate) priority: u8,
    /// Whether the log knows it.
    pub(crate) durable: bool,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) vhost: usize,
    pub(crate) name: ShortString,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    /// The only session that may use it.
    pub(crate) owner: Option<SessionId>,
    /// Whether it holds direct replies, and is no queue as far as clients know.
    pub(crate) replies: bool,
    pub(crate) arguments: FieldTable,
    /// What the arguments come to.
    pub(crate) settings: Settings,
    pub(crate) bindings: Bindings,
    /// By priority, the lowest first.
    lanes: Box<[Lane]>,
    /// No lane above this one holds anything.
    top: usize,
    /// Messages that wait.
    ready: usize,
    /// Content of the messages that wait in memory, in bytes.
    pub(crate) ready_bytes: u64,
    /// Bodies of the messages that wait, in bytes, if the queue has a limit on that.
    pub(crate) ready_body_bytes: u64,
    /// The position the next message gets.
    pub(crate) next: Position,
    /// Messages out on leases.
    pub(crate) leased: u32,
    pub(crate) consumers: Vec<u64>,
    /// Consumers that can take a message.
    pub(crate) active: Rotation,
    /// Of a queue with a single active consumer, that one.
    pub(crate) single: Option<u64>,
    /// Whether one consumer keeps all others out.
    pub(crate) exclusive_consumer: bool,
    /// Whether it is on the engine's list of queues to look at when the step ends.
    pub(crate) dirty: bool,
    /// Whether a restart may have given it more than it may hold.
    pub(crate) excess: bool,
    /// Whether any of its messages ever could become too old.
    pub(crate) timed: bool,
    /// When it was last of use to anyone, if it expires.
    pub(crate) used: Time,
    /// When the engine will look at it again.
    pub(crate) deadline: Time,
    /// Durable messages below this one may have been delivered before the last restart.
    pub(crate) seen: Position,
    /// Durable messages from this one on are not delivered before the log knows.
    pub(crate) promised: Position,
    /// Where the log was told so last, if not by a replay.
    pub(crate) promised_at: Option<Lsn>,
    /// Whether somebody needs its first message, which is only on disk.
    pub(crate) wanted: bool,
    /// Whether it is on the engine's list of queues with messages in memory that packs hold too.
    pub(crate) listed: bool,
    /// Messages that could not be read from disk.
    pub(crate) damaged: u64,
    /// Sessions that wait for its first message to be in memory.
    pub(crate) waiting: Vec<SessionId>,
}

/// The messages of one priority.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// Never delivered yet, by position.
    pub(crate) fresh: VecDeque<Entry>,
    /// Delivered and given back; all of them before every other message of the lane.
    returned: BTreeMap<Position, Entry>,
    /// Those that are in packs, but for those in the two above.
    pub(crate) cold: Option<Box<Cold>>,
    /// The same of packs that the log knows nothing of: transient ones.
    pub(crate) spilled: Option<Box<Cold>>,
}

/// The first message of a queue.
#[derive(Debug)]
pub(crate) enum Head<'a> {
    /// It is in memory.
    Here(&'a Entry),
    /// It is only on disk: the first of these.
    OnDisk(&'a Cold),
}

impl Lane {
    fn head(&self) -> Option<Head<'_>> {
        if let Some(entry) = self.returned.values().next() {
            return Some(Head::Here(entry));
        }
        let fresh = self.fresh.front();
        if !self.has_packs() {
            return fresh.map(Head::Here);
        }
        let fresh = fresh.map(|entry| (entry.position, Head::Here(entry)));
        let heads = fresh.into_iter().chain(self.colds().filter_map(Cold::head));
        heads.min_by_key(|(position, _)| *position).map(|(_, head)| head)
    }

    #[inline]
    fn take(&mut self) -> Option<Entry> {
        if self.returned.is_empty() && !self.has_packs() {
            return self.fresh.pop_front();
        }
        self.take_around()
    }

    /// As [`Lane::take`], where there is more than `fresh`; nothing if the first is only on disk.
    fn take_around(&mut self) -> Option<Entry> {
        if let Some((_, entry)) = self.returned.pop_first() {
            return Some(entry);
        }
        let Head::Here(&Entry { position, .. }) = self.head()? else { return None };
        if self.fresh.front().is_some_and(|fresh| fresh.position == position) {
            return self.fresh.pop_front();
        }
        let is_first = |cold: &&mut Cold| cold.front().is_some_and(|it| it.position == position);
        self.colds_mut().find(is_first)?.take()
    }

    /// What is in memory and not on leases; in order, but for what packs hold too.
    fn here(&self) -> impl Iterator<Item = &Entry> {
        let loaded = self.colds().flat_map(Cold::loaded);
        self.returned.values().chain(loaded).chain(&self.fresh)
    }
}

impl Queue {
    pub(crate) fn new(id: QueueId, vhost: usize, name: ShortString, settings: Settings) -> Self {
        let lanes = usize::from(settings.max_priority) + 1;
        Queue {
            id,
            vhost,
            name,
            durable: false,
            auto_delete: false,
            owner: None,
            replies: false,
            arguments: FieldTable::default(),
            settings,
            bindings: Bindings::default(),
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            top: 0,
            ready: 0,
            ready_bytes: 0,
            ready_body_bytes: 0,
            next: Position(0),
            leased: 0,
            consumers: Vec::new(),
            active: Rotation::default(),
            single: None,
            exclusive_consumer: false,
            dirty: false,
            excess: false,
            timed: false,
            used: Time(0),
            deadline: Time::NEVER,
            seen: Position(0),
            promised: Position(0),
            promised_at: None,
            wanted: false,
            listed: false,
            damaged: 0,
            waiting: Vec::new(),
        }
    }

    /// Whether the log knows a message here, if it is persistent or if it is not: quorum queues
    /// keep all of them.
    pub(crate) fn keeps(&self, persistent: bool) -> bool {
        self.durable && (persistent || self.settings.kind == Kind::Quorum)
    }

    /// Messages that wait for a consumer.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// As [`Queue::ready`], as the protocols count.
    pub(crate) fn ready_count(&self) -> u32 {
        u32::try_from(self.ready).unwrap_or(u32::MAX)
    }

    /// Appends a message, and gives it its position.
    #[inline]
    pub(crate) fn push(&mut self, mut entry: Entry, chunks: &Chunks) {
        entry.position = self.next;
        self.next = entry.position.next();
        self.count(&entry);
        self.ready_body_bytes += self.body_len(&entry, chunks);
        self.lanes[self.lane(&entry)].fresh.push_back(entry);
    }

    /// The first ready message.
    pub(crate) fn head(&self) -> Option<Head<'_>> {
        self.lanes[..=self.top].iter().rev().find_map(Lane::head)
    }

    /// Whether the first ready message is too old at this moment, or has just become so. What is
    /// only on disk is asked for.
    pub(crate) fn head_expired(&mut self, now: Time) -> bool {
        match self.head() {
            Some(Head::Here(head)) => head.expires <= now,
            Some(Head::OnDisk(cold)) => {
                self.wanted |= cold.expires() <= now;
                false
            }
            None => false,
        }
    }

    /// Takes the first ready message. What is only on disk cannot be taken; it is asked for.
    #[inline]
    pub(crate) fn take(&mut self, chunks: &Chunks) -> Option<Entry> {
        let entry = loop {
            match self.lanes[self.top].take() {
                Some(entry) => break entry,
                None if self.lanes[self.top].has_packs()
                    && self.lanes[self.top].head().is_some() =>
                {
                    self.wanted = true;
                    return None;
                }
                None => self.top = self.top.checked_sub(1)?,
            }
        };
        self.uncount(&entry);
        self.uncount_body(self.body_len(&entry, chunks));
        Some(entry)
    }

    /// Whether a message of the queue may have been delivered before.
    pub(crate) fn redelivered(&self, entry: &Entry) -> bool {
        entry.attempts > 0 || entry.durable && entry.position < self.seen
    }

    /// Puts a message back where it was.
    pub(crate) fn give_back(&mut self, mut entry: Entry, chunks: &Chunks) {
        entry.attempts = entry.attempts.saturating_add(1);
        self.ready_body_bytes += self.body_len(&entry, chunks);
        self.restore(entry);
    }

    /// Puts a message at its place, whatever is there already. Its body need not be there yet.
    pub(crate) fn restore(&mut self, entry: Entry) {
        self.count(&entry);
        self.next = self.next.max(entry.position.next());
        self.lanes[self.lane(&entry)].returned.insert(entry.position, entry);
    }

    /// Takes out messages read from the log that turn out to be gone, where they are there.
    pub(crate) fn forget(&mut self, first: Position, count: u64) -> Vec<Entry> {
        let run = first..Position(first.0.saturating_add(count));
        let mut gone = Vec::new();
        for lane in &mut self.lanes {
            let positions: Vec<Position> =
                lane.returned.range(run.clone()).map(|(at, _)| *at).collect();
            gone.extend(positions.into_iter().filter_map(|at| lane.returned.remove(&at)));
        }
        for entry in &gone {
            self.uncount(entry);
        }
        for cold in self.lanes.iter_mut().filter_map(|lane| lane.cold.as_mut()) {
            cold.forget(first, count);
        }
        gone
    }

    /// Ends the recovery: `current` says which extents are still right.
    pub(crate) fn restored(&mut self, chunks: &Chunks, current: impl Fn(&Extent) -> bool) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.fresh = std::mem::take(&mut lane.returned).into_values().collect();
            let Some(cold) = &mut lane.cold else { continue };
            cold.extents.retain(&current);
            cold.chill();
            self.ready += cold.count() as usize;
            self.timed |= cold.extents.iter().any(|extent| extent.expires != Time::NEVER);
            self.next = self.next.max(cold.last().map_or(Position(0), Position::next));
            if cold.count() > 0 {
                self.top = self.top.max(index);
            }
            lane.tidy();
        }
        if self.settings.max_bytes.is_some() {
            let here = self.lanes.iter().flat_map(|lane| &lane.fresh);
            let here: u64 = here.map(|entry| self.body_len(entry, chunks)).sum();
            let cold = self.extents().map(|(_, extent)| extent.body_bytes);
            self.ready_body_bytes = here + cold.sum::<u64>();
        }
    }

    /// Takes out all that is ready and in memory.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry> + use<> {
        let mut all = Vec::new();
        for lane in self.lanes.iter_mut().rev() {
            all.extend(std::mem::take(&mut lane.returned).into_values());
            all.extend(lane.colds_mut().flat_map(Cold::drain));
            all.extend(std::mem::take(&mut lane.fresh));
        }
        all.iter().for_each(|entry| self.uncount(entry));
        self.uncount_body(0);
        all.into_iter()
    }

    /// Takes out all that is ready and only on disk.
    pub(crate) fn purge_packs(&mut self) -> Purged {
        let mut purged = Purged::default();
        for lane in &mut self.lanes {
            self.ready -= lane.colds().map(Cold::count).sum::<u64>() as usize;
            lane.cold.iter_mut().for_each(|cold| cold.purge(&mut purged));
            // The log never knew of the others.
            let known = purged.runs.len();
            lane.spilled.iter_mut().for_each(|cold| cold.purge(&mut purged));
            purged.runs.truncate(known);
            lane.tidy();
        }
        self.uncount_body(self.ready_body_bytes);
        purged
    }

    /// What is ready and in memory, in order.
    pub(crate) fn here(&self) -> impl Iterator<Item = &Entry> {
        self.lanes.iter().rev().flat_map(Lane::here)
    }

    /// Whether packs hold anything of it.
    pub(crate) fn has_packs(&self) -> bool {
        self.lanes.iter().any(Lane::has_packs)
    }

    /// What packs hold of it that the log knows nothing of.
    pub(crate) fn spilled(&self) -> impl Iterator<Item = &Extent> {
        let colds = self.lanes.iter().filter_map(|lane| lane.spilled.as_ref());
        colds.flat_map(|cold| &cold.extents)
    }

    /// What packs hold of it that the log knows, with the index of the lane.
    pub(crate) fn extents(&self) -> impl Iterator<Item = (usize, &Extent)> {
        let lanes = self.lanes.iter().enumerate();
        lanes.flat_map(|(index, lane)| {
            let extents = lane.cold.iter().flat_map(|cold| &cold.extents);
            extents.map(move |extent| (index, extent))
        })
    }

    /// What is only on disk: lane, pack and position.
    #[cfg(test)]
    pub(crate) fn cold(&self) -> Vec<(usize, PackId, Position)> {
        let lanes = self.lanes.iter().enumerate();
        let colds = lanes.flat_map(|(lane, each)| each.colds().map(move |cold| (lane, cold)));
        let each = colds.flat_map(|(lane, cold)| {
            let own = cold.on_disk().into_iter();
            own.map(move |(pack, position)| (lane, pack, position))
        });
        each.collect()
    }

    pub(crate) fn each_lane(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter()
    }

    pub(crate) fn lanes(&mut self) -> &mut [Lane] {
        &mut self.lanes
    }

    /// The lane of a message.
    pub(crate) fn lane_of(&mut self, entry: &Entry) -> &mut Lane {
        let lane = self.lane(entry);
        &mut self.lanes[lane]
    }

    /// Ends a message that a pack holds, and says which.
    pub(crate) fn settle_packed(&mut self, entry: &Entry, body_bytes: u64) -> Option<PackId> {
        let lane = self.lane_of(entry);
        let cold = lane.cold_of(entry.durable).as_mut()?;
        let pack = cold.settle(entry.position, body_bytes);
        lane.tidy();
        pack
    }

    /// Whether more is ready than it may hold.
    pub(crate) fn over_limit(&self) -> bool {
        let Settings { max_length, max_bytes, .. } = self.settings;
        max_length.is_some_and(|max| self.ready as u64 > max)
            || max_bytes.is_some_and(|max| self.ready_body_bytes > max)
    }

    /// Whether so many messages more, with bodies of so many bytes, are more than it may hold.
    pub(crate) fn would_overflow(&self, count: u64, body_bytes: u64) -> bool {
        let Settings { max_length, max_bytes, .. } = self.settings;
        max_length.is_some_and(|max| self.ready as u64 + count > max)
            || max_bytes.is_some_and(|max| self.ready_body_bytes + body_bytes > max)
    }

    /// Lanes are by priority; there are as many as the queue was declared with.
    #[inline]
    pub(crate) fn lane(&self, entry: &Entry) -> usize {
        usize::from(entry.priority).min(self.lanes.len() - 1)
    }

    /// What a message counts towards the limit on bodies; nothing where there is none.
    fn body_len(&self, entry: &Entry, chunks: &Chunks) -> u64 {
        self.settings.max_bytes.map_or(0, |_| chunks.body_len(entry))
    }

    #[inline]
    fn count(&mut self, entry: &Entry) {
        self.ready += 1;
        self.timed |= entry.expires != Time::NEVER;
        self.ready_bytes += u64::from(entry.bytes);
        self.top = self.top.max(self.lane(entry));
    }

    #[inline]
    fn uncount(&mut self, entry: &Entry) {
        self.ready -= 1;
        self.ready_bytes -= u64::from(entry.bytes);
    }

    /// Messages that waited are lost.
    pub(crate) fn lose_ready(&mut self, count: usize) {
        self.ready -= count;
        self.uncount_body(0);
    }

    /// What was restored of packs may be an estimate, but an empty queue has no bytes.
    #[inline]
    fn uncount_body(&mut self, bytes: u64) {
        let left = self.ready_body_bytes.saturating_sub(bytes);
        self.ready_body_bytes = if self.ready == 0 { 0 } else { left };
    }
}

/// Has the queue looked at when the step ends.
pub(crate) fn mark_dirty(queue: &mut Queue, dirty: &mut Vec<QueueId>) {
    if !std::mem::replace(&mut queue.dirty, true) {
        dirty.push(queue.id);
    }
}

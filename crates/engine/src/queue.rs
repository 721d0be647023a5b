//! One queue: what is ready, in which order, and who consumes it.

use std::collections::{BTreeMap, VecDeque};

use leveret_model::{FieldTable, Position, QueueId, SessionId, ShortString, Time};

use crate::bound::Bindings;
use crate::chunks::Chunks;
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

impl Entry {
    /// Whether it may have been delivered before.
    pub(crate) fn redelivered(&self) -> bool {
        self.attempts > 0
    }
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
    /// Content of the messages that wait, in bytes.
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
}

/// The messages of one priority.
#[derive(Debug, Default)]
struct Lane {
    /// Never delivered yet, by position.
    fresh: VecDeque<Entry>,
    /// Delivered and given back; all of them before the first of `fresh`.
    returned: BTreeMap<Position, Entry>,
}

impl Lane {
    fn head(&self) -> Option<&Entry> {
        self.returned.values().next().or_else(|| self.fresh.front())
    }

    #[inline]
    fn take(&mut self) -> Option<Entry> {
        if self.returned.is_empty() {
            return self.fresh.pop_front();
        }
        self.returned.pop_first().map(|(_, entry)| entry)
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
    pub(crate) fn head(&self) -> Option<&Entry> {
        self.lanes[..=self.top].iter().rev().find_map(Lane::head)
    }

    /// Takes the first ready message.
    #[inline]
    pub(crate) fn take(&mut self, chunks: &Chunks) -> Option<Entry> {
        let entry = loop {
            match self.lanes[self.top].take() {
                Some(entry) => break entry,
                None => self.top = self.top.checked_sub(1)?,
            }
        };
        self.uncount(&entry);
        self.ready_body_bytes -= self.body_len(&entry, chunks);
        Some(entry)
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
        gone
    }

    /// Ends the recovery: what was restored was, for all that is known, never delivered.
    pub(crate) fn restored(&mut self, chunks: &Chunks) {
        for lane in &mut self.lanes {
            lane.fresh = std::mem::take(&mut lane.returned).into_values().collect();
        }
        let waiting = self.lanes.iter().flat_map(|lane| &lane.fresh);
        self.ready_body_bytes = waiting.map(|entry| self.body_len(entry, chunks)).sum();
    }

    /// Takes out all that is ready.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry> + use<> {
        (self.ready, self.ready_bytes, self.ready_body_bytes, self.top) = (0, 0, 0, 0);
        let lanes: Vec<Lane> = self.lanes.iter_mut().map(std::mem::take).collect();
        let entries = |lane: Lane| lane.returned.into_values().chain(lane.fresh);
        lanes.into_iter().rev().flat_map(entries)
    }

    /// All that is ready, in order.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Entry> {
        let lanes = self.lanes.iter().rev();
        lanes.flat_map(|lane| lane.returned.values().chain(&lane.fresh))
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
    fn lane(&self, entry: &Entry) -> usize {
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
}

/// Has the queue looked at when the step ends.
pub(crate) fn mark_dirty(queue: &mut Queue, dirty: &mut Vec<QueueId>) {
    if !std::mem::replace(&mut queue.dirty, true) {
        dirty.push(queue.id);
    }
}

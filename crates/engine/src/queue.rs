//! One queue: what is ready, in which order, and who consumes it.

use std::collections::{BTreeMap, VecDeque};

use leveret_model::{FieldTable, Position, QueueId, SessionId, ShortString};

/// What a message costs besides its content, in a queue and of a session's output credit, in
/// bytes.
pub(crate) const OVERHEAD_BYTES: usize = 64;

/// A message in a queue or out on a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    /// Slot in [`Chunks`](crate::chunks::Chunks).
    pub(crate) chunk: u32,
    /// Index in the chunk.
    pub(crate) message: u32,
    /// Length of its content.
    pub(crate) bytes: u32,
    /// Whether the log knows it.
    pub(crate) durable: bool,
    pub(crate) redelivered: bool,
}

/// A binding, as its queue remembers it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BoundTo {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) arguments: FieldTable,
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
    pub(crate) arguments: FieldTable,
    pub(crate) bindings: Vec<BoundTo>,
    /// Never delivered yet, by position.
    fresh: VecDeque<Entry>,
    /// Delivered and given back; all of them before the first of `fresh`.
    returned: BTreeMap<Position, Entry>,
    /// Content of the messages that wait, in bytes.
    pub(crate) ready_bytes: u64,
    /// The position the next message gets.
    pub(crate) next: Position,
    /// Messages out on leases.
    pub(crate) leased: u32,
    pub(crate) consumers: Vec<u64>,
    /// Consumers that can take a message, as far as is known; the front one is next.
    pub(crate) active: VecDeque<u64>,
    /// Whether one consumer keeps all others out.
    pub(crate) exclusive_consumer: bool,
    /// Whether it is on the engine's list of queues to look at when the step ends.
    pub(crate) dirty: bool,
}

impl Queue {
    pub(crate) fn new(id: QueueId, vhost: usize, name: ShortString) -> Self {
        Queue {
            id,
            vhost,
            name,
            durable: false,
            auto_delete: false,
            owner: None,
            arguments: FieldTable::default(),
            bindings: Vec::new(),
            fresh: VecDeque::new(),
            returned: BTreeMap::new(),
            ready_bytes: 0,
            next: Position(0),
            leased: 0,
            consumers: Vec::new(),
            active: VecDeque::new(),
            exclusive_consumer: false,
            dirty: false,
        }
    }

    /// Messages that wait for a consumer.
    pub(crate) fn ready(&self) -> usize {
        self.fresh.len() + self.returned.len()
    }

    /// As [`Queue::ready`], as the protocols count.
    pub(crate) fn ready_count(&self) -> u32 {
        u32::try_from(self.ready()).unwrap_or(u32::MAX)
    }

    /// Appends a message and gives it its position.
    pub(crate) fn push(&mut self, chunk: u32, message: u32, bytes: u32, durable: bool) {
        let position = self.next;
        self.next = position.next();
        self.ready_bytes += u64::from(bytes);
        let redelivered = false;
        self.fresh.push_back(Entry { position, chunk, message, bytes, durable, redelivered });
    }

    /// Takes the first ready message.
    pub(crate) fn take(&mut self) -> Option<Entry> {
        let entry = match self.returned.pop_first() {
            Some((_, entry)) => Some(entry),
            None => self.fresh.pop_front(),
        }?;
        self.ready_bytes -= u64::from(entry.bytes);
        Some(entry)
    }

    /// Puts a message back where it was.
    pub(crate) fn give_back(&mut self, mut entry: Entry) {
        entry.redelivered = true;
        self.ready_bytes += u64::from(entry.bytes);
        self.returned.insert(entry.position, entry);
    }

    /// Puts a message read from the log at its place, whatever is there already.
    pub(crate) fn restore(&mut self, entry: Entry) {
        self.ready_bytes += u64::from(entry.bytes);
        self.returned.insert(entry.position, entry);
        self.next = self.next.max(entry.position.next());
    }

    /// Takes out messages read from the log that turn out to be gone, where they are there.
    pub(crate) fn forget(&mut self, first: Position, count: u64) -> Vec<Entry> {
        let run = first..Position(first.0.saturating_add(count));
        let positions: Vec<Position> = self.returned.range(run).map(|(at, _)| *at).collect();
        let gone: Vec<Entry> =
            positions.into_iter().filter_map(|at| self.returned.remove(&at)).collect();
        self.ready_bytes -= gone.iter().map(|entry| u64::from(entry.bytes)).sum::<u64>();
        gone
    }

    /// Ends the recovery: what was restored was, for all that is known, never delivered.
    pub(crate) fn restored(&mut self) {
        self.fresh = std::mem::take(&mut self.returned).into_values().collect();
    }

    /// Takes out all that is ready.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry> + use<> {
        self.ready_bytes = 0;
        let returned = std::mem::take(&mut self.returned);
        let fresh = std::mem::take(&mut self.fresh);
        returned.into_values().chain(fresh)
    }
}

/// Has the queue looked at when the step ends.
pub(crate) fn mark_dirty(queue: &mut Queue, dirty: &mut Vec<QueueId>) {
    if !std::mem::replace(&mut queue.dirty, true) {
        dirty.push(queue.id);
    }
}

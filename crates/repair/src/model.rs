//! What the log says, as far as it can be read.
//!
//! Each segment begins with all definitions and packs. So where its first frame is sound, what it
//! does not name is gone, even if the record that said so is lost.

use std::collections::{BTreeMap, BTreeSet};

use leveret_model::{PackId, Position, QueueId, ShortString};
use leveret_record::{
    BindingDefinition, Destination, ExchangeDefinition, ExtentDefinition, QueueDefinition, Record,
    Records,
};

use crate::runs::Runs;

/// All there is, or was.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) exchanges: BTreeMap<(Vec<u8>, Vec<u8>), ExchangeDefinition>,
    pub(crate) queues: BTreeMap<QueueId, Queue>,
    /// Queues by virtual host and name, deleted ones too.
    names: BTreeMap<(Vec<u8>, Vec<u8>), QueueId>,
    /// By their records.
    pub(crate) bindings: BTreeMap<Vec<u8>, BindingDefinition>,
    pub(crate) packs: BTreeMap<PackId, Named>,
    /// The highest number of a pack that was ever named.
    pub(crate) last_pack: PackId,
    /// Something was lost, and no segment has begun since: there may be more than this.
    pub(crate) incomplete: bool,
    mentions: u64,
}

/// A queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// None if no record that can be read defines it.
    pub(crate) definition: Option<QueueDefinition>,
    /// Whether it was deleted.
    pub(crate) gone: bool,
    /// What was published to it, in the log that is there.
    pub(crate) published: Runs,
    pub(crate) settled: Runs,
    /// Messages below may have been delivered.
    pub(crate) delivered: Position,
    /// Positions that damage may have swallowed.
    pub(crate) gaps: Runs,
    /// Messages below may have been settled by records that are lost.
    pub(crate) doubt_below: u64,
    /// Above every position seen so far, if any was.
    high: Option<u64>,
    /// There was damage, and no position was seen since.
    after_damage: bool,
}

/// A pack that the log names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Higher if it was named later.
    pub(crate) mention: u64,
    pub(crate) extents: Vec<ExtentDefinition>,
}

impl Model {
    /// Takes in the records of a frame. `first` says that it is the first of its segment. Returns
    /// the byte from which on they make no sense, if there is one.
    pub(crate) fn frame(&mut self, records: &[u8], first: bool) -> Option<usize> {
        let snapshot = first && !records.is_empty();
        if snapshot {
            self.exchanges.clear();
            self.bindings.clear();
            self.packs.clear();
            self.queues.values_mut().for_each(|queue| queue.definition = None);
        }
        let known: BTreeSet<QueueId> =
            if snapshot { self.queues.keys().copied().collect() } else { BTreeSet::new() };
        let mut bad = None;
        for record in Records::new(records) {
            match record {
                Ok((_, record)) => self.record(record),
                Err(error) => bad = Some(offset_of(error)),
            }
        }
        if bad.is_none() {
            self.incomplete &= !snapshot;
            for id in known {
                if let Some(queue) = self.queues.get_mut(&id)
                    && queue.definition.is_none()
                {
                    queue.delete();
                }
            }
        }
        bad
    }

    /// Something cannot be read here.
    pub(crate) fn damage(&mut self) {
        self.incomplete = true;
        for queue in self.queues.values_mut() {
            queue.doubt_below = queue.doubt_below.max(queue.high.unwrap_or(0));
            queue.after_damage = true;
        }
    }

    /// The positions of a queue that a pack has to have.
    pub(crate) fn needed(&self, pack: PackId, queue: QueueId) -> Runs {
        let mut needed = Runs::default();
        let known = self.queues.get(&queue).filter(|queue| !queue.gone);
        let (Some(named), Some(known)) = (self.packs.get(&pack), known) else { return needed };
        for extent in named.extents.iter().filter(|extent| extent.queue == queue) {
            extent.runs.iter().for_each(|(first, count)| needed.add(first.0, *count));
        }
        needed.without(&known.settled).without(&known.published)
    }

    /// Whether a pack has to have anything.
    pub(crate) fn needs(&self, pack: PackId) -> bool {
        let extents = self.packs.get(&pack).into_iter().flat_map(|named| &named.extents);
        let mut queues = extents.map(|extent| extent.queue);
        queues.any(|queue| !self.needed(pack, queue).is_empty())
    }

    fn record(&mut self, record: Record<'_>) {
        match record {
            Record::Publish { targets, .. } => {
                for (queue, position) in targets {
                    let queue = self.queues.entry(queue).or_default();
                    queue.saw(position.0, position.0.saturating_add(1));
                    queue.published.add(position.0, 1);
                }
            }
            Record::Settle { queue, first, count } => {
                let queue = self.queues.entry(queue).or_default();
                queue.settled.add(first.0, count);
                // Where settled positions lie says nothing of the last one given.
                let end = first.0.saturating_add(count);
                queue.high = queue.high.map(|high| high.max(end));
            }
            Record::DeclareExchange(definition) => {
                self.exchanges.insert(key(&definition.vhost, &definition.name), definition);
            }
            Record::DeleteExchange { vhost, name } => {
                self.exchanges.remove(&key(&vhost, &name));
                self.bindings.retain(|_, binding| {
                    let to = matches!(&binding.destination,
                        Destination::Exchange(destination) if *destination == name);
                    binding.vhost != vhost || binding.source != name && !to
                });
            }
            Record::DeclareQueue(definition) => self.declare(definition),
            Record::DeleteQueue { id } => {
                self.queues.entry(id).or_default().delete();
                let to = Destination::Queue(id);
                self.bindings.retain(|_, binding| binding.destination != to);
            }
            Record::Bind(binding) => {
                self.bindings.insert(encoded(&binding), binding);
            }
            Record::Unbind(binding) => {
                self.bindings.remove(&encoded(&binding));
            }
            Record::Pack(pack) => {
                self.last_pack = self.last_pack.max(pack.id);
                for replaced in &pack.replaces {
                    self.packs.remove(replaced);
                }
                self.mentions += 1;
                let named = Named { mention: self.mentions, extents: Vec::new() };
                self.packs.insert(pack.id, named);
            }
            Record::Extent(extent) => {
                self.last_pack = self.last_pack.max(extent.pack);
                let queue = self.queues.entry(extent.queue).or_default();
                let end = extent.runs.last().map_or(0, |(first, count)| first.0 + count);
                queue.high = Some(queue.high.unwrap_or(0).max(end));
                self.packs.entry(extent.pack).or_default().extents.push(extent);
            }
            Record::Delivered { queue, below } => {
                let queue = self.queues.entry(queue).or_default();
                queue.delivered = queue.delivered.max(below);
            }
        }
    }

    fn declare(&mut self, definition: QueueDefinition) {
        let name = key(&definition.vhost, &definition.name);
        if let Some(other) = self.names.insert(name, definition.id)
            && other != definition.id
            && let Some(other) = self.queues.get_mut(&other)
        {
            // Two cannot have one name: the other one must have been deleted.
            other.delete();
        }
        let queue = self.queues.entry(definition.id).or_default();
        queue.saw(definition.next.0, definition.next.0);
        queue.gone = false;
        queue.definition = Some(definition);
    }
}

impl Queue {
    /// Positions up to `end` have been given, those from `first` on by what is being read.
    fn saw(&mut self, first: u64, end: u64) {
        if self.after_damage
            && let Some(high) = self.high
            && first > high
        {
            self.gaps.add(high, first - high);
        }
        self.after_damage = false;
        self.high = Some(self.high.unwrap_or(0).max(end));
    }

    fn delete(&mut self) {
        *self = Queue { gone: true, ..Queue::default() };
    }

    /// What of the log is live.
    pub(crate) fn live(&self) -> Runs {
        self.published.without(&self.settled)
    }

    /// A position above all that is known of.
    pub(crate) fn next(&self) -> Position {
        let declared = self.definition.as_ref().map_or(0, |definition| definition.next.0);
        let highest = declared.max(self.high.unwrap_or(0)).max(self.published.end());
        Position(highest.max(self.settled.end()))
    }
}

fn key(vhost: &ShortString, name: &ShortString) -> (Vec<u8>, Vec<u8>) {
    (vhost.as_bytes().to_vec(), name.as_bytes().to_vec())
}

fn encoded(binding: &BindingDefinition) -> Vec<u8> {
    let mut bytes = Vec::new();
    leveret_record::write_bind(&mut bytes, binding);
    bytes
}

pub(crate) fn offset_of(error: leveret_record::RecordError) -> usize {
    use leveret_record::RecordError::{Malformed, Truncated, UnknownType};
    match error {
        Truncated { offset } | UnknownType { offset, .. } | Malformed { offset, .. } => offset,
    }
}

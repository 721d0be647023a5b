//! The engine's state from the log, and the definitions back to the log.

use std::sync::Arc;

use leveret_model::{
    Chunk, Lsn, Message, PackId, Position, PositionSet, Properties, QueueId, ShortString, Time,
    properties,
};
use leveret_record::{
    BindingDefinition, Destination, ExtentDefinition, Origin, PackDefinition, Record,
};

use crate::bound::{Bindings, BoundTo};
use crate::cold::Extent;
use crate::declare::alternate;
use crate::engine::Engine;
use crate::exchange::{Exchange, Router, Target};
use crate::exchanges::exchange_definition;
use crate::queue::{Entry, OVERHEAD_BYTES, Queue, mark_dirty};
use crate::queues::queue_definition;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::special::time_to_live;

/// How much content is restored into one chunk, in bytes: what one message that stays long keeps
/// in memory.
const RESTORED_CHUNK_BYTES: usize = 64 * 1024;

/// A record that this engine cannot have written.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Not a record at all.
    #[error(transparent)]
    Record(#[from] leveret_record::RecordError),
    /// A virtual host that does not exist.
    #[error("a record names virtual host '{0}', which does not exist")]
    NoVHost(ShortString),
    /// An exchange type that this version does not have.
    #[error("a record names exchange type '{0}', which this version does not have")]
    ExchangeType(ShortString),
    /// Arguments that this version would not have let in.
    #[error("a record's arguments make no sense to this version: {0}")]
    Arguments(#[from] Refusal),
    /// Content beyond 4 GiB in one frame.
    #[error(transparent)]
    TooLarge(#[from] leveret_model::message::ChunkFull),
}

impl Engine {
    /// Repeats what records say, in the order in which they were written. `address` is where they
    /// are in the log.
    ///
    /// # Errors
    /// [`RestoreError`] if a record makes no sense; the engine is then of no use.
    pub fn restore(&mut self, address: Lsn, records: &[u8]) -> Result<(), RestoreError> {
        let mut messages = Restored::default();
        self.replayed.get_or_insert(address);
        for record in leveret_record::Records::new(records) {
            let (_, record) = record?;
            match record {
                Record::Publish { message, origin, targets } => {
                    messages.entries.clear();
                    for (queue, position) in targets {
                        messages.entries.push((queue, position));
                    }
                    self.restore_message(&mut messages, message, origin, address)?;
                }
                Record::Settle { queue, first, count } => {
                    // The chunk under construction may be the one that dies.
                    self.seal(&mut messages);
                    self.forget(queue, first, count);
                }
                definition => {
                    self.seal(&mut messages);
                    self.restore_definition(definition)?;
                }
            }
        }
        self.seal(&mut messages);
        Ok(())
    }

    /// Ends the recovery: everything restored is ready, in order. From `now` on queues are
    /// unused that expire.
    pub fn restored(&mut self, now: Time) {
        for queue in self.queues.values_mut() {
            let packs = &self.chunks.packs;
            queue.restored(&self.chunks, |extent| {
                packs.mentioned(extent.pack) == Some(extent.mention)
            });
            for (_, extent) in queue.extents() {
                self.chunks.packs.gain(extent.pack, extent.live.len());
            }
            (queue.seen, queue.promised) = (queue.promised, queue.promised);
            queue.used = now;
            // What was out on leases may be more than a queue may hold.
            queue.excess = queue.over_limit();
            mark_dirty(queue, &mut self.dirty);
        }
        self.chunks.packs.forget_empty();
        self.replayed = None;
        let ids: Vec<QueueId> = self.queues.keys().copied().collect();
        ids.into_iter().for_each(|id| self.arm(id));
    }

    /// The highest number of a pack that the log has told of, needed or not.
    #[must_use]
    pub fn last_pack(&self) -> PackId {
        self.chunks.packs.highest()
    }

    /// The packs that are needed.
    pub fn packs(&self) -> impl Iterator<Item = PackId> {
        self.chunks.packs.iter().map(|(pack, _)| pack)
    }

    /// The addresses that are still needed, one for each chunk of live messages.
    pub fn addresses(&self) -> impl Iterator<Item = Lsn> {
        self.chunks.addresses()
    }

    /// Writes records that make all durable definitions anew, and says how many.
    pub fn snapshot(&self, log: &mut Vec<u8>) -> u32 {
        let mut records = 0;
        for vhost in &self.vhosts {
            let exchanges = vhost.exchanges.values().map(|id| &self.exchanges[id]);
            for exchange in exchanges.filter(|exchange| exchange.durable) {
                let definition = exchange_definition(exchange, &vhost.name);
                leveret_record::write_declare_exchange(log, &definition);
                records += 1;
            }
        }
        for queue in self.queues.values().filter(|queue| queue.durable) {
            let vhost = &self.vhosts[queue.vhost];
            leveret_record::write_declare_queue(log, &queue_definition(queue, &vhost.name));
            records += 1;
            records += self.write_bindings(queue.vhost, Target::Queue(queue.id), log);
        }
        // When all exchanges are there.
        for (index, vhost) in self.vhosts.iter().enumerate() {
            for id in vhost.exchanges.values().filter(|id| self.exchanges[id].durable) {
                records += self.write_bindings(index, Target::Exchange(*id), log);
            }
        }
        for queue in self.queues.values().filter(|queue| queue.promised > Position(0)) {
            leveret_record::write_delivered(log, queue.id, queue.promised);
            records += 1;
        }
        records + self.write_packs(log)
    }

    /// Writes the durable bindings of one far end.
    fn write_bindings(&self, vhost: usize, target: Target, log: &mut Vec<u8>) -> u32 {
        let known = match target {
            Target::Queue(id) => &self.queues[&id].bindings,
            Target::Exchange(id) => &self.exchanges[&id].bound_to,
        };
        let mut records = 0;
        for bound in known.iter() {
            let source = self.vhosts[vhost].exchanges.get(&bound.exchange);
            if source.is_some_and(|source| self.exchanges[source].durable) {
                let definition = self.binding_definition(vhost, target, bound);
                leveret_record::write_bind(log, &definition);
                records += 1;
            }
        }
        records
    }

    fn restore_message(
        &mut self,
        restored: &mut Restored,
        message: Message<'_>,
        origin: Origin,
        address: Lsn,
    ) -> Result<(), RestoreError> {
        let entries = std::mem::take(&mut restored.entries);
        let slot = match restored.slot {
            Some(slot) => slot,
            None => {
                let slot = self.chunks.insert(Arc::default());
                self.chunks.retain(slot, 1);
                self.chunks.pin(slot, address);
                restored.slot = Some(slot);
                slot
            }
        };
        let index = restored.chunk.push(message)?;
        restored.chunk.set_past(index, origin.past);
        let asked = properties::scan(message.properties).ok().and_then(|scan| scan.priority);
        let bytes = (restored.chunk.message_len(index) + OVERHEAD_BYTES) as u32;
        for (queue, position) in &entries {
            if let Some(queue) = self.queues.get_mut(queue) {
                let entry = Entry {
                    position: *position,
                    expires: expires(message, origin, queue.settings.ttl),
                    chunk: slot,
                    message: index,
                    bytes,
                    attempts: 0,
                    priority: asked.unwrap_or_default().min(queue.settings.max_priority),
                    durable: true,
                };
                queue.restore(entry);
                self.chunks.retain(slot, 1);
            }
        }
        restored.entries = entries;
        if restored.chunk.content_len() >= RESTORED_CHUNK_BYTES {
            self.seal(restored);
        }
        Ok(())
    }

    /// Ends the chunk under construction.
    fn seal(&mut self, restored: &mut Restored) {
        if let Some(slot) = restored.slot.take() {
            let mut chunk = std::mem::take(&mut restored.chunk);
            chunk.shrink();
            self.chunks.fill(slot, Arc::new(chunk));
            self.chunks.release(slot, &mut Vec::new());
        }
    }

    fn forget(&mut self, queue: QueueId, first: Position, count: u64) {
        if let Some(queue) = self.queues.get_mut(&queue) {
            for entry in queue.forget(first, count) {
                self.chunks.release(entry.chunk, &mut Vec::new());
            }
        }
    }

    fn restore_definition(&mut self, record: Record<'_>) -> Result<(), RestoreError> {
        match record {
            Record::DeclareExchange(definition) => {
                let vhost = self.restored_vhost(&definition.vhost)?;
                let router = Router::of_kind(definition.kind.as_bytes())
                    .ok_or_else(|| RestoreError::ExchangeType(definition.kind.clone()))?;
                if self.vhosts[vhost].exchanges.contains_key(&definition.name) {
                    return Ok(());
                }
                let alternate =
                    alternate(&definition.name, &definition.arguments, &definition.vhost)?;
                let exchange = Exchange {
                    vhost,
                    name: definition.name,
                    durable: true,
                    auto_delete: definition.auto_delete,
                    internal: definition.internal,
                    arguments: definition.arguments,
                    router,
                    outgoing: 0,
                    bound_to: Bindings::default(),
                    alternate,
                };
                self.add_exchange(exchange);
            }
            Record::DeleteExchange { vhost, name } => {
                let vhost = self.restored_vhost(&vhost)?;
                if let Some(id) = self.vhosts[vhost].exchanges.get(&name).copied() {
                    self.drop_exchange(id);
                }
            }
            Record::DeclareQueue(definition) => {
                let vhost = self.restored_vhost(&definition.vhost)?;
                if let Some(queue) = self.queues.get_mut(&definition.id) {
                    queue.next = queue.next.max(definition.next);
                    return Ok(());
                }
                let vhost = (vhost, &definition.vhost);
                let settings = Settings::of(&definition.name, vhost, &definition.arguments)?;
                let mut queue = Queue::new(definition.id, vhost.0, definition.name, settings);
                queue.durable = true;
                queue.auto_delete = definition.auto_delete;
                queue.arguments = definition.arguments;
                queue.next = definition.next;
                self.add_queue(queue);
            }
            Record::DeleteQueue { id } => {
                self.drop_queue(id, &mut Vec::new());
            }
            Record::Bind(binding) => self.restore_binding(binding, true)?,
            Record::Unbind(binding) => self.restore_binding(binding, false)?,
            Record::Pack(pack) => self.restore_pack(&pack),
            Record::Extent(extent) => self.restore_extent(&extent),
            Record::Delivered { queue, below } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.promised = queue.promised.max(below);
                }
            }
            Record::Publish { .. } | Record::Settle { .. } => {}
        }
        Ok(())
    }

    fn restore_pack(&mut self, pack: &PackDefinition) {
        self.chunks.packs.note(pack.id);
        for replaced in &pack.replaces {
            self.chunks.packs.forget(*replaced);
            for lane in self.queues.values_mut().flat_map(Queue::lanes) {
                if let Some(cold) = &mut lane.cold {
                    cold.extents.retain(|extent| extent.pack != *replaced);
                }
            }
        }
        // Otherwise its messages are in the part of the log that is replayed.
        match self.replayed {
            Some(start) if pack.end <= start => self.chunks.packs.mention(pack.id, pack.end),
            _ => self.chunks.packs.ignore(pack.id),
        }
    }

    fn restore_extent(&mut self, extent: &ExtentDefinition) {
        let Some(mention) = self.chunks.packs.mentioned(extent.pack) else { return };
        let Some(queue) = self.queues.get_mut(&extent.queue) else { return };
        let lanes = queue.lanes();
        let lane = usize::from(extent.priority).min(lanes.len() - 1);
        let cold = lanes[lane].cold.get_or_insert_default();
        cold.retain_current(&self.chunks.packs);
        let all = Extent {
            pack: extent.pack,
            expires: extent.expires.unwrap_or(Time::NEVER),
            body_bytes: extent.body_bytes,
            mention,
            live: PositionSet::default(),
        };
        all.divided(extent.runs.iter().copied()).for_each(|part| cold.add(part));
    }

    fn restore_binding(
        &mut self,
        binding: BindingDefinition,
        exists: bool,
    ) -> Result<(), RestoreError> {
        let vhost = self.restored_vhost(&binding.vhost)?;
        let target = match binding.destination {
            Destination::Queue(id) => Target::Queue(id),
            Destination::Exchange(name) => match self.vhosts[vhost].exchanges.get(&name) {
                Some(id) => Target::Exchange(*id),
                // Deleted since; the log says so further on.
                None => return Ok(()),
            },
        };
        let bound = BoundTo {
            exchange: binding.source,
            routing_key: binding.routing_key,
            arguments: binding.arguments,
        };
        if exists {
            self.add_binding(vhost, target, &bound);
        } else {
            self.drop_binding(vhost, target, &bound);
        }
        Ok(())
    }

    fn restored_vhost(&self, name: &ShortString) -> Result<usize, RestoreError> {
        let found = self.vhosts.iter().position(|vhost| vhost.name == *name);
        found.ok_or_else(|| RestoreError::NoVHost(name.clone()))
    }
}

/// When a message is too old that was published as `origin` says, in a queue with this time to
/// live.
pub(crate) fn expires(message: Message<'_>, origin: Origin, ttl: Option<u64>) -> Time {
    let Some(time) = origin.time else { return Time::NEVER };
    let own = Properties::decode(message.properties).ok();
    let own = own.as_ref().and_then(time_to_live);
    let ttl = [ttl, own].into_iter().flatten().min();
    ttl.map_or(Time::NEVER, |ttl| time.after(ttl))
}

/// The chunk that messages are being restored into.
#[derive(Default)]
struct Restored {
    chunk: Chunk,
    slot: Option<u32>,
    entries: Vec<(QueueId, Position)>,
}

//! The engine's state from the log, and the definitions back to the log.

use std::sync::Arc;

use leveret_model::{Chunk, Lsn, Message, Position, QueueId, ShortString};
use leveret_record::{BindingDefinition, Destination, Record};

use crate::engine::Engine;
use crate::exchange::{Exchange, Router};
use crate::queue::OVERHEAD_BYTES;
use crate::queue::{BoundTo, Entry, Queue};
use crate::topology::{binding_definition, exchange_definition, queue_definition};

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
    /// A binding to something that this version cannot bind to.
    #[error("a record binds exchange '{0}' to an exchange, which this version cannot")]
    ExchangeBinding(ShortString),
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
        for record in leveret_record::Records::new(records) {
            let (_, record) = record?;
            match record {
                Record::Publish { message, targets } => {
                    messages.entries.clear();
                    for (queue, position) in targets {
                        messages.entries.push((queue, position));
                    }
                    self.restore_message(&mut messages, message, address)?;
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

    /// Ends the recovery: everything restored is ready, in order.
    pub fn restored(&mut self) {
        for queue in self.queues.values_mut() {
            queue.restored();
        }
    }

    /// The addresses that are still needed, one for each chunk of live messages.
    pub fn addresses(&self) -> impl Iterator<Item = Lsn> {
        self.chunks.addresses()
    }

    /// Writes records that make all durable definitions anew, and says how many.
    pub fn snapshot(&self, log: &mut Vec<u8>) -> u32 {
        let mut records = 0;
        for vhost in &self.vhosts {
            for exchange in vhost.exchanges.values().filter(|exchange| exchange.durable) {
                let definition = exchange_definition(exchange, &vhost.name);
                leveret_record::write_declare_exchange(log, &definition);
                records += 1;
            }
        }
        for queue in self.queues.values().filter(|queue| queue.durable) {
            let vhost = &self.vhosts[queue.vhost];
            leveret_record::write_declare_queue(log, &queue_definition(queue, &vhost.name));
            records += 1;
            for bound in &queue.bindings {
                if vhost.exchanges.get(&bound.exchange).is_some_and(|exchange| exchange.durable) {
                    let definition = binding_definition(queue.id, bound, &vhost.name);
                    leveret_record::write_bind(log, &definition);
                    records += 1;
                }
            }
        }
        records
    }

    fn restore_message(
        &mut self,
        restored: &mut Restored,
        message: Message<'_>,
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
        let bytes = (restored.chunk.message_len(index) + OVERHEAD_BYTES) as u32;
        for (queue, position) in &entries {
            if let Some(queue) = self.queues.get_mut(queue) {
                queue.restore(Entry {
                    position: *position,
                    chunk: slot,
                    message: index,
                    bytes,
                    durable: true,
                    redelivered: false,
                });
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
                let exchanges = &mut self.vhosts[vhost].exchanges;
                exchanges.entry(definition.name.clone()).or_insert(Exchange {
                    name: definition.name,
                    durable: true,
                    auto_delete: definition.auto_delete,
                    internal: definition.internal,
                    arguments: definition.arguments,
                    router,
                    bindings: 0,
                });
            }
            Record::DeleteExchange { vhost, name } => {
                let vhost = self.restored_vhost(&vhost)?;
                self.drop_exchange(vhost, &name);
            }
            Record::DeclareQueue(definition) => {
                let vhost = self.restored_vhost(&definition.vhost)?;
                if let Some(queue) = self.queues.get_mut(&definition.id) {
                    queue.next = queue.next.max(definition.next);
                    return Ok(());
                }
                let mut queue = Queue::new(definition.id, vhost, definition.name);
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
            Record::Publish { .. } | Record::Settle { .. } => {}
        }
        Ok(())
    }

    fn restore_binding(
        &mut self,
        binding: BindingDefinition,
        exists: bool,
    ) -> Result<(), RestoreError> {
        let Destination::Queue(id) = binding.destination else {
            return Err(RestoreError::ExchangeBinding(binding.source));
        };
        let bound = BoundTo {
            exchange: binding.source,
            routing_key: binding.routing_key,
            arguments: binding.arguments,
        };
        if exists {
            self.add_binding(id, bound);
        } else {
            self.drop_binding(id, &bound);
        }
        Ok(())
    }

    fn restored_vhost(&self, name: &ShortString) -> Result<usize, RestoreError> {
        let found = self.vhosts.iter().position(|vhost| vhost.name == *name);
        found.ok_or_else(|| RestoreError::NoVHost(name.clone()))
    }
}

/// The chunk that messages are being restored into.
#[derive(Default)]
struct Restored {
    chunk: Chunk,
    slot: Option<u32>,
    entries: Vec<(QueueId, Position)>,
}

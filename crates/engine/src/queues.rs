//! Queues: declaring, purging and deleting them.

use leveret_model::{Lsn, Position, QueueId, ShortString};
use leveret_record::QueueDefinition;

use crate::command::DeclareQueue;
use crate::declare::{check_name, check_queue};
use crate::effect::{Item, Reply};
use crate::engine::Engine;
use crate::exchange::{ExchangeId, Target};
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::replies::is_reply_name;
use crate::settings::{Kind, Settings};
use crate::step::Step;

impl Engine {
    pub(crate) fn declare_queue(
        &mut self,
        holder: u16,
        declare: &DeclareQueue,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if is_reply_name(&declare.name) {
            return self.declare_replies(holder, &declare.name, declare.reply, step);
        }
        let id = match declare.passive {
            true => {
                let id = self.find_named_queue(&declare.name, step)?;
                // Who declared it may still be waiting for the log.
                self.after_log(step);
                id
            }
            false => self.ensure_queue(declare, step)?,
        };
        self.expire_heads(id, step);
        // An answer is a use of a classic queue; that it was made is one of any.
        if declare.reply && self.queues[&id].settings.kind == Kind::Classic {
            self.touch(id, step.now);
        }
        let queue = &self.queues[&id];
        let name = queue.name.clone();
        let messages = queue.ready_count();
        let consumers = u32::try_from(queue.consumers.len()).unwrap_or(u32::MAX);
        self.holder(step, holder).last_queue = Some(name.clone());
        let reply = Reply::QueueDeclared { name, messages, consumers };
        self.reply_if(declare.reply, holder, reply, step);
        Ok(())
    }

    /// The queue as declared, made if it does not exist.
    fn ensure_queue(
        &mut self,
        declare: &DeclareQueue,
        step: &mut Step<'_>,
    ) -> Result<QueueId, Refusal> {
        check_name("queue", &declare.name)?;
        let index = self.vhost_of(step);
        let vhost = &self.vhosts[index];
        if let Some(id) = vhost.queues.get(&declare.name).copied() {
            check_queue(&self.queues[&id], declare, step.session, &vhost.name)?;
            // Who declared it first may still be waiting for the log.
            self.after_log(step);
            return Ok(id);
        }
        let name = match declare.name.is_empty() {
            true => self.made_up_name("amq.gen-"),
            false => declare.name.clone(),
        };
        let vhost = &self.vhosts[index].name;
        let settings = Settings::of(&name, (index, vhost), &declare.arguments)?;
        check_kind(declare, settings.kind, vhost)?;
        let id = QueueId(self.next_queue);
        let mut queue = Queue::new(id, index, name, settings);
        queue.durable = declare.durable && !declare.exclusive;
        queue.auto_delete = declare.auto_delete;
        queue.owner = declare.exclusive.then_some(step.session);
        queue.arguments = declare.arguments.clone();
        if queue.durable {
            let definition = queue_definition(&queue, vhost);
            leveret_record::write_declare_queue(&mut step.effects.log, &definition);
            self.recorded(step);
        }
        if declare.exclusive
            && let Some(session) = self.sessions.get_mut(&step.session)
        {
            session.owned.push(id);
        }
        self.add_queue(queue);
        self.touch(id, step.now);
        Ok(id)
    }

    pub(crate) fn add_queue(&mut self, queue: Queue) {
        self.next_queue = self.next_queue.max(queue.id.0 + 1);
        self.generation += 1;
        self.vhosts[queue.vhost].queues.insert(queue.name.clone(), queue.id);
        self.queues.insert(queue.id, queue);
    }

    /// The queue of that name, or the one the holder declared last, if this session may use it.
    pub(crate) fn find_queue(
        &mut self,
        holder: u16,
        name: &ShortString,
        step: &Step<'_>,
    ) -> Result<QueueId, Refusal> {
        if !name.is_empty() {
            return self.find_named_queue(name, step);
        }
        let last = self.holder(step, holder).last_queue.clone();
        self.find_named_queue(&last.ok_or(Refusal::NoDeclaredQueue)?, step)
    }

    fn find_named_queue(&self, name: &ShortString, step: &Step<'_>) -> Result<QueueId, Refusal> {
        let vhost = &self.vhosts[self.vhost_of(step)];
        let found = vhost.queues.get(name).map(|id| &self.queues[id]);
        match found {
            None => Err(Refusal::NoQueue(name.clone(), vhost.name.clone())),
            // Whoever knows its name may publish to it, and nothing else.
            Some(queue) if queue.replies => Err(Refusal::NoQueue(name.clone(), vhost.name.clone())),
            Some(queue) if queue.owner.is_some_and(|owner| owner != step.session) => {
                Err(Refusal::Locked(name.clone(), vhost.name.clone()))
            }
            Some(queue) => Ok(queue.id),
        }
    }

    /// Deletes a queue by name and says how many messages it had ready; a queue that does not
    /// exist had none.
    pub(crate) fn delete_named_queue(
        &mut self,
        holder: u16,
        name: &ShortString,
        if_unused: bool,
        if_empty: bool,
        step: &mut Step<'_>,
    ) -> Result<u32, Refusal> {
        let id = match self.find_queue(holder, name, step) {
            Err(Refusal::NoQueue(..)) => {
                // Who deleted it first may still be waiting for the log.
                self.after_log(step);
                return Ok(0);
            }
            found => found?,
        };
        self.expire_heads(id, step);
        let queue = &self.queues[&id];
        let vhost = &self.vhosts[queue.vhost].name;
        if queue.settings.kind == Kind::Quorum && (if_unused || if_empty) {
            let (name, flag) = (&queue.name, if if_unused { "if-unused" } else { "if-empty" });
            return Err(Refusal::NotImplemented(format!(
                "cannot delete queue '{name}' in vhost '{vhost}'. queue.delete operations with \
                 {flag} flag set are not supported by quorum queues"
            )));
        }
        if if_empty && queue.ready() > 0 {
            return Err(Refusal::NotEmpty(queue.name.clone(), vhost.clone()));
        }
        if if_unused && !queue.consumers.is_empty() {
            return Err(Refusal::InUse(format!("queue '{}'", queue.name), vhost.clone()));
        }
        let count = queue.ready_count();
        self.delete_queue(id, step);
        Ok(count)
    }

    /// Deletes a queue with all that hangs on it, and tells the consumers it leaves behind.
    pub(crate) fn delete_queue(&mut self, id: QueueId, step: &mut Step<'_>) {
        if self.queues.get(&id).is_some_and(|queue| queue.durable) {
            self.bury_all_of(id, step);
        }
        let Some((queue, sources)) = self.drop_queue(id, &mut step.effects.released) else {
            return;
        };
        for consumer in &queue.consumers {
            let Some(consumer_entry) = self.consumers.remove(consumer) else { continue };
            self.held_back.remove(consumer);
            let (session, holder) = (consumer_entry.session, consumer_entry.holder);
            if let Some(entry) =
                self.sessions.get_mut(&session).and_then(|s| s.holders.get_mut(&holder))
            {
                entry.consumers.remove(&consumer_entry.tag);
                let lost = Reply::ConsumerLost { tag: consumer_entry.tag, consumer: *consumer };
                self.tell(session, Item::Reply { holder, reply: Box::new(lost) }, step);
            }
        }
        if let Some(session) = queue.owner.and_then(|owner| self.sessions.get_mut(&owner)) {
            session.owned.retain(|each| *each != id);
        }
        if queue.durable {
            leveret_record::write_delete_queue(&mut step.effects.log, id);
            self.recorded(step);
        }
        self.lost_bindings(sources, step);
    }

    /// Forgets a queue, its bindings and its ready messages, and says which exchanges have lost a
    /// binding. Leases on the queue come to nothing.
    pub(crate) fn drop_queue(
        &mut self,
        id: QueueId,
        released: &mut Vec<Lsn>,
    ) -> Option<(Queue, Vec<ExchangeId>)> {
        let mut queue = self.queues.remove(&id)?;
        self.generation += 1;
        self.deadlines.remove(&(queue.deadline, id));
        self.vhosts[queue.vhost].queues.remove(&queue.name);
        let sources = self.unroute(queue.vhost, Target::Queue(id), &queue.bindings);
        for entry in queue.drain() {
            self.chunks.release(entry.chunk, released);
        }
        // During a replay they are counted at its end.
        let extents = queue.extents().map(|(_, extent)| extent).chain(queue.spilled());
        for extent in extents.filter(|_| self.replayed.is_none()) {
            self.chunks.packs.lose(extent.pack, extent.live.len());
        }
        self.resume(&mut queue.waiting);
        Some((queue, sources))
    }

    /// Drops the ready messages of a queue and says how many there were.
    pub(crate) fn purge_queue(
        &mut self,
        holder: u16,
        name: &ShortString,
        step: &mut Step<'_>,
    ) -> Result<u32, Refusal> {
        let id = self.find_queue(holder, name, step)?;
        self.expire_heads(id, step);
        let Some(queue) = self.queues.get_mut(&id) else { return Ok(0) };
        let count = queue.ready_count();
        for entry in queue.drain() {
            step.settled(queue, entry, &mut self.chunks);
        }
        let purged = queue.purge_packs();
        for (first, count) in purged.runs {
            step.settled_run(id, first, count);
        }
        for (pack, count) in purged.lost {
            self.chunks.packs.lose(pack, count);
        }
        step.flush_settled();
        self.after_log(step);
        Ok(count)
    }
}

/// Quorum queues survive everything, so they cannot be bound to anything that does not.
fn check_kind(declare: &DeclareQueue, kind: Kind, vhost: &ShortString) -> Result<(), Refusal> {
    if kind == Kind::Classic {
        return Ok(());
    }
    if declare.name.is_empty() {
        return Err(Refusal::ServerNamed("rabbit_quorum_queue"));
    }
    let properties = [
        ("auto-delete", declare.auto_delete),
        ("exclusive-owner", declare.exclusive),
        ("non-durable", !declare.durable),
    ];
    match properties.into_iter().find(|(_, has)| *has) {
        None => Ok(()),
        Some((property, _)) => Err(Refusal::InvalidProperty {
            property,
            name: declare.name.clone(),
            vhost: vhost.clone(),
        }),
    }
}

pub(crate) fn queue_definition(queue: &Queue, vhost: &ShortString) -> QueueDefinition {
    QueueDefinition {
        id: queue.id,
        vhost: vhost.clone(),
        name: queue.name.clone(),
        auto_delete: queue.auto_delete,
        arguments: queue.arguments.clone(),
        next: Position(queue.next.0),
    }
}

//! A message's way out: to consumers in turn, or to whoever asks for one.

use leveret_model::limits::{CONGESTED_QUEUE_BYTES, SESSION_OUTPUT_BYTES_MAX};
use leveret_model::{QueueId, ShortString};

use rustc_hash::FxHashSet;

use crate::command::Consume;
use crate::effect::{Item, Reply};
use crate::engine::{Consumer, Engine};
use crate::holder::{Holder, Lease};
use crate::queue::{Entry, mark_dirty};
use crate::refusal::Refusal;
use crate::step::Step;

impl Engine {
    /// Delivers what can be delivered from the queues that this step has touched.
    pub(crate) fn dispatch_dirty(&mut self, step: &mut Step<'_>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.dispatch(id, step);
        }
        self.dirty = dirty;
    }

    /// One message to each consumer in turn, as long as there are both. A consumer that cannot
    /// take one leaves the rotation until it can.
    fn dispatch(&mut self, id: QueueId, step: &mut Step<'_>) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.dirty = false;
        let number = self.step;
        while queue.ready() > 0 {
            let Some(&consumer_id) = queue.active.front() else { break };
            let consumer = self.consumers.get_mut(&consumer_id).expect("active ones exist");
            let session = self.sessions.get_mut(&consumer.session).expect("consumers have one");
            session.outbound(consumer.session, number, step.effects);
            let turns = if queue.active.len() == 1 { queue.ready() } else { 1 };
            let holder = session.holders.get_mut(&consumer.holder).expect("consumers have one");
            let mut outstanding = session.outstanding;
            let mut turn = 0;
            while turn < turns {
                let full = outstanding >= SESSION_OUTPUT_BYTES_MAX;
                if full || !has_room(consumer, holder) {
                    session.stalled |= full;
                    consumer.blocked = true;
                    queue.active.pop_front();
                    break;
                }
                let Some(entry) = queue.take() else { break };
                turn += 1;
                let outbound = &mut step.effects.outbound[session.told.1];
                let chunk = outbound.chunk(entry.chunk, &self.chunks);
                outbound.bytes += entry.bytes as usize;
                outstanding += entry.bytes as usize;
                let lease = lease(consumer_id, consumer, holder, entry);
                outbound.items.push(Item::Deliver {
                    holder: consumer.holder,
                    redelivered: entry.redelivered,
                    consumer: consumer_id,
                    chunk,
                    message: entry.message,
                    lease,
                });
                if consumer.no_ack {
                    step.settled(id, entry, &mut self.chunks);
                } else {
                    queue.leased += 1;
                }
            }
            session.outstanding = outstanding;
            if turn == 1 && queue.active.len() > 1 {
                queue.active.rotate_left(1);
            }
        }
        // Only whoever brings more is slowed, and only where there are consumers to wait for.
        step.effects.congested |= queue.ready_bytes > CONGESTED_QUEUE_BYTES
            && !queue.consumers.is_empty()
            && !step.chunk.is_empty();
    }

    pub(crate) fn consume(
        &mut self,
        holder: u16,
        consume: Consume,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if consume.queue == "amq.rabbitmq.reply-to" {
            return Err(Refusal::NotBuilt("direct reply-to".to_owned()));
        }
        let id = self.find_queue(holder, &consume.queue, step)?;
        if consume.arguments.get("x-priority").is_some() {
            return Err(Refusal::NotBuilt("consumer argument 'x-priority'".to_owned()));
        }
        let tag = match consume.tag.is_empty() {
            true => self.made_up_name("amq.ctag-"),
            false => consume.tag,
        };
        if self.holder(step, holder).consumers.contains_key(&tag) {
            return Err(Refusal::ReusedTag(tag));
        }
        let queue = self.queues.get_mut(&id).expect("just found");
        if queue.exclusive_consumer || consume.exclusive && !queue.consumers.is_empty() {
            let vhost = self.vhosts[queue.vhost].name.clone();
            return Err(Refusal::ExclusiveUse(queue.name.clone(), vhost));
        }
        let consumer = self.next_consumer;
        self.next_consumer += 1;
        queue.exclusive_consumer = consume.exclusive;
        queue.consumers.push(consumer);
        queue.active.push_back(consumer);
        mark_dirty(queue, &mut self.dirty);
        let entry = self.holder(step, holder);
        entry.consumers.insert(tag.clone(), consumer);
        let prefetch = entry.prefetch;
        self.consumers.insert(
            consumer,
            Consumer {
                session: step.session,
                holder,
                queue: id,
                tag: tag.clone(),
                no_ack: consume.no_ack,
                prefetch,
                leased: 0,
                blocked: false,
            },
        );
        self.reply(holder, Reply::Consuming { consumer, tag, reply: consume.reply }, step);
        Ok(())
    }

    pub(crate) fn cancel(
        &mut self,
        holder: u16,
        tag: ShortString,
        reply: bool,
        step: &mut Step<'_>,
    ) {
        let consumer = self.holder(step, holder).consumers.remove(&tag);
        // Before the answer, because nothing may be delivered after it.
        if let Some(id) = consumer {
            self.remove_consumers(&FxHashSet::from_iter([id]), step);
        }
        self.reply(holder, Reply::Cancelled { tag, consumer, reply }, step);
    }

    /// Takes consumers off their queues; an auto-delete queue goes with its last one. Their holder
    /// has forgotten them already, and keeps its leases.
    pub(crate) fn remove_consumers(&mut self, ids: &FxHashSet<u64>, step: &mut Step<'_>) {
        // Each queue once, however many of its consumers go.
        let mut queues: Vec<QueueId> = Vec::new();
        for id in ids {
            queues.extend(self.consumers.remove(id).map(|consumer| consumer.queue));
        }
        queues.sort_unstable();
        queues.dedup();
        for id in queues {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            queue.consumers.retain(|each| !ids.contains(each));
            queue.active.retain(|each| !ids.contains(each));
            queue.exclusive_consumer = false;
            if queue.auto_delete && queue.consumers.is_empty() {
                self.delete_queue(id, step);
            }
        }
    }

    pub(crate) fn get(
        &mut self,
        number: u16,
        queue: &ShortString,
        no_ack: bool,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let id = self.find_queue(number, queue, step)?;
        let queue = self.queues.get_mut(&id).expect("just found");
        let Some(entry) = queue.take() else {
            self.reply(number, Reply::GotNothing, step);
            return Ok(());
        };
        let left = queue.ready_count();
        let step_number = self.step;
        let session = self.sessions.get_mut(&step.session).expect("checked by the step");
        let holder = session.holders.get_mut(&number).expect("checked before the operation");
        let lease = holder.lease((!no_ack).then_some(Lease { queue: id, consumer: None, entry }));
        let outbound = session.outbound(step.session, step_number, step.effects);
        let chunk = outbound.chunk(entry.chunk, &self.chunks);
        outbound.bytes += entry.bytes as usize;
        outbound.items.push(Item::Got {
            holder: number,
            redelivered: entry.redelivered,
            chunk,
            message: entry.message,
            lease,
            left,
        });
        session.outstanding += entry.bytes as usize;
        if no_ack {
            step.settled(id, entry, &mut self.chunks);
        } else {
            queue.leased += 1;
        }
        Ok(())
    }
}

/// Whether the prefetch limits let another delivery out. They do not bind consumers that settle
/// on delivery.
fn has_room(consumer: &Consumer, holder: &Holder) -> bool {
    consumer.no_ack
        || (holder.has_room()
            && (consumer.prefetch == 0 || consumer.leased < u32::from(consumer.prefetch)))
}

/// Numbers a delivery to a consumer and notes what it holds.
fn lease(id: u64, consumer: &mut Consumer, holder: &mut Holder, entry: Entry) -> u64 {
    if consumer.no_ack {
        return holder.lease(None);
    }
    consumer.leased += 1;
    holder.consuming += 1;
    holder.lease(Some(Lease { queue: consumer.queue, consumer: Some(id), entry }))
}

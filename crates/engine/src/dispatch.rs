//! A message's way out: to consumers in turn, or to whoever asks for one.

use leveret_model::limits::{CONGESTED_QUEUE_BYTES, LEASED_BYTES_MAX, SESSION_OUTPUT_BYTES_MAX};
use leveret_model::{Lsn, Position, QueueId, ShortString};

use crate::effect::{Item, Reply};
use crate::engine::{Consumer, Engine};
use crate::holder::{Holder, Lease};
use crate::queue::{Entry, Head, Queue, mark_dirty};
use crate::refusal::Refusal;
use crate::settings::Kind;
use crate::step::Step;

/// How many messages ahead the log knows that they are delivered: so many may say after a restart
/// that they were, and were not.
const PROMISED_MESSAGES: u64 = 4096;

impl Engine {
    /// Delivers what can be delivered from the queues that this step has touched, and sends dead
    /// letters on their way, until there is nothing more. Sessions that are about to go on come
    /// first: consumers would take what was loaded for them, each time.
    pub(crate) fn settle_down(&mut self, step: &mut Step<'_>) {
        self.bury(step);
        while !self.dirty.is_empty() && !self.can_resume() {
            let dirty = std::mem::take(&mut self.dirty);
            for id in dirty {
                self.dispatch(id, step);
                self.arm(id);
            }
            // They may go to other queues.
            self.bury(step);
        }
    }

    /// Delivers from one queue what can be delivered, and ends what is too old then. A queue is
    /// held to its limit here that a restart has given more, or that is a quorum queue: after its
    /// consumers have had their share.
    pub(crate) fn dispatch(&mut self, id: QueueId, step: &mut Step<'_>) {
        while self.deliver(id, step) && self.expire_head(id, step) {}
        self.expire_head(id, step);
        let limited = |queue: &Queue| {
            let late = queue.settings.kind == Kind::Quorum || queue.excess;
            late && !queue.settings.rejects() && queue.over_limit()
        };
        if self.queues.get(&id).is_some_and(limited) {
            self.trim(id, step);
            self.expire_head(id, step);
        }
        if let Some(queue) = self.queues.get_mut(&id) {
            // What is to go may be on disk.
            queue.excess = queue.excess && queue.over_limit();
        }
        self.load(id, step);
    }

    /// One message to each consumer in turn, as long as there are both. A consumer that cannot
    /// take one leaves the rotation until it can. Says whether it stops at a message that is too
    /// old.
    fn deliver(&mut self, id: QueueId, step: &mut Step<'_>) -> bool {
        let (short, letters) = (self.is_short(), self.letters_wait());
        let Some(queue) = self.queues.get_mut(&id) else { return false };
        queue.dirty = false;
        let mut expired = false;
        let number = self.step;
        let counts = queue.settings.counts_attempts();
        while queue.ready() > 0 && !expired {
            let Some(consumer_id) = queue.active.front() else { break };
            let consumer = self.consumers.get_mut(&consumer_id).expect("active ones exist");
            let session = self.sessions.get_mut(&consumer.session).expect("consumers have one");
            session.outbound(consumer.session, number, step.effects);
            let shared = queue.active.sharing() > 1;
            let turns = if shared { 1 } else { queue.ready() };
            let holder = session.holders.get_mut(&consumer.holder).expect("consumers have one");
            let mut outstanding = session.outstanding;
            let mut turn = 0;
            // The slot of the last message, and what it is called there.
            let mut named: Option<(u32, u32)> = None;
            while turn < turns {
                let full = outstanding >= SESSION_OUTPUT_BYTES_MAX;
                let held_back = short && is_held_back(queue, consumer, holder, letters);
                if full || held_back || !has_room(consumer, holder) {
                    session.stalled |= full;
                    self.held_back.extend(held_back.then_some(consumer_id));
                    self.held_for_letters |= held_back && letters;
                    consumer.blocked = true;
                    queue.active.pop();
                    break;
                }
                let old =
                    |head: Head<'_>| matches!(head, Head::Here(head) if head.expires < step.now);
                if queue.timed && queue.head().is_some_and(old) {
                    expired = true;
                    break;
                }
                let Some(entry) = queue.take(&self.chunks) else { break };
                turn += 1;
                let promised = queue.promise(&entry, step);
                let outbound = &mut step.effects.outbound[session.told.1];
                outbound.promise = outbound.promise.max(promised);
                let chunk = match named {
                    Some((slot, chunk)) if slot == entry.chunk => chunk,
                    _ => outbound.chunk(entry.chunk, &self.chunks),
                };
                named = Some((entry.chunk, chunk));
                outbound.bytes += entry.bytes as usize;
                outstanding += entry.bytes as usize;
                let lease = lease(consumer_id, consumer, holder, entry);
                outbound.items.push(Item::Deliver {
                    holder: consumer.holder,
                    redelivered: queue.redelivered(&entry),
                    consumer: consumer_id,
                    attempts: if counts { entry.attempts } else { 0 },
                    chunk,
                    message: entry.message,
                    lease,
                });
                step.given(queue, entry, consumer.no_ack, &mut self.chunks);
            }
            session.outstanding = outstanding;
            if turn == 1 && shared {
                queue.active.rotate();
            }
            if turn == 0 && queue.wanted {
                // The next message is only on disk.
                break;
            }
        }
        // Only whoever brings more is slowed, and only where there are consumers to wait for.
        step.effects.congested |= queue.ready_bytes > CONGESTED_QUEUE_BYTES
            && !queue.consumers.is_empty()
            && !step.content.chunk.is_empty();
        expired
    }

    pub(crate) fn get(
        &mut self,
        number: u16,
        queue: &ShortString,
        no_ack: bool,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let id = self.find_queue(number, queue, step)?;
        self.expire_heads(id, step);
        self.touch(id, step.now);
        let queue = self.queues.get_mut(&id).expect("just found");
        if queue.settings.single_active && queue.settings.kind == Kind::Quorum {
            let vhost = self.vhosts[queue.vhost].name.clone();
            return Err(Refusal::SingleActive(queue.name.clone(), vhost));
        }
        let Some(entry) = queue.take(&self.chunks) else {
            self.reply(number, Reply::GotNothing, step);
            return Ok(());
        };
        // The next one may be too old earlier.
        mark_dirty(queue, &mut self.dirty);
        let left = queue.ready_count();
        let promised = queue.promise(&entry, step);
        let redelivered = queue.redelivered(&entry);
        let attempts = if queue.settings.counts_attempts() { entry.attempts } else { 0 };
        let step_number = self.step;
        let session = self.sessions.get_mut(&step.session).expect("checked by the step");
        let holder = session.holders.get_mut(&number).expect("checked before the operation");
        let lease = holder.lease((!no_ack).then_some(Lease { queue: id, consumer: None, entry }));
        let outbound = session.outbound(step.session, step_number, step.effects);
        let chunk = outbound.chunk(entry.chunk, &self.chunks);
        outbound.bytes += entry.bytes as usize;
        outbound.promise = outbound.promise.max(promised);
        outbound.items.push(Item::Got {
            holder: number,
            redelivered,
            attempts,
            chunk,
            message: entry.message,
            lease,
            left,
        });
        session.outstanding += entry.bytes as usize;
        step.given(queue, entry, no_ack, &mut self.chunks);
        Ok(())
    }
}

impl Queue {
    /// Has the log know that a message is delivered, and more soon. Says where in the log that
    /// stands: the message should not be told before, or after a restart it might pass for one that
    /// nobody has seen.
    #[inline]
    fn promise(&mut self, entry: &Entry, step: &mut Step<'_>) -> Option<Lsn> {
        if !entry.durable {
            return None;
        }
        if entry.position >= self.promised {
            self.promised = Position(entry.position.0 + PROMISED_MESSAGES);
            self.promised_at = Some(step.address);
            leveret_record::write_delivered(&mut step.effects.log, self.id, self.promised);
            step.effects.records += 1;
        }
        self.promised_at
    }
}

/// Whether the prefetch limits let another delivery out. As in RabbitMQ, what is settled on
/// delivery waits for a limit that all share too, but does not count towards it.
fn has_room(consumer: &Consumer, holder: &Holder) -> bool {
    let alone = consumer.no_ack || consumer.prefetch == 0;
    holder.has_room() && (alone || consumer.leased < u32::from(consumer.prefetch))
}

/// Whether a consumer gets nothing more while messages take too much memory: what is next would
/// have to be brought from disk and stay. Without a prefetch nothing but the consumer itself says
/// when it has enough; and what it rejects stays, too, while dead letters wait.
fn is_held_back(queue: &Queue, consumer: &Consumer, holder: &Holder, letters: bool) -> bool {
    let limited = consumer.prefetch != 0 || holder.shared_prefetch != 0;
    let enough = letters || !limited && consumer.leased_bytes >= LEASED_BYTES_MAX;
    !consumer.no_ack && enough && matches!(queue.head(), Some(Head::OnDisk(_)))
}

/// Numbers a delivery to a consumer and notes what it holds.
fn lease(id: u64, consumer: &mut Consumer, holder: &mut Holder, entry: Entry) -> u64 {
    if consumer.no_ack {
        return holder.lease(None);
    }
    consumer.leased += 1;
    consumer.leased_bytes += entry.bytes as usize;
    holder.consuming += 1;
    holder.lease(Some(Lease { queue: consumer.queue, consumer: Some(id), entry }))
}

//! Consumers: how they come and go.

use leveret_model::{FieldTable, QueueId, ShortString};
use rustc_hash::FxHashSet;

use crate::command::Consume;
use crate::effect::Reply;
use crate::engine::{Consumer, Engine};
use crate::queue::{Queue, mark_dirty};
use crate::refusal::Refusal;
use crate::replies::REPLY_TO;
use crate::settings::{Kind, integer};
use crate::step::Step;

/// What only consumers of streams may ask for.
const STREAM_ARGUMENTS: [&str; 3] =
    ["x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"];

impl Engine {
    pub(crate) fn consume(
        &mut self,
        holder: u16,
        mut consume: Consume,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if consume.tag.is_empty() {
            consume.tag = self.made_up_name("amq.ctag-");
        }
        if consume.queue == REPLY_TO {
            return self.consume_replies(holder, consume, step);
        }
        if self.holder(step, holder).consumers.contains_key(&consume.tag) {
            return Err(Refusal::ReusedTag(consume.tag));
        }
        let id = self.find_queue(holder, &consume.queue, step)?;
        let queue = &self.queues[&id];
        let vhost = &self.vhosts[queue.vhost].name;
        let of_streams = |name: &&str| consume.arguments.get(*name).is_some();
        if let Some(argument) = STREAM_ARGUMENTS.into_iter().find(of_streams) {
            return Err(Refusal::ForeignArgument {
                argument: argument.to_owned(),
                name: queue.name.clone(),
                vhost: vhost.clone(),
                kind: queue.settings.kind.module(),
            });
        }
        // Quorum queues know no exclusive consumers, and take no notice.
        consume.exclusive &= queue.settings.kind == Kind::Classic;
        let taken = !queue.consumers.is_empty() || queue.settings.single_active;
        if queue.exclusive_consumer || consume.exclusive && taken {
            return Err(Refusal::ExclusiveUse(queue.name.clone(), vhost.clone()));
        }
        let priority =
            priority(&consume.arguments).map_err(|problem| Refusal::InvalidArgument {
                argument: "x-priority".to_owned(),
                object: format!("queue '{}'", queue.name),
                vhost: vhost.clone(),
                problem,
            })?;
        if queue.settings.kind == Kind::Quorum && self.holder(step, holder).shared_prefetch != 0 {
            let queue = &self.queues[&id];
            let (name, vhost) = (&queue.name, &self.vhosts[queue.vhost].name);
            let text = format!("queue '{name}' in vhost '{vhost}' does not support global qos");
            return Err(Refusal::NotImplemented(text));
        }
        self.start_consumer(holder, id, priority, consume, step);
        Ok(())
    }

    /// Starts a consumer that may be started.
    pub(crate) fn start_consumer(
        &mut self,
        holder: u16,
        id: QueueId,
        priority: i64,
        consume: Consume,
        step: &mut Step<'_>,
    ) {
        let Consume { tag, no_ack, exclusive, reply, .. } = consume;
        let consumer = self.next_consumer;
        self.next_consumer += 1;
        let entry = self.holder(step, holder);
        entry.consumers.insert(tag.clone(), consumer);
        let prefetch = entry.prefetch;
        let session = step.session;
        let (blocked, queue_tag) = (false, tag.clone());
        self.consumers.insert(
            consumer,
            Consumer {
                session,
                holder,
                queue: id,
                tag: queue_tag,
                no_ack,
                priority,
                prefetch,
                leased: 0,
                leased_bytes: 0,
                blocked,
            },
        );
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.exclusive_consumer = exclusive;
            queue.consumers.push(consumer);
            if !queue.settings.single_active || queue.single.is_none() {
                queue.single = Some(consumer);
                queue.active.push(priority, consumer);
            }
            mark_dirty(queue, &mut self.dirty);
        }
        self.reply(holder, Reply::Consuming { consumer, tag, reply }, step);
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
            self.held_back.remove(id);
        }
        queues.sort_unstable();
        queues.dedup();
        // Off all of them first: the dead letters of one that is deleted may go to another.
        for id in &queues {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            queue.consumers.retain(|each| !ids.contains(each));
            queue.active.retain(|each| !ids.contains(&each));
            queue.exclusive_consumer = false;
        }
        for id in queues {
            let Some(queue) = self.queues.get(&id) else { continue };
            if queue.auto_delete && queue.consumers.is_empty() {
                self.delete_queue(id, step);
                continue;
            }
            if queue.single.is_some_and(|single| ids.contains(&single)) {
                self.choose_single(id);
            }
            self.touch(id, step.now);
        }
    }

    /// Gives the turn at a queue with a single active consumer to the next one.
    fn choose_single(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let consumers = &self.consumers;
        let next = first_of_highest(queue, |each| consumers.get(&each).map(|it| it.priority));
        queue.single = next.map(|(consumer, _)| consumer);
        if let Some((consumer, priority)) = next.filter(|_| queue.settings.single_active) {
            queue.active.push(priority, consumer);
            mark_dirty(queue, &mut self.dirty);
        }
    }
}

/// Of the consumers with the highest priority, the one that came first.
fn first_of_highest(queue: &Queue, priority: impl Fn(u64) -> Option<i64>) -> Option<(u64, i64)> {
    let known = queue.consumers.iter().filter_map(|each| Some((*each, priority(*each)?)));
    // The last of several maxima would win, so the list is turned round.
    known.rev().max_by_key(|(_, priority)| *priority)
}

/// The priority that a consumer asks for.
fn priority(arguments: &FieldTable) -> Result<i64, String> {
    arguments.get("x-priority").map_or(Ok(0), integer)
}

//! Direct replies: a pseudo-queue for the answers to one holder's requests.
//!
//! To the engine it is a transient queue with one consumer that settles on delivery. Clients never
//! see it but by its name, which they pass on as `reply-to`.

use leveret_model::{QueueId, ShortString};

use crate::command::Consume;
use crate::effect::Reply;
use crate::engine::Engine;
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::step::Step;

/// The name under which every holder knows its own.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// What the names that others know begin with.
const PREFIX: &str = "amq.rabbitmq.reply-to.";

/// Whether the name is one of a queue of direct replies.
pub(crate) fn is_reply_name(name: &ShortString) -> bool {
    *name == REPLY_TO || is_made_up(name)
}

/// Whether the name is one that others know such a queue by.
pub(crate) fn is_made_up(name: &ShortString) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

impl Engine {
    pub(crate) fn consume_replies(
        &mut self,
        number: u16,
        consume: Consume,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let holder = self.holder(step, number);
        if holder.consumers.contains_key(&consume.tag) {
            return Err(Refusal::ReusedTag(consume.tag));
        }
        if !consume.no_ack {
            return Err(Refusal::ReplyConsumerAcks);
        }
        let old = holder.replies.clone();
        let vhost = self.vhost_of(step);
        if old.is_some_and(|name| self.vhosts[vhost].queues.contains_key(&name)) {
            return Err(Refusal::ReplyConsumerSet);
        }
        let name = self.made_up_name(PREFIX);
        let id = QueueId(self.next_queue);
        let mut queue = Queue::new(id, vhost, name.clone(), Settings::default());
        queue.auto_delete = true;
        queue.replies = true;
        self.add_queue(queue);
        self.holder(step, number).replies = Some(name);
        self.start_consumer(number, id, 0, consume, step);
        Ok(())
    }

    /// Where replies to a request of this holder go.
    pub(crate) fn reply_address(
        &mut self,
        number: u16,
        step: &Step<'_>,
    ) -> Result<ShortString, Refusal> {
        let name = self.holder(step, number).replies.clone().ok_or(Refusal::NoReplyConsumer)?;
        // Its consumer may have been cancelled.
        let known = self.vhosts[self.vhost_of(step)].queues.contains_key(&name);
        if known { Ok(name) } else { Err(Refusal::NoReplyConsumer) }
    }

    /// Answers a declaration of a queue of direct replies: whether anyone waits there.
    pub(crate) fn declare_replies(
        &mut self,
        holder: u16,
        name: &ShortString,
        reply: bool,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let vhost = &self.vhosts[self.vhost_of(step)];
        if *name != REPLY_TO && !vhost.queues.contains_key(name) {
            return Err(Refusal::NoQueue(name.clone(), vhost.name.clone()));
        }
        let answer = Reply::QueueDeclared { name: name.clone(), messages: 0, consumers: 1 };
        self.reply_if(reply, holder, answer, step);
        Ok(())
    }
}

//! A message's way in: routed, numbered in every queue it goes to, written once.

use std::ops::Range;

use leveret_model::{Message, Position, QueueId};

use crate::effect::{Confirmed, DurableConfirm, Item};
use crate::engine::Engine;
use crate::queue::OVERHEAD_BYTES;
use crate::refusal::Refusal;
use crate::step::Step;

impl Engine {
    /// Publishes messages of the step's chunk. Neighbours with the same envelope go the same
    /// way together.
    pub(crate) fn publish(
        &mut self,
        holder: u16,
        messages: Range<u32>,
        mandatory: bool,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let mut first = messages.start;
        while first < messages.end {
            let head = step.chunk.get(first);
            let mut end = first + 1;
            while end < messages.end && step.chunk.get(end).envelope == head.envelope {
                end += 1;
            }
            self.route(holder, head, step)?;
            self.enqueue(holder, first..end, mandatory, step);
            first = end;
        }
        Ok(())
    }

    /// Brings the holder's remembered route up to date for this message.
    fn route(&mut self, holder: u16, message: Message<'_>, step: &Step<'_>) -> Result<(), Refusal> {
        let session = self.sessions.get_mut(&step.session).expect("checked by the step");
        let holder = session.holders.get_mut(&holder).expect("checked before the operation");
        let route = &mut holder.route;
        if route.generation == self.generation && route.envelope == message.envelope {
            return Ok(());
        }
        route.generation = 0;
        route.queues.clear();
        let vhost = &self.vhosts[session.vhost];
        let name = message.exchange();
        if name.is_empty() {
            route.queues.extend(vhost.queues.get(message.routing_key()));
        } else {
            let Some(exchange) = vhost.exchanges.get(name) else {
                let name = name.try_into().unwrap_or_default();
                return Err(Refusal::NoExchange(name, vhost.name.clone()));
            };
            if exchange.internal {
                return Err(Refusal::InternalExchange(exchange.name.clone(), vhost.name.clone()));
            }
            exchange.router.route(message.routing_key(), &mut route.queues);
        }
        route.envelope.clear();
        route.envelope.extend_from_slice(message.envelope);
        route.generation = self.generation;
        Ok(())
    }

    /// Puts messages into the queues of the holder's route.
    fn enqueue(&mut self, number: u16, messages: Range<u32>, mandatory: bool, step: &mut Step<'_>) {
        let route = std::mem::take(&mut self.holder(step, number).route);
        let mut durable: Vec<(QueueId, Position)> = Vec::new();
        for id in &route.queues {
            let queue = self.queues.get_mut(id).expect("a route of this generation");
            if queue.durable {
                durable.push((*id, queue.next));
            }
            for message in messages.clone() {
                let persistent = queue.durable && step.chunk.is_persistent(message);
                let bytes = step.chunk.message_len(message) + OVERHEAD_BYTES;
                queue.push(step.slot, message, bytes as u32, persistent);
            }
            if !queue.dirty {
                queue.dirty = true;
                self.dirty.push(*id);
            }
            self.chunks.retain(step.slot, messages.end - messages.start);
        }
        if mandatory && route.queues.is_empty() {
            self.return_messages(number, messages.clone(), step);
        }
        let holder = self.holder(step, number);
        holder.route = route;
        let mut confirm = holder.published;
        if let Some((_, last)) = &mut holder.published {
            *last += u64::from(messages.end - messages.start);
        }
        for message in messages {
            let logged = !durable.is_empty() && step.chunk.is_persistent(message);
            if logged {
                let message = step.chunk.get(message);
                leveret_record::write_publish(&mut step.effects.log, message, &durable);
                step.effects.records += 1;
                if self.chunks.pin(step.slot, step.address) {
                    step.effects.pinned += 1;
                }
            }
            for (_, position) in &mut durable {
                *position = position.next();
            }
            if let Some((publisher, last)) = &mut confirm {
                *last += 1;
                let confirmed = Confirmed { publisher: *publisher, first: *last, last: *last };
                self.confirm(number, confirmed, logged, step);
            }
        }
    }

    fn confirm(&mut self, holder: u16, confirmed: Confirmed, logged: bool, step: &mut Step<'_>) {
        if logged {
            if let Some(last) = step.effects.confirms.last_mut()
                && last.confirmed.extend(confirmed)
            {
                return;
            }
            let session = step.session;
            step.effects.confirms.push(DurableConfirm { session, holder, confirmed });
            return;
        }
        let step_number = self.step;
        let Some(session) = self.sessions.get_mut(&step.session) else { return };
        let items = &mut session.outbound(step.session, step_number, step.effects).items;
        if let Some(Item::Confirmed { confirmed: last, .. }) = items.last_mut()
            && last.extend(confirmed)
        {
            return;
        }
        items.push(Item::Confirmed { holder, confirmed });
    }

    fn return_messages(&mut self, holder: u16, messages: Range<u32>, step: &mut Step<'_>) {
        let step_number = self.step;
        let Some(session) = self.sessions.get_mut(&step.session) else { return };
        let outbound = session.outbound(step.session, step_number, step.effects);
        let chunk = outbound.chunk(step.slot, &self.chunks);
        let mut bytes = 0;
        for message in messages {
            bytes += step.chunk.message_len(message) + OVERHEAD_BYTES;
            outbound.items.push(Item::Returned { holder, chunk, message });
        }
        outbound.bytes += bytes;
        session.outstanding += bytes;
    }
}

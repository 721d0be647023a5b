//! A message's way in: routed, numbered in every queue it goes to, written once.

use std::ops::Range;

use leveret_model::{Position, QueueId, Time};
use leveret_record::Origin;

use crate::effect::{Confirmed, DurableConfirm, Item};
use crate::engine::Engine;
use crate::queue::{Entry, OVERHEAD_BYTES, mark_dirty};
use crate::refusal::Refusal;
use crate::routing::Address;
use crate::settings::{Kind, Overflow};
use crate::step::{Content, Step};

/// Messages on their way to the same queues.
#[derive(Clone)]
pub(crate) struct Publication {
    pub(crate) content: Content,
    pub(crate) messages: Range<u32>,
    /// Who published them, to be confirmed or to get them back; nobody for dead letters.
    pub(crate) holder: Option<u16>,
    /// Whether they are returned if no queue takes them.
    pub(crate) mandatory: bool,
    pub(crate) demands: Demands,
}

/// What a message asks of the queues it goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demands {
    /// How long it may wait, in milliseconds.
    pub(crate) ttl: Option<u64>,
    pub(crate) priority: u8,
    /// A place also where there is none, since nobody is there to be refused.
    pub(crate) place: bool,
}

impl Engine {
    /// Publishes messages of the step's batch.
    pub(crate) fn publish(
        &mut self,
        holder: u16,
        messages: Range<u32>,
        mandatory: bool,
        special: bool,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let content = step.content.clone();
        let mut first = messages.start;
        while first < messages.end {
            if special {
                self.publish_special(holder, first, mandatory, step)?;
                first += 1;
                continue;
            }
            // Neighbours with the same envelope go the same way together.
            let head = content.chunk.get(first);
            let mut end = first + 1;
            while end < messages.end && content.chunk.get(end).envelope == head.envelope {
                end += 1;
            }
            if self.remember_route(holder, head, step)? {
                end = first + 1;
            }
            let route = std::mem::take(&mut self.holder(step, holder).route);
            let demands = Demands::default();
            let publication = Publication {
                content: content.clone(),
                messages: first..end,
                holder: Some(holder),
                mandatory,
                demands,
            };
            let result = self.admit(&publication, &route.queues, step);
            self.holder(step, holder).route = route;
            result?;
            first = end;
        }
        Ok(())
    }

    /// Brings the holder's remembered route up to date for this message. Says whether it holds for
    /// this message alone, because it depends on the headers.
    fn remember_route(
        &mut self,
        holder: u16,
        message: leveret_model::Message<'_>,
        step: &Step<'_>,
    ) -> Result<bool, Refusal> {
        let generation = self.generation;
        let route = &mut self.holder(step, holder).route;
        if route.generation == generation && route.envelope == message.envelope {
            return Ok(false);
        }
        let mut route = std::mem::take(route);
        route.generation = 0;
        route.queues.clear();
        let address = Address {
            vhost: self.vhost_of(step),
            exchange: message.exchange(),
            keys: &[message.routing_key()],
            properties: message.properties,
        };
        let by_headers = self.route_for_client(address, &mut route.queues)?;
        route.envelope.clear();
        route.envelope.extend_from_slice(message.envelope);
        route.generation = if by_headers { 0 } else { generation };
        self.holder(step, holder).route = route;
        Ok(by_headers)
    }

    /// Adds the queues of a message that a client publishes. Says whether they depend on more
    /// than its exchange and keys.
    pub(crate) fn route_for_client(
        &self,
        address: Address<'_>,
        queues: &mut Vec<QueueId>,
    ) -> Result<bool, Refusal> {
        let vhost = &self.vhosts[address.vhost];
        let internal = |id| self.exchanges.get(id).filter(|exchange| exchange.internal);
        if let Some(exchange) = vhost.exchanges.get(address.exchange).and_then(internal) {
            return Err(Refusal::InternalExchange(exchange.name.clone(), vhost.name.clone()));
        }
        let routed = self.route(address, queues).ok_or_else(|| {
            let name = address.exchange.try_into().unwrap_or_default();
            Refusal::NoExchange(name, vhost.name.clone())
        })?;
        Ok(routed.by_headers)
    }

    /// Puts messages into queues, or keeps them for the holder's commit.
    pub(crate) fn admit(
        &mut self,
        publication: &Publication,
        queues: &[QueueId],
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if let Some(holder) = publication.holder
            && let Some(transaction) = &mut self.holder(step, holder).transaction
        {
            self.kept += transaction.keep(publication, queues)?;
            return Ok(());
        }
        self.enqueue(publication, queues, step);
        Ok(())
    }

    /// Puts messages into queues.
    pub(crate) fn enqueue(
        &mut self,
        publication: &Publication,
        queues: &[QueueId],
        step: &mut Step<'_>,
    ) {
        let messages = publication.messages.clone();
        if publication.mandatory && queues.is_empty() {
            self.return_messages(publication, step);
        }
        let plain = |id: &QueueId| self.queues.get(id).is_none_or(|it| it.settings.plain());
        if publication.demands == Demands::default() && queues.iter().all(plain) {
            self.enqueue_run(publication, queues, step);
        } else {
            for message in messages {
                self.enqueue_one(publication, message, queues, step);
            }
        }
    }

    /// Messages that ask for nothing, into queues without limits: queue by queue.
    fn enqueue_run(&mut self, publication: &Publication, queues: &[QueueId], step: &mut Step<'_>) {
        let Publication { content, messages, holder, .. } = publication;
        // Where persistent messages are written for, and where all are.
        let mut durable: Vec<(QueueId, Position)> = Vec::new();
        let mut keeping: Vec<(QueueId, Position)> = Vec::new();
        for id in queues {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            if queue.keeps(true) {
                durable.push((*id, queue.next));
            }
            if queue.keeps(false) {
                keeping.push((*id, queue.next));
            }
            for message in messages.clone() {
                let kept = queue.keeps(content.chunk.is_persistent(message));
                queue.push(entry(content, message, kept), &self.chunks);
            }
            mark_dirty(queue, &mut self.dirty);
            self.chunks.retain(content.slot, messages.end - messages.start);
        }
        let mut confirm = self.number(*holder, messages.end - messages.start, step);
        for message in messages.clone() {
            let targets = if content.chunk.is_persistent(message) { &durable } else { &keeping };
            let logged = !targets.is_empty();
            if logged {
                let origin = Origin { time: None, past: content.chunk.past(message) };
                self.write(content, message, origin, targets, step);
            }
            for (_, position) in durable.iter_mut().chain(&mut keeping) {
                *position = position.next();
            }
            if let (Some(holder), Some(confirmed)) = (*holder, &mut confirm) {
                self.confirm(holder, *confirmed, logged, step);
                *confirmed = following(*confirmed);
            }
        }
    }

    /// One message, into queues that may be full, or that it asks something of.
    fn enqueue_one(
        &mut self,
        publication: &Publication,
        message: u32,
        queues: &[QueueId],
        step: &mut Step<'_>,
    ) {
        let Publication { content, holder, demands, .. } = publication;
        let past = content.chunk.past(message);
        let mut origin = Origin { time: demands.ttl.map(|_| step.now), past };
        let mut targets: Vec<(QueueId, Position)> = Vec::new();
        let mut crowded: Vec<QueueId> = Vec::new();
        let mut rejected = false;
        for id in queues {
            if !self.has_room(*id, publication, message, step) {
                rejected = true;
                continue;
            }
            let Some(queue) = self.queues.get_mut(id) else { continue };
            let durable = queue.keeps(content.chunk.is_persistent(message));
            if durable {
                targets.push((*id, queue.next));
            }
            let ttl = [queue.settings.ttl, demands.ttl].into_iter().flatten().min();
            let expires = ttl.map_or(Time::NEVER, |ttl| step.now.after(ttl));
            origin.time = origin.time.or(ttl.map(|_| step.now));
            let priority = demands.priority.min(queue.settings.max_priority);
            let entry = Entry { expires, priority, ..entry(content, message, durable) };
            self.chunks.retain(content.slot, 1);
            queue.push(entry, &self.chunks);
            mark_dirty(queue, &mut self.dirty);
            if queue.over_limit() && !queue.settings.rejects() {
                crowded.push(*id);
            }
        }
        if !targets.is_empty() {
            self.write(content, message, origin, &targets, step);
        }
        if let Some(number) = *holder
            && let Some(confirmed) = self.number(*holder, 1, step)
        {
            match rejected {
                true => self.reject(number, confirmed, step),
                false => self.confirm(number, confirmed, !targets.is_empty(), step),
            }
        }
        // Not before the message is written: it may be the one that goes.
        for id in crowded {
            self.make_room(id, step);
        }
    }

    /// Whether a queue takes another message. One that does not may dead-letter it.
    fn has_room(
        &mut self,
        id: QueueId,
        publication: &Publication,
        message: u32,
        step: &mut Step<'_>,
    ) -> bool {
        let content = &publication.content;
        let body = content.chunk.body_len(message) as u64;
        if publication.demands.place {
            return true;
        }
        // As in RabbitMQ, a quorum queue has always room for dead letters.
        let letter = publication.holder.is_none();
        let full = |engine: &Engine| {
            engine.queues.get(&id).is_some_and(|queue| {
                let settings = &queue.settings;
                let asks = settings.rejects() && !(letter && settings.kind == Kind::Quorum);
                asks && queue.would_overflow(1, body)
            })
        };
        if !full(self) {
            return true;
        }
        // What a consumer would have taken already does not count, nor what is too old.
        self.dispatch(id, step);
        if !full(self) {
            return true;
        }
        if self.queues[&id].settings.overflow == Overflow::RejectDeadLetter {
            self.chunks.retain(content.slot, 1);
            self.die(id, entry(content, message, false), crate::Reason::MaxLength, step);
        }
        false
    }

    /// Takes what a queue holds too much from its head, after what a consumer takes and what is
    /// too old.
    fn make_room(&mut self, id: QueueId, step: &mut Step<'_>) {
        self.dispatch(id, step);
        self.trim(id, step);
        self.load(id, step);
    }

    /// Takes what a queue holds too much from its head.
    pub(crate) fn trim(&mut self, id: QueueId, step: &mut Step<'_>) {
        while let Some(queue) = self.queues.get_mut(&id)
            && queue.over_limit()
            && let Some(entry) = queue.take(&self.chunks)
        {
            self.die(id, entry, crate::Reason::MaxLength, step);
        }
        // The next one to go may be only on disk; then the rest has its turn when that is here.
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.excess |= queue.wanted && queue.over_limit();
        }
    }

    /// Writes a message for its durable queues.
    fn write(
        &mut self,
        content: &Content,
        message: u32,
        origin: Origin,
        targets: &[(QueueId, Position)],
        step: &mut Step<'_>,
    ) {
        let message = content.chunk.get(message);
        leveret_record::write_publish(&mut step.effects.log, message, origin, targets);
        step.effects.records += 1;
        if self.chunks.pin(content.slot, step.address) {
            step.effects.pinned += 1;
        }
    }

    /// Counts messages of a publisher who wants confirms, and numbers the first.
    fn number(&mut self, holder: Option<u16>, count: u32, step: &Step<'_>) -> Option<Confirmed> {
        let (publisher, last) = self.holder(step, holder?).published.as_mut()?;
        let first = *last + 1;
        *last += u64::from(count);
        Some(Confirmed { publisher: *publisher, first, last: first })
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

    fn reject(&mut self, holder: u16, confirmed: Confirmed, step: &mut Step<'_>) {
        let step_number = self.step;
        let Some(session) = self.sessions.get_mut(&step.session) else { return };
        let items = &mut session.outbound(step.session, step_number, step.effects).items;
        if let Some(Item::Rejected { confirmed: last, .. }) = items.last_mut()
            && last.extend(confirmed)
        {
            return;
        }
        items.push(Item::Rejected { holder, confirmed });
    }

    fn return_messages(&mut self, publication: &Publication, step: &mut Step<'_>) {
        let step_number = self.step;
        let Publication { content, messages, holder: Some(holder), .. } = publication else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&step.session) else { return };
        for message in messages.clone() {
            let outbound = session.outbound(step.session, step_number, step.effects);
            let chunk = outbound.chunk(content.slot, &self.chunks);
            let bytes = content.chunk.message_len(message) + OVERHEAD_BYTES;
            outbound.items.push(Item::Returned { holder: *holder, chunk, message });
            outbound.bytes += bytes;
            session.outstanding += bytes;
        }
    }
}

/// A message on its way into a queue, which gives it its position.
fn entry(content: &Content, message: u32, durable: bool) -> Entry {
    Entry {
        position: Position(0),
        expires: Time::NEVER,
        chunk: content.slot,
        message,
        bytes: (content.chunk.message_len(message) + OVERHEAD_BYTES) as u32,
        attempts: 0,
        priority: 0,
        durable,
    }
}

fn following(confirmed: Confirmed) -> Confirmed {
    let next = confirmed.last + 1;
    Confirmed { first: next, last: next, ..confirmed }
}

//! Exchanges, queues and bindings: declaring and deleting them.

use leveret_model::{Position, QueueId, ShortString};
use leveret_record::{BindingDefinition, Destination, ExchangeDefinition, QueueDefinition};

use crate::command::{Binding, DeclareExchange, DeclareQueue};
use crate::declare::{
    check_exchange, check_name, check_queue, check_queue_arguments, unknown_exchange_type,
};
use crate::effect::{Item, Reply};
use crate::engine::Engine;
use crate::exchange::{Exchange, Router};
use crate::queue::{BoundTo, Queue};
use crate::refusal::Refusal;
use crate::step::Step;

impl Engine {
    pub(crate) fn declare_exchange(
        &mut self,
        holder: u16,
        declare: &DeclareExchange,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let index = self.vhost_of(step);
        let vhost = &mut self.vhosts[index];
        let existing = vhost.exchanges.get(&declare.name);
        let router = Router::of_kind(declare.kind.as_bytes());
        match (existing, declare.passive) {
            _ if declare.name.is_empty() => return Err(Refusal::DefaultExchange),
            (None, true) => {
                return Err(Refusal::NoExchange(declare.name.clone(), vhost.name.clone()));
            }
            (Some(_), true) => {}
            (existing, false) => {
                let router = router.ok_or_else(|| unknown_exchange_type(&declare.kind))?;
                match existing {
                    Some(exchange) => {
                        check_exchange(exchange, declare, &vhost.name)?;
                        // Who declared it first may still be waiting for the log.
                        self.after_log(step);
                    }
                    None => self.create_exchange(index, declare, router, step)?,
                }
            }
        }
        self.reply_if(declare.reply, holder, Reply::ExchangeDeclared, step);
        Ok(())
    }

    fn create_exchange(
        &mut self,
        vhost: usize,
        declare: &DeclareExchange,
        router: Router,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        check_name("exchange", &declare.name)?;
        if declare.arguments.get("alternate-exchange").is_some() {
            return Err(Refusal::NotBuilt("exchange argument 'alternate-exchange'".to_owned()));
        }
        let exchange = Exchange {
            name: declare.name.clone(),
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments.clone(),
            router,
            bindings: 0,
        };
        if exchange.durable {
            let definition = exchange_definition(&exchange, &self.vhosts[vhost].name);
            leveret_record::write_declare_exchange(&mut step.effects.log, &definition);
            self.recorded(step);
        }
        self.vhosts[vhost].exchanges.insert(declare.name.clone(), exchange);
        self.generation += 1;
        Ok(())
    }

    pub(crate) fn delete_exchange(
        &mut self,
        name: &ShortString,
        if_unused: bool,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let index = self.vhost_of(step);
        let vhost = &self.vhosts[index];
        if name.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        if name.as_bytes().starts_with(b"amq.") {
            return Err(Refusal::SystemExchange(name.clone(), vhost.name.clone()));
        }
        let Some(exchange) = vhost.exchanges.get(name) else {
            // Who deleted it first may still be waiting for the log.
            self.after_log(step);
            return Ok(());
        };
        if if_unused && exchange.bindings > 0 {
            return Err(Refusal::InUse(format!("exchange '{name}'"), vhost.name.clone()));
        }
        self.remove_exchange(index, name, step);
        Ok(())
    }

    /// Deletes an exchange with its bindings. One record stands for all of it.
    fn remove_exchange(&mut self, vhost: usize, name: &ShortString, step: &mut Step<'_>) {
        let Some(exchange) = self.drop_exchange(vhost, name) else { return };
        if exchange.durable {
            let vhost = &self.vhosts[vhost].name;
            leveret_record::write_delete_exchange(&mut step.effects.log, vhost, name);
            self.recorded(step);
        }
    }

    /// Forgets an exchange and its bindings.
    pub(crate) fn drop_exchange(&mut self, vhost: usize, name: &ShortString) -> Option<Exchange> {
        let exchange = self.vhosts[vhost].exchanges.remove(name)?;
        self.generation += 1;
        if exchange.bindings > 0 {
            for queue in self.queues.values_mut().filter(|queue| queue.vhost == vhost) {
                queue.bindings.retain(|binding| binding.exchange != *name);
            }
        }
        Some(exchange)
    }

    pub(crate) fn declare_queue(
        &mut self,
        holder: u16,
        declare: &DeclareQueue,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let id = match declare.passive {
            true => self.find_queue(holder, &declare.name, step)?,
            false => self.ensure_queue(declare, step)?,
        };
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
        let index = self.vhost_of(step);
        let vhost = &self.vhosts[index];
        if let Some(id) = vhost.queues.get(&declare.name) {
            check_queue(&self.queues[id], declare, step.session, &vhost.name)?;
            check_queue_arguments(&declare.name, &declare.arguments, &vhost.name)?;
            let id = *id;
            // Who declared it first may still be waiting for the log.
            self.after_log(step);
            return Ok(id);
        }
        check_queue_arguments(&declare.name, &declare.arguments, &vhost.name)?;
        let name = if declare.name.is_empty() {
            self.made_up_name("amq.gen-")
        } else {
            check_name("queue", &declare.name)?;
            declare.name.clone()
        };
        let id = QueueId(self.next_queue);
        let mut queue = Queue::new(id, index, name);
        queue.durable = declare.durable && !declare.exclusive;
        queue.auto_delete = declare.auto_delete;
        queue.owner = declare.exclusive.then_some(step.session);
        queue.arguments = declare.arguments.clone();
        if queue.durable {
            let definition = queue_definition(&queue, &self.vhosts[index].name);
            leveret_record::write_declare_queue(&mut step.effects.log, &definition);
            self.recorded(step);
        }
        if declare.exclusive
            && let Some(session) = self.sessions.get_mut(&step.session)
        {
            session.owned.push(id);
        }
        self.add_queue(queue);
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
        let name = match name.is_empty() {
            true => self.holder(step, holder).last_queue.clone().ok_or(Refusal::NoDeclaredQueue)?,
            false => name.clone(),
        };
        let vhost = &self.vhosts[self.vhost_of(step)];
        let Some(id) = vhost.queues.get(&name) else {
            return Err(Refusal::NoQueue(name, vhost.name.clone()));
        };
        match self.queues[id].owner {
            Some(owner) if owner != step.session => Err(Refusal::Locked(name, vhost.name.clone())),
            _ => Ok(*id),
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
        let queue = &self.queues[&id];
        let vhost = &self.vhosts[queue.vhost].name;
        if if_unused && !queue.consumers.is_empty() {
            return Err(Refusal::InUse(format!("queue '{}'", queue.name), vhost.clone()));
        }
        if if_empty && queue.ready() > 0 {
            return Err(Refusal::NotEmpty(queue.name.clone(), vhost.clone()));
        }
        let count = queue.ready_count();
        self.delete_queue(id, step);
        Ok(count)
    }

    /// Deletes a queue with all that hangs on it, and tells the consumers it leaves behind.
    pub(crate) fn delete_queue(&mut self, id: QueueId, step: &mut Step<'_>) {
        let Some(queue) = self.drop_queue(id, &mut step.effects.released) else { return };
        for consumer in &queue.consumers {
            let Some(consumer_entry) = self.consumers.remove(consumer) else { continue };
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
        for binding in &queue.bindings {
            self.exchange_lost_binding(queue.vhost, &binding.exchange, step);
        }
    }

    /// Forgets a queue, its bindings and its ready messages. Leases on it come to nothing.
    pub(crate) fn drop_queue(
        &mut self,
        id: QueueId,
        released: &mut Vec<leveret_model::Lsn>,
    ) -> Option<Queue> {
        let mut queue = self.queues.remove(&id)?;
        self.generation += 1;
        let vhost = &mut self.vhosts[queue.vhost];
        vhost.queues.remove(&queue.name);
        for binding in &queue.bindings {
            if let Some(exchange) = vhost.exchanges.get_mut(&binding.exchange) {
                exchange.router.unbind(&binding.routing_key, id);
                exchange.bindings -= 1;
            }
        }
        for entry in queue.drain() {
            self.chunks.release(entry.chunk, released);
        }
        Some(queue)
    }

    /// Drops the ready messages of a queue and says how many there were.
    pub(crate) fn purge_queue(
        &mut self,
        holder: u16,
        name: &ShortString,
        step: &mut Step<'_>,
    ) -> Result<u32, Refusal> {
        let id = self.find_queue(holder, name, step)?;
        let queue = self.queues.get_mut(&id).expect("just found");
        let count = queue.ready_count();
        for entry in queue.drain() {
            step.settled(id, entry, &mut self.chunks);
        }
        step.flush_settled();
        self.after_log(step);
        Ok(count)
    }

    pub(crate) fn bind(
        &mut self,
        holder: u16,
        binding: &Binding,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let id = self.find_queue(holder, &binding.queue, step)?;
        let vhost = &self.vhosts[self.vhost_of(step)];
        if binding.exchange.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        let Some(exchange) = vhost.exchanges.get(&binding.exchange) else {
            return Err(Refusal::NoExchange(binding.exchange.clone(), vhost.name.clone()));
        };
        let durable = exchange.durable && self.queues[&id].durable;
        let bound = bound_to(binding);
        if durable && !self.queues[&id].bindings.contains(&bound) {
            let definition = binding_definition(id, &bound, &vhost.name);
            leveret_record::write_bind(&mut step.effects.log, &definition);
            self.recorded(step);
        }
        if durable {
            // Who bound it first may still be waiting for the log.
            self.after_log(step);
        }
        self.add_binding(id, bound);
        Ok(())
    }

    /// Adds a binding between an exchange and a queue that exist, unless it is there already.
    pub(crate) fn add_binding(&mut self, id: QueueId, bound: BoundTo) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let exchanges = &mut self.vhosts[queue.vhost].exchanges;
        let Some(exchange) = exchanges.get_mut(&bound.exchange) else { return };
        if queue.bindings.contains(&bound) {
            return;
        }
        exchange.router.bind(&bound.routing_key, id);
        exchange.bindings += 1;
        queue.bindings.push(bound);
        self.generation += 1;
    }

    /// Undoes a binding. One that does not exist, or whose ends do not, is undone already.
    pub(crate) fn unbind(
        &mut self,
        holder: u16,
        binding: &Binding,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if binding.exchange.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        let id = match self.find_queue(holder, &binding.queue, step) {
            Err(Refusal::NoQueue(..)) => return Ok(()),
            found => found?,
        };
        let bound = bound_to(binding);
        if !self.drop_binding(id, &bound) {
            self.after_log(step);
            return Ok(());
        }
        let index = self.vhost_of(step);
        let vhost = &self.vhosts[index];
        let exchange = vhost.exchanges.get(&bound.exchange);
        if self.queues[&id].durable && exchange.is_some_and(|exchange| exchange.durable) {
            let definition = binding_definition(id, &bound, &vhost.name);
            leveret_record::write_unbind(&mut step.effects.log, &definition);
            self.recorded(step);
        }
        self.exchange_lost_binding(index, &bound.exchange, step);
        Ok(())
    }

    /// Forgets a binding; `false` if there was none.
    pub(crate) fn drop_binding(&mut self, id: QueueId, bound: &BoundTo) -> bool {
        let Some(queue) = self.queues.get_mut(&id) else { return false };
        let Some(index) = queue.bindings.iter().position(|each| each == bound) else {
            return false;
        };
        queue.bindings.swap_remove(index);
        let exchanges = &mut self.vhosts[queue.vhost].exchanges;
        if let Some(exchange) = exchanges.get_mut(&bound.exchange) {
            exchange.router.unbind(&bound.routing_key, id);
            exchange.bindings -= 1;
        }
        self.generation += 1;
        true
    }

    /// An auto-delete exchange goes with its last binding.
    fn exchange_lost_binding(&mut self, vhost: usize, name: &ShortString, step: &mut Step<'_>) {
        let exchange = self.vhosts[vhost].exchanges.get(name);
        if exchange.is_some_and(|exchange| exchange.auto_delete && exchange.bindings == 0) {
            self.remove_exchange(vhost, name, step);
        }
    }

    /// A definition went to the log: what the session is told waits for it.
    fn recorded(&mut self, step: &mut Step<'_>) {
        step.effects.records += 1;
        self.after_log(step);
    }
}

fn bound_to(binding: &Binding) -> BoundTo {
    BoundTo {
        exchange: binding.exchange.clone(),
        routing_key: binding.routing_key.clone(),
        arguments: binding.arguments.clone(),
    }
}

pub(crate) fn exchange_definition(exchange: &Exchange, vhost: &ShortString) -> ExchangeDefinition {
    ExchangeDefinition {
        vhost: vhost.clone(),
        name: exchange.name.clone(),
        kind: ShortString::from_static(exchange.router.kind()),
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        arguments: exchange.arguments.clone(),
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

pub(crate) fn binding_definition(
    id: QueueId,
    bound: &BoundTo,
    vhost: &ShortString,
) -> BindingDefinition {
    BindingDefinition {
        vhost: vhost.clone(),
        source: bound.exchange.clone(),
        destination: Destination::Queue(id),
        routing_key: bound.routing_key.clone(),
        arguments: bound.arguments.clone(),
    }
}

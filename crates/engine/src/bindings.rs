//! Bindings: from an exchange to a queue or another exchange.

use leveret_model::ShortString;
use leveret_record::BindingDefinition;

use crate::bound::{Bindings, BoundTo};
use crate::command::{Binding, Destination};
use crate::effect::Reply;
use crate::engine::Engine;
use crate::exchange::{Exchange, ExchangeId, Router, Target};
use crate::headers;
use crate::refusal::Refusal;
use crate::replies::is_made_up;
use crate::step::Step;

impl Engine {
    pub(crate) fn bind(
        &mut self,
        holder: u16,
        binding: &Binding,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        check_destination(&binding.destination)?;
        let (source, _) = self.find_exchange(&binding.source, step)?;
        let target = self.find_destination(holder, &binding.destination, step)?;
        if let Router::Headers(_) = self.exchanges[&source].router {
            headers::check(&binding.arguments).map_err(Refusal::InvalidMatch)?;
        }
        let vhost = self.vhost_of(step);
        let bound = self.bound(holder, binding, step);
        let durable = self.exchanges[&source].durable && self.is_durable(target);
        let new = self.add_binding(vhost, target, &bound);
        if durable {
            if new {
                let definition = self.binding_definition(vhost, target, bound);
                leveret_record::write_bind(&mut step.effects.log, &definition);
                self.recorded(step);
            }
            // Who bound it first may still be waiting for the log.
            self.after_log(step);
        }
        let reply = match target {
            Target::Queue(_) => Reply::Bound,
            Target::Exchange(_) => Reply::ExchangeBound,
        };
        self.reply_if(binding.reply, holder, reply, step);
        Ok(())
    }

    /// Undoes a binding. One that does not exist, or whose ends do not, is undone already.
    pub(crate) fn unbind(
        &mut self,
        holder: u16,
        binding: &Binding,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        check_destination(&binding.destination)?;
        if binding.source.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        let reply = match binding.destination {
            Destination::Queue(_) => Reply::Unbound,
            Destination::Exchange(_) => Reply::ExchangeUnbound,
        };
        match self.find_destination(holder, &binding.destination, step) {
            // Who undid it first may still be waiting for the log.
            Err(Refusal::NoQueue(..) | Refusal::NoExchange(..)) => self.after_log(step),
            found => {
                let bound = self.bound(holder, binding, step);
                self.remove_binding(found?, bound, step);
            }
        }
        self.reply_if(binding.reply, holder, reply, step);
        Ok(())
    }

    fn remove_binding(&mut self, target: Target, bound: BoundTo, step: &mut Step<'_>) {
        let vhost = self.vhost_of(step);
        let source = self.vhosts[vhost].exchanges.get(&bound.exchange).copied();
        if !self.drop_binding(vhost, target, &bound) {
            return self.after_log(step);
        }
        let Some(source) = source else { return };
        if self.exchanges[&source].durable && self.is_durable(target) {
            let definition = self.binding_definition(vhost, target, bound);
            leveret_record::write_unbind(&mut step.effects.log, &definition);
            self.recorded(step);
        }
        self.lost_bindings(vec![source], step);
    }

    /// The binding as its far end knows it. Neither queue nor key is the name of the queue that the
    /// holder declared last, twice.
    fn bound(&mut self, holder: u16, binding: &Binding, step: &Step<'_>) -> BoundTo {
        let nothing = binding.destination == Destination::Queue(ShortString::default());
        let last = match nothing && binding.routing_key.is_empty() {
            true => self.holder(step, holder).last_queue.clone(),
            false => None,
        };
        BoundTo {
            exchange: binding.source.clone(),
            routing_key: last.unwrap_or_else(|| binding.routing_key.clone()),
            arguments: binding.arguments.clone(),
        }
    }

    /// Adds a binding, unless it is there already or one of its ends is not. Says whether it is
    /// new.
    pub(crate) fn add_binding(&mut self, vhost: usize, target: Target, bound: &BoundTo) -> bool {
        let Some(source) = self.vhosts[vhost].exchanges.get(&bound.exchange).copied() else {
            return false;
        };
        if !self.bound_to(target).is_some_and(|known| known.insert(bound)) {
            return false;
        }
        if let Some(exchange) = self.exchanges.get_mut(&source) {
            exchange.router.bind(&bound.routing_key, &bound.arguments, target);
            exchange.outgoing += 1;
        }
        self.generation += 1;
        true
    }

    /// Forgets a binding; `false` if there was none.
    pub(crate) fn drop_binding(&mut self, vhost: usize, target: Target, bound: &BoundTo) -> bool {
        if !self.bound_to(target).is_some_and(|known| known.remove(bound)) {
            return false;
        }
        if let Some((_, exchange)) = self.source(vhost, &bound.exchange) {
            exchange.router.unbind(&bound.routing_key, &bound.arguments, target);
            exchange.outgoing -= 1;
        }
        self.generation += 1;
        true
    }

    /// Takes the bindings of something that is gone out of their exchanges, and says which those
    /// are.
    pub(crate) fn unroute(
        &mut self,
        vhost: usize,
        target: Target,
        bindings: &Bindings,
    ) -> Vec<ExchangeId> {
        let mut sources = Vec::new();
        for (name, keys) in bindings.sources() {
            // An exchange that is bound to itself goes with its bindings.
            let Some((id, exchange)) = self.source(vhost, name) else { continue };
            exchange.outgoing -= exchange.router.unbind_all(keys, target);
            sources.push(id);
        }
        self.generation += 1;
        sources
    }

    fn source(&mut self, vhost: usize, name: &ShortString) -> Option<(ExchangeId, &mut Exchange)> {
        let id = *self.vhosts[vhost].exchanges.get(name)?;
        Some((id, self.exchanges.get_mut(&id)?))
    }

    /// What a queue or an exchange is bound to.
    pub(crate) fn bound_to(&mut self, target: Target) -> Option<&mut Bindings> {
        match target {
            Target::Queue(id) => self.queues.get_mut(&id).map(|queue| &mut queue.bindings),
            Target::Exchange(id) => self.exchanges.get_mut(&id).map(|it| &mut it.bound_to),
        }
    }

    pub(crate) fn is_durable(&self, target: Target) -> bool {
        match target {
            Target::Queue(id) => self.queues.get(&id).is_some_and(|queue| queue.durable),
            Target::Exchange(id) => self.exchanges.get(&id).is_some_and(|it| it.durable),
        }
    }

    fn find_destination(
        &mut self,
        holder: u16,
        destination: &Destination,
        step: &Step<'_>,
    ) -> Result<Target, Refusal> {
        match destination {
            Destination::Queue(name) => self.find_queue(holder, name, step).map(Target::Queue),
            Destination::Exchange(name) => {
                self.find_exchange(name, step).map(|(id, _)| Target::Exchange(id))
            }
        }
    }

    /// An exchange that can be bound, and its virtual host.
    fn find_exchange(
        &self,
        name: &ShortString,
        step: &Step<'_>,
    ) -> Result<(ExchangeId, usize), Refusal> {
        if name.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        let index = self.vhost_of(step);
        let vhost = &self.vhosts[index];
        let found = vhost.exchanges.get(name).map(|id| (*id, index));
        found.ok_or_else(|| Refusal::NoExchange(name.clone(), vhost.name.clone()))
    }

    pub(crate) fn binding_definition(
        &self,
        vhost: usize,
        target: Target,
        bound: BoundTo,
    ) -> BindingDefinition {
        let destination = match target {
            Target::Queue(id) => leveret_record::Destination::Queue(id),
            Target::Exchange(id) => {
                leveret_record::Destination::Exchange(self.exchanges[&id].name.clone())
            }
        };
        BindingDefinition {
            vhost: self.vhosts[vhost].name.clone(),
            source: bound.exchange,
            destination,
            routing_key: bound.routing_key,
            arguments: bound.arguments,
        }
    }
}

fn check_destination(destination: &Destination) -> Result<(), Refusal> {
    match destination {
        Destination::Queue(name) if is_made_up(name) => Err(Refusal::ReplyBinding),
        Destination::Exchange(name) if name.is_empty() => Err(Refusal::DefaultExchange),
        _ => Ok(()),
    }
}

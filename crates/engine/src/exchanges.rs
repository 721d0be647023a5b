//! Exchanges: declaring and deleting them.

use leveret_model::ShortString;
use leveret_record::ExchangeDefinition;

use crate::bound::Bindings;
use crate::command::DeclareExchange;
use crate::declare::{alternate, check_exchange, check_name};
use crate::effect::Reply;
use crate::engine::Engine;
use crate::exchange::{Exchange, ExchangeId, Router, Target};
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
        let vhost = &self.vhosts[index];
        let existing = vhost.exchanges.get(&declare.name).copied();
        let unknown = || Refusal::UnknownExchangeType(declare.kind.clone());
        match existing {
            None if declare.passive && !declare.name.is_empty() => {
                return Err(Refusal::NoExchange(declare.name.clone(), vhost.name.clone()));
            }
            _ if declare.name.is_empty() => return Err(Refusal::DefaultExchange),
            Some(_) if declare.passive => {}
            existing => {
                let router = Router::of_kind(declare.kind.as_bytes()).ok_or_else(unknown)?;
                match existing {
                    Some(id) => {
                        check_exchange(&self.exchanges[&id], declare, &vhost.name)?;
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
        let vhost_name = &self.vhosts[vhost].name;
        let exchange = Exchange {
            vhost,
            name: declare.name.clone(),
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments.clone(),
            router,
            outgoing: 0,
            bound_to: Bindings::default(),
            alternate: alternate(&declare.name, &declare.arguments, vhost_name)?,
        };
        if exchange.durable {
            let definition = exchange_definition(&exchange, vhost_name);
            leveret_record::write_declare_exchange(&mut step.effects.log, &definition);
            self.recorded(step);
        }
        self.add_exchange(exchange);
        Ok(())
    }

    pub(crate) fn add_exchange(&mut self, exchange: Exchange) {
        let id = ExchangeId(self.next_exchange);
        self.next_exchange += 1;
        self.vhosts[exchange.vhost].exchanges.insert(exchange.name.clone(), id);
        self.exchanges.insert(id, exchange);
        self.generation += 1;
    }

    pub(crate) fn delete_exchange(
        &mut self,
        name: &ShortString,
        if_unused: bool,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let vhost = &self.vhosts[self.vhost_of(step)];
        if name.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        if name.as_bytes().starts_with(b"amq.") {
            return Err(Refusal::SystemExchange(name.clone(), vhost.name.clone()));
        }
        let Some(id) = vhost.exchanges.get(name).copied() else {
            // Who deleted it first may still be waiting for the log.
            self.after_log(step);
            return Ok(());
        };
        if if_unused && self.exchanges[&id].outgoing > 0 {
            return Err(Refusal::InUse(format!("exchange '{name}'"), vhost.name.clone()));
        }
        let sources = self.remove_exchange(id, step);
        self.lost_bindings(sources, step);
        Ok(())
    }

    /// Auto-delete exchanges go with the last binding that leads from them, and may so take the
    /// last one of another.
    pub(crate) fn lost_bindings(&mut self, mut sources: Vec<ExchangeId>, step: &mut Step<'_>) {
        while let Some(id) = sources.pop() {
            let exchange = self.exchanges.get(&id);
            if exchange.is_some_and(|exchange| exchange.auto_delete && exchange.outgoing == 0) {
                sources.extend(self.remove_exchange(id, step));
            }
        }
    }

    /// Deletes an exchange with its bindings, and says which exchanges have lost one. One record
    /// stands for all of it.
    fn remove_exchange(&mut self, id: ExchangeId, step: &mut Step<'_>) -> Vec<ExchangeId> {
        let Some((exchange, sources)) = self.drop_exchange(id) else { return Vec::new() };
        if exchange.durable {
            let vhost = &self.vhosts[exchange.vhost].name;
            leveret_record::write_delete_exchange(&mut step.effects.log, vhost, &exchange.name);
            self.recorded(step);
        }
        sources
    }

    /// Forgets an exchange and its bindings.
    pub(crate) fn drop_exchange(&mut self, id: ExchangeId) -> Option<(Exchange, Vec<ExchangeId>)> {
        let exchange = self.exchanges.remove(&id)?;
        self.vhosts[exchange.vhost].exchanges.remove(&exchange.name);
        self.generation += 1;
        let mut targets = exchange.router.targets();
        targets.sort_unstable();
        targets.dedup();
        for target in targets {
            if let Some(known) = self.bound_to(target) {
                known.remove_source(&exchange.name);
            }
        }
        let sources = self.unroute(exchange.vhost, Target::Exchange(id), &exchange.bound_to);
        Some((exchange, sources))
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

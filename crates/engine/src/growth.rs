//! What makes the log larger, for whoever has to keep it small.

use leveret_model::SessionId;

use crate::bound::BoundTo;
use crate::command::{Binding, Destination, Operation};
use crate::engine::Engine;
use crate::session::Session;

impl Engine {
    /// Whether an operation is to add to what the log has to keep: messages, or a durable
    /// definition that is not there yet. To declare what is there, to settle or to delete is not.
    #[must_use]
    pub fn adds_to_log(&self, session: SessionId, holder: u16, operation: &Operation) -> bool {
        let Some(session) = self.sessions.get(&session) else { return false };
        let vhost = &self.vhosts[session.vhost];
        match operation {
            Operation::Publish { .. } => true,
            Operation::Commit => {
                let holder = session.holders.get(&holder);
                let transaction = holder.and_then(|holder| holder.transaction.as_ref());
                transaction.is_some_and(|transaction| transaction.publishes())
            }
            Operation::DeclareExchange(it) => {
                it.durable && !it.passive && !vhost.exchanges.contains_key(&it.name)
            }
            Operation::DeclareQueue(it) => {
                let kept = it.durable && !it.exclusive;
                kept && !it.passive && !vhost.queues.contains_key(&it.name)
            }
            Operation::Bind(binding) => self.adds_binding(session, holder, binding),
            _ => false,
        }
    }

    /// As [`Engine::bind`] decides it.
    fn adds_binding(&self, session: &Session, holder: u16, binding: &Binding) -> bool {
        let vhost = &self.vhosts[session.vhost];
        let exchange = |name| vhost.exchanges.get(name).map(|id| &self.exchanges[id]);
        let mut routing_key = &binding.routing_key;
        let destination = match &binding.destination {
            Destination::Exchange(name) => exchange(name).map(|it| (it.durable, &it.bound_to)),
            Destination::Queue(name) => {
                let last = session.holders.get(&holder).and_then(|it| it.last_queue.as_ref());
                let name = match last {
                    Some(last) if name.is_empty() => {
                        if routing_key.is_empty() {
                            routing_key = last;
                        }
                        last
                    }
                    _ => name,
                };
                let queue = vhost.queues.get(name).map(|id| &self.queues[id]);
                queue.map(|queue| (queue.durable, &queue.bindings))
            }
        };
        // Without one of its ends it is refused.
        let Some((true, known)) = destination else { return false };
        exchange(&binding.source).is_some_and(|source| source.durable)
            && !known.contains(&BoundTo {
                exchange: binding.source.clone(),
                routing_key: routing_key.clone(),
                arguments: binding.arguments.clone(),
            })
    }
}

//! What a bus knows of what its program sends and receives.

use std::any::{TypeId, type_name};
use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::growing::Growing;
use crate::message::Message;
use crate::publish::Address;
use crate::retry::Retry;
use crate::topology::{Exchange, Match};
use crate::url;

/// How many subjects of an exchange, and how many queues, are learned that a type of messages is
/// sent to: there is no end of those that are made up for each message.
const PLACES_MAX: usize = 8;
/// How many places are learned of a type in all: they are looked through with each message.
const LEARNED_MAX: usize = 64;

/// What a program sends and receives, and by which brokers.
pub(crate) struct Catalog {
    pub(super) servers: Vec<Server>,
    pub(super) vhost: String,
    pub(super) sent: Growing<Sent>,
    received: Mutex<Vec<Received>>,
}

/// A broker. There is nothing secret in it.
pub(super) struct Server {
    /// With its port.
    pub(super) host: String,
    pub(super) tls: bool,
}

/// A type of messages.
#[derive(Clone, Copy)]
pub(crate) struct MessageType {
    id: TypeId,
    /// Empty if it has none.
    pub(super) name: &'static str,
    type_name: &'static str,
    pub(super) content_type: Option<&'static str>,
    pub(super) schema: fn() -> Option<Value>,
}

/// Messages that go one way, or questions and what answers them.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Traffic {
    pub(super) message: MessageType,
    pub(super) answer: Option<MessageType>,
}

/// Messages that are sent.
#[derive(PartialEq)]
pub(super) struct Sent {
    pub(super) traffic: Traffic,
    pub(super) to: Address,
    pub(super) transient: bool,
    /// The program said so.
    declared: bool,
}

/// Messages that are received.
#[derive(PartialEq)]
pub(crate) struct Received {
    pub(crate) traffic: Traffic,
    pub(crate) queue: String,
    /// Each consumer has a queue of its own, called like this with something behind it.
    pub(crate) own: bool,
    pub(crate) exchange: Exchange,
    pub(crate) subjects: Vec<Cow<'static, str>>,
    pub(crate) headers: Option<Match>,
    /// Where what fails comes again, or is a dead letter.
    pub(crate) retry: Option<Retry>,
}

impl Catalog {
    /// Of a bus by that URL, if it is by one.
    pub(crate) fn new(url: Option<&str>) -> Self {
        let (servers, vhost) = match url.map(url::parse) {
            Some(Ok(url::Address::Amqp(amqp))) => {
                let server = |host: &dyn ToString| Server { host: host.to_string(), tls: amqp.tls };
                (amqp.hosts.iter().map(|host| server(host)).collect(), amqp.login.vhost)
            }
            _ => (Vec::new(), "/".to_owned()),
        };
        Catalog { servers, vhost, sent: Growing::default(), received: Mutex::default() }
    }

    /// The program says that it will send this.
    pub(super) fn declare(&self, traffic: Traffic, to: &Address, transient: bool) {
        self.sent.add(Sent { traffic, to: to.clone(), transient, declared: true });
    }

    /// This is being sent. It is looked up with every message.
    pub(crate) fn learn(&self, traffic: Traffic, to: &Address, transient: bool) {
        let (mut places, mut learned) = (0, 0);
        for known in self.sent.iter().filter(|known| known.traffic == traffic) {
            if known.to == *to && known.transient == transient {
                return;
            }
            places += usize::from(known.is_learned_like(to));
            learned += usize::from(!known.declared);
            if places == PLACES_MAX || learned == LEARNED_MAX {
                return;
            }
        }
        self.sent.add(Sent { traffic, to: to.clone(), transient, declared: false });
    }

    /// Whether it is one of so many places that their names say nothing.
    pub(super) fn is_one_of_many(&self, sent: &Sent) -> bool {
        let alike =
            |other: &&Sent| other.traffic == sent.traffic && other.is_learned_like(&sent.to);
        !sent.declared && self.sent.iter().filter(alike).count() >= PLACES_MAX
    }

    /// A consumer was started.
    pub(crate) fn receives(&self, received: Received) {
        let mut known = self.received();
        if !known.contains(&received) {
            known.push(received);
        }
    }

    pub(super) fn received(&self) -> MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent {
    /// Whether it was learned, of another queue or of the same exchange.
    fn is_learned_like(&self, to: &Address) -> bool {
        !self.declared
            && match (&self.to, to) {
                (Address::Queue(_), Address::Queue(_)) => true,
                (Address::Subject { exchange: one, .. }, Address::Subject { exchange, .. }) => {
                    one.name == exchange.name
                }
                _ => false,
            }
    }
}

impl Traffic {
    pub(crate) fn of<M: Message>() -> Self {
        Traffic { message: MessageType::of::<M>(), answer: None }
    }

    pub(crate) fn call<Q: Message, A: Message>() -> Self {
        Traffic { message: MessageType::of::<Q>(), answer: Some(MessageType::of::<A>()) }
    }
}

impl MessageType {
    fn of<M: Message>() -> Self {
        MessageType {
            id: TypeId::of::<M>(),
            name: M::NAME,
            type_name: type_name::<M>(),
            content_type: M::CONTENT_TYPE,
            schema: M::schema,
        }
    }

    /// Its name, or else that of its type in Rust, without modules and parameters.
    pub(super) fn title(&self) -> &'static str {
        if !self.name.is_empty() {
            return self.name;
        }
        let plain = self.type_name.split('<').next().unwrap_or_default();
        plain.rsplit("::").next().unwrap_or_default()
    }
}

impl PartialEq for MessageType {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Text;

    #[test]
    fn made_up_exchanges_are_learned_up_to_a_limit() {
        let catalog = Catalog::new(None);
        for tenant in 0..2 * LEARNED_MAX {
            let exchange = Exchange::topic(format!("tenant {tenant}"));
            let to = Address::Subject { exchange, subject: Cow::Borrowed("news") };
            catalog.learn(Traffic::of::<Text>(), &to, false);
        }
        assert_eq!(catalog.sent.iter().count(), LEARNED_MAX);
    }
}

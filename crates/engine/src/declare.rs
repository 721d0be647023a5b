//! Whether a declaration says the same as an earlier one.
//!
//! Rules and texts: RabbitMQ's rabbit_amqqueue, rabbit_exchange and rabbit_misc.

use leveret_model::{FieldTable, FieldValue, SessionId, ShortString};

use crate::command::{DeclareExchange, DeclareQueue};
use crate::exchange::Exchange;
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::settings::known_arguments;
use crate::text;

/// The argument of an exchange that names the one that gets what finds no binding.
pub(crate) const ALTERNATE: &str = "alternate-exchange";

/// Refuses names that are the server's to give.
pub(crate) fn check_name(object: &'static str, name: &ShortString) -> Result<(), Refusal> {
    match name.as_bytes().starts_with(b"amq.") {
        true => Err(Refusal::ReservedName { object, name: name.clone() }),
        false => Ok(()),
    }
}

/// Whether a queue that exists is as the declaration says.
pub(crate) fn check_queue(
    queue: &Queue,
    declare: &DeclareQueue,
    session: SessionId,
    vhost: &ShortString,
) -> Result<(), Refusal> {
    if queue.owner != declare.exclusive.then_some(session) {
        return Err(Refusal::Locked(queue.name.clone(), vhost.clone()));
    }
    let same = Same { object: format!("queue '{}'", queue.name), vhost };
    let durable = declare.durable && !declare.exclusive;
    same.property("durable", &durable, &queue.durable)?;
    same.property("auto_delete", &declare.auto_delete, &queue.auto_delete)?;
    for argument in known_arguments(queue.settings.kind) {
        let received = declare.arguments.get(argument);
        let current = queue.arguments.get(argument);
        if argument == "x-queue-type" {
            let kind = FieldValue::from(queue.settings.kind.name());
            let default = FieldValue::from("classic");
            same.argument(argument, Some(received.unwrap_or(&default)), Some(&kind))?;
        } else {
            same.argument(argument, received, current)?;
        }
    }
    Ok(())
}

/// Whether an exchange that exists is as the declaration says.
pub(crate) fn check_exchange(
    exchange: &Exchange,
    declare: &DeclareExchange,
    vhost: &ShortString,
) -> Result<(), Refusal> {
    let same = Same { object: format!("exchange '{}'", exchange.name), vhost };
    let (received, current) = (declare.kind.to_string(), exchange.router.kind().to_owned());
    same.property("type", &received, &current)?;
    same.property("durable", &declare.durable, &exchange.durable)?;
    same.property("auto_delete", &declare.auto_delete, &exchange.auto_delete)?;
    same.property("internal", &declare.internal, &exchange.internal)?;
    let (received, current) = (declare.arguments.get(ALTERNATE), exchange.arguments.get(ALTERNATE));
    same.argument(ALTERNATE, received, current)
}

/// The alternate exchange that the arguments of an exchange name.
pub(crate) fn alternate(
    name: &ShortString,
    arguments: &FieldTable,
    vhost: &ShortString,
) -> Result<Option<ShortString>, Refusal> {
    let invalid = |value: &FieldValue| Refusal::ArgumentType {
        kind: value.type_name(),
        argument: ALTERNATE.to_owned(),
        object: format!("exchange '{name}'"),
        vhost: vhost.clone(),
    };
    match arguments.get(ALTERNATE) {
        None => Ok(None),
        Some(value) => {
            let name = value.as_long_string().ok_or_else(|| invalid(value))?;
            // A longer name is one that no exchange can have.
            Ok(ShortString::try_from(name).ok())
        }
    }
}

/// Compares what is declared with what is.
struct Same<'a> {
    object: String,
    vhost: &'a ShortString,
}

impl Same<'_> {
    fn property<T: PartialEq + std::fmt::Display>(
        &self,
        name: &str,
        received: &T,
        current: &T,
    ) -> Result<(), Refusal> {
        if received == current {
            return Ok(());
        }
        Err(self.differs(name, format!("'{received}'"), format!("'{current}'")))
    }

    fn argument(
        &self,
        name: &str,
        received: Option<&FieldValue>,
        current: Option<&FieldValue>,
    ) -> Result<(), Refusal> {
        let full = |value: &FieldValue| {
            format!("the value '{}' of type '{}'", text::value(value), value.type_name())
        };
        match (received, current) {
            (None, None) => Ok(()),
            (Some(received), None) => Err(self.differs(name, full(received), "none".to_owned())),
            (None, Some(current)) => Err(self.differs(name, "none".to_owned(), full(current))),
            (Some(received), Some(current)) if equal(received, current) => Ok(()),
            (Some(received), Some(current)) => {
                self.property(name, &text::value(received), &text::value(current))
            }
        }
    }

    fn differs(&self, argument: &str, received: String, current: String) -> Refusal {
        Refusal::Inequivalent {
            argument: argument.to_owned(),
            object: self.object.clone(),
            vhost: self.vhost.clone(),
            received,
            current,
        }
    }
}

/// Integers are equal whatever their width, and so are floats.
fn equal(a: &FieldValue, b: &FieldValue) -> bool {
    match (a, b) {
        (FieldValue::Float(a), FieldValue::Double(b))
        | (FieldValue::Double(b), FieldValue::Float(a)) => f64::from(*a) == *b,
        _ => match (a.as_integer(), b.as_integer()) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
    }
}

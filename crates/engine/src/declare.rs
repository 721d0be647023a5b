//! Whether a declaration makes sense, and whether it says the same as an earlier one.
//!
//! Rules and texts: RabbitMQ's rabbit_amqqueue, rabbit_exchange and rabbit_misc.

use leveret_model::{FieldTable, FieldValue, SessionId, ShortString};

use crate::command::{DeclareExchange, DeclareQueue};
use crate::exchange::Exchange;
use crate::queue::Queue;
use crate::refusal::Refusal;

/// Queue arguments that RabbitMQ knows and this version does not: refused, never ignored.
const QUEUE_ARGUMENTS_NOT_BUILT: [&str; 24] = [
    "x-consumer-disconnected-timeout",
    "x-consumer-timeout",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delayed-retry-max",
    "x-delayed-retry-min",
    "x-delayed-retry-type",
    "x-delivery-limit",
    "x-expires",
    "x-max-age",
    "x-max-in-memory-bytes",
    "x-max-in-memory-length",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-message-ttl",
    "x-overflow",
    "x-queue-leader-locator",
    "x-queue-master-locator",
    "x-quorum-initial-group-size",
    "x-single-active-consumer",
    "x-stream-filter-size-bytes",
    "x-stream-max-segment-size-bytes",
];

/// Exchange types that RabbitMQ has and this version does not.
const EXCHANGE_TYPES_NOT_BUILT: [&[u8]; 8] = [
    b"headers",
    b"x-consistent-hash",
    b"x-delayed-message",
    b"x-local-random",
    b"x-modulus-hash",
    b"x-random",
    b"x-recent-history",
    b"x-jms-topic",
];

/// Checks the arguments of a new queue. Arguments that no queue type knows are let through, as
/// in RabbitMQ.
pub(crate) fn check_queue_arguments(
    name: &ShortString,
    arguments: &FieldTable,
    vhost: &ShortString,
) -> Result<(), Refusal> {
    for argument in QUEUE_ARGUMENTS_NOT_BUILT {
        if arguments.get(argument).is_some() {
            return Err(Refusal::NotBuilt(format!("queue argument '{argument}'")));
        }
    }
    let invalid = |argument: &str, problem: String| Refusal::InvalidArgument {
        argument: argument.to_owned(),
        object: format!("queue '{name}'"),
        vhost: vhost.clone(),
        problem,
    };
    match arguments.get("x-queue-type") {
        None => Ok(()),
        Some(FieldValue::LongString(kind)) => match kind.as_slice() {
            b"classic" => Ok(()),
            b"quorum" | b"stream" => {
                Err(Refusal::NotBuilt(format!("queue type '{}'", String::from_utf8_lossy(kind))))
            }
            other => Err(invalid(
                "x-queue-type",
                format!("unsupported queue type '{}'", String::from_utf8_lossy(other)),
            )),
        },
        Some(other) => {
            Err(invalid("x-queue-type", format!("{{unacceptable_type,{}}}", other.type_name())))
        }
    }
}

/// Refuses an exchange type that does not exist, or not yet.
pub(crate) fn unknown_exchange_type(kind: &ShortString) -> Refusal {
    match EXCHANGE_TYPES_NOT_BUILT.contains(&kind.as_bytes()) {
        true => Refusal::NotBuilt(format!("exchange type '{kind}'")),
        false => Refusal::UnknownExchangeType(kind.clone()),
    }
}

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
    let object = format!("queue '{}'", queue.name);
    let durable = declare.durable && !declare.exclusive;
    same("durable", &durable, &queue.durable, &object, vhost)?;
    same("auto_delete", &declare.auto_delete, &queue.auto_delete, &object, vhost)
}

/// Whether an exchange that exists is as the declaration says.
pub(crate) fn check_exchange(
    exchange: &Exchange,
    declare: &DeclareExchange,
    vhost: &ShortString,
) -> Result<(), Refusal> {
    let object = format!("exchange '{}'", exchange.name);
    let (received, current) = (declare.kind.to_string(), exchange.router.kind().to_owned());
    same("type", &received, &current, &object, vhost)?;
    same("durable", &declare.durable, &exchange.durable, &object, vhost)?;
    same("auto_delete", &declare.auto_delete, &exchange.auto_delete, &object, vhost)?;
    same("internal", &declare.internal, &exchange.internal, &object, vhost)
}

fn same<T: PartialEq + std::fmt::Display>(
    argument: &str,
    received: &T,
    current: &T,
    object: &str,
    vhost: &ShortString,
) -> Result<(), Refusal> {
    if received == current {
        return Ok(());
    }
    Err(Refusal::Inequivalent {
        argument: argument.to_owned(),
        object: object.to_owned(),
        vhost: vhost.clone(),
        received: format!("'{received}'"),
        current: format!("'{current}'"),
    })
}

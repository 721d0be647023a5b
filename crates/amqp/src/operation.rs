//! Methods of an open channel, as commands for the engine.

use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::{AccessRequestOk, ChannelFlowOk};
use leveret_broker::engine::command::{self, Destination};
use leveret_broker::engine::{Operation, Outcome};
use leveret_model::ShortString;

use crate::fault::{COMMAND_INVALID, Fault, NOT_IMPLEMENTED};

/// What a method comes to.
pub(crate) enum Meaning {
    /// A command for the engine.
    Command(Operation),
    /// An answer that needs no engine.
    Answer(Method),
}

/// The meaning of a method that is not about the channel itself.
pub(crate) fn meaning(method: Method) -> Result<Meaning, Fault> {
    let id = method.id();
    let operation = match method {
        Method::ExchangeDeclare(m) => {
            Operation::DeclareExchange(Box::new(command::DeclareExchange {
                name: clean(m.exchange),
                kind: m.kind,
                passive: m.passive,
                durable: m.durable,
                auto_delete: m.auto_delete,
                internal: m.internal,
                arguments: m.arguments,
                reply: !m.no_wait,
            }))
        }
        Method::ExchangeDelete(m) => Operation::DeleteExchange {
            name: clean(m.exchange),
            if_unused: m.if_unused,
            reply: !m.no_wait,
        },
        Method::QueueDeclare(m) => Operation::DeclareQueue(Box::new(command::DeclareQueue {
            name: clean(m.queue),
            passive: m.passive,
            durable: m.durable,
            exclusive: m.exclusive,
            auto_delete: m.auto_delete,
            arguments: m.arguments,
            reply: !m.no_wait,
        })),
        Method::QueueBind(m) => Operation::Bind(Box::new(command::Binding {
            destination: Destination::Queue(clean(m.queue)),
            source: clean(m.exchange),
            routing_key: m.routing_key,
            arguments: m.arguments,
            reply: !m.no_wait,
        })),
        Method::QueueUnbind(m) => Operation::Unbind(Box::new(command::Binding {
            destination: Destination::Queue(clean(m.queue)),
            source: clean(m.exchange),
            routing_key: m.routing_key,
            arguments: m.arguments,
            reply: true,
        })),
        Method::QueuePurge(m) => Operation::PurgeQueue { name: clean(m.queue), reply: !m.no_wait },
        Method::QueueDelete(m) => Operation::DeleteQueue {
            name: clean(m.queue),
            if_unused: m.if_unused,
            if_empty: m.if_empty,
            reply: !m.no_wait,
        },
        Method::ExchangeBind(m) => Operation::Bind(Box::new(command::Binding {
            destination: Destination::Exchange(clean(m.destination)),
            source: clean(m.source),
            routing_key: m.routing_key,
            arguments: m.arguments,
            reply: !m.no_wait,
        })),
        Method::ExchangeUnbind(m) => Operation::Unbind(Box::new(command::Binding {
            destination: Destination::Exchange(clean(m.destination)),
            source: clean(m.source),
            routing_key: m.routing_key,
            arguments: m.arguments,
            reply: !m.no_wait,
        })),
        Method::ConfirmSelect(m) => Operation::SelectConfirms { reply: !m.no_wait },
        Method::TxSelect(_) => Operation::SelectTransactions,
        Method::TxCommit(_) => Operation::Commit,
        Method::TxRollback(_) => Operation::Rollback,
        other => return basic(other).map_err(|fault| fault.of(id)),
    };
    Ok(Meaning::Command(operation))
}

fn basic(method: Method) -> Result<Meaning, Fault> {
    let operation = match method {
        Method::BasicQos(m) if m.prefetch_size != 0 => {
            let text = format!("prefetch_size!=0 ({})", m.prefetch_size);
            return Err(Fault::new(NOT_IMPLEMENTED, text));
        }
        Method::BasicQos(m) => Operation::Prefetch { count: m.prefetch_count, shared: m.global },
        Method::BasicConsume(m) => Operation::Consume(Box::new(command::Consume {
            queue: clean(m.queue),
            tag: m.consumer_tag,
            no_ack: m.no_ack,
            exclusive: m.exclusive,
            arguments: m.arguments,
            reply: !m.no_wait,
        })),
        Method::BasicCancel(m) => Operation::Cancel { tag: m.consumer_tag, reply: !m.no_wait },
        Method::BasicGet(m) => Operation::Get { queue: clean(m.queue), no_ack: m.no_ack },
        Method::BasicAck(m) => Operation::Settle {
            lease: m.delivery_tag,
            multiple: m.multiple,
            outcome: Outcome::Accept,
        },
        Method::BasicReject(m) => Operation::Settle {
            lease: m.delivery_tag,
            multiple: false,
            outcome: refused(m.requeue),
        },
        Method::BasicNack(m) => Operation::Settle {
            lease: m.delivery_tag,
            multiple: m.multiple,
            outcome: refused(m.requeue),
        },
        Method::BasicRecover(m) if m.requeue => Operation::Recover { reply: true },
        Method::BasicRecoverAsync(m) if m.requeue => Operation::Recover { reply: false },
        Method::BasicRecover(_) | Method::BasicRecoverAsync(_) => {
            return Err(Fault::new(NOT_IMPLEMENTED, "requeue=false"));
        }
        other => return rest(&other),
    };
    Ok(Meaning::Command(operation))
}

/// Methods that are answered at once, and those that clients do not send.
fn rest(method: &Method) -> Result<Meaning, Fault> {
    match method {
        Method::ChannelFlow(m) if m.active => {
            Ok(Meaning::Answer(ChannelFlowOk { active: true }.into()))
        }
        Method::ChannelFlow(_) => Err(Fault::new(NOT_IMPLEMENTED, "active=false")),
        // RabbitMQ answers it too; tickets mean nothing since AMQP 0-9-1.
        Method::AccessRequest(_) => Ok(Meaning::Answer(AccessRequestOk { ticket: 1 }.into())),
        other => Err(Fault::new(
            COMMAND_INVALID,
            format!("{} is not for a client to send on a channel", other.name()),
        )),
    }
}

fn refused(requeue: bool) -> Outcome {
    if requeue { Outcome::Requeue } else { Outcome::Discard }
}

/// RabbitMQ strips carriage returns and line feeds from the names of queues and exchanges.
fn clean(name: ShortString) -> ShortString {
    let odd = |byte: &u8| matches!(byte, b'\r' | b'\n');
    if !name.as_bytes().iter().any(odd) {
        return name;
    }
    let kept: Vec<u8> = name.as_bytes().iter().copied().filter(|byte| !odd(byte)).collect();
    ShortString::try_from(kept.as_slice()).unwrap_or_default()
}

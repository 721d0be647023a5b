//! What a queue's arguments come to.
//!
//! Names, ranges and texts are RabbitMQ's (rabbit_amqqueue, rabbit_classic_queue,
//! rabbit_quorum_queue).

use std::sync::Arc;

use leveret_model::limits::EXPIRATION_MS_MAX;
use leveret_model::{FieldTable, FieldValue, ShortString};

use crate::refusal::Refusal;

/// How often a quorum queue's message may be given back unless it says otherwise.
const DELIVERY_LIMIT: u16 = 20;

#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) kind: Kind,
    /// How long a message may wait, in milliseconds.
    pub(crate) ttl: Option<u64>,
    /// How long the queue may be of no use to anyone, in milliseconds.
    pub(crate) expires: Option<u64>,
    /// Most ready messages.
    pub(crate) max_length: Option<u64>,
    /// Most bytes of the bodies of ready messages.
    pub(crate) max_bytes: Option<u64>,
    pub(crate) overflow: Overflow,
    /// Where messages go that end here without being handled.
    pub(crate) dead_letter: Option<Arc<DeadLetter>>,
    /// Messages of a higher priority count as this one.
    pub(crate) max_priority: u8,
    /// Whether only one consumer at a time gets messages.
    pub(crate) single_active: bool,
    /// How often a message may be given back.
    pub(crate) delivery_limit: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Classic,
    Quorum,
}

/// What happens to a message that is one too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// The oldest one goes.
    #[default]
    DropHead,
    /// It is not taken, and its publisher hears of that.
    Reject,
    /// As `Reject`, and it is dead-lettered.
    RejectDeadLetter,
}

/// Where a queue's dead letters go.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) vhost: usize,
    /// The queue they died in.
    pub(crate) queue: ShortString,
    pub(crate) exchange: ShortString,
    /// Instead of the routing keys that a message came with.
    pub(crate) routing_key: Option<ShortString>,
    /// None may be lost: a queue that refuses what is too much takes them all the same.
    pub(crate) at_least_once: bool,
}

/// An argument that some type of queue knows.
struct Argument {
    name: &'static str,
    /// Whether classic, quorum and stream queues know it.
    known: [bool; 3],
    check: Check,
}

type Check = fn(&FieldValue, &FieldTable) -> Result<(), String>;

const fn argument(name: &'static str, known: &str, check: Check) -> Argument {
    let known = known.as_bytes();
    Argument { name, known: [known[0] == b'c', known[1] == b'q', known[2] == b's'], check }
}

/// All of RabbitMQ's, in the order in which it looks at them. What leveret has no use for is
/// checked all the same.
const ARGUMENTS: [Argument; 26] = [
    argument("x-expires", "cq-", expires),
    argument("x-message-ttl", "cq-", ttl),
    argument("x-dead-letter-exchange", "cq-", string),
    argument("x-dead-letter-routing-key", "cq-", dead_letter_key),
    argument("x-dead-letter-strategy", "-q-", |value, _| {
        one_of(value, &["at-most-once", "at-least-once"], "invalid_dlx_strategy")
    }),
    argument("x-max-length", "cq-", natural),
    argument("x-max-length-bytes", "cqs", natural),
    argument("x-max-in-memory-length", "-q-", natural),
    argument("x-max-in-memory-bytes", "-q-", natural),
    argument("x-max-priority", "c--", priority),
    argument("x-overflow", "cq-", |value, _| {
        one_of(value, &["drop-head", "reject-publish", "reject-publish-dlx"], "invalid_overflow")
    }),
    argument("x-queue-mode", "c--", |value, _| {
        one_of(value, &["default", "lazy"], &unsupported("mode", value))
    }),
    argument("x-queue-version", "c--", version),
    argument("x-single-active-consumer", "cq-", boolean),
    argument("x-queue-type", "cqs", string),
    argument("x-quorum-initial-group-size", "-q-", positive),
    argument("x-max-age", "--s", string),
    argument("x-stream-max-segment-size-bytes", "--s", natural),
    argument("x-stream-filter-size-bytes", "--s", natural),
    argument("x-initial-cluster-size", "--s", positive),
    argument("x-queue-leader-locator", "cqs", |value, _| {
        const LOCATORS: [&str; 5] =
            ["client-local", "balanced", "random", "least-leaders", "min-masters"];
        one_of(value, &LOCATORS, "invalid_queue_locator_arg")
    }),
    argument("x-delivery-limit", "-q-", anything),
    argument("x-queue-master-locator", "c--", anything),
    // RabbitMQ 4.3 has these.
    argument("x-consumer-timeout", "cq-", natural),
    argument("x-delayed-retry-type", "-q-", string),
    argument("x-quorum-target-group-size", "-q-", positive),
];

impl Settings {
    /// The settings of a queue with these arguments. Arguments that no type of queue knows mean
    /// nothing, as in RabbitMQ.
    pub(crate) fn of(
        name: &ShortString,
        vhost: (usize, &ShortString),
        arguments: &FieldTable,
    ) -> Result<Settings, Refusal> {
        let invalid = |argument: &str, problem: String| Refusal::InvalidArgument {
            argument: argument.to_owned(),
            object: format!("queue '{name}'"),
            vhost: vhost.1.clone(),
            problem,
        };
        let kind = Kind::of(arguments).map_err(|problem| invalid("x-queue-type", problem))?;
        for argument in ARGUMENTS.iter().filter(|argument| argument.known[kind as usize]) {
            let value = arguments.get(argument.name);
            value.map_or(Ok(()), |value| (argument.check)(value, arguments)).map_err(
                |problem| match problem.as_str() {
                    NO_NAME => Refusal::ArgumentType {
                        kind: value.map_or("", FieldValue::type_name),
                        argument: argument.name.to_owned(),
                        object: format!("queue '{name}'"),
                        vhost: vhost.1.clone(),
                    },
                    _ => invalid(argument.name, problem),
                },
            )?;
        }
        for (argument, _) in arguments {
            let known = ARGUMENTS.iter().find(|known| *argument == *known.name);
            if known.is_some_and(|known| !known.known[kind as usize]) {
                return Err(Refusal::ForeignArgument {
                    argument: argument.to_string(),
                    name: name.clone(),
                    vhost: vhost.1.clone(),
                    kind: kind.module(),
                });
            }
        }
        Ok(Settings::parse(kind, name, vhost.0, arguments))
    }

    /// The settings that checked arguments come to.
    fn parse(kind: Kind, name: &ShortString, vhost: usize, arguments: &FieldTable) -> Settings {
        let number = |argument: &str| {
            let value = arguments.get(argument).and_then(FieldValue::as_integer);
            value.and_then(|value| u64::try_from(value).ok())
        };
        let text = |argument: &str| arguments.get(argument).and_then(FieldValue::as_long_string);
        let short = |bytes: &[u8]| ShortString::try_from(bytes).ok();
        let dead_letter = text("x-dead-letter-exchange").and_then(short).map(|exchange| {
            let routing_key = text("x-dead-letter-routing-key").and_then(short);
            let strategy = text("x-dead-letter-strategy");
            let at_least_once = kind == Kind::Quorum && strategy == Some(b"at-least-once");
            let queue = name.clone();
            Arc::new(DeadLetter { vhost, queue, exchange, routing_key, at_least_once })
        });
        let delivery_limit = match arguments.get("x-delivery-limit") {
            Some(limit) => limit.as_integer().map_or(Some(DELIVERY_LIMIT), |limit| {
                // A negative one is none.
                (limit >= 0).then(|| u16::try_from(limit).unwrap_or(u16::MAX))
            }),
            None => Some(DELIVERY_LIMIT),
        };
        Settings {
            kind,
            ttl: number("x-message-ttl"),
            expires: number("x-expires"),
            max_length: number("x-max-length"),
            max_bytes: number("x-max-length-bytes"),
            overflow: match text("x-overflow") {
                Some(b"reject-publish") => Overflow::Reject,
                // Quorum queues do not know it, but let it be declared.
                Some(b"reject-publish-dlx") if kind == Kind::Classic => Overflow::RejectDeadLetter,
                _ => Overflow::DropHead,
            },
            dead_letter,
            max_priority: match kind {
                Kind::Classic => number("x-max-priority").map_or(0, |max| max.clamp(1, 255) as u8),
                // As RabbitMQ 4.3; 4.2 has two bands of them.
                Kind::Quorum => QUORUM_PRIORITY_MAX,
            },
            single_active: arguments
                .get("x-single-active-consumer")
                .and_then(FieldValue::as_bool)
                .unwrap_or_default(),
            delivery_limit: delivery_limit.filter(|_| kind == Kind::Quorum),
        }
    }

    /// Whether a message that comes needs no look at it or at what is there already.
    pub(crate) fn plain(&self) -> bool {
        self.ttl.is_none() && self.max_length.is_none() && self.max_bytes.is_none()
    }

    /// Whether messages are refused that are too many.
    pub(crate) fn rejects(&self) -> bool {
        self.overflow != Overflow::DropHead
    }

    /// Whether its consumers are told how often a message was given back.
    pub(crate) fn counts_attempts(&self) -> bool {
        self.kind == Kind::Quorum
    }
}

/// Priorities of a quorum queue, from 0 to this one.
const QUORUM_PRIORITY_MAX: u8 = 31;

impl Kind {
    fn of(arguments: &FieldTable) -> Result<Kind, String> {
        match arguments.get("x-queue-type") {
            None => Ok(Kind::Classic),
            Some(FieldValue::LongString(kind)) => match kind.as_slice() {
                b"classic" => Ok(Kind::Classic),
                b"quorum" => Ok(Kind::Quorum),
                b"" | b"undefined" => Ok(Kind::Classic),
                other => {
                    let other = String::from_utf8_lossy(other);
                    Err(format!("\"unsupported queue type '{other}'\""))
                }
            },
            Some(other) => Err(unacceptable(other)),
        }
    }

    /// As clients call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Classic => "classic",
            Kind::Quorum => "quorum",
        }
    }

    /// As RabbitMQ's error texts call it.
    pub(crate) fn module(self) -> &'static str {
        match self {
            Kind::Classic => "rabbit_classic_queue",
            Kind::Quorum => "rabbit_quorum_queue",
        }
    }
}

/// The arguments that a redeclaration must repeat.
pub(crate) fn known_arguments(kind: Kind) -> impl Iterator<Item = &'static str> {
    let known = move |argument: &&Argument| argument.known[kind as usize];
    ARGUMENTS.iter().filter(known).map(|argument| argument.name)
}

fn unacceptable(value: &FieldValue) -> String {
    format!("{{unacceptable_type,{}}}", value.type_name())
}

fn anything(_: &FieldValue, _: &FieldTable) -> Result<(), String> {
    Ok(())
}

fn number(value: &FieldValue) -> Result<i64, String> {
    let wrong = || format!("\"expected integer, got {}\"", value.type_name());
    value.as_integer().ok_or_else(wrong)
}

/// The value of an argument that takes any integer.
pub(crate) fn integer(value: &FieldValue) -> Result<i64, String> {
    number(value)
}

fn natural(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    match number(value)? {
        n if n < 0 => Err(format!("{{value_negative,{n}}}")),
        _ => Ok(()),
    }
}

fn positive(value: &FieldValue, arguments: &FieldTable) -> Result<(), String> {
    natural(value, arguments)?;
    match number(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        _ => Ok(()),
    }
}

fn ttl(value: &FieldValue, arguments: &FieldTable) -> Result<(), String> {
    natural(value, arguments)?;
    match number(value)? {
        n if n.unsigned_abs() > EXPIRATION_MS_MAX => Err(format!("{{value_too_large,{n}}}")),
        _ => Ok(()),
    }
}

fn expires(value: &FieldValue, arguments: &FieldTable) -> Result<(), String> {
    positive(value, arguments)?;
    ttl(value, arguments)
}

fn priority(value: &FieldValue, arguments: &FieldTable) -> Result<(), String> {
    natural(value, arguments)?;
    match number(value)? {
        n if n > 255 => Err(format!("{{max_value_exceeded,{n}}}")),
        _ => Ok(()),
    }
}

fn version(value: &FieldValue, arguments: &FieldTable) -> Result<(), String> {
    natural(value, arguments)?;
    match number(value)? {
        1 | 2 => Ok(()),
        _ => Err(unsupported("version", value)),
    }
}

fn boolean(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    value.as_bool().map(|_| ()).ok_or_else(|| unacceptable(value))
}

/// What is wrong with a name that is no string; its text is not like the others'.
const NO_NAME: &str = "invalid type";

fn string(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    value.as_long_string().map(|_| ()).ok_or_else(|| NO_NAME.to_owned())
}

fn unsupported(what: &str, value: &FieldValue) -> String {
    format!("\"unsupported queue {what} '{}'\"", crate::text::value(value))
}

fn dead_letter_key(value: &FieldValue, arguments: &FieldTable) -> Result<(), String> {
    value.as_long_string().ok_or_else(|| unacceptable(value))?;
    match arguments.get("x-dead-letter-exchange") {
        Some(_) => Ok(()),
        None => Err("routing_key_but_no_dlx_defined".to_owned()),
    }
}

fn one_of(value: &FieldValue, words: &[&str], problem: &str) -> Result<(), String> {
    let word = value.as_long_string().ok_or_else(|| unacceptable(value))?;
    match words.iter().any(|each| each.as_bytes() == word) {
        true => Ok(()),
        false => Err(problem.to_owned()),
    }
}

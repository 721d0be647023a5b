//! What is asked at random, as the engine is asked.

use leveret_model::{Chunk, FieldTable, FieldValue, Message, Properties, ShortString};

use super::super::plain::{ExchangeSpec, Overflow, Publish, QueueSpec};
use super::super::world::{self, name};
use crate::Operation;
use crate::command::{DeclareExchange, DeclareQueue};

pub(super) fn publish(publish: &Publish, chunk: &mut Chunk) -> Operation {
    let first = u32::try_from(chunk.len()).unwrap();
    let mut special = false;
    for letter in &publish.letters {
        let mut headers = texts(&letter.others);
        for (which, keys) in [("CC", &letter.cc), ("BCC", &letter.bcc)] {
            if !keys.is_empty() {
                let keys = keys.iter().map(|key| FieldValue::from(*key)).collect();
                headers.insert(name(which), FieldValue::Array(keys));
                special = true;
            }
        }
        special |= letter.expiration.is_some() || letter.priority.is_some_and(|it| it > 0);
        let properties = Properties {
            headers: (!headers.is_empty()).then_some(headers),
            priority: letter.priority,
            expiration: letter.expiration.map(|ms| name(&ms.to_string())),
            ..Properties::default()
        };
        let (mut envelope, mut raw) = (Vec::new(), Vec::new());
        for part in [&letter.exchange, &letter.key] {
            envelope.push(u8::try_from(part.len()).unwrap());
            envelope.extend_from_slice(part.as_bytes());
        }
        properties.encode(&mut raw);
        let (body, persistent) = (letter.body.as_bytes(), letter.persistent);
        let message = Message { envelope: &envelope, properties: &raw, body, persistent };
        chunk.push(message).unwrap();
    }
    let count = u32::try_from(publish.letters.len()).unwrap();
    Operation::Publish { first, count, mandatory: publish.mandatory, special }
}

pub(super) fn texts(fields: &[(&str, &str)]) -> FieldTable {
    fields.iter().map(|(field, text)| (name(field), FieldValue::from(*text))).collect()
}

pub(super) fn queue(spec: &QueueSpec) -> DeclareQueue {
    let mut arguments: Vec<(&str, FieldValue)> = Vec::new();
    let number = |number: u64| FieldValue::I64(number.try_into().unwrap());
    if spec.quorum {
        arguments.push(("x-queue-type", "quorum".into()));
    }
    arguments.extend(spec.ttl.map(|ms| ("x-message-ttl", number(ms))));
    arguments.extend(spec.expires.map(|ms| ("x-expires", number(ms))));
    if let Some((exchange, key)) = spec.dead_letter {
        arguments.push(("x-dead-letter-exchange", exchange.into()));
        arguments.extend(key.map(|key| ("x-dead-letter-routing-key", key.into())));
    }
    arguments.extend(spec.max_length.map(|max| ("x-max-length", number(max))));
    arguments.extend(spec.max_bytes.map(|max| ("x-max-length-bytes", number(max))));
    let overflow = spec.overflow.map(|overflow| match overflow {
        Overflow::DropHead => "drop-head",
        Overflow::Reject => "reject-publish",
        Overflow::RejectDeadLetter => "reject-publish-dlx",
    });
    arguments.extend(overflow.map(|overflow| ("x-overflow", overflow.into())));
    arguments.extend(spec.max_priority.map(|max| ("x-max-priority", number(max.into()))));
    if spec.single_active {
        arguments.push(("x-single-active-consumer", true.into()));
    }
    arguments.extend(spec.delivery_limit.map(|limit| ("x-delivery-limit", limit.into())));
    let own = |(argument, value)| (name(argument), value);
    DeclareQueue {
        durable: spec.lasting,
        exclusive: spec.exclusive,
        auto_delete: spec.auto_delete,
        arguments: arguments.into_iter().map(own).collect(),
        ..world::queue(spec.name)
    }
}

pub(super) fn exchange(spec: &ExchangeSpec) -> DeclareExchange {
    let mut arguments = FieldTable::new();
    if let Some(alternate) = spec.alternate {
        arguments.insert(ShortString::from_static("alternate-exchange"), alternate);
    }
    DeclareExchange {
        durable: spec.durable,
        auto_delete: spec.auto_delete,
        internal: spec.internal,
        arguments,
        ..world::exchange(spec.name, spec.kind)
    }
}

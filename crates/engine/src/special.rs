//! Messages whose properties ask for more than to be passed on.

use std::sync::Arc;

use leveret_model::limits::{MORE_KEYS_MAX, SHORT_STRING_BYTES_MAX};
use leveret_model::{Chunk, FieldTable, FieldValue, Message, Properties, QueueId, properties};

use crate::engine::Engine;
use crate::publish::{Demands, Publication};
use crate::refusal::Refusal;
use crate::replies::REPLY_TO;
use crate::routing::Address;
use crate::step::{Content, Step};

impl Engine {
    /// Publishes one message that has an expiration, a priority, more routing keys, or asks for a
    /// direct reply.
    pub(crate) fn publish_special(
        &mut self,
        holder: u16,
        index: u32,
        mandatory: bool,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let mut content = step.content.clone();
        let chunk = Arc::clone(&content.chunk);
        let message = chunk.get(index);
        // Front doors let in only what can be read.
        let mut properties = Properties::decode(message.properties).unwrap_or_default();
        let demands = Demands {
            ttl: time_to_live(&properties),
            priority: properties.priority.unwrap_or_default(),
            place: false,
        };
        let mut keys = vec![message.routing_key().to_vec()];
        let mut changed = false;
        if let Some(headers) = &mut properties.headers {
            keys.extend(more_keys(headers, "CC")?);
            keys.extend(more_keys(headers, "BCC")?);
            // The key it was published with is one of them.
            if keys.len() - 1 > MORE_KEYS_MAX {
                return Err(Refusal::TooManyKeys(MORE_KEYS_MAX));
            }
            // Those who get it must not learn of the others, however often it names them.
            let count = headers.len();
            let all = std::mem::take(headers).into_iter();
            *headers = all.filter(|(name, _)| *name != *"BCC").collect();
            changed |= headers.len() < count;
        }
        if properties.reply_to.as_ref().is_some_and(|to| *to == REPLY_TO) {
            properties.reply_to = Some(self.reply_address(holder, step)?);
            changed = true;
        }
        let mut messages = index..index + 1;
        if changed {
            let mut raw = Vec::new();
            properties.encode(&mut raw);
            content = self.rewritten(Message { properties: &raw, ..message });
            messages = 0..1;
        }
        let slot = content.slot;
        let publication =
            Publication { content, messages, holder: Some(holder), mandatory, demands };
        let result = self.publish_to(&publication, message, &keys, step);
        if changed {
            self.chunks.release(slot, &mut step.effects.released);
        }
        result
    }

    fn publish_to(
        &mut self,
        publication: &Publication,
        message: Message<'_>,
        keys: &[Vec<u8>],
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let address = Address {
            vhost: self.vhost_of(step),
            exchange: message.exchange(),
            keys: &keys,
            // As consumers will see them: nothing matches a header that they do not get.
            properties: publication.content.chunk.get(publication.messages.start).properties,
        };
        let mut queues: Vec<QueueId> = Vec::new();
        self.route_for_client(address, &mut queues)?;
        self.admit(publication, &queues, step)
    }

    /// One message in a chunk of its own, held until it is released once.
    fn rewritten(&mut self, message: Message<'_>) -> Content {
        let mut chunk = Chunk::default();
        // A message that fitted into a chunk fits into one alone.
        let _ = chunk.push(message);
        self.hold(chunk)
    }

    /// Takes in a chunk that this step makes, to be released once when its messages are placed.
    pub(crate) fn hold(&mut self, mut chunk: Chunk) -> Content {
        chunk.shrink();
        let chunk = Arc::new(chunk);
        let slot = self.chunks.insert(Arc::clone(&chunk));
        self.chunks.retain(slot, 1);
        Content { chunk, slot }
    }
}

/// How long a message may wait, in milliseconds. Front doors have checked that it is a number.
pub(crate) fn time_to_live(properties: &Properties) -> Option<u64> {
    properties::expiration(properties.expiration.as_ref()?.as_bytes()).ok()
}

/// The routing keys of header `CC` or `BCC`; what cannot be one among them counts for nothing.
pub(crate) fn more_keys(headers: &FieldTable, name: &'static str) -> Result<Vec<Vec<u8>>, Refusal> {
    match headers.get(name) {
        None => Ok(Vec::new()),
        Some(FieldValue::Array(keys)) => {
            let texts = keys.iter().filter_map(FieldValue::as_long_string);
            let short = texts.filter(|key| key.len() <= SHORT_STRING_BYTES_MAX);
            Ok(short.map(<[u8]>::to_vec).collect())
        }
        Some(other) => Err(Refusal::InvalidHeader(name, other.type_name())),
    }
}

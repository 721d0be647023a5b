//! Records as lines for a person.

use std::fmt::Write;

use leveret_model::{Message, Printable, QueueId, properties};
use leveret_record::{Destination, Origin, Record, Targets};

use crate::model::Model;

/// A queue by its name, if that is known.
pub(crate) fn queue(model: &Model, id: QueueId) -> String {
    let definition = model.queues.get(&id).and_then(|queue| queue.definition.as_ref());
    match definition {
        Some(definition) => {
            format!("{} (queue {id})", Printable(definition.name.to_str_lossy()))
        }
        None => format!("queue {id}"),
    }
}

/// Whether a record has to do with a queue.
pub(crate) fn concerns(record: &Record<'_>, id: QueueId) -> bool {
    match record {
        Record::Publish { targets, .. } => {
            let mut targets = *targets;
            targets.any(|(queue, _)| queue == id)
        }
        Record::Settle { queue, .. } | Record::Delivered { queue, .. } => *queue == id,
        Record::DeclareQueue(definition) => definition.id == id,
        Record::DeleteQueue { id: deleted } => *deleted == id,
        Record::Bind(binding) | Record::Unbind(binding) => {
            binding.destination == Destination::Queue(id)
        }
        Record::Extent(extent) => extent.queue == id,
        Record::DeclareExchange(_) | Record::DeleteExchange { .. } | Record::Pack(_) => false,
    }
}

/// What a record says, on one line.
pub(crate) fn record(model: &Model, record: &Record<'_>) -> String {
    match record {
        Record::Publish { message: own, origin, targets } => {
            message(model, *own, *origin, *targets)
        }
        Record::Settle { queue: id, first, count } => {
            let last = first.0 + (count - 1);
            format!("settle   {}, positions {first}-{last}", queue(model, *id))
        }
        Record::DeclareExchange(exchange) => format!(
            "exchange {} in {}, {}",
            Printable(exchange.name.to_str_lossy()),
            Printable(exchange.vhost.to_str_lossy()),
            Printable(exchange.kind.to_str_lossy())
        ),
        Record::DeleteExchange { vhost, name } => format!(
            "delete   exchange {} in {}",
            Printable(name.to_str_lossy()),
            Printable(vhost.to_str_lossy())
        ),
        Record::DeclareQueue(definition) => format!(
            "queue    {} in {}, number {}, next position {}",
            Printable(definition.name.to_str_lossy()),
            Printable(definition.vhost.to_str_lossy()),
            definition.id,
            definition.next
        ),
        Record::DeleteQueue { id } => format!("delete   {}", queue(model, *id)),
        Record::Bind(binding) | Record::Unbind(binding) => {
            let what = if matches!(record, Record::Bind(_)) { "bind    " } else { "unbind  " };
            let to = match &binding.destination {
                Destination::Queue(id) => queue(model, *id),
                Destination::Exchange(name) => {
                    format!("exchange {}", Printable(name.to_str_lossy()))
                }
            };
            let source = Printable(binding.source.to_str_lossy());
            let key = Printable(binding.routing_key.to_str_lossy());
            format!("{what} exchange {source} to {to}, key \"{key}\"")
        }
        Record::Pack(pack) => {
            let mut line = format!("pack     {}, made of the log before {}", pack.id, pack.end);
            if !pack.replaces.is_empty() {
                let _ = write!(line, ", replaces {:?}", pack.replaces);
            }
            line
        }
        Record::Extent(extent) => {
            let count: u64 = extent.runs.iter().map(|(_, count)| count).sum();
            let first = extent.runs.first().map_or(0, |(first, _)| first.0);
            format!(
                "extent   pack {}, {}: {count} messages from position {first} on, priority {}",
                extent.pack,
                queue(model, extent.queue),
                extent.priority
            )
        }
        Record::Delivered { queue: id, below } => {
            format!("sent     {}, perhaps all below position {below}", queue(model, *id))
        }
    }
}

/// A message on one line, without its body.
pub(crate) fn message(
    model: &Model,
    message: Message<'_>,
    origin: Origin,
    targets: Targets<'_>,
) -> String {
    let mut line = "message ".to_owned();
    for (id, position) in targets {
        let _ = write!(line, " {} position {position},", queue(model, id));
    }
    let (exchange, key) = names(message.envelope);
    let _ = write!(
        line,
        " exchange \"{}\", key \"{}\", {} bytes",
        Printable(String::from_utf8_lossy(exchange)),
        Printable(String::from_utf8_lossy(key)),
        message.body.len()
    );
    if !message.properties.is_empty() {
        let _ = write!(line, ", {} of properties", message.properties.len());
    }
    let asked = properties::scan(message.properties).ok().and_then(|scan| scan.priority);
    if let Some(priority) = asked {
        let _ = write!(line, ", priority {priority}");
    }
    if !message.persistent {
        line.push_str(", transient");
    }
    if let Some(time) = origin.time {
        let _ = write!(line, ", published at {time} ms");
    }
    if origin.past != leveret_model::message::Past::None {
        line.push_str(", dead-lettered");
    }
    line
}

/// A body on one line.
pub(crate) fn body(body: &[u8]) -> String {
    Printable(String::from_utf8_lossy(body)).to_string()
}

/// Exchange and routing key of an envelope.
fn names(envelope: &[u8]) -> (&[u8], &[u8]) {
    let short = |bytes: &'_ [u8]| {
        let len = bytes.first().map_or(0, |len| usize::from(*len));
        (1.min(bytes.len()), (1 + len).min(bytes.len()))
    };
    let (start, end) = short(envelope);
    let (exchange, rest) = (&envelope[start..end], &envelope[end..]);
    let (start, end) = short(rest);
    (exchange, &rest[start..end])
}

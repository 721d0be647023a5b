//! Writing records: each function appends one whole record to `out`.

use leveret_model::message::Past;
use leveret_model::{FieldTable, Message, Position, QueueId, ShortString};

use crate::record::{
    BindingDefinition, Destination, ExchangeDefinition, ExtentDefinition, Origin, PackDefinition,
    QueueDefinition, destination, flag, kind,
};
use crate::varint;

/// A message and the durable queues it goes to, with its position in each.
///
/// The hot path: one reservation, then copies.
pub fn write_publish(
    out: &mut Vec<u8>,
    message: Message<'_>,
    origin: Origin,
    targets: &[(QueueId, Position)],
) {
    let Message { envelope, properties, body, persistent } = message;
    let targets_len: usize = targets
        .iter()
        .map(|(queue, position)| varint::len(queue.0) + varint::len(position.0))
        .sum();
    let head_len = 1
        + origin.time.map_or(0, |time| varint::len(time.0))
        + varint::len(envelope.len() as u64)
        + varint::len(properties.len() as u64)
        + varint::len(targets.len() as u64);
    let len = head_len + targets_len + envelope.len() + properties.len() + body.len();
    begin(out, kind::PUBLISH, len);
    let persistent = if persistent { flag::PERSISTENT } else { 0 };
    let timed = if origin.time.is_some() { flag::TIMED } else { 0 };
    let past = match origin.past {
        Past::None => 0,
        Past::Died => flag::DIED,
        Past::Rekeyed => flag::REKEYED,
    };
    out.push(persistent | timed | past);
    if let Some(time) = origin.time {
        varint::write(out, time.0);
    }
    varint::write(out, envelope.len() as u64);
    varint::write(out, properties.len() as u64);
    varint::write(out, targets.len() as u64);
    for (queue, position) in targets {
        varint::write(out, queue.0);
        varint::write(out, position.0);
    }
    out.extend_from_slice(envelope);
    out.extend_from_slice(properties);
    out.extend_from_slice(body);
}

/// `count` positions of `queue` from `first` on are gone. `count` is at least one.
pub fn write_settle(out: &mut Vec<u8>, queue: QueueId, first: Position, count: u64) {
    debug_assert!(count > 0 && first.0.checked_add(count).is_some());
    let len = varint::len(queue.0) + varint::len(first.0) + varint::len(count);
    begin(out, kind::SETTLE, len);
    varint::write(out, queue.0);
    varint::write(out, first.0);
    varint::write(out, count);
}

/// An exchange exists.
pub fn write_declare_exchange(out: &mut Vec<u8>, exchange: &ExchangeDefinition) {
    let mut body = Vec::new();
    let auto_delete = if exchange.auto_delete { flag::AUTO_DELETE } else { 0 };
    let internal = if exchange.internal { flag::INTERNAL } else { 0 };
    body.push(auto_delete | internal);
    short(&mut body, &exchange.vhost);
    short(&mut body, &exchange.name);
    short(&mut body, &exchange.kind);
    finish(out, kind::DECLARE_EXCHANGE, body, &exchange.arguments);
}

/// An exchange is gone, and every binding from or to it.
pub fn write_delete_exchange(out: &mut Vec<u8>, vhost: &ShortString, name: &ShortString) {
    begin(out, kind::DELETE_EXCHANGE, 2 + vhost.as_bytes().len() + name.as_bytes().len());
    short(out, vhost);
    short(out, name);
}

/// A queue exists.
pub fn write_declare_queue(out: &mut Vec<u8>, queue: &QueueDefinition) {
    let mut body = Vec::new();
    body.push(if queue.auto_delete { flag::AUTO_DELETE } else { 0 });
    varint::write(&mut body, queue.id.0);
    varint::write(&mut body, queue.next.0);
    short(&mut body, &queue.vhost);
    short(&mut body, &queue.name);
    finish(out, kind::DECLARE_QUEUE, body, &queue.arguments);
}

/// A queue is gone, with its messages and bindings.
pub fn write_delete_queue(out: &mut Vec<u8>, id: QueueId) {
    begin(out, kind::DELETE_QUEUE, varint::len(id.0));
    varint::write(out, id.0);
}

/// A binding exists.
pub fn write_bind(out: &mut Vec<u8>, binding: &BindingDefinition) {
    write_binding(out, kind::BIND, binding);
}

/// A binding is gone.
pub fn write_unbind(out: &mut Vec<u8>, binding: &BindingDefinition) {
    write_binding(out, kind::UNBIND, binding);
}

/// A pack holds messages from now on.
pub fn write_pack(out: &mut Vec<u8>, pack: &PackDefinition) {
    let mut body = Vec::new();
    varint::write(&mut body, pack.id.0);
    varint::write(&mut body, pack.end.0);
    for replaced in &pack.replaces {
        varint::write(&mut body, replaced.0);
    }
    begin(out, kind::PACK, body.len());
    out.extend_from_slice(&body);
}

/// A pack holds these messages of a queue.
pub fn write_extent(out: &mut Vec<u8>, extent: &ExtentDefinition) {
    let mut body = Vec::new();
    body.push(if extent.expires.is_some() { flag::TIMED } else { 0 });
    varint::write(&mut body, extent.pack.0);
    varint::write(&mut body, extent.queue.0);
    body.push(extent.priority);
    if let Some(time) = extent.expires {
        varint::write(&mut body, time.0);
    }
    varint::write(&mut body, extent.body_bytes);
    let mut end = 0;
    for (first, count) in &extent.runs {
        debug_assert!(*count > 0 && first.0 >= end);
        varint::write(&mut body, first.0 - end);
        varint::write(&mut body, *count);
        end = first.0 + count;
    }
    begin(out, kind::EXTENT, body.len());
    out.extend_from_slice(&body);
}

/// Messages of `queue` below a position may have been delivered.
pub fn write_delivered(out: &mut Vec<u8>, queue: QueueId, below: Position) {
    begin(out, kind::DELIVERED, varint::len(queue.0) + varint::len(below.0));
    varint::write(out, queue.0);
    varint::write(out, below.0);
}

fn write_binding(out: &mut Vec<u8>, kind: u8, binding: &BindingDefinition) {
    let mut body = Vec::new();
    short(&mut body, &binding.vhost);
    short(&mut body, &binding.source);
    match &binding.destination {
        Destination::Queue(queue) => {
            body.push(destination::QUEUE);
            varint::write(&mut body, queue.0);
        }
        Destination::Exchange(exchange) => {
            body.push(destination::EXCHANGE);
            short(&mut body, exchange);
        }
    }
    short(&mut body, &binding.routing_key);
    finish(out, kind, body, &binding.arguments);
}

/// Type and length, and room for the body.
fn begin(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.reserve(1 + varint::len(len as u64) + len);
    out.push(kind);
    varint::write(out, len as u64);
}

/// A whole record whose body ends in a field table; definitions are rare enough for a copy.
fn finish(out: &mut Vec<u8>, kind: u8, mut body: Vec<u8>, arguments: &FieldTable) {
    arguments.encode(&mut body);
    begin(out, kind, body.len());
    out.extend_from_slice(&body);
}

/// A length byte and the bytes.
fn short(out: &mut Vec<u8>, string: &ShortString) {
    let bytes = string.as_bytes();
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

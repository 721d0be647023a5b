//! Methods and messages that bytes ask for.

use leveret_amqp_wire::method::{
    AccessRequest, BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicPublish,
    BasicQos, BasicRecover, BasicReject, ChannelFlow, ChannelOpen, ConfirmSelect, ConnectionClose,
    ConnectionUpdateSecret, ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind,
    QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueUnbind, TxCommit, TxRollback, TxSelect,
};
use leveret_amqp_wire::{Method, frame, write_content};
use leveret_model::limits::FRAME_MIN_BYTES;
use leveret_model::{FieldTable, FieldValue, Properties, ShortString};

use super::Source;

/// Queues and exchanges.
pub(super) const NAMES: [&str; 8] =
    ["q", "r", "", "e", "f", "amq.topic", "amq.rabbitmq.reply-to", "amq.own"];
const KINDS: [&str; 5] = ["direct", "fanout", "topic", "headers", "odd"];
const KEYS: [&str; 5] = ["q", "r", "a.b", "#", "a.*"];
const ARGUMENTS: [&str; 7] = [
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-dead-letter-exchange",
    "x-max-priority",
    "x-single-active-consumer",
    "x-priority",
];

/// Often one that is declared.
fn name(source: &mut Source<'_>) -> ShortString {
    let choice = usize::from(source.byte() % 32);
    ShortString::from_static(NAMES.get(choice).copied().unwrap_or(["q", "r"][choice % 2]))
}

fn exchange_name(source: &mut Source<'_>) -> ShortString {
    let choice = usize::from(source.byte() % 32);
    ShortString::from_static(NAMES.get(choice).copied().unwrap_or(["e", "f"][choice % 2]))
}

fn key(source: &mut Source<'_>) -> ShortString {
    ShortString::from_static(source.pick(&KEYS))
}

fn arguments(source: &mut Source<'_>) -> FieldTable {
    let mut table = FieldTable::new();
    if source.byte() < 64 {
        let argument = ShortString::from_static(source.pick(&ARGUMENTS));
        let value = match source.byte() % 4 {
            0 => FieldValue::I32(source.byte().into()),
            1 => FieldValue::I64(-1),
            2 => FieldValue::Bool(true),
            _ => FieldValue::from(source.pick(&NAMES)),
        };
        table.insert(argument, value);
        if source.byte() < 64 {
            table.insert(ShortString::from_static("x-max-length"), 1);
            table.insert(ShortString::from_static("x-overflow"), "reject-publish");
        }
    }
    table
}

/// Two queues and two exchanges, so that something happens.
pub(super) fn begin(source: &mut Source<'_>, out: &mut Vec<u8>) {
    for queue in ["q", "r"] {
        let queue = ShortString::from_static(queue);
        let arguments = arguments(source);
        Method::from(QueueDeclare { queue, arguments, ..Default::default() }).frame(1, out);
    }
    for exchange in ["e", "f"] {
        let exchange = ShortString::from_static(exchange);
        let kind = ShortString::from_static(source.pick(&KINDS[..4]));
        Method::from(ExchangeDeclare { exchange: exchange.clone(), kind, ..Default::default() })
            .frame(1, out);
        let (queue, routing_key) = (ShortString::from_static("q"), key(source));
        Method::from(QueueBind { queue, exchange, routing_key, ..Default::default() })
            .frame(1, out);
    }
}

pub(super) fn method(source: &mut Source<'_>) -> Method {
    match source.byte() % 40 {
        0 if source.byte() < 16 => ChannelOpen::default().into(),
        8 => AccessRequest::default().into(),
        9 => ChannelFlow { active: source.byte() > 4 }.into(),
        10 if source.byte() < 8 => ConnectionClose::default().into(),
        11 => ConnectionUpdateSecret::default().into(),
        12 => ConfirmSelect { no_wait: source.flag() }.into(),
        13 if source.byte() < 160 => TxSelect {}.into(),
        14 if source.byte() < 128 => TxCommit {}.into(),
        15 if source.byte() < 64 => TxRollback {}.into(),
        16 => {
            QueuePurge { queue: name(source), no_wait: source.flag(), ..Default::default() }.into()
        }
        17 | 18 => QueueBind {
            queue: name(source),
            exchange: exchange_name(source),
            routing_key: key(source),
            no_wait: source.flag(),
            arguments: arguments(source),
            ..Default::default()
        }
        .into(),
        19 => QueueUnbind {
            queue: name(source),
            exchange: exchange_name(source),
            routing_key: key(source),
            ..Default::default()
        }
        .into(),
        20..=24 => declare_queue(source),
        25 => QueueDelete {
            queue: name(source),
            if_unused: source.flag(),
            if_empty: source.flag(),
            no_wait: source.flag(),
            ..Default::default()
        }
        .into(),
        26..=29 => exchange(source),
        _ => basic(source),
    }
}

fn declare_queue(source: &mut Source<'_>) -> Method {
    let queue = name(source);
    let bits = source.byte();
    QueueDeclare {
        queue,
        passive: bits & 0x11 == 0x11,
        // Rare: durable ones need the disk.
        durable: bits & 0x0e == 0x0e,
        exclusive: bits & 0x20 != 0,
        auto_delete: bits & 0x40 != 0,
        no_wait: bits & 0x80 != 0,
        arguments: arguments(source),
        ..Default::default()
    }
    .into()
}

fn exchange(source: &mut Source<'_>) -> Method {
    let bits = source.byte();
    match bits % 4 {
        0 => ExchangeDeclare {
            exchange: exchange_name(source),
            kind: ShortString::from_static(source.pick(&KINDS)),
            auto_delete: bits & 0x10 != 0,
            internal: bits & 0x60 == 0x60,
            no_wait: bits & 0x80 != 0,
            arguments: arguments(source),
            ..Default::default()
        }
        .into(),
        1 => ExchangeDelete {
            exchange: exchange_name(source),
            if_unused: bits & 0x10 != 0,
            no_wait: bits & 0x80 != 0,
            ..Default::default()
        }
        .into(),
        2 => ExchangeBind {
            destination: exchange_name(source),
            source: exchange_name(source),
            routing_key: key(source),
            no_wait: bits & 0x80 != 0,
            ..Default::default()
        }
        .into(),
        _ => ExchangeUnbind {
            destination: exchange_name(source),
            source: exchange_name(source),
            routing_key: key(source),
            no_wait: bits & 0x80 != 0,
            ..Default::default()
        }
        .into(),
    }
}

fn basic(source: &mut Source<'_>) -> Method {
    let choice = source.byte() % 16;
    let bits = source.byte();
    // Most are 1 or 2, which have a chance to be out.
    let delivery_tag = u64::from(source.pick(&[1, 1, 1, 2, 2, 3, 0, 9_u8]));
    let (multiple, requeue) = (bits & 1 != 0, bits & 2 != 0);
    match choice {
        0..=4 => BasicConsume {
            queue: name(source),
            consumer_tag: key(source),
            no_ack: bits & 4 != 0,
            exclusive: bits & 0x18 == 0x18,
            no_wait: bits & 0x20 != 0,
            arguments: arguments(source),
            ..Default::default()
        }
        .into(),
        5 => BasicCancel { consumer_tag: key(source), no_wait: requeue }.into(),
        6..=8 => BasicGet { queue: name(source), no_ack: multiple, ticket: 0 }.into(),
        9 | 10 => BasicAck { delivery_tag, multiple }.into(),
        11 => BasicNack { delivery_tag, multiple, requeue }.into(),
        12 => BasicReject { delivery_tag, requeue }.into(),
        13 => BasicRecover { requeue: bits > 8 }.into(),
        _ => {
            let prefetch_size = u32::from(bits == 0);
            let prefetch_count = u16::from(source.byte() % 3);
            BasicQos { prefetch_size, prefetch_count, global: multiple }.into()
        }
    }
}

/// A message. Some come in parts: `rest` is what is to be sent later.
pub(super) fn publish(
    source: &mut Source<'_>,
    channel: u16,
    out: &mut Vec<u8>,
    rest: &mut Vec<u8>,
) {
    let bits = source.byte();
    let method = BasicPublish {
        exchange: ShortString::from_static(source.pick(&["", "", "", "e", "f", "amq.topic", "q"])),
        routing_key: key(source),
        mandatory: bits & 1 != 0,
        immediate: bits == 0xff,
        ..Default::default()
    };
    let mut properties = Vec::new();
    properties_of(source).encode(&mut properties);
    let body = vec![bits; usize::from(source.byte()) * usize::from(source.byte() % 16)];
    let mut content = Vec::new();
    write_content(&mut content, channel, &properties, &body, FRAME_MIN_BYTES);
    Method::from(method).frame(channel, out);
    if bits & 0x70 == 0x10 {
        rest.append(&mut content.split_off(header_len(&content)));
    }
    if bits & 0x70 == 0x20 {
        rest.append(&mut content);
    }
    out.append(&mut content);
}

/// How long the first frame is.
fn header_len(content: &[u8]) -> usize {
    frame::parse(content, FRAME_MIN_BYTES).ok().flatten().map_or(0, |(_, used)| used)
}

fn properties_of(source: &mut Source<'_>) -> Properties {
    let bits = source.byte();
    let on = |bit: u8| bits & (1 << bit) != 0;
    let mut expiration = None;
    if on(2) {
        let text = source.pick(&["0", "1", "60000", "+1", "x", "-1"]);
        expiration = Some(ShortString::from_static(text));
    }
    let mut headers = None;
    if on(4) {
        let header = ShortString::from_static(source.pick(&["CC", "BCC", "x-delivery-count"]));
        let value = match source.byte() % 4 {
            0 => FieldValue::from("text"),
            1 => FieldValue::I32(1),
            _ => FieldValue::Array(vec!["q".into(), "r".into()]),
        };
        headers = Some(FieldTable::from_iter([(header, value)]));
    }
    Properties {
        delivery_mode: on(0).then_some(1 + (bits >> 7)),
        priority: on(1).then_some(bits >> 5),
        expiration,
        reply_to: on(3).then(|| name(source)),
        headers,
        ..Properties::default()
    }
}

use leveret_model::message::Past;
use leveret_model::{
    FieldTable, FieldValue, Lsn, Message, PackId, Position, QueueId, ShortString, Time,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::*;

fn short() -> impl Strategy<Value = ShortString> {
    vec(any::<u8>(), 0..=255).prop_map(|bytes| ShortString::try_from(&bytes[..]).unwrap())
}

fn table() -> impl Strategy<Value = FieldTable> {
    let value = prop_oneof![
        any::<i64>().prop_map(FieldValue::I64),
        vec(any::<u8>(), 0..40).prop_map(FieldValue::LongString),
        any::<bool>().prop_map(FieldValue::Bool),
    ];
    vec((short(), value), 0..4).prop_map(|entries| entries.into_iter().collect())
}

fn exchange() -> impl Strategy<Value = ExchangeDefinition> {
    (short(), short(), short(), any::<bool>(), any::<bool>(), table()).prop_map(
        |(vhost, name, kind, auto_delete, internal, arguments)| ExchangeDefinition {
            vhost,
            name,
            kind,
            auto_delete,
            internal,
            arguments,
        },
    )
}

fn queue() -> impl Strategy<Value = QueueDefinition> {
    (any::<u64>(), short(), short(), any::<bool>(), table(), any::<u64>()).prop_map(
        |(id, vhost, name, auto_delete, arguments, next)| QueueDefinition {
            id: QueueId(id),
            vhost,
            name,
            auto_delete,
            arguments,
            next: Position(next),
        },
    )
}

fn binding() -> impl Strategy<Value = BindingDefinition> {
    let destination = prop_oneof![
        any::<u64>().prop_map(|id| Destination::Queue(QueueId(id))),
        short().prop_map(Destination::Exchange),
    ];
    (short(), short(), destination, short(), table()).prop_map(
        |(vhost, source, destination, routing_key, arguments)| BindingDefinition {
            vhost,
            source,
            destination,
            routing_key,
            arguments,
        },
    )
}

/// A record that owns what it is made of.
#[derive(Debug, Clone)]
enum Owned {
    Publish {
        envelope: Vec<u8>,
        properties: Vec<u8>,
        body: Vec<u8>,
        persistent: bool,
        origin: Origin,
        targets: Vec<(QueueId, Position)>,
    },
    Settle(QueueId, Position, u64),
    DeclareExchange(ExchangeDefinition),
    DeleteExchange(ShortString, ShortString),
    DeclareQueue(QueueDefinition),
    DeleteQueue(QueueId),
    Bind(BindingDefinition),
    Unbind(BindingDefinition),
    Pack(PackDefinition),
    Extent(ExtentDefinition),
    Delivered(QueueId, Position),
}

fn pack() -> impl Strategy<Value = PackDefinition> {
    (any::<u64>(), any::<u64>(), vec(any::<u64>(), 0..4)).prop_map(|(id, end, replaces)| {
        let replaces = replaces.into_iter().map(PackId).collect();
        PackDefinition { id: PackId(id), end: Lsn(end), replaces }
    })
}

fn extent() -> impl Strategy<Value = ExtentDefinition> {
    let runs = vec((1..1_u64 << 40, 1..1_u64 << 20), 0..5);
    let rest = (any::<u64>(), any::<u64>(), any::<u8>(), any::<Option<u64>>(), any::<u64>());
    (rest, runs).prop_map(|((pack, queue, priority, expires, body_bytes), gaps)| {
        let mut end = 0;
        let mut runs = Vec::new();
        for (gap, count) in gaps {
            runs.push((Position(end + gap), count));
            end += gap + count;
        }
        let (pack, queue, expires) = (PackId(pack), QueueId(queue), expires.map(Time));
        ExtentDefinition { pack, queue, priority, expires, body_bytes, runs }
    })
}

fn publish() -> impl Strategy<Value = Owned> {
    let targets = vec((any::<u64>(), any::<u64>()), 0..5);
    let content = vec(any::<u8>(), 0..300);
    let origin = (any::<Option<u64>>(), select(&[Past::None, Past::Died, Past::Rekeyed][..]))
        .prop_map(|(time, past)| Origin { time: time.map(Time), past });
    (short(), short(), content.clone(), content, any::<bool>(), origin, targets).prop_map(
        |(exchange, key, properties, body, persistent, origin, targets)| Owned::Publish {
            envelope: envelope(exchange.as_bytes(), key.as_bytes()),
            properties,
            body,
            persistent,
            origin,
            targets: targets.into_iter().map(|(q, p)| (QueueId(q), Position(p))).collect(),
        },
    )
}

fn record() -> impl Strategy<Value = Owned> {
    prop_oneof![
        publish(),
        (any::<u64>(), any::<u64>(), 1..u64::MAX).prop_map(|(queue, first, count)| {
            let count = count.min(u64::MAX - first).max(1);
            let first = first.min(u64::MAX - count);
            Owned::Settle(QueueId(queue), Position(first), count)
        }),
        exchange().prop_map(Owned::DeclareExchange),
        (short(), short()).prop_map(|(vhost, name)| Owned::DeleteExchange(vhost, name)),
        queue().prop_map(Owned::DeclareQueue),
        any::<u64>().prop_map(|id| Owned::DeleteQueue(QueueId(id))),
        binding().prop_map(Owned::Bind),
        binding().prop_map(Owned::Unbind),
        pack().prop_map(Owned::Pack),
        extent().prop_map(Owned::Extent),
        any::<(u64, u64)>().prop_map(|(queue, p)| Owned::Delivered(QueueId(queue), Position(p))),
    ]
}

fn envelope(exchange: &[u8], key: &[u8]) -> Vec<u8> {
    [&[exchange.len() as u8], exchange, &[key.len() as u8], key].concat()
}

fn write(out: &mut Vec<u8>, record: &Owned) {
    match record {
        Owned::Publish { envelope, properties, body, persistent, origin, targets } => {
            let persistent = *persistent;
            write_publish(
                out,
                Message { envelope, properties, body, persistent },
                *origin,
                targets,
            );
        }
        Owned::Settle(queue, first, count) => write_settle(out, *queue, *first, *count),
        Owned::DeclareExchange(exchange) => write_declare_exchange(out, exchange),
        Owned::DeleteExchange(vhost, name) => write_delete_exchange(out, vhost, name),
        Owned::DeclareQueue(queue) => write_declare_queue(out, queue),
        Owned::DeleteQueue(id) => write_delete_queue(out, *id),
        Owned::Bind(binding) => write_bind(out, binding),
        Owned::Unbind(binding) => write_unbind(out, binding),
        Owned::Pack(pack) => write_pack(out, pack),
        Owned::Extent(extent) => write_extent(out, extent),
        Owned::Delivered(queue, below) => write_delivered(out, *queue, *below),
    }
}

fn same(read: &Record<'_>, written: &Owned) -> bool {
    match (read, written) {
        (
            Record::Publish { message, origin: read, targets },
            Owned::Publish { envelope, properties, body, persistent, origin, targets: sent },
        ) => {
            let expected = Message { envelope, properties, body, persistent: *persistent };
            *message == expected
                && read == origin
                && targets.len() == sent.len()
                && Iterator::eq(*targets, sent.iter().copied())
        }
        (Record::Settle { queue, first, count }, Owned::Settle(q, f, c)) => {
            (queue, first, count) == (q, f, c)
        }
        (Record::DeclareExchange(a), Owned::DeclareExchange(b)) => a == b,
        (Record::DeleteExchange { vhost, name }, Owned::DeleteExchange(v, n)) => {
            (vhost, name) == (v, n)
        }
        (Record::DeclareQueue(a), Owned::DeclareQueue(b)) => a == b,
        (Record::DeleteQueue { id }, Owned::DeleteQueue(b)) => id == b,
        (Record::Pack(a), Owned::Pack(b)) => a == b,
        (Record::Extent(a), Owned::Extent(b)) => a == b,
        (Record::Delivered { queue, below }, Owned::Delivered(q, p)) => (queue, below) == (q, p),
        (Record::Bind(a), Owned::Bind(b)) | (Record::Unbind(a), Owned::Unbind(b)) => a == b,
        _ => false,
    }
}

proptest! {
    #[test]
    fn records_read_back_as_written(records in vec(record(), 0..6)) {
        let mut bytes = Vec::new();
        let mut offsets = Vec::new();
        for record in &records {
            offsets.push(bytes.len());
            write(&mut bytes, record);
        }
        let read: Vec<_> = Records::new(&bytes).map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), records.len());
        for ((offset, read), (expected, written)) in read.iter().zip(offsets.iter().zip(&records)) {
            prop_assert_eq!(offset, expected);
            prop_assert!(same(read, written), "{:?} is not {:?}", read, written);
        }
    }

    #[test]
    fn a_record_cut_short_is_an_error(record in record(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        write(&mut bytes, &record);
        bytes.truncate(cut.index(bytes.len() - 1) + 1);
        let mut whole = Vec::new();
        write(&mut whole, &record);
        prop_assume!(bytes.len() < whole.len());
        let read: Vec<_> = Records::new(&bytes).collect();
        prop_assert_eq!(read, [Err(RecordError::Truncated { offset: 0 })]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        drain(&bytes);
    }

    #[test]
    fn arbitrary_bodies_never_panic(kind in 0_u8..14, body in vec(any::<u8>(), 0..120)) {
        let mut bytes = vec![kind, body.len() as u8];
        bytes.extend(body);
        drain(&bytes);
    }

    #[test]
    fn a_changed_byte_never_panics(record in record(), at in any::<prop::sample::Index>(), to: u8) {
        let mut bytes = Vec::new();
        write(&mut bytes, &record);
        let at = at.index(bytes.len());
        bytes[at] = to;
        drain(&bytes);
    }
}

fn drain(bytes: &[u8]) {
    for record in Records::new(bytes) {
        if let Ok((_, Record::Publish { targets, message, .. })) = record {
            assert!(targets.len() <= bytes.len());
            let _ = (targets.count(), message.exchange(), message.routing_key());
        }
    }
}

#[test]
fn an_unknown_type_is_an_error_and_the_end() {
    let mut bytes = Vec::new();
    write_delete_queue(&mut bytes, QueueId(7));
    bytes.extend([99, 0]);
    write_delete_queue(&mut bytes, QueueId(8));
    let read: Vec<_> = Records::new(&bytes).collect();
    let first = Ok((0, Record::DeleteQueue { id: QueueId(7) }));
    assert_eq!(read, [first, Err(RecordError::UnknownType { offset: 3, kind: 99 })]);
}

#[test]
fn bytes_left_in_a_body_are_an_error() {
    let read: Vec<_> = Records::new(&[6, 2, 1, 1]).collect();
    assert_eq!(read, [Err(RecordError::Malformed { offset: 0, kind: 6 })]);
}

#[test]
fn a_settled_run_is_never_empty_and_never_wraps() {
    for (first, count) in [(5, 0), (u64::MAX, 1)] {
        let mut body = vec![1];
        crate::varint::write(&mut body, first);
        crate::varint::write(&mut body, count);
        let bytes = [&[2, body.len() as u8], &body[..]].concat();
        let read: Vec<_> = Records::new(&bytes).collect();
        assert_eq!(read, [Err(RecordError::Malformed { offset: 0, kind: 2 })]);
    }
}

#[test]
fn no_message_has_a_position_that_none_follows() {
    let envelope = envelope(b"", b"q");
    let message = Message { envelope: &envelope, properties: b"", body: b"", persistent: true };
    for (position, sound) in [(u64::MAX, false), (u64::MAX - 1, true)] {
        let mut bytes = Vec::new();
        let targets = [(QueueId(1), Position(position))];
        write_publish(&mut bytes, message, Origin::default(), &targets);
        assert_eq!(Records::new(&bytes).all(|read| read.is_ok()), sound);
    }
}

#[test]
fn an_extent_holds_no_more_than_a_pack() {
    let runs = vec![(Position(1), 1 << 29), (Position(1 << 40), 1)];
    let (pack, queue) = (PackId(1), QueueId(1));
    let extent = ExtentDefinition { pack, queue, priority: 0, expires: None, body_bytes: 0, runs };
    let mut bytes = Vec::new();
    write_extent(&mut bytes, &extent);
    let read: Vec<_> = Records::new(&bytes).collect();
    assert_eq!(read, [Err(RecordError::Malformed { offset: 0, kind: 10 })]);
}

/// The bytes themselves: a change here is a new format version.
#[test]
fn the_format_is_pinned() {
    let mut bytes = Vec::new();
    let envelope = envelope(b"x", b"key");
    let message =
        Message { envelope: &envelope, properties: &[0, 0], body: b"hi", persistent: true };
    write_publish(&mut bytes, message, Origin::default(), &[(QueueId(3), Position(300))]);
    write_settle(&mut bytes, QueueId(3), Position(300), 2);
    let publish = [1, 17, 1, 6, 2, 1, 3, 0xac, 2, 1, b'x', 3, b'k', b'e', b'y', 0, 0, b'h', b'i'];
    assert_eq!(bytes, [&publish[..], &[2, 4, 3, 0xac, 2, 2]].concat());

    let mut bytes = Vec::new();
    write_pack(
        &mut bytes,
        &PackDefinition { id: PackId(7), end: Lsn(300), replaces: vec![PackId(5)] },
    );
    let runs = vec![(Position(300), 2), (Position(310), 1)];
    let (pack, queue, expires) = (PackId(7), QueueId(3), Some(Time(9)));
    let extent = ExtentDefinition { pack, queue, priority: 4, expires, body_bytes: 8, runs };
    write_extent(&mut bytes, &extent);
    write_delivered(&mut bytes, QueueId(3), Position(300));
    let pack = [9, 4, 7, 0xac, 2, 5];
    let extent = [10, 11, 2, 7, 3, 4, 9, 8, 0xac, 2, 2, 8, 1];
    assert_eq!(bytes, [&pack[..], &extent, &[11, 3, 3, 0xac, 2]].concat());
}

//! What the engine tells, as the client hears it.

use std::sync::Arc;

use leveret_amqp_wire::method::{
    ConfirmSelectOk, ExchangeBindOk, ExchangeUnbindOk, TxCommitOk, TxRollbackOk, TxSelectOk,
};
use leveret_broker::engine::Reply;
use leveret_broker::engine::effect::Confirmed;
use leveret_model::{Chunk, FieldValue, Message, Properties};

use super::*;

fn reply(reply: Reply) -> Item {
    Item::Reply { holder: 1, reply: Box::new(reply) }
}

#[test]
fn every_answer_has_its_method() {
    let cases: [(Reply, Method); 5] = [
        (Reply::ExchangeBound, ExchangeBindOk {}.into()),
        (Reply::ExchangeUnbound, ExchangeUnbindOk {}.into()),
        (Reply::TransactionsSelected, TxSelectOk {}.into()),
        (Reply::Committed, TxCommitOk {}.into()),
        (Reply::RolledBack, TxRollbackOk {}.into()),
    ];
    let mut client = Client::new();
    for (answer, method) in cases {
        assert_eq!(client.tell(vec![reply(answer)]), [Told::Method(method)]);
    }
}

#[test]
fn rejected_messages_are_nacked() {
    let mut client = Client::new();
    let selected = Reply::ConfirmsSelected { publisher: 9, reply: true };
    let settled = |first, last| Confirmed { publisher: 9, first, last };
    let told = client.tell(vec![
        reply(selected),
        // It comes before confirms of messages that were published before.
        Item::Rejected { holder: 1, confirmed: settled(3, 4) },
        Item::Confirmed { holder: 1, confirmed: settled(1, 2) },
        Item::Rejected { holder: 1, confirmed: Confirmed { publisher: 8, first: 5, last: 5 } },
    ]);
    let ack = |delivery_tag, multiple| Told::Method(BasicAck { delivery_tag, multiple }.into());
    let nack = |delivery_tag| {
        let nack = leveret_amqp_wire::method::BasicNack { delivery_tag, ..Default::default() };
        Told::Method(nack.into())
    };
    assert_eq!(told[0], Told::Method(ConfirmSelectOk {}.into()));
    assert_eq!(told[1..], [ack(2, true), nack(3), nack(4)]);
}

/// The properties with which a message is delivered that was given back that often.
fn delivered(properties: &[u8], attempts: u16) -> Vec<Properties> {
    let mut client = Client::new();
    let tag = ShortString::from_static("c");
    client.tell(vec![reply(Reply::Consuming { consumer: 77, tag, reply: true })]);
    let mut chunk = Chunk::default();
    let envelope = b"\x01e\x01k";
    let message = Message { envelope, properties, body: b"body", persistent: false };
    let message = chunk.push(message).unwrap();
    let (holder, redelivered, chunk_index) = (1, true, 0);
    let mut outbound = Outbound::of(
        SessionId(0),
        vec![
            Item::Deliver {
                holder,
                redelivered,
                consumer: 77,
                attempts,
                chunk: chunk_index,
                message,
                lease: 1,
            },
            Item::Got {
                holder,
                redelivered,
                attempts,
                chunk: chunk_index,
                message,
                lease: 2,
                left: 0,
            },
        ],
    );
    outbound.chunks.push(Arc::new(chunk));
    let mut out = Vec::new();
    client.connection.tell(&outbound, &mut out);
    let told = parsed(&out);
    assert_eq!((&told[1], &told[3]), (&Told::Body(b"body".into()), &Told::Body(b"body".into())));
    let mut found = Vec::new();
    let mut rest = &out[..];
    while let Some((frame, used)) = frame::parse(rest, FRAME_MAX_BYTES).unwrap() {
        if frame.kind == frame::HEADER {
            let header = ContentHeader::parse(frame.payload).unwrap();
            found.push(Properties::decode(header.properties).unwrap());
        }
        rest = &rest[used..];
    }
    assert_eq!(found.len(), 2);
    found
}

#[test]
fn a_message_given_back_says_how_often() {
    let count = |value| (ShortString::from_static("x-delivery-count"), FieldValue::I64(value));
    let mode = Some(2);
    for properties in delivered(b"\x10\0\x02", 0) {
        assert_eq!(properties, Properties { delivery_mode: mode, ..Properties::default() });
    }
    for properties in delivered(b"\x10\0\x02", 3) {
        let headers = Some(FieldTable::from_iter([count(3)]));
        let wanted = Properties { headers, delivery_mode: mode, ..Properties::default() };
        assert_eq!(properties, wanted);
    }
    let other = (ShortString::from_static("a"), FieldValue::Void);
    let mut raw = Vec::new();
    let headers = Some(FieldTable::from_iter([count(9), other.clone(), count(8)]));
    Properties { headers, ..Properties::default() }.encode(&mut raw);
    for properties in delivered(&raw, u16::MAX) {
        let headers = Some(FieldTable::from_iter([other.clone(), count(65_535)]));
        assert_eq!(properties, Properties { headers, ..Properties::default() });
    }
}

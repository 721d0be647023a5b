//! Messages and methods on their way to the engine.

use leveret_amqp_wire::method::{ExchangeBind, ExchangeUnbind, TxCommit, TxRollback, TxSelect};
use leveret_broker::engine::Operation;
use leveret_broker::engine::command::Destination;
use leveret_model::limits::READ_BYTES_MAX;
use leveret_model::{FieldValue, Properties};

use super::*;

/// What the engine is asked for when a client sends this.
fn asked(input: &[u8]) -> Vec<Operation> {
    let mut client = Client::new();
    // Without a session, commands stay where they are.
    let session = client.connection.session.take();
    assert_eq!(client.send(input), []);
    let commands = std::mem::take(&mut client.connection.commands);
    client.connection.session = session;
    commands.into_iter().map(|command| command.operation).collect()
}

/// Of each `Publish`: how many messages, whether mandatory and whether special.
fn published(input: &[u8]) -> Vec<(u32, bool, bool)> {
    let publish = |operation| match operation {
        Operation::Publish { count, mandatory, special, .. } => (count, mandatory, special),
        other => panic!("{other:?}"),
    };
    asked(input).into_iter().map(publish).collect()
}

fn encoded(properties: &Properties) -> Vec<u8> {
    let mut bytes = Vec::new();
    properties.encode(&mut bytes);
    bytes
}

fn headers(name: &'static str, value: FieldValue) -> Properties {
    let headers = FieldTable::from_iter([(ShortString::from_static(name), value)]);
    Properties { headers: Some(headers), ..Properties::default() }
}

/// The code and text with which a channel or a connection ends.
fn fault(told: &[Told]) -> (u16, String) {
    match told {
        [Told::Method(Method::ChannelClose(m))] => (m.reply_code, m.reply_text.to_string()),
        [Told::Method(Method::ConnectionClose(m))] => (m.reply_code, m.reply_text.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_that_ask_for_more_are_marked() {
    let text = |text| Some(ShortString::from_static(text));
    let plain = Properties::default;
    let cases = [
        (Properties { delivery_mode: Some(2), ..plain() }, false),
        (Properties { priority: Some(0), ..plain() }, false),
        (Properties { priority: Some(1), ..plain() }, true),
        (Properties { expiration: text("0"), ..plain() }, true),
        (Properties { reply_to: text("amq.rabbitmq.reply-to"), ..plain() }, true),
        (Properties { reply_to: text("amq.rabbitmq.reply-to.1"), ..plain() }, false),
        (headers("CC", FieldValue::Array(Vec::new())), true),
        // Of a type that the engine refuses.
        (headers("BCC", FieldValue::Void), true),
        (headers("cc", FieldValue::Array(Vec::new())), false),
    ];
    for (properties, special) in cases {
        let bytes = message(1, &encoded(&properties), b"body");
        assert_eq!(published(&bytes), [(1, false, special)], "{properties:?}");
        // The same if its frames do not come together.
        let routing_key = ShortString::from_static("q");
        let mut bytes = framed(1, BasicPublish { routing_key, ..Default::default() });
        write_header(&mut bytes, 1, &encoded(&properties), 4);
        write_body(&mut bytes, 1, b"bo");
        write_body(&mut bytes, 1, b"dy");
        assert_eq!(published(&bytes), [(1, false, special)], "{properties:?}");
    }
}

#[test]
fn neighbours_of_a_kind_are_one_operation() {
    let plain = message(1, &[0, 0], b"plain");
    let special =
        message(1, &encoded(&Properties { priority: Some(3), ..Default::default() }), b"");
    let bytes = [&plain[..], &plain, &special, &special, &special, &plain].concat();
    assert_eq!(published(&bytes), [(2, false, false), (3, false, true), (1, false, false)]);
}

#[test]
fn an_expiration_must_be_one() {
    let cases: [(&[u8], &str); 5] = [
        (b"x", "invalid expiration 'x': no_integer"),
        (b"1s", r#"invalid expiration '1s': {leftover_string,"s"}"#),
        (b"-1", "invalid expiration '-1': {value_negative,-1}"),
        (b"315360000001", "invalid expiration '315360000001': {value_too_large,315360000001}"),
        (b"1\xe8", r#"invalid expiration '1è': {leftover_string,"è"}"#),
    ];
    for (text, problem) in cases {
        let expiration = Some(ShortString::try_from(text).unwrap());
        let properties = encoded(&Properties { expiration, ..Properties::default() });
        let told = Client::new().send(&message(1, &properties, b"body"));
        assert_eq!(fault(&told), (406, format!("PRECONDITION_FAILED - {problem}")));
        let mut client = Client::new();
        let routing_key = ShortString::from_static("q");
        client.say(1, BasicPublish { routing_key, ..Default::default() });
        let mut header = Vec::new();
        write_header(&mut header, 1, &properties, 4);
        assert_eq!(fault(&client.send(&header)).0, 406);
        assert_eq!(client.broker.memory().used, 0);
    }
}

#[test]
fn headers_must_be_a_table() {
    let told = Client::new().send(&message(1, b"\x20\0\0\0\0\x03\x01kU", b""));
    assert_eq!(fault(&told), (502, "SYNTAX_ERROR - unknown field type 0x55".to_owned()));
}

#[test]
fn exchanges_are_bound_to_exchanges() {
    let bind = ExchangeBind {
        destination: ShortString::from_static("d\r\n"),
        source: ShortString::from_static("s"),
        routing_key: ShortString::from_static("k"),
        no_wait: true,
        ..Default::default()
    };
    let unbind = ExchangeUnbind {
        destination: ShortString::from_static("d"),
        source: ShortString::from_static("s"),
        ..Default::default()
    };
    let asked = asked(&[framed(1, bind), framed(1, unbind)].concat());
    let [Operation::Bind(bind), Operation::Unbind(unbind)] = &asked[..] else {
        panic!("{asked:?}")
    };
    let destination = Destination::Exchange(ShortString::from_static("d"));
    assert_eq!((&bind.destination, &unbind.destination), (&destination, &destination));
    assert_eq!((bind.source.to_string(), bind.routing_key.to_string()), ("s".into(), "k".into()));
    assert_eq!((bind.reply, unbind.reply), (false, true));
}

#[test]
fn transactions_are_the_engines() {
    let input = [framed(1, TxSelect {}), framed(1, TxCommit {}), framed(1, TxRollback {})].concat();
    let asked = asked(&input);
    let wanted = matches!(
        asked[..],
        [Operation::SelectTransactions, Operation::Commit, Operation::Rollback]
    );
    assert!(wanted, "{asked:?}");
}

/// Takes out the first message of queue `q`; how long it is.
fn take(client: &mut Client) -> usize {
    let get = BasicGet { no_ack: true, queue: ShortString::from_static("q"), ticket: 0 };
    match &client.say(1, get)[..] {
        [Told::Method(Method::BasicGetOk(_)), Told::Body(body)] => body.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_large_message_does_not_stay_with_a_small_one() {
    const LARGE: usize = 1024 * 1024;
    for pieces in [false, true] {
        let mut client = Client::new();
        let before = client.broker.memory().used;
        let large = match pieces {
            // On a channel of its own, so that it ends between the small ones.
            true => {
                client.say(2, ChannelOpen::default());
                client.send(&unfinished(2, &vec![1; LARGE - 1], 1));
                let mut last = Vec::new();
                write_body(&mut last, 2, &[1]);
                last
            }
            false => message(1, &[0, 0], &vec![1; LARGE]),
        };
        let small = message(1, &[0, 0], b"s");
        assert_eq!(client.send(&[&small, &large, &small].map(|each| &each[..]).concat()), []);
        assert_eq!(client.broker.queues()[0].ready, 3);
        assert_eq!([take(&mut client), take(&mut client)], [1, LARGE], "in their order");
        let held = client.broker.memory().used - before;
        assert!(held < LARGE / 10, "the last small one keeps {held} bytes");
        assert_eq!(take(&mut client), 1);
    }
}

#[test]
fn messages_as_large_as_a_read_share_a_chunk_still() {
    let others = b"\0\x01q".len() + [0, 0].len();
    for (more, shared) in [(0, true), (1, false)] {
        let mut client = Client::new();
        let before = client.broker.memory().used;
        let body = vec![1; READ_BYTES_MAX - others + more];
        let small = message(1, &[0, 0], b"s");
        client.send(&[message(1, &[0, 0], &body), small].concat());
        assert_eq!(take(&mut client), body.len());
        let held = client.broker.memory().used - before;
        assert_eq!(held >= body.len(), shared, "{held} of {}", body.len());
        assert_eq!(take(&mut client), 1);
    }
}

//! The beginning of a connection.

use leveret_amqp_wire::method::{
    ConnectionClose, ConnectionUpdateSecret, ConnectionUpdateSecretOk,
};
use leveret_model::FieldValue;

use super::*;

/// A connection that has heard `connection.start`, and what that said.
fn greeted(client: &Client) -> (Connection, Vec<Told>) {
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let mut connection = Connection::new(client.broker.clone(), peer);
    let mut out = Vec::new();
    connection.receive(&frame::PROTOCOL_HEADER, &mut out);
    (connection, parsed(&out))
}

/// What the answer to a login is.
fn login(start_ok: ConnectionStartOk) -> Vec<Told> {
    let client = Client::new();
    let (mut connection, _) = greeted(&client);
    let mut out = Vec::new();
    connection.receive(&framed(0, start_ok), &mut out);
    parsed(&out)
}

fn amqplain<const N: usize>(fields: [(&'static str, FieldValue); N]) -> ConnectionStartOk {
    let mut response = Vec::new();
    let fields = fields.map(|(name, value)| (ShortString::from_static(name), value));
    FieldTable::from_iter(fields).encode_content(&mut response);
    let mechanism = ShortString::from_static("AMQPLAIN");
    ConnectionStartOk { mechanism, response, ..capable(["authentication_failure_close"]) }
}

/// The code and text with which a login ends.
fn refusal(start_ok: ConnectionStartOk) -> (u16, String) {
    let told = login(start_ok);
    let [Told::Method(Method::ConnectionClose(ConnectionClose { reply_code, reply_text, .. }))] =
        &told[..]
    else {
        panic!("{told:?}")
    };
    (*reply_code, reply_text.to_string())
}

#[test]
fn the_server_says_what_it_is_and_can() {
    let (_, told) = greeted(&Client::new());
    let [Told::Method(Method::ConnectionStart(start))] = &told[..] else { panic!("{told:?}") };
    assert_eq!(start.mechanisms, b"PLAIN AMQPLAIN");
    let properties = &start.server_properties;
    for name in ["cluster_name", "copyright", "information", "platform", "product", "version"] {
        assert!(properties.get(name).is_some_and(|value| value.as_long_string().is_some()));
    }
    assert!(properties.get("leveret_version").is_some());
    let capabilities = properties.get("capabilities").and_then(FieldValue::as_table).unwrap();
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        assert_eq!(capabilities.get(name), Some(&FieldValue::Bool(true)), "{name}");
    }
}

#[test]
fn a_client_may_log_in_with_amqplain() {
    let told = login(amqplain([("LOGIN", "u".into()), ("PASSWORD", "p".into())]));
    assert!(matches!(told[..], [Told::Method(Method::ConnectionTune(_))]), "{told:?}");
}

#[test]
fn a_refused_login_names_its_mechanism() {
    let wrong = amqplain([("LOGIN", "u".into()), ("PASSWORD", "x".into())]);
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism AMQPLAIN. For \
                details see the broker logfile.";
    assert_eq!(refusal(wrong), (403, text.to_owned()));
}

#[test]
fn a_response_that_is_no_login_is_an_error_of_syntax() {
    let cases = [
        (amqplain([("LOGIN", "u".into())]), "is missing LOGIN or PASSWORD field"),
        (
            amqplain([("LOGIN", "u".into()), ("PASSWORD", 1.into())]),
            "uses unsupported type for LOGIN or PASSWORD field",
        ),
        (
            ConnectionStartOk { response: b"\x05LOGIN".to_vec(), ..amqplain([]) },
            "invalid: field table ends early: 1 bytes needed, 0 left",
        ),
    ];
    for (start_ok, problem) in cases {
        let text = format!("SYNTAX_ERROR - AMQPLAIN auth info {problem}");
        assert_eq!(refusal(start_ok), (502, text));
    }
    let mechanism = ShortString::from_static("EXTERNAL");
    let text = "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'";
    let start_ok = ConnectionStartOk { mechanism, ..amqplain([]) };
    assert_eq!(refusal(start_ok), (503, text.to_owned()));
}

#[test]
fn a_new_secret_is_accepted() {
    let new_secret = b"p".to_vec();
    let told = Client::new().say(0, ConnectionUpdateSecret { new_secret, ..Default::default() });
    assert_eq!(told, [Told::Method(ConnectionUpdateSecretOk {}.into())]);
}

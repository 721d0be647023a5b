//! How a connection begins: `start`, `tune`, `open`.

use leveret_amqp_wire::method::{
    ConnectionStart, ConnectionStartOk, ConnectionTune, ConnectionTuneOk,
};
use leveret_model::limits::{CHANNEL_MAX, FRAME_MAX_BYTES, FRAME_MIN_BYTES, HEARTBEAT};
use leveret_model::{FieldTable, FieldValue, ShortString};

use crate::fault::{ACCESS_REFUSED, COMMAND_INVALID, Fault, NOT_ALLOWED, SYNTAX_ERROR};

/// The RabbitMQ version that leveret stands for: clients branch on it.
pub const RABBITMQ_VERSION: &str = "4.2.0";

/// What server and client agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    /// In seconds; 0 is none.
    pub(crate) heartbeat: u16,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { channel_max: CHANNEL_MAX, frame_max: FRAME_MAX_BYTES, heartbeat: 0 }
    }
}

/// What the client says it understands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Capabilities {
    pub(crate) consumer_cancel_notify: bool,
    pub(crate) authentication_failure_close: bool,
    pub(crate) connection_blocked: bool,
}

pub(crate) fn start() -> ConnectionStart {
    let text = |text: &str| FieldValue::LongString(text.as_bytes().to_vec());
    let capabilities = table([
        ("publisher_confirms", FieldValue::Bool(true)),
        ("exchange_exchange_bindings", FieldValue::Bool(true)),
        ("basic.nack", FieldValue::Bool(true)),
        ("consumer_cancel_notify", FieldValue::Bool(true)),
        ("connection.blocked", FieldValue::Bool(true)),
        ("consumer_priorities", FieldValue::Bool(true)),
        ("authentication_failure_close", FieldValue::Bool(true)),
        ("per_consumer_qos", FieldValue::Bool(true)),
        ("direct_reply_to", FieldValue::Bool(true)),
    ]);
    ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties: table([
            ("capabilities", FieldValue::Table(capabilities)),
            ("cluster_name", text("leveret")),
            ("copyright", text("Copyright (c) 2026 the leveret authors")),
            ("information", text("leveret, a message broker that speaks RabbitMQ's AMQP 0-9-1")),
            ("platform", text("leveret")),
            ("product", text("RabbitMQ")),
            ("version", text(RABBITMQ_VERSION)),
            ("leveret_version", text(env!("CARGO_PKG_VERSION"))),
        ]),
        mechanisms: b"PLAIN AMQPLAIN".to_vec(),
        locales: b"en_US".to_vec(),
    }
}

fn table<const N: usize>(fields: [(&'static str, FieldValue); N]) -> FieldTable {
    let mut table = FieldTable::new();
    for (name, value) in fields {
        table.insert(ShortString::from_static(name), value);
    }
    table
}

impl Capabilities {
    pub(crate) fn of(client: &FieldTable) -> Self {
        let Some(FieldValue::Table(table)) = client.get("capabilities") else {
            return Capabilities::default();
        };
        let has = |name: &str| matches!(table.get(name), Some(FieldValue::Bool(true)));
        Capabilities {
            consumer_cancel_notify: has("consumer_cancel_notify"),
            authentication_failure_close: has("authentication_failure_close"),
            connection_blocked: has("connection.blocked"),
        }
    }
}

/// The name and the password that a client logs in with.
pub(crate) fn credentials(start_ok: &ConnectionStartOk) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let response = &start_ok.response;
    let credentials = match start_ok.mechanism.as_bytes() {
        b"PLAIN" => plain(response),
        b"AMQPLAIN" => amqplain(response),
        _ => {
            let text = format!("unknown authentication mechanism '{}'", start_ok.mechanism);
            Err(Fault::new(COMMAND_INVALID, text))
        }
    };
    credentials.map_err(|fault| fault.of(ConnectionStartOk::ID))
}

/// RFC 4616: `authzid NUL name NUL password`.
fn plain(response: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let mut parts = response.splitn(3, |byte| *byte == 0);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(name), Some(password)) => Ok((name.to_vec(), password.to_vec())),
        _ => Err(Fault::new(SYNTAX_ERROR, "response auth field does not hold a name and password")),
    }
}

/// AMQP 0-8's own: a field table without its length. RabbitMQ's texts show it, password and all.
fn amqplain(response: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let fault = |problem: &str| Fault::new(SYNTAX_ERROR, format!("AMQPLAIN auth info {problem}"));
    let table = FieldTable::decode_content(response)
        .map_err(|error| fault(&format!("invalid: {error}")))?;
    let (Some(name), Some(password)) = (table.get("LOGIN"), table.get("PASSWORD")) else {
        return Err(fault("is missing LOGIN or PASSWORD field"));
    };
    match (name.as_long_string(), password.as_long_string()) {
        (Some(name), Some(password)) => Ok((name.to_vec(), password.to_vec())),
        _ => Err(fault("uses unsupported type for LOGIN or PASSWORD field")),
    }
}

/// The broker's log says why.
pub(crate) fn login_refused(mechanism: &ShortString) -> Fault {
    let text = format!(
        "Login was refused using authentication mechanism {mechanism}. For details see the broker \
         logfile."
    );
    Fault::new(ACCESS_REFUSED, text)
}

pub(crate) fn tune() -> ConnectionTune {
    ConnectionTune {
        channel_max: CHANNEL_MAX,
        frame_max: FRAME_MAX_BYTES,
        heartbeat: u16::try_from(HEARTBEAT.as_secs()).unwrap_or(u16::MAX),
    }
}

/// What the client chose, if it may. Its heartbeat is final; its limits may be lower than ours.
pub(crate) fn tuned(ok: &ConnectionTuneOk) -> Result<Tuning, Fault> {
    within("channel_max", ok.channel_max.into(), 1, CHANNEL_MAX.into())?;
    within("frame_max", ok.frame_max, FRAME_MIN_BYTES, FRAME_MAX_BYTES)?;
    Ok(Tuning { channel_max: ok.channel_max, frame_max: ok.frame_max, heartbeat: ok.heartbeat })
}

/// 0 means no limit, which is more than ours.
fn within(what: &str, value: u32, min: u32, max: u32) -> Result<(), Fault> {
    let problem = if value != 0 && value < min {
        format!("negotiated {what} = {value} is lower than the minimum allowed value ({min})")
    } else if value == 0 || value > max {
        format!("negotiated {what} = {value} is higher than the maximum allowed value ({max})")
    } else {
        return Ok(());
    };
    Err(Fault::new(NOT_ALLOWED, problem).of(ConnectionTuneOk::ID))
}

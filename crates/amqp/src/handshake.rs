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
}

pub(crate) fn start() -> ConnectionStart {
    let text = |text: &str| FieldValue::LongString(text.as_bytes().to_vec());
    let capabilities = table([
        ("publisher_confirms", FieldValue::Bool(true)),
        ("basic.nack", FieldValue::Bool(true)),
        ("consumer_cancel_notify", FieldValue::Bool(true)),
        ("per_consumer_qos", FieldValue::Bool(true)),
        ("authentication_failure_close", FieldValue::Bool(true)),
    ]);
    ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties: table([
            ("capabilities", FieldValue::Table(capabilities)),
            ("product", text("RabbitMQ")),
            ("version", text(RABBITMQ_VERSION)),
            ("platform", text("leveret")),
            ("leveret_version", text(env!("CARGO_PKG_VERSION"))),
            ("information", text("leveret, a message broker that speaks RabbitMQ's AMQP 0-9-1")),
        ]),
        mechanisms: b"PLAIN".to_vec(),
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
        }
    }
}

/// The name and the password of a PLAIN response (RFC 4616): `authzid NUL name NUL password`.
pub(crate) fn credentials(start_ok: &ConnectionStartOk) -> Result<(&[u8], &[u8]), Fault> {
    if start_ok.mechanism.as_bytes() != b"PLAIN" {
        let text = format!("unknown authentication mechanism '{}'", start_ok.mechanism);
        return Err(Fault::new(COMMAND_INVALID, text).of(ConnectionStartOk::ID));
    }
    let mut parts = start_ok.response.splitn(3, |byte| *byte == 0);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(name), Some(password)) => Ok((name, password)),
        _ => Err(Fault::new(SYNTAX_ERROR, "response auth field does not hold a name and password")
            .of(ConnectionStartOk::ID)),
    }
}

pub(crate) fn login_refused() -> Fault {
    Fault::new(
        ACCESS_REFUSED,
        "Login was refused using authentication mechanism PLAIN. For details see the broker \
         logfile.",
    )
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

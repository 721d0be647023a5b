//! Whom to log in as, and the handshake (AMQP 0-9-1, 2.2.4).

use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use leveret_amqp_wire::Input;
use leveret_amqp_wire::frame::{self, METHOD};
use leveret_amqp_wire::method::*;
use leveret_model::limits::{CHANNEL_MAX, FRAME_MAX_BYTES, FRAME_MIN_BYTES, HEARTBEAT};
use leveret_model::{FieldTable, ShortString};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::error::{Error, Scope};
use crate::input::poll_fill;

/// What is said of this client to the broker that it can do (RabbitMQ's extensions).
const CAPABILITIES: [&str; 7] = [
    "authentication_failure_close",
    "basic.nack",
    "connection.blocked",
    "consumer_cancel_notify",
    "consumer_priorities",
    "exchange_exchange_bindings",
    "publisher_confirms",
];

/// Whom to log in as, and what is asked for.
#[derive(Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// The virtual host.
    pub vhost: String,
    /// What the broker's lists call the connection.
    pub name: String,
    /// How long either side may be silent, at most; the broker's wish counts if it is shorter. It
    /// is sent in whole seconds. Zero for no heartbeats.
    pub heartbeat: Duration,
    /// How long the handshake may take.
    pub timeout: Duration,
}

/// What both sides agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    pub(crate) heartbeat: Duration,
}

impl Default for Login {
    fn default() -> Self {
        Login {
            user: "guest".to_owned(),
            password: "guest".to_owned(),
            vhost: "/".to_owned(),
            name: String::new(),
            heartbeat: HEARTBEAT,
            timeout: Duration::from_secs(20),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({} in {:?})", self.user, self.vhost)
    }
}

/// Logs in. `input` may hold more than the handshake afterwards.
pub(crate) async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    input: &mut Input,
    login: &Login,
) -> Result<Tuning, Error> {
    let handshake = shake_hands(stream, input, login);
    timeout(login.timeout, handshake).await.map_err(|_| Error::Silent(login.timeout))?
}

async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    input: &mut Input,
    login: &Login,
) -> Result<Tuning, Error> {
    let virtual_host = ShortString::try_from(login.vhost.as_str())
        .map_err(|_| Error::TooLong("the virtual host's name is too long".to_owned()))?;
    stream.write_all(&frame::PROTOCOL_HEADER).await?;
    stream.flush().await?;
    match receive(stream, input).await? {
        Method::ConnectionStart(_) => {}
        other => return Err(unexpected(&other)),
    }
    send(stream, start_ok(login)).await?;
    let tuning = match receive(stream, input).await? {
        Method::ConnectionTune(tune) => agree(&tune, login.heartbeat),
        other => return Err(unexpected(&other)),
    };
    let tune_ok = ConnectionTuneOk {
        channel_max: tuning.channel_max,
        frame_max: tuning.frame_max,
        // It was made from as many seconds.
        heartbeat: tuning.heartbeat.as_secs() as u16,
    };
    send(stream, tune_ok).await?;
    send(stream, ConnectionOpen { virtual_host, ..Default::default() }).await?;
    match receive(stream, input).await? {
        Method::ConnectionOpenOk(_) => Ok(tuning),
        other => Err(unexpected(&other)),
    }
}

async fn send<S: AsyncWrite + Unpin>(
    stream: &mut S,
    method: impl Into<Method>,
) -> Result<(), Error> {
    let mut bytes = Vec::new();
    method.into().frame(0, &mut bytes);
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

/// The next method; a close is an error.
async fn receive<S: AsyncRead + Unpin>(stream: &mut S, input: &mut Input) -> Result<Method, Error> {
    loop {
        if let Some(frame) = input.next_frame(FRAME_MAX_BYTES)? {
            if frame.kind != METHOD {
                continue;
            }
            return match Method::decode(frame.payload)? {
                Method::ConnectionClose(close) => Err(Error::Closed {
                    scope: Scope::Connection,
                    code: close.reply_code,
                    text: close.reply_text.to_string(),
                }),
                method => Ok(method),
            };
        }
        poll_fn(|cx| poll_fill(input, stream, cx)).await?;
    }
}

fn unexpected(method: &Method) -> Error {
    Error::Malformed(format!("{} in the middle of the handshake", method.name()))
}

fn agree(tune: &ConnectionTune, heartbeat: Duration) -> Tuning {
    // Zero is "no limit" in the broker's mouth.
    let frame_max = if tune.frame_max == 0 { FRAME_MAX_BYTES } else { tune.frame_max };
    let channel_max = if tune.channel_max == 0 { CHANNEL_MAX } else { tune.channel_max };
    let ours = u16::try_from(heartbeat.as_secs()).unwrap_or(u16::MAX);
    let seconds = if ours == 0 || tune.heartbeat == 0 { ours } else { ours.min(tune.heartbeat) };
    Tuning {
        channel_max: channel_max.min(CHANNEL_MAX),
        frame_max: frame_max.clamp(FRAME_MIN_BYTES, FRAME_MAX_BYTES),
        heartbeat: Duration::from_secs(seconds.into()),
    }
}

fn start_ok(login: &Login) -> ConnectionStartOk {
    let mut capabilities = FieldTable::new();
    for name in CAPABILITIES {
        capabilities.insert(ShortString::from_static(name), true);
    }
    let mut client_properties = FieldTable::new();
    client_properties.insert(ShortString::from_static("product"), "leveret");
    client_properties.insert(ShortString::from_static("version"), env!("CARGO_PKG_VERSION"));
    client_properties.insert(ShortString::from_static("platform"), "Rust");
    client_properties.insert(ShortString::from_static("capabilities"), capabilities);
    if !login.name.is_empty() {
        let name = login.name.as_str();
        client_properties.insert(ShortString::from_static("connection_name"), name);
    }
    ConnectionStartOk {
        client_properties,
        mechanism: ShortString::from_static("PLAIN"),
        response: format!("\0{}\0{}", login.user, login.password).into_bytes(),
        locale: ShortString::from_static("en_US"),
    }
}

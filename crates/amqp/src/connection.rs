//! The state of one connection: bytes from the client become commands, or faults.
//!
//! Does no I/O: `serve` brings what was read and writes what is to be written.

use std::net::SocketAddr;

use leveret_amqp_wire::method::{
    ConnectionCloseOk, ConnectionOpen, ConnectionOpenOk, ConnectionStartOk,
    ConnectionUpdateSecretOk,
};
use leveret_amqp_wire::publish::is_publish;
use leveret_amqp_wire::{DeliverPrefix, Frame, Method, ProtocolHeader, frame};
use leveret_broker::engine::{Command, Operation, Token};
use leveret_broker::{Broker, Session, Shortage};
use leveret_model::{Chunk, Printable};
use rustc_hash::FxHashMap;

use crate::channel::{Channel, ChannelState};
use crate::fault::{
    CHANNEL_ERROR, COMMAND_INVALID, FRAME_ERROR, Fault, NOT_ALLOWED, NOT_IMPLEMENTED,
    UNEXPECTED_FRAME,
};
use crate::handshake::{self, Capabilities, Tuning};

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Header,
    StartOk,
    TuneOk,
    Open,
    Running,
    /// The client closes; its session is being ended.
    Leaving,
    /// We close; the client has not agreed yet.
    Closing,
    /// Nothing more is said or heard, but the socket stays open for a while: so that guessing
    /// takes time, and so that what was said arrives.
    Refused,
    Closed,
}

pub(crate) struct Connection {
    broker: Broker,
    pub(crate) peer: SocketAddr,
    pub(crate) phase: Phase,
    pub(crate) tuning: Tuning,
    pub(crate) capabilities: Capabilities,
    /// Who logged in.
    pub(crate) user: Vec<u8>,
    pub(crate) session: Option<Session>,
    pub(crate) channels: FxHashMap<u16, Channel>,
    pub(crate) consumers: FxHashMap<u64, DeliverPrefix>,
    /// How many of the engine's answers to a channel's close come after it was closed anyway.
    pub(crate) answers_to_skip: FxHashMap<u16, u32>,
    /// Channels with confirms to write.
    pub(crate) confirming: Vec<u16>,
    /// What this read has asked for so far.
    pub(crate) commands: Vec<Command>,
    pub(crate) chunk: Chunk,
    /// Bytes of messages that are not whole yet.
    pub(crate) unfinished: usize,
    /// What the broker was told of that.
    pub(crate) reported: usize,
    /// Why there was no room for more messages when the last read came, if there was none.
    pub(crate) shortage: Option<Shortage>,
    /// Whether the input stopped in front of something for which there is no room.
    pub(crate) blocked: bool,
}

impl Connection {
    pub(crate) fn new(broker: Broker, peer: SocketAddr) -> Self {
        Connection {
            broker,
            peer,
            phase: Phase::Header,
            tuning: Tuning::default(),
            capabilities: Capabilities::default(),
            user: Vec::new(),
            session: None,
            channels: FxHashMap::default(),
            consumers: FxHashMap::default(),
            answers_to_skip: FxHashMap::default(),
            confirming: Vec::new(),
            commands: Vec::new(),
            chunk: Chunk::default(),
            unfinished: 0,
            reported: 0,
            shortage: None,
            blocked: false,
        }
    }

    /// Takes what was read, submits what it asks for, and writes to `out` what can be answered
    /// at once. Returns how much of the input it has taken; the rest is to come again, with more.
    pub(crate) fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        self.chunk = Chunk::with_capacity(input.len());
        // Once a read: what it can add in messages is bounded by the buffer it comes in.
        self.shortage = self.session.as_ref().and_then(Session::shortage);
        let mut used = 0;
        while used < input.len() && self.phase != Phase::Closed && !self.blocked {
            match self.next(&input[used..], out) {
                Ok(0) => break,
                Ok(n) => used += n,
                Err(fault) => self.fail(&fault, out),
            }
        }
        self.submit();
        self.report_unfinished();
        used
    }

    pub(crate) fn submit(&mut self) {
        let Some(session) = &self.session else { return };
        if !self.commands.is_empty() {
            let mut chunk = std::mem::take(&mut self.chunk);
            chunk.shrink();
            session.submit(std::mem::take(&mut self.commands), chunk);
        }
        self.chunk = Chunk::default();
    }

    /// Tells the engine that the client has taken this much of its output.
    pub(crate) fn taken(&mut self, bytes: usize) {
        self.command(0, (0, 0), Operation::Taken { bytes });
        self.submit();
    }

    /// Takes one frame, or one message, from the start of the input; 0 if it is not all there.
    fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Fault> {
        if matches!(self.phase, Phase::Leaving | Phase::Refused | Phase::Closed) {
            return Ok(input.len());
        }
        if self.phase == Phase::Header {
            return Ok(self.header(input, out));
        }
        let parsed = frame::parse(input, self.tuning.frame_max);
        if self.phase == Phase::Closing {
            // After a fault nothing counts but the client's agreement.
            return match parsed {
                Ok(None) => Ok(0),
                Ok(Some((frame, used))) => {
                    self.closing_frame(&frame, out);
                    Ok(used)
                }
                // To close at once could take back what the client has not read: the reason.
                Err(_) => {
                    self.phase = Phase::Refused;
                    Ok(input.len())
                }
            };
        }
        let Some((frame, used)) = parsed? else { return Ok(0) };
        if !matches!(frame.kind, frame::METHOD | frame::HEADER | frame::BODY | frame::HEARTBEAT) {
            let text = format!("type {}, all octets = <<>>: unknown_frame", frame.kind);
            return Err(Fault::new(FRAME_ERROR, text));
        }
        if frame.channel == 0 {
            self.connection_frame(&frame, out)?;
            return Ok(used);
        }
        if self.phase != Phase::Running {
            return Err(Fault::new(CHANNEL_ERROR, "the connection is not open yet"));
        }
        let result = self.channel_frame(&frame, &input[used..], out);
        match result {
            Ok(_) if self.blocked => Ok(0),
            Ok(more) => Ok(used + more),
            Err(fault) if fault.closes_channel() => {
                self.fail_channel(frame.channel, fault);
                Ok(used)
            }
            Err(fault) => Err(fault),
        }
    }

    fn header(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        match ProtocolHeader::parse(input) {
            Ok(None) => 0,
            Ok(Some(_)) => {
                Method::from(handshake::start()).frame(0, out);
                self.phase = Phase::StartOk;
                ProtocolHeader::LEN
            }
            Err(error) => {
                tracing::info!(peer = %self.peer, %error, "not an AMQP 0-9-1 client");
                out.extend_from_slice(&frame::PROTOCOL_HEADER);
                self.phase = Phase::Closed;
                input.len()
            }
        }
    }

    fn closing_frame(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        if frame.channel != 0 || frame.kind != frame::METHOD {
            return;
        }
        match Method::decode(frame.payload) {
            Ok(Method::ConnectionCloseOk(_)) => self.phase = Phase::Closed,
            Ok(Method::ConnectionClose(_)) => {
                Method::from(ConnectionCloseOk {}).frame(0, out);
            }
            _ => {}
        }
    }

    fn connection_frame(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        match frame.kind {
            frame::HEARTBEAT => return Ok(()),
            frame::METHOD => {}
            kind => {
                let text = format!("unexpected frame of type {kind} on channel 0");
                return Err(Fault::new(UNEXPECTED_FRAME, text));
            }
        }
        let method = Method::decode(frame.payload)?;
        let id = method.id();
        match (self.phase, method) {
            (_, Method::ConnectionClose(close)) => {
                let (code, text) = (close.reply_code, Printable(close.reply_text));
                tracing::debug!(peer = %self.peer, code, %text, "the client closes");
                self.leave(out);
            }
            (Phase::StartOk, Method::ConnectionStartOk(ok)) => self.authenticate(&ok, out)?,
            (Phase::TuneOk, Method::ConnectionTuneOk(ok)) => {
                self.tuning = handshake::tuned(&ok)?;
                self.phase = Phase::Open;
            }
            (Phase::Open, Method::ConnectionOpen(open)) => self.open(&open, out)?,
            // As RabbitMQ with its own users: their passwords do not expire.
            (Phase::Running, Method::ConnectionUpdateSecret(_)) => {
                Method::from(ConnectionUpdateSecretOk {}).frame(0, out);
            }
            (_, other) => {
                let text = format!("{} is not expected here", other.name());
                return Err(Fault::new(COMMAND_INVALID, text).of(id));
            }
        }
        Ok(())
    }

    fn authenticate(&mut self, ok: &ConnectionStartOk, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.capabilities = Capabilities::of(&ok.client_properties);
        let (name, password) = handshake::credentials(ok)?;
        let loopback = self.peer.ip().to_canonical().is_loopback();
        let Err(error) = self.broker.authenticate(&name, &password, loopback) else {
            self.user = name;
            Method::from(handshake::tune()).frame(0, out);
            self.phase = Phase::TuneOk;
            return Ok(());
        };
        let name = String::from_utf8_lossy(&name);
        tracing::warn!(peer = %self.peer, user = %Printable(&name), %error, "login refused");
        if self.capabilities.authentication_failure_close {
            return Err(handshake::login_refused(&ok.mechanism));
        }
        self.phase = Phase::Refused;
        Ok(())
    }

    fn open(&mut self, open: &ConnectionOpen, out: &mut Vec<u8>) -> Result<(), Fault> {
        let vhost = &open.virtual_host;
        let Some(session) = self.broker.connect(vhost.as_bytes()) else {
            let text = format!("vhost {vhost} not found");
            return Err(Fault::new(NOT_ALLOWED, text).of(ConnectionOpen::ID));
        };
        self.session = Some(session);
        self.phase = Phase::Running;
        Method::from(ConnectionOpenOk::default()).frame(0, out);
        tracing::debug!(peer = %self.peer, "connected");
        Ok(())
    }

    /// The client wants to close: its session ends first, and with it its exclusive queues.
    fn leave(&mut self, out: &mut Vec<u8>) {
        if self.session.is_none() {
            Method::from(ConnectionCloseOk {}).frame(0, out);
            self.phase = Phase::Closed;
            return;
        }
        self.command(0, (0, 0), Operation::Disconnect);
        self.phase = Phase::Leaving;
    }

    /// Takes a frame of a channel, unless there is no room for what it asks for. `rest` is what
    /// lies behind it; returns how much of that it has taken too.
    fn channel_frame(
        &mut self,
        frame: &Frame<'_>,
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, Fault> {
        let number = frame.channel;
        if frame.kind == frame::HEARTBEAT {
            let text = format!("heartbeat on channel {number}, not 0");
            return Err(Fault::new(UNEXPECTED_FRAME, text));
        }
        let Some(channel) = self.channels.get_mut(&number) else {
            self.open_channel(frame)?;
            return Ok(0);
        };
        if channel.state != ChannelState::Open {
            self.closed_channel_frame(frame, out);
            return Ok(0);
        }
        if channel.assembly.is_some() {
            if let Some(shortage) = self.critical() {
                self.block(shortage, out);
                return Ok(0);
            }
            self.assemble(frame)?;
            return Ok(0);
        }
        if frame.kind != frame::METHOD {
            let text = "expected method frame, got non method frame instead";
            return Err(Fault::new(UNEXPECTED_FRAME, text));
        }
        if is_publish(frame.payload) {
            if let Some(shortage) = self.shortage {
                self.block(shortage, out);
                return Ok(0);
            }
            return self.publish_frame(number, frame.payload, rest);
        }
        let method = Method::decode(frame.payload)?;
        if let Some(shortage) = self.critical()
            && self.adds_to_log(number, &method)
        {
            self.block(shortage, out);
            return Ok(0);
        }
        self.channel_method(number, method, out)?;
        Ok(0)
    }

    pub(crate) fn command(&mut self, holder: u16, method: (u16, u16), operation: Operation) {
        let token = Token(u32::from(method.0) << 16 | u32::from(method.1));
        self.commands.push(Command { holder, token, operation });
    }

    /// Closes the connection for a fault. What was asked for before it is done still.
    pub(crate) fn fail(&mut self, fault: &Fault, out: &mut Vec<u8>) {
        let text = Printable(fault.reply_text());
        if fault.code == NOT_IMPLEMENTED {
            // A publisher without confirms may never hear of it.
            tracing::warn!(peer = %self.peer, %text, "closing a connection");
        } else {
            tracing::info!(peer = %self.peer, %text, "closing a connection");
        }
        self.submit();
        self.session = None;
        self.commands.clear();
        self.channels.clear();
        self.consumers.clear();
        self.confirming.clear();
        (self.unfinished, self.reported) = (0, 0);
        self.blocked = false;
        fault.connection_close().frame(0, out);
        self.phase = Phase::Closing;
    }

    /// Whether the client wants to hear that a consumer is gone.
    pub(crate) fn wants_cancels(&self) -> bool {
        self.capabilities.consumer_cancel_notify
    }
}

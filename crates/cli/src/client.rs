//! A connection to a broker with one channel, as small as the commands need.
//!
//! It asks for no heartbeats: the commands are not waiting for anything that a dead connection
//! would make dangerous.

use crate::uri::Uri;
use leveret_amqp_wire::error::{DecodeError, FrameError};
use leveret_amqp_wire::frame::{self, Frame};
use leveret_amqp_wire::method::*;
use leveret_amqp_wire::{ContentHeader, Input, Method};
use leveret_model::name::TooLong;
use leveret_model::{FieldTable, ShortString, limits};
use std::io::{self, ErrorKind};
use std::time::Duration;
use tokio::net::TcpStream;

/// The channel that everything happens on.
pub(crate) const CHANNEL: u16 = 1;
/// The read buffer of a connection that moves messages: large, so that a read takes many.
pub(crate) const BUSY_BYTES: usize = 512 * 1024;
/// The read buffer of a connection that only asks now and then.
pub(crate) const QUIET_BYTES: usize = 16 * 1024;
/// How long a broker may take over the goodbye before it is left anyway.
const CLOSE_LIMIT: Duration = Duration::from_secs(20);

/// A connection, logged in, with a channel open.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) input: Input,
    pub(crate) frame_max: u32,
    incoming: Option<Unfinished>,
    output: Vec<u8>,
}

/// A method from the broker and, where it carries a message, that message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) method: Method,
    pub(crate) body: Vec<u8>,
}

/// A message of which frames are still to come.
struct Unfinished {
    so_far: Incoming,
    body_size: Option<u64>,
}

/// Why a broker could not be talked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("cannot connect to {address}: {source}{}", hint(source))]
    Connect { address: String, source: io::Error },
    #[error("the broker closed the connection without a word")]
    Gone,
    #[error("the connection is lost: {0}")]
    Lost(#[source] io::Error),
    #[error("the broker closed the {what}: {code} {text}")]
    Closed { what: &'static str, code: u16, text: String },
    #[error("the other side does not speak AMQP 0-9-1: {0}")]
    Frame(#[from] FrameError),
    #[error("the broker sent something malformed: {0}")]
    Malformed(#[from] DecodeError),
    #[error("the broker sent a frame of type {0} that belongs to nothing")]
    Unexpected(u8),
    #[error("too long for a name: {0}")]
    Name(#[from] TooLong),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionRefused => "; does a broker run there?",
        _ => "",
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => ClientError::Gone,
            _ => ClientError::Lost(error),
        }
    }
}

impl Client {
    /// Connects, logs in and opens the channel. A read takes up to `input_bytes`.
    pub(crate) async fn open(uri: &Uri, input_bytes: usize) -> Result<Client, ClientError> {
        let stream = TcpStream::connect(&uri.address)
            .await
            .map_err(|source| ClientError::Connect { address: uri.address.clone(), source })?;
        stream.set_nodelay(true)?;
        let mut client = Client {
            stream,
            input: Input::new(input_bytes),
            frame_max: limits::FRAME_MAX_BYTES,
            incoming: None,
            output: Vec::new(),
        };
        client.send(&frame::PROTOCOL_HEADER).await?;
        client.wait_for(ConnectionStart::ID).await?;
        client.tell(0, start_ok(uri)).await?;
        let tune = client.wait_for(ConnectionTune::ID).await?;
        if let Method::ConnectionTune(tune) = tune.method {
            client.accept_tuning(&tune).await?;
        }
        let virtual_host = ShortString::try_from(uri.vhost.as_str())?;
        let open = ConnectionOpen { virtual_host, ..Default::default() };
        client.tell(0, open).await?;
        client.wait_for(ConnectionOpenOk::ID).await?;
        client.call(ChannelOpen::default(), ChannelOpenOk::ID).await?;
        Ok(client)
    }

    async fn accept_tuning(&mut self, tune: &ConnectionTune) -> Result<(), ClientError> {
        if tune.frame_max > 0 {
            self.frame_max = self.frame_max.min(tune.frame_max);
        }
        let (channel_max, frame_max) = (tune.channel_max, self.frame_max);
        self.tell(0, ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 }).await
    }

    /// Sends bytes, all of them.
    pub(crate) async fn send(&mut self, mut bytes: &[u8]) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends a method without waiting for an answer.
    pub(crate) async fn tell(
        &mut self,
        channel: u16,
        method: impl Into<Method>,
    ) -> Result<(), ClientError> {
        let mut output = std::mem::take(&mut self.output);
        output.clear();
        method.into().frame(channel, &mut output);
        let sent = self.send(&output).await;
        self.output = output;
        sent
    }

    /// Sends a method on the channel and waits for the answer with the id `reply`.
    pub(crate) async fn call(
        &mut self,
        method: impl Into<Method>,
        reply: (u16, u16),
    ) -> Result<Incoming, ClientError> {
        self.tell(CHANNEL, method).await?;
        self.wait_for(reply).await
    }

    async fn wait_for(&mut self, id: (u16, u16)) -> Result<Incoming, ClientError> {
        loop {
            let incoming = self.next().await?;
            if incoming.method.id() == id {
                return Ok(incoming);
            }
        }
    }

    /// Waits for the next method, its message included. Given up and called again, it goes on
    /// where it was.
    pub(crate) async fn next(&mut self) -> Result<Incoming, ClientError> {
        loop {
            if let Some(incoming) = self.next_buffered()? {
                return Ok(incoming);
            }
            self.stream.readable().await?;
            self.fill()?;
        }
    }

    /// Reads what the socket has; whether that was anything.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        match self.stream.try_read(self.input.space()) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.input.filled(count);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The next method among what has been read already.
    pub(crate) fn next_buffered(&mut self) -> Result<Option<Incoming>, ClientError> {
        while let Some(frame) = self.input.next_frame(self.frame_max)? {
            if let Some(incoming) = assemble(&mut self.incoming, &frame)? {
                return Ok(Some(incoming));
            }
        }
        Ok(None)
    }

    /// Says goodbye, and waits for the answer: everything sent before has been received then.
    pub(crate) async fn close(mut self) -> Result<(), ClientError> {
        let reply_text = ShortString::from_static("bye");
        let close = ConnectionClose { reply_code: 200, reply_text, ..Default::default() };
        let goodbye = async {
            self.tell(0, close).await?;
            self.wait_for(ConnectionCloseOk::ID).await
        };
        match tokio::time::timeout(CLOSE_LIMIT, goodbye).await {
            Ok(done) => done.map(drop),
            Err(_) => Err(ClientError::Lost(ErrorKind::TimedOut.into())),
        }
    }
}

fn start_ok(uri: &Uri) -> ConnectionStartOk {
    let mut capabilities = FieldTable::new();
    for name in [
        "publisher_confirms",
        "basic.nack",
        "consumer_cancel_notify",
        "authentication_failure_close",
    ] {
        capabilities.insert(ShortString::from_static(name), true);
    }
    let mut client_properties = FieldTable::new();
    client_properties.insert(ShortString::from_static("product"), "leveret");
    client_properties.insert(ShortString::from_static("version"), env!("CARGO_PKG_VERSION"));
    client_properties.insert(ShortString::from_static("capabilities"), capabilities);
    ConnectionStartOk {
        client_properties,
        mechanism: ShortString::from_static("PLAIN"),
        response: format!("\0{}\0{}", uri.user, uri.password).into_bytes(),
        locale: ShortString::from_static("en_US"),
    }
}

/// Puts a frame to those before it; the method when it is whole.
fn assemble(
    incoming: &mut Option<Unfinished>,
    frame: &Frame<'_>,
) -> Result<Option<Incoming>, ClientError> {
    match (frame.kind, &mut *incoming) {
        (frame::METHOD, _) => {
            let method = Method::decode(frame.payload)?;
            refuse_close(&method)?;
            let so_far = Incoming { method, body: Vec::new() };
            if !so_far.method.has_content() {
                return Ok(Some(so_far));
            }
            *incoming = Some(Unfinished { so_far, body_size: None });
            return Ok(None);
        }
        (frame::HEADER, Some(unfinished)) => {
            unfinished.body_size = Some(ContentHeader::parse(frame.payload)?.body_size);
        }
        (frame::BODY, Some(unfinished)) => unfinished.so_far.body.extend(frame.payload),
        (frame::HEARTBEAT, _) => return Ok(None),
        (kind, _) => return Err(ClientError::Unexpected(kind)),
    }
    let whole = |u: &mut Unfinished| u.body_size.is_some_and(|n| u.so_far.body.len() as u64 >= n);
    Ok(incoming.take_if(whole).map(|unfinished| unfinished.so_far))
}

/// Turns a close from the broker into an error.
pub(crate) fn refuse_close(method: &Method) -> Result<(), ClientError> {
    let (what, code, text) = match method {
        Method::ConnectionClose(close) => ("connection", close.reply_code, &close.reply_text),
        Method::ChannelClose(close) => ("channel", close.reply_code, &close.reply_text),
        _ => return Ok(()),
    };
    Err(ClientError::Closed { what, code, text: text.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_amqp_wire::write_content;

    fn all(bytes: &[u8]) -> Result<Vec<Incoming>, ClientError> {
        let mut input = Input::new(bytes.len());
        input.space()[..bytes.len()].copy_from_slice(bytes);
        input.filled(bytes.len());
        let (mut incoming, mut found) = (None, Vec::new());
        while let Some(frame) = input.next_frame(4096)? {
            found.extend(assemble(&mut incoming, &frame)?);
        }
        Ok(found)
    }

    #[test]
    fn messages_are_put_together_from_their_frames() {
        let mut bytes = Vec::new();
        let delivery = Method::from(BasicDeliver { delivery_tag: 7, ..Default::default() });
        let bodies = [Vec::new(), vec![1], vec![2; 10_000]];
        for body in &bodies {
            delivery.frame(CHANNEL, &mut bytes);
            frame::heartbeat(&mut bytes);
            write_content(&mut bytes, CHANNEL, &[0, 0], body, 4096);
        }
        Method::from(ChannelOpenOk::default()).frame(CHANNEL, &mut bytes);
        let found = all(&bytes).unwrap();
        assert_eq!(found.len(), 4);
        for (incoming, body) in found.iter().zip(bodies) {
            assert_eq!((&incoming.method, &incoming.body), (&delivery, &body));
        }
    }

    #[test]
    fn a_close_is_an_error_with_the_brokers_words() {
        let reply_text = ShortString::from_static("NOT_FOUND - no queue 'x' in vhost '/'");
        let close = ChannelClose { reply_code: 404, reply_text, ..Default::default() };
        let mut bytes = Vec::new();
        Method::from(close).frame(CHANNEL, &mut bytes);
        assert_eq!(
            all(&bytes).unwrap_err().to_string(),
            "the broker closed the channel: 404 NOT_FOUND - no queue 'x' in vhost '/'"
        );
    }

    #[test]
    fn a_body_without_a_method_is_an_error() {
        let mut bytes = Vec::new();
        write_content(&mut bytes, CHANNEL, &[0, 0], b"lost", 4096);
        assert!(matches!(all(&bytes), Err(ClientError::Unexpected(frame::HEADER))));
    }
}

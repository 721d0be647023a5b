//! A message that is not confirmed yet, as it goes on the wire.

use std::time::Duration;

use bytes::Bytes;
use leveret_client::model::FieldTable;
use leveret_client::{Channel, Error};
use tokio::time::Instant;

use super::{delay, properties};
use crate::error::PublishError;
use crate::letter::Letter;
use crate::topology::DelayTarget;
use crate::transport::{Done, Outgoing, Target};

/// Room for the names and properties of most messages, in bytes.
const HEAD_BYTES: usize = 160;

/// A message, as it goes on the wire.
pub(super) struct Pending {
    mandatory: bool,
    /// Exchange and routing key as short strings, and behind them the properties.
    head: Vec<u8>,
    /// Where the properties begin.
    properties: usize,
    body: Bytes,
    pub(super) since: Instant,
    /// On this channel or an earlier one.
    pub(super) ever_sent: bool,
    /// The broker closed a channel that it was sent on, maybe because of it.
    pub(super) suspect: bool,
    pub(super) returned: Option<String>,
    /// `None` when it has been told; then it only keeps its place in the numbering.
    pub(super) done: Option<Done>,
}

impl Pending {
    pub(super) fn new(outgoing: Outgoing) -> Result<Pending, (Done, PublishError)> {
        let Outgoing { target, mandatory, delay, letter, done } = outgoing;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        match write_head(&target, delay, &letter, &mut head) {
            Err(error) => Err((done, error)),
            Ok(properties) => Ok(Pending {
                mandatory,
                head,
                properties,
                body: letter.payload.body,
                since: done.since,
                ever_sent: false,
                suspect: false,
                returned: None,
                done: Some(done),
            }),
        }
    }

    /// Sends it.
    pub(super) fn publish(&self, channel: &Channel) -> Result<u64, Error> {
        let (envelope, properties) = self.head.split_at(self.properties);
        channel.publish(envelope, self.mandatory, properties, &self.body)
    }

    /// Its properties, encoded.
    pub(super) fn properties(&self) -> &[u8] {
        &self.head[self.properties..]
    }

    /// Exchange and routing key.
    pub(super) fn names(&self) -> (&[u8], &[u8]) {
        let (exchange, key) = self.head[1..self.properties].split_at(self.head[0].into());
        (exchange, &key[1..])
    }

    /// Where it goes, for people.
    pub(super) fn target(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (exchange, key) = self.names();
        match (text(exchange), text(key)) {
            (exchange, queue) if exchange.is_empty() => Target::Queue(queue),
            (exchange, subject) => {
                Target::Subject { exchange: exchange.into(), subject: subject.into() }
            }
        }
        .to_string()
    }

    /// What a confirm says of it.
    pub(super) fn result(&mut self, taken: bool) -> Result<(), PublishError> {
        match (taken, self.returned.take()) {
            (true, None) => Ok(()),
            (_, Some(text)) => Err(PublishError::Unroutable { target: self.target(), text }),
            (false, None) => Err(PublishError::Refused {
                target: self.target(),
                text: "a queue is full, or cannot take it now".to_owned(),
            }),
        }
    }

    pub(super) fn tell(self, result: Result<(), PublishError>) {
        if let Some(done) = self.done {
            done.tell(result);
        }
    }
}

/// Writes exchange and routing key, and the properties. Returns where these begin.
fn write_head(
    target: &Target,
    delay: Option<Duration>,
    letter: &Letter,
    head: &mut Vec<u8>,
) -> Result<usize, PublishError> {
    let (exchange, key) = match target {
        Target::Subject { exchange, subject } => (exchange.as_ref(), subject.as_ref()),
        Target::Queue(queue) => ("", queue.as_str()),
    };
    let mut headers = FieldTable::new();
    if let Some(delay) = delay {
        let to = match target {
            Target::Subject { exchange, .. } => DelayTarget::Exchange(exchange.to_string()),
            Target::Queue(queue) => DelayTarget::Queue(queue.clone()),
        };
        let (level, bits) = delay::address(delay, &to);
        headers = bits;
        properties::short_string("the exchange", &level, head)?;
    } else {
        properties::short_string("the exchange", exchange, head)?;
    }
    properties::short_string("the subject", key, head)?;
    let properties = head.len();
    properties::encode(letter, headers, head)?;
    Ok(properties)
}

//! Writing a message into the outbox.

use std::borrow::Cow;
use std::fmt;
use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use sqlx::{PgConnection, Postgres, Transaction};

use super::envelope::Envelope;
use super::{CHANNEL, Outbox, failed, schema};
use crate::error::{PublishError, Result};
use crate::message::Message;
use crate::publish::Publish;
use crate::topology::Exchange;
use crate::transport::BoxFuture;

/// A message to be written into an outbox. Nothing happens before it is awaited; then it gives the
/// message's id.
///
/// # Errors
/// [`crate::Error::Publish`] if the message cannot be sent ever: it is too large, or says nothing
/// of where to. [`crate::Error::Store`] if the database refuses; its transaction can only be rolled
/// back then.
#[must_use = "nothing is written unless it is awaited"]
pub struct OutboxPublish<'a, M> {
    outbox: &'a Outbox,
    connection: &'a mut PgConnection,
    publish: Publish<'a, M>,
}

impl<'a, M: Message> OutboxPublish<'a, M> {
    pub(super) fn new(
        outbox: &'a Outbox,
        transaction: &'a mut Transaction<'_, Postgres>,
        publish: Publish<'a, M>,
    ) -> Self {
        OutboxPublish { outbox, connection: transaction, publish }
    }

    fn with(self, change: impl FnOnce(Publish<'a, M>) -> Publish<'a, M>) -> Self {
        OutboxPublish { publish: change(self.publish), ..self }
    }

    /// Under this subject instead of the message's name.
    pub fn subject(self, subject: impl Into<Cow<'static, str>>) -> Self {
        self.with(|publish| publish.subject(subject))
    }

    /// To this exchange instead of the bus's; the relay declares it if it is not there.
    pub fn exchange(self, exchange: Exchange) -> Self {
        self.with(|publish| publish.exchange(exchange))
    }

    /// It is no error if nobody gets it.
    pub fn optional(self) -> Self {
        self.with(Publish::optional)
    }

    /// With this key instead of the message's own.
    pub fn key(self, key: impl Into<String>) -> Self {
        self.with(|publish| publish.key(key))
    }

    /// With a header. Names that begin with `leveret-` or `x-` are the toolkit's and the broker's.
    pub fn header(self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.with(|publish| publish.header(name, value))
    }

    /// With this id, which deduplication goes by, instead of one that nothing else has.
    pub fn id(self, id: impl Into<String>) -> Self {
        self.with(|publish| publish.id(id))
    }

    /// Delivered after this time, counted from now, not from the commit or when the relay sends it.
    pub fn delay(self, delay: Duration) -> Self {
        self.with(|publish| publish.delay(delay))
    }

    /// Delivered at this time; at once if it has been.
    pub fn at(self, time: SystemTime) -> Self {
        self.with(|publish| publish.at(time))
    }

    /// How important it is, in a queue with priorities.
    pub fn priority(self, priority: u8) -> Self {
        self.with(|publish| publish.priority(priority))
    }

    /// What it is an answer to.
    pub fn correlation_id(self, correlation: impl Into<String>) -> Self {
        self.with(|publish| publish.correlation_id(correlation))
    }

    async fn write(self) -> Result<String> {
        let OutboxPublish { outbox, connection, publish } = self;
        let inner = &outbox.bus.inner;
        let mut sealed = publish.seal()?;
        let letter = &mut sealed.letter;
        if letter.id.is_empty() {
            letter.id = inner.names.next();
        }
        let now = inner.clock.milliseconds();
        letter.sent_at = Some(now);
        let (size, limit) =
            (letter.body().len() as u64, inner.transport.capabilities().body_bytes_max);
        if size > limit && !inner.large_bodies.takes(letter) {
            return Err(PublishError::TooLarge { size, limit }.into());
        }
        let id = letter.id.clone();
        let envelope = serde_json::to_string(&Envelope::seal(&sealed, now));
        let envelope = envelope.map_err(|error| failed("written", error.into()))?;
        let write = sqlx::query(schema::WRITE)
            .bind(&id)
            .bind(envelope)
            .bind(sealed.letter.body().as_ref())
            .bind(outbox.notifies)
            .bind(CHANNEL);
        let written = schema::within(write.execute(connection)).await;
        written.map(|_| id).map_err(|error| failed("written", error))
    }
}

impl<'a, M: Message> IntoFuture for OutboxPublish<'a, M> {
    type Output = Result<String>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.write())
    }
}

impl<M> fmt::Debug for OutboxPublish<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxPublish").finish_non_exhaustive()
    }
}

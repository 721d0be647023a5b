//! A transactional outbox in PostgreSQL: messages that are published if, and only if, the
//! transaction is committed that they were written in.

mod batch;
mod envelope;
mod publish;
mod relay;
mod schema;

pub use publish::OutboxPublish;
pub use relay::{Relay, RelayBuilder, RelayHealth, RelayState};

pub(crate) use schema::{create_tables, within};

use std::fmt;
use std::time::Duration;

use sqlx::{PgPool, Postgres, Transaction};

use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::failure::BoxError;
use crate::message::Message;

/// The channel that transactions with messages notify, so that relays need not look.
const CHANNEL: &str = "leveret_outbox";

/// Messages in a table of a PostgreSQL database, `leveret_outbox`, until they are sent. Clones are
/// the same outbox.
///
/// A program writes a message in the transaction that changes its data ([`Outbox::publish`]), and a
/// relay ([`Outbox::relay`]), in this program or another one, sends what was committed. So there is
/// no message without the change, and no change without the message, whoever dies when. A message
/// may be sent twice, with the same id; consumers can have a [`crate::Dedup`] or an
/// [`crate::Inbox`].
///
/// Tables are found by the connection's `search_path`. See the guide's page on the outbox.
#[derive(Clone)]
pub struct Outbox {
    pool: PgPool,
    bus: Bus,
    notifies: bool,
}

/// What is in an outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboxStatus {
    /// How many messages are to be sent, those that failed before included.
    pub waiting: u64,
    /// How long the oldest of them has waited, by the database's clock.
    pub oldest: Option<Duration>,
    /// How many were given up, and wait for somebody to look at them.
    pub parked: u64,
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The message's id.
    pub id: String,
    /// Its place in the outbox.
    pub position: i64,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it could not be sent, the last time.
    pub reason: String,
}

impl Outbox {
    /// The outbox in that database, for messages to that bus.
    #[must_use]
    pub fn new(pool: PgPool, bus: &Bus) -> Self {
        Outbox { pool, bus: bus.clone(), notifies: true }
    }

    /// Without NOTIFY when a message is written, which takes a lock of the whole database at
    /// commit: for databases with thousands of transactions a second. A relay then finds messages
    /// when it looks ([`RelayBuilder::every`]).
    #[must_use]
    pub fn without_notify(mut self) -> Self {
        self.notifies = false;
        self
    }

    /// Makes the tables `leveret_outbox` and `leveret_inbox`, if they are not there. Any number of
    /// programs may do so, at the same time, too.
    ///
    /// # Errors
    /// [`Error::Store`] if the database refuses or does not answer.
    pub async fn migrate(&self) -> Result<()> {
        create_tables(&self.pool).await
    }

    /// Writes a message, to be published under its name, in a transaction. Await it before the
    /// commit; nothing is sent until then, and nothing at all if it is rolled back.
    pub fn publish<'a, M: Message>(
        &'a self,
        transaction: &'a mut Transaction<'_, Postgres>,
        message: &'a M,
    ) -> OutboxPublish<'a, M> {
        OutboxPublish::new(self, transaction, self.bus.publish(message))
    }

    /// Writes a message, to be sent to one queue, in a transaction.
    pub fn send<'a, M: Message>(
        &'a self,
        transaction: &'a mut Transaction<'_, Postgres>,
        queue: &str,
        message: &'a M,
    ) -> OutboxPublish<'a, M> {
        OutboxPublish::new(self, transaction, self.bus.send(queue, message))
    }

    /// What sends the messages. It has defaults for everything; start it.
    pub fn relay(&self) -> RelayBuilder {
        RelayBuilder::new(self)
    }

    /// How much is waiting. It counts rows, which takes a while where there are millions.
    ///
    /// # Errors
    /// [`Error::Store`] if the database refuses or does not answer.
    pub async fn status(&self) -> Result<OutboxStatus> {
        let query = sqlx::query_as::<_, (i64, Option<f64>, i64)>(schema::STATUS);
        let row = within(query.fetch_one(&self.pool)).await;
        let (waiting, oldest, parked) = row.map_err(|error| failed("read", error))?;
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        Ok(OutboxStatus {
            waiting: u64::try_from(waiting).unwrap_or_default(),
            oldest: oldest.map(seconds),
            parked: u64::try_from(parked).unwrap_or_default(),
        })
    }

    /// The first so many messages that were given up.
    ///
    /// # Errors
    /// [`Error::Store`] if the database refuses or does not answer.
    pub async fn parked(&self, most: u32) -> Result<Vec<Parked>> {
        let query = sqlx::query_as::<_, (String, i64, i32, String)>(schema::PARKED);
        let rows = within(query.bind(i64::from(most)).fetch_all(&self.pool)).await;
        let rows = rows.map_err(|error| failed("read", error))?;
        let parked = rows.into_iter().map(|(id, position, attempts, reason)| Parked {
            id,
            position,
            attempts: u32::try_from(attempts).unwrap_or_default(),
            reason,
        });
        Ok(parked.collect())
    }

    /// Has messages tried again that were given up, those with these ids or, without any, all; says
    /// how many. They have all their attempts again.
    ///
    /// # Errors
    /// [`Error::Store`] if the database refuses or does not answer.
    pub async fn retry_parked(&self, ids: &[&str]) -> Result<u64> {
        let query = sqlx::query(schema::RETRY_PARKED).bind(ids).bind(CHANNEL);
        let done = within(query.execute(&self.pool)).await;
        done.map(|done| done.rows_affected()).map_err(|error| failed("changed", error))
    }
}

/// The outbox cannot be read, or whatever was to be done.
fn failed(done: &str, source: BoxError) -> Error {
    Error::Store { what: format!("the outbox cannot be {done}"), source }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("bus", &self.bus).finish_non_exhaustive()
    }
}

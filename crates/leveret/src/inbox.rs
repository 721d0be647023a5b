//! What was handled, in PostgreSQL.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::{PgPool, Postgres, Transaction};
use tokio::time::sleep;

use crate::dedup::Store;
use crate::error::{Error, Result};
use crate::failure::BoxError;
use crate::outbox::{create_tables, within};
use crate::transport::BoxFuture;

/// How many ids are forgotten at a time.
const SWEEP_MAX: i64 = 10_000;
/// How often there is a look for what is to be forgotten, at least and at most.
const SWEEP_EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(600)];

const SEEN: &str = "
insert into leveret_inbox (queue, id) values ($1, $2) on conflict do nothing";
const CONTAINS: &str = "
select exists (select from leveret_inbox
    where queue = $1 and id = $2 and handled_at > clock_timestamp() - make_interval(secs => $3))";
const INSERT: &str = "
insert into leveret_inbox (queue, id) values ($1, $2)
on conflict (queue, id) do update set handled_at = clock_timestamp()";
const SWEEP: &str = "
delete from leveret_inbox where ctid = any(array(
    select ctid from leveret_inbox where handled_at <= clock_timestamp() - make_interval(secs => $1)
    limit $2))";

/// Which messages were handled, in the table `leveret_inbox` of a PostgreSQL database: written in
/// the transaction of what a handler does, so that both are there or neither. Clones are the same
/// inbox.
///
/// A handler begins with [`Inbox::seen`] and commits in the end. That is the one way by which a
/// message has its effect exactly once, whoever dies when; the effect must be in that database.
#[derive(Clone)]
pub struct Inbox {
    pool: PgPool,
}

/// A [`Store`] for [`crate::Dedup`] in the same table: for handlers whose effect is elsewhere. It
/// can be shared by any number of processes.
pub struct PostgresStore {
    shared: Arc<Kept>,
}

struct Kept {
    pool: PgPool,
    keep: Duration,
}

impl Inbox {
    /// The inbox in that database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Inbox { pool }
    }

    /// Makes its table, if it is not there; like [`crate::Outbox::migrate`].
    ///
    /// # Errors
    /// [`Error::Store`] if the database refuses or does not answer.
    pub async fn migrate(&self) -> Result<()> {
        create_tables(&self.pool).await
    }

    /// Whether a message was handled before. If not, it is from now on, if this transaction is
    /// committed. If another transaction says the same and is still open, this waits for its end;
    /// for thirty seconds at most.
    ///
    /// # Errors
    /// [`Error::Store`] if the database refuses or does not answer; the transaction can only be
    /// rolled back then.
    pub async fn seen(
        &self,
        transaction: &mut Transaction<'_, Postgres>,
        queue: &str,
        id: &str,
    ) -> Result<bool> {
        let seen = sqlx::query(SEEN).bind(queue).bind(id);
        let done = within(seen.execute(&mut **transaction)).await.map_err(failed)?;
        Ok(done.rows_affected() == 0)
    }

    /// Forgets what was handled longer ago than this, and says how much that was. Call it now and
    /// then: the longer a message may be on its way twice, the longer it must be remembered.
    ///
    /// # Errors
    /// [`Error::Store`] if the database refuses or does not answer.
    pub async fn sweep(&self, older_than: Duration) -> Result<u64> {
        sweep(&self.pool, older_than).await.map_err(failed)
    }
}

impl PostgresStore {
    /// Remembers in that database, for so long. The table must be there: [`Inbox::migrate`].
    #[must_use]
    pub fn new(pool: PgPool, keep: Duration) -> Self {
        let shared = Arc::new(Kept { pool, keep });
        tokio::spawn(sweep_on(Arc::downgrade(&shared), keep));
        PostgresStore { shared }
    }
}

/// Forgets now and then, until the store is dropped.
async fn sweep_on(kept: Weak<Kept>, keep: Duration) {
    let every = (keep / 16).clamp(SWEEP_EVERY[0], SWEEP_EVERY[1]);
    loop {
        sleep(every).await;
        let Some(kept) = kept.upgrade() else { return };
        if let Err(error) = sweep(&kept.pool, keep).await {
            tracing::warn!(error, "what was handled long ago cannot be forgotten");
        }
    }
}

async fn sweep(pool: &PgPool, older_than: Duration) -> Result<u64, BoxError> {
    let mut swept = 0;
    loop {
        let sweep = sqlx::query(SWEEP).bind(older_than.as_secs_f64()).bind(SWEEP_MAX);
        let count = within(sweep.execute(pool)).await?.rows_affected();
        swept += count;
        if count < SWEEP_MAX.unsigned_abs() {
            return Ok(swept);
        }
    }
}

impl Store for PostgresStore {
    fn contains<'a>(
        &'a self,
        queue: &'a str,
        id: &'a str,
    ) -> BoxFuture<'a, Result<bool, BoxError>> {
        let Kept { pool, keep } = &*self.shared;
        let contains = sqlx::query_scalar(CONTAINS).bind(queue).bind(id).bind(keep.as_secs_f64());
        Box::pin(within(contains.fetch_one(pool)))
    }

    fn insert<'a>(&'a self, queue: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), BoxError>> {
        let insert = sqlx::query(INSERT).bind(queue).bind(id);
        Box::pin(async move { within(insert.execute(&self.shared.pool)).await.map(drop) })
    }
}

fn failed(source: BoxError) -> Error {
    Error::Store { what: "the inbox cannot be used".to_owned(), source }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("keep", &self.shared.keep).finish_non_exhaustive()
    }
}

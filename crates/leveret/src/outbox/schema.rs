//! The tables, and what is asked of them.

use std::future::Future;
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::failure::BoxError;

/// How long the database may take for one thing.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(30);
/// The advisory lock of who makes the tables ("leveret" in ASCII).
const MIGRATION_LOCK: i64 = 0x006c_6576_6572_6574;

/// What was written, in the order of `position`. `parked_at` is set when a message was given up.
const OUTBOX: &str = "
create table if not exists leveret_outbox (
    position bigint generated always as identity primary key,
    id text not null,
    envelope json not null,
    body bytea not null,
    written_at timestamptz not null default clock_timestamp(),
    attempts integer not null default 0,
    due_at timestamptz not null default '-infinity',
    reason text,
    parked_at timestamptz
)";
const OUTBOX_WAITING: &str = "
create index if not exists leveret_outbox_waiting on leveret_outbox (position)
where parked_at is null";
/// What was handled.
const INBOX: &str = "
create table if not exists leveret_inbox (
    queue text not null,
    id text not null,
    handled_at timestamptz not null default clock_timestamp(),
    primary key (queue, id)
)";
const INBOX_BY_TIME: &str = "
create index if not exists leveret_inbox_by_time on leveret_inbox (handled_at)";

/// Writes a message: its id, envelope and body; and whether, and where, it is told.
pub(super) const WRITE: &str = "
with written as (
    insert into leveret_outbox (id, envelope, body) values ($1, $2::json, $3) returning position
)
select case when $4 then pg_notify($5, '') is null end from written";

/// The next so many messages, and how large they are.
pub(super) const NEXT: &str = "
select position, octet_length(body) from leveret_outbox
where parked_at is null and due_at <= clock_timestamp()
order by position limit $1 for update skip locked";

pub(super) const READ: &str = "
select position, id, attempts, envelope::text, body from leveret_outbox
where position = any($1) order by position";

pub(super) const DELETE: &str = "delete from leveret_outbox where position = any($1)";

/// Notes that a message failed: when it is due again, in milliseconds, or never.
pub(super) const FAIL: &str = "
update leveret_outbox set attempts = attempts + 1, reason = $2,
    due_at = clock_timestamp() + make_interval(secs => coalesce($3, 0)::float8 / 1000),
    parked_at = case when $3 is null then clock_timestamp() end
where position = $1";

pub(super) const STATUS: &str = "
select count(*) filter (where parked_at is null),
    extract(epoch from clock_timestamp()
        - min(written_at) filter (where parked_at is null))::float8,
    count(*) filter (where parked_at is not null)
from leveret_outbox";

pub(super) const PARKED: &str = "
select id, position, attempts, coalesce(reason, '') from leveret_outbox
where parked_at is not null order by position limit $1";

pub(super) const RETRY_PARKED: &str = "
with retried as (
    update leveret_outbox set attempts = 0, due_at = '-infinity', parked_at = null
    where parked_at is not null and (cardinality($1::text[]) = 0 or id = any($1::text[]))
    returning position
)
select position, pg_notify($2, '') from retried";

/// Takes the lock of the one relay that works on this table, unless another one has it.
pub(super) const LEAD: &str =
    "select pg_try_advisory_lock(1818981989, 'leveret_outbox'::regclass::oid::int4)";

/// A relay whose machine is gone, or cut off, loses its lock after about twenty seconds. Where
/// these cannot be set, they are left as they are.
pub(super) const KEEPALIVES: [&str; 3] = [
    "set tcp_keepalives_idle = 5",
    "set tcp_keepalives_interval = 5",
    "set tcp_keepalives_count = 3",
];

/// Makes the tables, one program at a time: PostgreSQL's `if not exists` alone lets two collide.
pub(crate) async fn create_tables(pool: &PgPool) -> Result<()> {
    let created = within(async {
        let mut transaction = pool.begin().await?;
        let lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK);
        lock.execute(&mut *transaction).await?;
        for statement in [OUTBOX, OUTBOX_WAITING, INBOX, INBOX_BY_TIME] {
            sqlx::query(statement).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    });
    created.await.map_err(|source| Error::Store {
        what: "the tables leveret_outbox and leveret_inbox cannot be made".to_owned(),
        source,
    })
}

/// Waits for the database, but not for ever.
pub(crate) async fn within<T>(
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, BoxError> {
    match timeout(DATABASE_TIMEOUT, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(format!("no answer from the database within {DATABASE_TIMEOUT:?}").into()),
    }
}

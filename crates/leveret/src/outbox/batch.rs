//! Some messages of an outbox: taken, sent and deleted in one transaction.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::envelope::Envelope;
use super::schema::{self, within};
use crate::backoff::Backoff;
use crate::bus::Bus;
use crate::error::{PublishError, TopologyError};
use crate::failure::BoxError;
use crate::publish::Ticket;

/// How large the bodies of a batch may be together, in bytes; a larger one goes alone.
const BATCH_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// When a message is tried again that the broker did not take.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), 2.0, Duration::from_secs(300));

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// How many messages were sent, and deleted.
    pub(super) count: u64,
    /// There may be more.
    pub(super) full: bool,
    /// The last error of a message that was not sent.
    pub(super) error: Option<String>,
    /// Why no messages can be sent for now.
    pub(super) trouble: Option<String>,
    /// Nor ever: the bus was closed.
    pub(super) closed: bool,
}

type Row = (i64, String, i32, String, Vec<u8>);

/// What became of a message.
enum Fate {
    Sent,
    /// It is its own fault, or its queue's. It is tried again if that may help.
    Failed {
        reason: String,
        again: bool,
    },
    /// It is nobody's fault; it stays as it is.
    Trouble(String),
    Closed,
}

/// Sends at most so many messages, the first ones that are due. A message is given up after so many
/// attempts.
pub(super) async fn send(
    bus: &Bus,
    connection: &mut PgConnection,
    most: u32,
    attempts: u32,
) -> Result<Sent, BoxError> {
    let mut transaction = within(connection.begin()).await?;
    let (rows, more) = take(&mut transaction, most).await?;
    let mut sent = Sent { full: more || rows.len() == most as usize, ..Sent::default() };
    let mut done = Vec::with_capacity(rows.len());
    let mut failed = Vec::new();
    let alone = rows.len() == 1;
    let mut posted = Vec::with_capacity(rows.len());
    for (position, id, tried, envelope, body) in rows {
        let posting = post(bus, id, &envelope, body).await;
        let trouble = matches!(posting, Err(Fate::Trouble(_) | Fate::Closed));
        posted.push((position, tried, posting));
        if trouble {
            // Those behind it would only wait as long, too.
            break;
        }
    }
    for (position, tried, posting) in posted {
        let fate = match posting {
            Ok(ticket) => ticket.await.map_or_else(|error| fate(&error, alone), |_| Fate::Sent),
            Err(fate) => fate,
        };
        match fate {
            Fate::Sent => done.push(position),
            Fate::Failed { reason, again } => {
                let tried = u32::try_from(tried).unwrap_or_default() + 1;
                let again = (again && tried < attempts).then(|| RETRY.delay(tried));
                failed.push((position, reason, again));
            }
            Fate::Trouble(text) => sent.trouble = Some(text),
            Fate::Closed => sent.closed = true,
        }
    }
    sent.count = done.len() as u64;
    sent.error = failed.last().map(|(_, reason, _)| reason.clone());
    within(async {
        if !done.is_empty() {
            sqlx::query(schema::DELETE).bind(&done).execute(&mut *transaction).await?;
        }
        for (position, reason, again) in failed {
            let again = again.map(|delay| i64::try_from(delay.as_millis()).unwrap_or(i64::MAX));
            // PostgreSQL's texts have no NUL.
            let reason = reason.replace('\0', "");
            let fail = sqlx::query(schema::FAIL).bind(position).bind(&reason).bind(again);
            fail.execute(&mut *transaction).await?;
            if again.is_none() {
                tracing::error!(position, reason, "a message in the outbox is given up");
            }
        }
        transaction.commit().await
    })
    .await?;
    Ok(sent)
}

/// Takes the next messages, in order, and says whether there was no room for some.
async fn take(connection: &mut PgConnection, most: u32) -> Result<(Vec<Row>, bool), BoxError> {
    let next = sqlx::query_as::<_, (i64, i32)>(schema::NEXT).bind(i64::from(most));
    let next = within(next.fetch_all(&mut *connection)).await?;
    let mut bytes = 0_u64;
    let fits = |&&(_, size): &&(i64, i32)| {
        let first = bytes == 0;
        bytes += u64::try_from(size).unwrap_or_default().max(1);
        first || bytes <= BATCH_BYTES_MAX
    };
    let positions: Vec<i64> = next.iter().take_while(fits).map(|(position, _)| *position).collect();
    if positions.is_empty() {
        return Ok((Vec::new(), false));
    }
    let read = sqlx::query_as::<_, Row>(schema::READ).bind(&positions);
    let rows = within(read.fetch_all(&mut *connection)).await?;
    Ok((rows, positions.len() < next.len()))
}

/// Sends a message, without waiting for its confirm.
async fn post(bus: &Bus, id: String, envelope: &str, body: Vec<u8>) -> Result<Ticket, Fate> {
    let unreadable = |text: String| Fate::Failed {
        reason: format!("the envelope cannot be read: {text}"),
        again: false,
    };
    let envelope: Envelope =
        serde_json::from_str(envelope).map_err(|error| unreadable(error.to_string()))?;
    let sealed = envelope.open(id, body, bus.inner.clock.milliseconds());
    let sealed = sealed.ok_or_else(|| unreadable("it says nothing of where to".to_owned()))?;
    bus.inner.post(sealed).await.map_err(|error| fate(&error, false))
}

/// What an error means for its message. One that was sent `alone` and not confirmed may be what the
/// broker, or the way to it, does not bear.
fn fate(error: &PublishError, alone: bool) -> Fate {
    let reason = error.to_string();
    match error {
        PublishError::Closed => Fate::Closed,
        PublishError::NotSent { .. } | PublishError::Topology(TopologyError::Connect(_)) => {
            Fate::Trouble(reason)
        }
        PublishError::Unknown { .. } if !alone => Fate::Trouble(reason),
        PublishError::TooLarge { .. } | PublishError::Codec(_) | PublishError::Invalid(_) => {
            Fate::Failed { reason, again: false }
        }
        PublishError::Unroutable { .. }
        | PublishError::Refused { .. }
        | PublishError::LargeBody { .. }
        | PublishError::Unknown { .. }
        | PublishError::Topology(_) => Fate::Failed { reason, again: true },
    }
}

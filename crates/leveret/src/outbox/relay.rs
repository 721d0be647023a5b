//! The relay: sends what was written into an outbox.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::batch::{self, Sent};
use super::schema::{KEEPALIVES, LEAD, within};
use super::{CHANNEL, Outbox};
use crate::backoff::Backoff;
use crate::failure::BoxError;

/// How the database is tried again when it was lost, and the broker when it takes nothing.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(100), 2.0, Duration::from_secs(10));
/// How often a relay that stands by tries to take over.
const STANDBY: Duration = Duration::from_secs(1);

/// A relay that is to be started. Everything has a default.
#[must_use = "nothing is sent before start()"]
#[derive(Debug, Clone)]
pub struct RelayBuilder {
    outbox: Outbox,
    batch: u32,
    every: Duration,
    attempts: u32,
    alone: bool,
}

/// What sends the messages of an outbox, until it is stopped; dropping this does not stop it. It
/// connects again whenever the database is lost.
#[derive(Clone)]
pub struct Relay {
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// How a relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayHealth {
    /// What it is doing.
    pub state: RelayState,
    /// How many messages it has sent.
    pub sent: u64,
    /// What failed last, and how long ago: the database, the broker, or a message.
    pub last_error: Option<(String, Duration)>,
}

/// What a relay is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayState {
    /// It has no connection to the database.
    Connecting,
    /// Another relay works; this one takes its place when that is gone.
    Standby,
    /// It sends what is there.
    Relaying,
    /// It was stopped, or the bus or the pool was closed.
    Stopped,
}

struct Shared {
    state: watch::Sender<RelayState>,
    stopping: watch::Sender<bool>,
    sent: AtomicU64,
    last_error: Mutex<Option<(String, Instant)>>,
}

struct Task {
    settings: RelayBuilder,
    shared: Arc<Shared>,
    stopping: watch::Receiver<bool>,
}

impl RelayBuilder {
    pub(super) fn new(outbox: &Outbox) -> Self {
        RelayBuilder {
            outbox: outbox.clone(),
            batch: 256,
            every: Duration::from_secs(1),
            attempts: 20,
            alone: true,
        }
    }

    /// How many messages are taken at a time; 256 where nothing is said.
    pub fn batch(mut self, messages: u32) -> Self {
        self.batch = messages.max(1);
        self
    }

    /// How often it looks for messages that it was not told of; each second where nothing is said.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// How often a message is tried that the broker does not take: nobody gets it, or its queue is
    /// full. Then it is parked. The pauses grow from a second up to five minutes: with 20 attempts,
    /// where nothing is said, that is about an hour.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Several relays may work at the same time, and messages lose their order. Where nothing is
    /// said, one works and the others stand by.
    pub fn concurrent(mut self) -> Self {
        self.alone = false;
        self
    }

    /// Starts it. It needs no database yet, and waits for one if there is none. Two connections are
    /// its own; they are made beside the pool's.
    pub fn start(self) -> Relay {
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared {
            state: watch::Sender::new(RelayState::Connecting),
            stopping: stop,
            sent: AtomicU64::new(0),
            last_error: Mutex::default(),
        });
        let task = Task { settings: self, shared: Arc::clone(&shared), stopping };
        let task = tokio::spawn(task.run()).abort_handle();
        Relay { shared, task }
    }
}

impl Relay {
    /// Lets it finish what it is sending; after `within` it is dropped where it waits, and what it
    /// has sent by then is sent again some time.
    pub async fn stop(&self, within: Duration) {
        self.shared.stopping.send_replace(true);
        let mut state = self.shared.state.subscribe();
        let stopped = state.wait_for(|state| *state == RelayState::Stopped);
        if timeout(within, stopped).await.is_err() {
            self.task.abort();
            self.shared.state.send_replace(RelayState::Stopped);
        }
    }

    /// How it is. What is waiting, [`Outbox::status`] tells.
    #[must_use]
    pub fn health(&self) -> RelayHealth {
        let last_error = self.shared.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        RelayHealth {
            state: *self.shared.state.borrow(),
            sent: self.shared.sent.load(Ordering::Relaxed),
            last_error: last_error.as_ref().map(|(text, at)| (text.clone(), at.elapsed())),
        }
    }
}

impl Task {
    async fn run(mut self) {
        let mut failures = 0;
        while !self.is_over() {
            self.shared.state.send_replace(RelayState::Connecting);
            let Err(error) = self.session(&mut failures).await else { break };
            self.note(&error.to_string());
            failures += 1;
            self.pause(RECONNECT.delay(failures)).await;
        }
        self.shared.state.send_replace(RelayState::Stopped);
    }

    /// Works as long as the connections last. It returns well when it is to stop.
    async fn session(&mut self, failures: &mut u32) -> Result<(), BoxError> {
        let mut connection = self.connect().await?;
        if self.settings.alone && !self.lead(&mut connection).await? {
            return Ok(());
        }
        let mut listener = self.listen().await?;
        self.shared.state.send_replace(RelayState::Relaying);
        let (mut troubles, mut most) = (0, self.settings.batch);
        while !self.is_over() {
            // What was told until now is seen by looking.
            while let Ok(told) = timeout(Duration::ZERO, listener.try_recv()).await {
                told?.ok_or("the connection for notifications is lost")?;
            }
            let bus = &self.settings.outbox.bus;
            let sent = batch::send(bus, &mut connection, most, self.settings.attempts).await?;
            *failures = 0;
            let Sent { count, full, error, trouble, closed } = sent;
            self.shared.sent.fetch_add(count, Ordering::Relaxed);
            if closed {
                return Ok(());
            }
            if let Some(error) = trouble.as_ref().or(error.as_ref()) {
                self.note(error);
            }
            if trouble.is_some() {
                // One message may be the cause: it goes alone, and then ever more at a time.
                (troubles, most) = (troubles + 1, 1);
                self.pause(RECONNECT.delay(troubles)).await;
            } else {
                (troubles, most) = (0, most.saturating_mul(2).min(self.settings.batch));
                if !full {
                    self.wait(&mut listener).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether it was stopped, or its database was taken away from it.
    fn is_over(&self) -> bool {
        *self.stopping.borrow() || self.settings.outbox.pool.is_closed()
    }

    /// A connection that the pool does not miss. Its end is the end of the lock.
    async fn connect(&self) -> Result<PgConnection, BoxError> {
        let mut connection = within(self.settings.outbox.pool.acquire()).await?.detach();
        for setting in KEEPALIVES {
            if let Err(error) = within(sqlx::query(setting).execute(&mut connection)).await {
                tracing::debug!(%error, "{setting} is refused");
            }
        }
        Ok(connection)
    }

    /// Waits until no other relay works; gives up, with `false`, when it is to stop.
    async fn lead(&mut self, connection: &mut PgConnection) -> Result<bool, BoxError> {
        while !self.is_over() {
            let lock = sqlx::query_scalar(LEAD).fetch_one(&mut *connection);
            if within(lock).await? {
                return Ok(true);
            }
            self.shared.state.send_replace(RelayState::Standby);
            self.pause(STANDBY).await;
        }
        Ok(false)
    }

    async fn listen(&self) -> Result<PgListener, BoxError> {
        let options = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let options =
            options.connect_lazy_with((*self.settings.outbox.pool.connect_options()).clone());
        within(async {
            let mut listener = PgListener::connect_with(&options).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        })
        .await
    }

    /// Waits until there may be something to send.
    async fn wait(&mut self, listener: &mut PgListener) -> Result<(), BoxError> {
        tokio::select! {
            told = listener.try_recv() => {
                told?.ok_or("the connection for notifications is lost")?;
            }
            () = sleep(self.settings.every) => {}
            // The sender is in what this task has, too.
            _ = self.stopping.changed() => {}
        }
        Ok(())
    }

    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            _ = self.stopping.changed() => {}
        }
    }

    fn note(&self, error: &str) {
        tracing::warn!(error, "the outbox's relay");
        let mut last = self.shared.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((error.to_owned(), Instant::now()));
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Relay").field(&self.health()).finish()
    }
}

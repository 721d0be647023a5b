//! One connection that looks after itself: made, lost, made again.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use leveret_client::{Connection, Error, Login, Scope};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::declare::Declared;
use crate::backoff::Backoff;
use crate::error::ConnectError;
use crate::health::{ConnectionHealth, ConnectionState};
use crate::transport::BoxFuture;

/// A connection that lasted this long was a good one: the next one is tried at once.
const GOOD: Duration = Duration::from_secs(5);
/// How connections are tried again: soon at first, since most brokers that go come back at once.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(50), 2.0, Duration::from_secs(5));

/// A stream of bytes to a broker.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How to reach a broker.
pub(crate) trait Connector: fmt::Debug + Send + Sync {
    /// Which broker the attempt of that number is with.
    fn address(&self, attempt: usize) -> String;

    /// Connects, or gives up after a while.
    fn connect(&self, attempt: usize) -> BoxFuture<'_, io::Result<Box<dyn Stream>>>;

    /// Whom to log in as.
    fn login(&self) -> &Login;
}

/// A connection that looks after itself.
#[derive(Debug)]
pub(crate) struct Link {
    purpose: &'static str,
    status: watch::Receiver<Status>,
    stop: watch::Sender<bool>,
}

/// How a link is.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) address: String,
    pub(crate) connects: u64,
    pub(crate) state: State,
}

#[derive(Debug, Clone)]
pub(crate) enum State {
    Up(Connection),
    Down { since: SystemTime, attempts: u32, error: Option<Error> },
    Closed,
}

impl Status {
    /// The connection, and which one of the link's it is.
    pub(crate) fn connection(&self) -> Option<(Connection, u64)> {
        match &self.state {
            State::Up(connection) => Some((connection.clone(), self.connects)),
            _ => None,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// What is the matter, for people.
    pub(crate) fn trouble(&self) -> String {
        match &self.state {
            State::Up(connection) => match connection.blocked() {
                Some(reason) => format!("{} takes no messages: {reason}", self.address),
                None => format!("{} does not answer", self.address),
            },
            State::Down { error: Some(error), .. } => format!("{}: {error}", self.address),
            State::Down { error: None, .. } => format!("connecting to {}", self.address),
            State::Closed => "the bus is closed".to_owned(),
        }
    }
}

impl Link {
    /// Starts the task that keeps the connection.
    pub(crate) fn start(
        purpose: &'static str,
        connector: Arc<dyn Connector>,
        declared: Arc<Declared>,
    ) -> Link {
        let (status, seen) = watch::channel(Status {
            address: connector.address(0),
            connects: 0,
            state: State::Down { since: SystemTime::now(), attempts: 0, error: None },
        });
        let (stop, stopped) = watch::channel(false);
        let keeper = Keeper { purpose, connector, declared, status, stopped };
        tokio::spawn(keeper.run());
        Link { purpose, status: seen, stop }
    }

    /// How it is, and whatever becomes of it.
    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits for a connection; a login that is refused is not tried again here.
    pub(crate) async fn connection(&self, within: Duration) -> Result<Connection, ConnectError> {
        let mut status = self.status();
        let settled = status.wait_for(|status| match &status.state {
            State::Up(_) | State::Closed => true,
            State::Down { error, .. } => error.as_ref().is_some_and(is_refusal),
        });
        let settled = timeout(within, settled).await.map(|status| status.map(|it| it.clone()));
        let status = match settled {
            Ok(Ok(status)) => status,
            Ok(Err(_)) => return Err(ConnectError::Closed),
            Err(_) => self.status.borrow().clone(),
        };
        let address = status.address;
        match status.state {
            State::Up(connection) => Ok(connection),
            State::Closed => Err(ConnectError::Closed),
            State::Down { error: Some(error), .. } if is_refusal(&error) => {
                Err(ConnectError::Refused { address, text: error.to_string() })
            }
            State::Down { error, .. } => {
                let text = error.map_or_else(|| "no answer".to_owned(), |it| it.to_string());
                Err(ConnectError::Unreachable { address, within, text })
            }
        }
    }

    /// Waits until the link has noticed that a connection has ended.
    pub(crate) async fn lost(&self, connection: &Connection) {
        connection.ended().await;
        let gone = |it: &Status| it.connection().is_none_or(|(now, _)| now.error().is_none());
        // Without the link's task it is closed, which is noticed next.
        let _ = self.status().wait_for(gone).await;
    }

    pub(crate) fn health(&self) -> ConnectionHealth {
        let status = self.status.borrow();
        let state = match &status.state {
            State::Up(connection) => match connection.blocked() {
                Some(reason) => ConnectionState::Blocked { reason },
                None => ConnectionState::Up,
            },
            State::Down { since, attempts, error } => ConnectionState::Down {
                since: *since,
                attempts: *attempts,
                error: error.as_ref().map_or_else(String::new, ToString::to_string),
            },
            State::Closed => ConnectionState::Closed,
        };
        let (address, connects) = (status.address.clone(), status.connects);
        ConnectionHealth { purpose: self.purpose, address, state, connects }
    }

    /// Says goodbye and waits until that is done.
    pub(crate) async fn close(&self) {
        self.stop.send_replace(true);
        // The task may have ended in another way.
        let _ = self.status().wait_for(Status::is_closed).await;
    }
}

/// 403: the login was refused; 530: the virtual host.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Closed { scope: Scope::Connection, code: 403 | 530, .. })
}

struct Keeper {
    purpose: &'static str,
    connector: Arc<dyn Connector>,
    declared: Arc<Declared>,
    status: watch::Sender<Status>,
    stopped: watch::Receiver<bool>,
}

impl Keeper {
    async fn run(mut self) {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            biased;
            // Dropping the link stops it, too.
            _ = stopped.wait_for(|stop| *stop) => {}
            () = self.keep() => {}
        }
        let connection = self.status.borrow().connection();
        if let Some((connection, _)) = connection {
            // If the goodbye fails, it has ended in another way.
            let _ = connection.close().await;
        }
        self.status.send_modify(|status| status.state = State::Closed);
    }

    async fn keep(&mut self) {
        let mut tried = 0;
        let mut attempts = 0;
        loop {
            let error = match self.connect(tried).await {
                Ok(connection) => {
                    let since = Instant::now();
                    self.up(&connection);
                    let error = connection.ended().await;
                    attempts = if since.elapsed() >= GOOD { 0 } else { attempts + 1 };
                    error
                }
                Err(error) => {
                    attempts += 1;
                    error
                }
            };
            tried += 1;
            self.down(attempts, error, self.connector.address(tried));
            sleep(RECONNECT.delay(attempts)).await;
        }
    }

    async fn connect(&self, tried: usize) -> Result<Connection, Error> {
        let stream = self.connector.connect(tried).await?;
        let connection = Connection::open(stream, self.connector.login()).await?;
        self.declared.declare_again(&connection).await?;
        Ok(connection)
    }

    fn up(&self, connection: &Connection) {
        self.status.send_modify(|status| {
            status.connects += 1;
            status.state = State::Up(connection.clone());
            tracing::info!(purpose = self.purpose, address = status.address, "connected");
        });
    }

    fn down(&self, attempts: u32, error: Error, next: String) {
        self.status.send_modify(|status| {
            tracing::warn!(
                purpose = self.purpose,
                address = status.address,
                attempts,
                %error,
                "no connection; trying again"
            );
            let since = match &status.state {
                State::Down { since, .. } => *since,
                _ => SystemTime::now(),
            };
            status.address = next;
            status.state = State::Down { since, attempts, error: Some(error) };
        });
    }
}

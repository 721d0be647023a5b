//! A connection's handle, and what it shares with the task that owns the stream.

use std::fmt;
use std::mem;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use leveret_amqp_wire::Input;
use leveret_amqp_wire::method::*;
use leveret_model::limits::READ_BYTES_MAX;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::channel::{Channel, Entry, Events, Inbox};
use crate::driver::Driver;
use crate::error::{Error, Scope};
use crate::incoming::Answer;
use crate::login::{Login, Tuning, log_in};

/// How much may wait to be written before who publishes must wait, in bytes.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// How much may wait to be fetched before nothing more is read, in bytes. A consumer's prefetch
/// should be what limits that; without one, this does.
const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a broker may take over the goodbye before it is left anyway.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, logged in. Clones are the same one. It ends when it is closed, lost, or the last
/// clone and the last channel are dropped.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Handle>,
}

/// What handles hold: the last one to go says goodbye.
pub(crate) struct Handle(Arc<Shared>);

/// What handles share with the connection's task.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) tuning: Tuning,
    /// What the events that wait to be fetched take.
    waiting: AtomicUsize,
    ended: watch::Sender<Option<Error>>,
    blocked: watch::Sender<Option<String>>,
}

#[derive(Default)]
pub(crate) struct State {
    /// To be written.
    pub(crate) output: Vec<u8>,
    /// The connection's task, if it sleeps, be it because the stream takes nothing more.
    pub(crate) driver: Option<Waker>,
    pub(crate) channels: FxHashMap<u16, Entry>,
    /// Who waits for room in `output`.
    cramped: Vec<Waker>,
    last_channel: u16,
    /// Who waits for the agreement to a close.
    pub(crate) close: Option<oneshot::Sender<Result<Answer, Error>>>,
    /// A close was sent.
    pub(crate) closing: bool,
}

impl Connection {
    /// Logs in over `stream`, and spawns the task that owns it from then on.
    ///
    /// # Errors
    /// [`Error::Closed`] if the broker refuses the login (403) or the virtual host (530); others if
    /// it is not there, or no broker.
    pub async fn open<S>(mut stream: S, login: &Login) -> Result<Connection, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut input = Input::new(READ_BYTES_MAX);
        let tuning = log_in(&mut stream, &mut input, login).await?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            tuning,
            waiting: AtomicUsize::new(0),
            ended: watch::Sender::new(None),
            blocked: watch::Sender::new(None),
        });
        tokio::spawn(Driver::new(stream, input, Arc::clone(&shared)).run());
        Ok(Connection { shared: Arc::new(Handle(shared)) })
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// [`Error`] if the connection has ended, or all its channels are in use.
    pub async fn channel(&self) -> Result<(Channel, Events), Error> {
        let (number, inbox) = self.shared.lock().new_channel(&self.shared)?;
        let (channel, events) = Channel::new(Arc::clone(&self.shared), inbox, number);
        channel.call(ChannelOpen::default()).await?;
        Ok((channel, events))
    }

    /// Why the broker does not take messages for now, if it said so.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        self.shared.blocked.borrow().clone()
    }

    /// Why the connection has ended, if it has.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.shared.error()
    }

    /// Waits until the connection has ended, and says why.
    pub async fn ended(&self) -> Error {
        let mut ended = self.shared.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or(Error::Ended(Scope::Connection)),
            Err(_) => Error::Ended(Scope::Connection),
        }
    }

    /// Says goodbye, and waits for the answer: everything sent before was received then.
    ///
    /// # Errors
    /// [`Error`] if the connection ended in another way.
    pub async fn close(&self) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if let Some(error) = self.shared.error() {
                return Err(error);
            }
            state.goodbye(Some(sender));
        }
        match timeout(CLOSE_TIMEOUT, receiver).await {
            Ok(answer) => answer.unwrap_or(Err(Error::Ended(Scope::Connection))).map(drop),
            Err(_) => {
                let error = Error::Silent(CLOSE_TIMEOUT);
                self.shared.end(&error);
                Err(error)
            }
        }
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `send` append to the output, for a channel that is open.
    pub(crate) fn with_channel<T>(
        &self,
        number: u16,
        inbox: &Arc<Inbox>,
        send: impl FnOnce(&mut Entry, &mut Vec<u8>) -> T,
    ) -> Result<T, Error> {
        let mut state = self.lock();
        let State { channels, output, driver, .. } = &mut *state;
        let entry = channels.get_mut(&number).filter(|entry| Arc::ptr_eq(&entry.inbox, inbox));
        let Some(entry) = entry.filter(|entry| !entry.closing) else {
            drop(state);
            return Err(self.error().unwrap_or(Error::Ended(Scope::Channel)));
        };
        // The task knows of what is there already, or is told by the stream when it can go on.
        let driver = if output.is_empty() { driver.take() } else { None };
        let sent = send(entry, output);
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(sent)
    }

    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.output.len() < OUTPUT_BYTES_MAX || self.error().is_some() {
            return Poll::Ready(());
        }
        state.cramped.push(cx.waker().clone());
        Poll::Pending
    }

    /// Counts events that wait to be fetched.
    pub(crate) fn arrived(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether nothing more should be read.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > EVENT_BYTES_MAX
    }

    /// Counts events that were fetched.
    pub(crate) fn taken(&self, bytes: usize) {
        if self.waiting.fetch_sub(bytes, Ordering::Relaxed) > EVENT_BYTES_MAX {
            let driver = self.lock().driver.take();
            driver.into_iter().for_each(Waker::wake);
        }
    }

    pub(crate) fn error(&self) -> Option<Error> {
        self.ended.borrow().clone()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.borrow().is_some()
    }

    pub(crate) fn set_blocked(&self, reason: Option<String>) {
        self.blocked.send_replace(reason);
    }

    /// Ends everything that waits, and the task.
    pub(crate) fn end(&self, error: &Error) {
        let mut state = self.lock();
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| error.clone());
            first
        });
        if !first {
            return;
        }
        let channels = mem::take(&mut state.channels);
        let cramped = mem::take(&mut state.cramped);
        let (driver, close) = (state.driver.take(), state.close.take());
        drop(state);
        for entry in channels.into_values() {
            entry.end(error);
        }
        if let Some(close) = close {
            // Whoever asked may have given up.
            let _ = close.send(Err(error.clone()));
        }
        cramped.into_iter().chain(driver).for_each(Waker::wake);
    }
}

impl State {
    fn new_channel(&mut self, shared: &Shared) -> Result<(u16, Arc<Inbox>), Error> {
        if let Some(error) = shared.error() {
            return Err(error);
        }
        let most = shared.tuning.channel_max;
        if self.channels.len() >= usize::from(most) {
            return Err(Error::TooLong(format!("all {most} channels are in use")));
        }
        loop {
            self.last_channel = if self.last_channel >= most { 1 } else { self.last_channel + 1 };
            if !self.channels.contains_key(&self.last_channel) {
                let entry = Entry::new();
                let inbox = Arc::clone(&entry.inbox);
                self.channels.insert(self.last_channel, entry);
                return Ok((self.last_channel, inbox));
            }
        }
    }

    /// Sends a close.
    pub(crate) fn goodbye(&mut self, answer: Option<oneshot::Sender<Result<Answer, Error>>>) {
        if !mem::replace(&mut self.closing, true) {
            let close = ConnectionClose { reply_code: 200, ..Default::default() };
            Method::from(close).frame(0, &mut self.output);
        }
        if answer.is_some() {
            self.close = answer;
        }
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    /// What there is to write, if anything; who waited for room may go on.
    pub(crate) fn take_output(&mut self, written: Vec<u8>) -> Option<(Vec<u8>, Vec<Waker>)> {
        if self.output.is_empty() {
            return None;
        }
        Some((mem::replace(&mut self.output, written), mem::take(&mut self.cramped)))
    }
}

impl Entry {
    /// Tells all who wait for the channel that it has ended.
    pub(crate) fn end(self, error: &Error) {
        for call in self.calls {
            // Whoever called may have given up.
            let _ = call.send(Err(error.clone()));
        }
        self.inbox.end(error.clone());
    }
}

impl Deref for Handle {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.error().is_none() {
            self.lock().goodbye(None);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("ended", &self.error()).finish_non_exhaustive()
    }
}

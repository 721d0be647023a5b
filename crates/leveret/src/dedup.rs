//! What was handled is not handled again.

#[cfg(feature = "dedup-file")]
mod file;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::failure::BoxError;
use crate::transport::BoxFuture;

/// Remembers what was handled, by the ids of messages. Clones share the memory.
///
/// Brokers and networks that fail make some messages come twice; a handler behind this sees them
/// once. One thing no memory of its own can help against: a process that dies after a handler's
/// effect and before that is remembered. Where that must not be, the effect and the memory belong
/// in one transaction of one database.
#[derive(Clone)]
pub struct Dedup {
    store: Arc<dyn Store>,
    /// What is being handled in this process.
    busy: Arc<Busy>,
}

/// Where it is remembered what was handled.
pub trait Store: Send + Sync + 'static {
    /// Whether that was handled.
    ///
    /// # Errors
    /// Whatever the store has to say; the message is tried again then.
    fn contains<'a>(&'a self, queue: &'a str, id: &'a str)
    -> BoxFuture<'a, Result<bool, BoxError>>;

    /// It was handled. Returns when that will not be forgotten.
    ///
    /// # Errors
    /// Whatever the store has to say; the message may be handled once more then.
    fn insert<'a>(&'a self, queue: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), BoxError>>;
}

/// For how long it is waited that a message is handled elsewhere.
const BUSY: Duration = Duration::from_secs(60);

/// Whose a message is.
pub(crate) enum Claim {
    /// Nobody's: it was handled.
    Done,
    /// Somebody else's, for long now.
    Busy,
    /// Ours, until this is dropped.
    Ours(Ours),
}

/// A message that is being handled here and nowhere else in the process.
pub(crate) struct Ours {
    dedup: Dedup,
    queue: String,
    id: String,
}

#[derive(Default)]
struct Busy {
    ids: Mutex<HashMap<(String, String), Arc<Notify>>>,
}

impl Dedup {
    /// Remembers so many messages, for so long, as long as the process lives.
    #[must_use]
    pub fn in_memory(messages: usize, within: Duration) -> Self {
        Dedup::new(Memory { messages, within, state: Mutex::default() })
    }

    /// Remembers in that store.
    #[must_use]
    pub fn new(store: impl Store) -> Self {
        Dedup { store: Arc::new(store), busy: Arc::default() }
    }

    /// Waits while the message is being handled elsewhere in the process, up to [`BUSY`]. Who
    /// claims several claims them in the order of their ids, so that no two wait for each other.
    pub(crate) async fn claim(&self, queue: &str, id: &str) -> Result<Claim, BoxError> {
        let key = (queue.to_owned(), id.to_owned());
        let until = Instant::now() + BUSY;
        loop {
            let other = {
                let mut busy = self.busy.lock();
                match busy.get(&key) {
                    Some(done) => Some(Arc::clone(done).notified_owned()),
                    None => {
                        busy.insert(key.clone(), Arc::default());
                        None
                    }
                }
            };
            match other {
                Some(done) => {
                    if timeout_at(until, done).await.is_err() {
                        return Ok(Claim::Busy);
                    }
                }
                None => break,
            }
        }
        let ours = Ours { dedup: self.clone(), queue: key.0, id: key.1 };
        if self.store.contains(queue, id).await? {
            return Ok(Claim::Done);
        }
        Ok(Claim::Ours(ours))
    }
}

impl Ours {
    /// It is handled.
    pub(crate) async fn done(self) -> Result<(), BoxError> {
        self.dedup.store.insert(&self.queue, &self.id).await
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let key = (std::mem::take(&mut self.queue), std::mem::take(&mut self.id));
        if let Some(done) = self.dedup.busy.lock().remove(&key) {
            done.notify_waiters();
        }
    }
}

impl Busy {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Arc<Notify>>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Memory {
    messages: usize,
    within: Duration,
    state: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    known: HashMap<Arc<(String, String)>, Instant>,
    order: VecDeque<(Arc<(String, String)>, Instant)>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remembered {
    fn forget(&mut self, messages: usize, within: Duration) {
        while let Some((key, at)) = self.order.front() {
            if self.order.len() <= messages && at.elapsed() < within {
                return;
            }
            // It may have been remembered again since.
            if self.known.get(key) == Some(at) {
                self.known.remove(key);
            }
            self.order.pop_front();
        }
    }
}

impl Store for Memory {
    fn contains<'a>(
        &'a self,
        queue: &'a str,
        id: &'a str,
    ) -> BoxFuture<'a, Result<bool, BoxError>> {
        let mut state = self.lock();
        state.forget(self.messages, self.within);
        let known = state.known.contains_key(&(queue.to_owned(), id.to_owned()));
        Box::pin(async move { Ok(known) })
    }

    fn insert<'a>(&'a self, queue: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), BoxError>> {
        let mut state = self.lock();
        let (key, now) = (Arc::new((queue.to_owned(), id.to_owned())), Instant::now());
        state.known.insert(Arc::clone(&key), now);
        state.order.push_back((key, now));
        state.forget(self.messages, self.within);
        Box::pin(async { Ok(()) })
    }
}

impl fmt::Debug for Dedup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedup").field("busy", &self.busy.lock().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_handled_is_known_for_a_while() {
        let dedup = Dedup::in_memory(2, Duration::from_secs(60));
        let ours = |claim| match claim {
            Ok(Claim::Ours(ours)) => Some(ours),
            Ok(Claim::Done | Claim::Busy) => None,
            Err(error) => panic!("{error}"),
        };
        drop(ours(dedup.claim("q", "a").await).unwrap());
        ours(dedup.claim("q", "a").await).unwrap().done().await.unwrap();
        assert!(ours(dedup.claim("q", "a").await).is_none());
        assert!(ours(dedup.claim("other", "a").await).is_some());
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert!(ours(dedup.claim("q", "a").await).is_some());
        for id in ["a", "b", "c"] {
            ours(dedup.claim("q", id).await).unwrap().done().await.unwrap();
        }
        assert!(ours(dedup.claim("q", "a").await).is_some(), "two have room");
        assert!(ours(dedup.claim("q", "c").await).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_being_handled_for_ever_is_not_waited_for_as_long() {
        let dedup = Dedup::in_memory(10, Duration::from_secs(60));
        let Ok(Claim::Ours(_first)) = dedup.claim("q", "a").await else { panic!("it is new") };
        let start = Instant::now();
        assert!(matches!(dedup.claim("q", "a").await, Ok(Claim::Busy)));
        assert!(start.elapsed() >= BUSY);
    }

    #[tokio::test]
    async fn a_message_that_is_being_handled_is_waited_for() {
        let dedup = Dedup::in_memory(10, Duration::from_secs(60));
        let Ok(Claim::Ours(first)) = dedup.claim("q", "a").await else { panic!("it is new") };
        let other = dedup.clone();
        let second = tokio::spawn(async move { other.claim("q", "a").await });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        first.done().await.unwrap();
        assert!(matches!(second.await, Ok(Ok(Claim::Done))));
    }
}

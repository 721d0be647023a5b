//! The queue that a bus gets its answers by.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};

use crate::bus::Inner;
use crate::error::SubscribeError;
use crate::health::ConsumerState;
use crate::letter::Letter;
use crate::stats::Counters;
use crate::topology::Queue;
use crate::transport::{Inlet, Source, Subscription};

/// How many answers are fetched ahead. Nothing is done with them but hand them on.
const PREFETCH: u16 = 256;

/// The answers to a bus's questions. They come by one queue of its own, opened with the first
/// question; a lost connection takes it along, and the next one brings it back, empty.
pub(crate) struct Replies {
    queue: String,
    waiting: Arc<Waiting>,
    state: watch::Receiver<ConsumerState>,
}

/// Who waits for which answers, by the questions' ids.
#[derive(Default)]
struct Waiting {
    askers: Mutex<HashMap<String, mpsc::Sender<Letter>>>,
}

/// The answers to one question. Dropped, nobody waits for them any more.
pub(crate) struct Expected {
    id: String,
    waiting: Arc<Waiting>,
    letters: mpsc::Receiver<Letter>,
}

impl Replies {
    /// Opens the queue.
    pub(crate) async fn open(inner: &Inner) -> Result<Replies, SubscribeError> {
        let queue = format!("leveret.replies.{}", inner.names.next());
        let source = Source::Own { queue: Queue::new(&queue), bindings: Vec::new() };
        let subscription = Subscription { source, prefetch: PREFETCH, priority: 0 };
        let inlet = inner.transport.subscribe(subscription).await?;
        let (waiting, state) = (Arc::<Waiting>::default(), inlet.state());
        // It ends with the transport, so it must not hold it.
        tokio::spawn(receive(inlet, Arc::clone(&waiting), Arc::clone(&inner.counters)));
        Ok(Replies { queue, waiting, state })
    }

    /// Its name.
    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    /// Whether it is there: answers to what was asked before it was lost are lost with it.
    pub(crate) fn state(&self) -> watch::Receiver<ConsumerState> {
        self.state.clone()
    }

    /// Waits for answers to that question from now on, up to so many at a time.
    pub(crate) fn expect(&self, id: &str, answers: usize) -> Expected {
        let (sender, letters) = mpsc::channel(answers);
        self.waiting.lock().insert(id.to_owned(), sender);
        Expected { id: id.to_owned(), waiting: Arc::clone(&self.waiting), letters }
    }
}

impl Expected {
    /// The next answer; `None` when the bus was closed.
    pub(crate) async fn next(&mut self) -> Option<Letter> {
        self.letters.recv().await
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.id);
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<Letter>>> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an answer to who waits for it; whether somebody does.
    fn hand_on(&self, letter: Letter) -> bool {
        let asker = letter.correlation_id.as_ref().and_then(|id| self.lock().get(id).cloned());
        asker.is_some_and(|asker| asker.try_send(letter).is_ok())
    }
}

async fn receive(mut inlet: Box<dyn Inlet>, waiting: Arc<Waiting>, counters: Arc<Counters>) {
    let settler = inlet.settler();
    let mut batch = Vec::new();
    while inlet.next(&mut batch).await.is_ok() {
        for inbound in batch.drain(..) {
            settler.ack(inbound.token);
            let id = inbound.letter.correlation_id.clone();
            if !waiting.hand_on(Arc::unwrap_or_clone(inbound).letter) {
                counters.late_answers.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(id, "nobody waits for this answer any more");
            }
        }
        settler.flush();
    }
    // Who waits still is told that nothing will come.
    waiting.lock().clear();
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("queue", &self.queue).finish_non_exhaustive()
    }
}

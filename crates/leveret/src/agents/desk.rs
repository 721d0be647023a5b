//! Between an agent's inbox and its handler.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Agents;
use super::cx::AgentCx;
use super::name::{AgentName, EVERYONE};
use super::note::Note;
use super::slot::Slot;
use crate::consume::{Handler, guard};
use crate::cx::Cx;
use crate::failure::Failure;
use crate::rpc::{Fault, Reply, is_late};

/// For how long an answer is tried to be delivered to who is not connected.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What handles an agent's notes: an async function or closure of the [`Note`] and its [`AgentCx`].
///
/// A note is acknowledged when its handler has returned `Ok`, not before. One that failed is tried
/// again, and in the end is a dead letter; but a question's failure goes to who asked, as a fault.
pub trait AgentHandler: Send + Sync + 'static {
    /// Handles a note.
    fn handle(&self, note: Note, cx: AgentCx) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl<F, R> AgentHandler for F
where
    F: Fn(Note, AgentCx) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), Failure>> + Send,
{
    fn handle(&self, note: Note, cx: AgentCx) -> impl Future<Output = Result<(), Failure>> + Send {
        self(note, cx)
    }
}

/// A started agent, and how it goes.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) name: AgentName,
    pub(super) role: String,
    /// In milliseconds since 1970.
    pub(super) since: u64,
    pub(super) handled: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) handling: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Work {
    pub(super) fn new(name: AgentName, role: String, since: u64) -> Work {
        Work {
            name,
            role,
            since,
            handled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            handling: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end(&self, result: &Result<(), Failure>) {
        match result {
            Ok(()) => self.handled.fetch_add(1, Ordering::Relaxed),
            Err(failure) => {
                *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(failure.to_string());
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// A note in handling, however that ends.
struct Handling<'a>(&'a Work);

impl<'a> Handling<'a> {
    fn of(work: &'a Work) -> Self {
        work.handling.fetch_add(1, Ordering::Relaxed);
        Handling(work)
    }
}

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        self.0.handling.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hands notes to an agent's handler.
pub(super) struct Desk<H> {
    pub(super) agents: Agents,
    pub(super) work: Arc<Work>,
    pub(super) handler: H,
    /// How many notes may be handled at a time, those apart that wait for an answer.
    pub(super) slots: Arc<Semaphore>,
    pub(super) timeout: Option<Duration>,
}

impl<H: AgentHandler> Desk<H> {
    async fn attend(&self, mut note: Note, cx: &Cx, slot: Arc<Slot>) -> Result<(), Failure> {
        if note.conversation.is_empty() {
            cx.id().clone_into(&mut note.conversation);
        }
        if note.transcript.is_empty() {
            note.record();
        }
        let _handling = Handling::of(&self.work);
        let agent_cx = AgentCx::new(&self.agents, &self.work, cx, &note, Arc::clone(&slot));
        let result = guard(self.timeout, self.handler.handle(note, agent_cx)).await;
        slot.leave();
        self.work.end(&result);
        result
    }
}

impl<H: AgentHandler> Handler<Note> for Desk<H> {
    async fn handle(&self, note: Note, cx: Cx) -> Result<(), Failure> {
        let own = cx.subject() == EVERYONE && note.from == self.work.name.name;
        if own {
            return Ok(());
        }
        let slot = Arc::new(Slot::enter(&self.slots).await);
        if is_late(&cx) {
            return Ok(());
        }
        match (self.attend(note, &cx, slot).await, Reply::to(cx.letter())) {
            (Err(failure), Some(reply)) => {
                tracing::warn!(
                    agent = self.work.name.name, id = cx.id(), %failure,
                    "answering with a fault"
                );
                let patience = cx.time_left().unwrap_or(PATIENCE).min(PATIENCE);
                reply.send(&cx.bus().inner, Err(Fault::from(failure)), patience).await;
                Ok(())
            }
            (result, _) => result,
        }
    }
}

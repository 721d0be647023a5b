//! A front door's end of a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use leveret_engine::{Batch, Command, Operation, Outbound, Token};
use leveret_model::limits::LOG_BACKLOG_BYTES_MAX;
use leveret_model::{Chunk, SessionId};

use crate::broker::Handle;
use crate::memory::Shortage;
use crate::outbox::Outbox;

/// One connection's session. Dropping it ends it: leases are requeued, exclusive queues deleted.
pub struct Session {
    id: SessionId,
    outbox: Arc<Outbox>,
    shared: Arc<Handle>,
    /// Bytes of bodies that are not whole yet.
    unfinished: AtomicUsize,
}

impl Session {
    pub(crate) fn new(id: SessionId, outbox: Arc<Outbox>, shared: Arc<Handle>) -> Self {
        Session { id, outbox, shared, unfinished: AtomicUsize::new(0) }
    }

    /// Has commands carried out, in order. `chunk` holds the messages that they publish.
    pub fn submit(&self, commands: Vec<Command>, chunk: Chunk) {
        self.shared.combiner.submit(Batch { session: self.id, chunk, commands });
    }

    /// Moves what the session is told to `into`; pending if that is nothing.
    pub fn poll_outbound(&self, cx: &mut Context<'_>, into: &mut Vec<Outbound>) -> Poll<()> {
        self.outbox.poll(cx, || self.shared.progress.durable(), into)
    }

    /// Bytes of what waits to be fetched.
    #[must_use]
    pub fn outbound_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// Whether what was submitted since the last call went to a queue whose consumers are far
    /// behind. Then a pause lets them catch up.
    #[must_use]
    pub fn take_congestion(&self) -> bool {
        self.outbox.take_congestion()
    }

    /// Ready when the log has caught up enough for more durable messages
    /// ([`LOG_BACKLOG_BYTES_MAX`]), or the session did not publish any the last time.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let too_much = || self.shared.progress.backlog() > LOG_BACKLOG_BYTES_MAX;
        let full = || self.outbox.fills_log() && too_much();
        self.shared.waiters.poll_room(cx, full)
    }

    /// Why nothing more should be published, if it should not: messages take more memory than they
    /// may, or too little of the disk is free.
    #[must_use]
    pub fn shortage(&self) -> Option<Shortage> {
        self.shared.budget.shortage(self.id, self.unfinished.load(Ordering::Relaxed))
    }

    /// Whether this would make the log larger: then it is not for a time in which the disk is
    /// nearly full ([`Shortage::disk_critical`]). Waits for the engine; not to be asked at others.
    #[must_use]
    pub fn adds_to_log(&self, holder: u16, operation: &Operation) -> bool {
        self.shared.combiner.with(|core| core.engine.adds_to_log(self.id, holder, operation))
    }

    /// Ready when there is no shortage any more after [`Session::shortage`].
    pub fn poll_plenty(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.budget.poll(cx, self.id, self.unfinished.load(Ordering::Relaxed))
    }

    /// Says how many bytes of bodies that are not whole yet the connection holds. They count as
    /// the broker's memory.
    pub fn set_unfinished(&self, bytes: usize) {
        let before = self.unfinished.load(Ordering::Relaxed);
        // Most often there are none, before and after.
        if bytes != before {
            let before = self.unfinished.swap(bytes, Ordering::Relaxed);
            self.shared.budget.set_unfinished(self.id, before, bytes);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.set_unfinished(0);
        self.shared.budget.forget(self.id);
        let end = Command { holder: 0, token: Token(0), operation: Operation::Disconnect };
        self.submit(vec![end], Chunk::default());
        self.shared.combiner.with(|core| core.outboxes.remove(&self.id));
    }
}

//! A front door's end of a session.

use std::sync::Arc;
use std::task::{Context, Poll};

use leveret_engine::{Batch, Command, Operation, Outbound, Token};
use leveret_model::limits::LOG_BACKLOG_BYTES_MAX;
use leveret_model::{Chunk, SessionId};

use crate::broker::Shared;
use crate::outbox::Outbox;

/// One connection's session. Dropping it ends it: leases are requeued, exclusive queues deleted.
pub struct Session {
    id: SessionId,
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
}

impl Session {
    pub(crate) fn new(id: SessionId, outbox: Arc<Outbox>, shared: Arc<Shared>) -> Self {
        Session { id, outbox, shared }
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
    /// ([`LOG_BACKLOG_BYTES_MAX`]).
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let full = || self.shared.progress.backlog() > LOG_BACKLOG_BYTES_MAX;
        self.shared.waiters.poll_room(cx, full)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let end = Command { holder: 0, token: Token(0), operation: Operation::Disconnect };
        self.submit(vec![end], Chunk::default());
        self.shared.combiner.with(|core| core.outboxes.remove(&self.id));
    }
}

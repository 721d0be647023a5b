//! Client connections: what belongs to one, what it is told, and its end.

use std::collections::VecDeque;
use std::sync::Arc;

use leveret_model::limits::SESSION_OUTPUT_BYTES_MAX;
use leveret_model::{QueueId, SessionId};
use rustc_hash::FxHashMap;

use crate::chunks::Chunks;
use crate::command::Outcome;
use crate::effect::{Effects, Outbound, Reply};
use crate::engine::Engine;
use crate::holder::Holder;
use crate::stall::Stalled;
use crate::step::Step;

/// One client connection.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) vhost: usize,
    pub(crate) holders: FxHashMap<u16, Holder>,
    /// Its exclusive queues.
    pub(crate) owned: Vec<QueueId>,
    /// Bytes of output given to it and not taken by its client yet.
    pub(crate) outstanding: usize,
    /// Whether a consumer was held back because of that.
    pub(crate) stalled: bool,
    /// The step in which it was last told something, and where in its effects.
    pub(crate) told: (u64, usize),
    /// What it asked for and has to wait with, while it waits for a queue.
    pub(crate) stalled_for: Option<QueueId>,
    pub(crate) batches: VecDeque<Stalled>,
    /// Whether it is to end as soon as it has done what waits.
    pub(crate) leaving: bool,
}

impl Engine {
    /// The session's client has taken output.
    pub(crate) fn taken(&mut self, bytes: usize, step: &Step<'_>) {
        let Some(session) = self.sessions.get_mut(&step.session) else { return };
        session.outstanding = session.outstanding.saturating_sub(bytes);
        if std::mem::take(&mut session.stalled) {
            let mut holders: Vec<u16> = session.holders.keys().copied().collect();
            let start = self.random() as usize % holders.len().max(1);
            holders.rotate_left(start);
            for holder in holders {
                self.wake_consumers(step.session, holder);
            }
        }
    }

    /// Cancels the consumers of a holder and requeues its leases.
    pub(crate) fn close_holder(&mut self, number: u16, step: &mut Step<'_>) {
        let consumers = std::mem::take(&mut self.holder(step, number).consumers);
        // What was not committed has not happened.
        if let Some(transaction) = self.holder(step, number).transaction.take() {
            self.kept -= transaction.bytes;
            self.holder(step, number).put_back(transaction.settled);
        }
        // Leases first: a queue that goes with its last consumer takes them with it.
        self.end_leases(number, u64::MAX, Outcome::Requeue, step);
        self.remove_consumers(&consumers.into_values().collect(), step);
        if let Some(session) = self.sessions.get_mut(&step.session) {
            session.holders.remove(&number);
        }
    }

    /// Ends a session with all that it has.
    pub(crate) fn disconnect(&mut self, step: &mut Step<'_>) {
        let Some(session) = self.sessions.get_mut(&step.session) else { return };
        let holders: Vec<u16> = session.holders.keys().copied().collect();
        let owned = std::mem::take(&mut session.owned);
        for holder in holders {
            self.close_holder(holder, step);
        }
        for queue in owned {
            self.delete_queue(queue, step);
        }
        self.reply(0, Reply::Disconnected, step);
        self.sessions.remove(&step.session);
    }
}

impl Session {
    /// What the session is told in this step, or its latest part: what is encoded at a time is
    /// bounded, however often a message is told.
    pub(crate) fn outbound<'e>(
        &mut self,
        id: SessionId,
        step: u64,
        effects: &'e mut Effects,
    ) -> &'e mut Outbound {
        let full = |at: usize| effects.outbound[at].bytes >= SESSION_OUTPUT_BYTES_MAX;
        if self.told.0 != step || full(self.told.1) {
            self.told = (step, effects.outbound.len());
            effects.outbound.push(Outbound::of(id, Vec::new()));
        }
        &mut effects.outbound[self.told.1]
    }
}

impl Outbound {
    /// The index in `chunks` of the chunk in this slot. A run of messages names it once.
    pub(crate) fn chunk(&mut self, slot: u32, chunks: &Chunks) -> u32 {
        let chunk = chunks.get(slot);
        // Not by slot: within a step one may be given up and taken again.
        if self.chunks.last().is_none_or(|last| !Arc::ptr_eq(last, chunk)) {
            self.chunks.push(Arc::clone(chunk));
        }
        u32::try_from(self.chunks.len() - 1).expect("one a message at the most")
    }
}

//! Sessions that need a message which is only on disk to go on.
//!
//! What a client asks for is answered in order, so all that its session asks behind such a command
//! waits with it, until the message is there.

use std::sync::Arc;

use leveret_model::{Chunk, Lsn, SessionId, Time};

use crate::command::{Command, Operation};
use crate::effect::Effects;
use crate::engine::Engine;
use crate::queue::Head;
use crate::step::Step;

/// A batch, or what is left of one.
#[derive(Debug)]
pub(crate) struct Stalled {
    pub(crate) chunk: Arc<Chunk>,
    pub(crate) commands: Vec<Command>,
}

impl Engine {
    /// Whether sessions can go on that had to wait: then [`Engine::resume_next`] is due.
    #[must_use]
    pub fn can_resume(&self) -> bool {
        !self.resumable.is_empty()
    }

    /// Goes on with a session that had to wait. As [`Engine::step`].
    pub fn resume_next(&mut self, now: Time, address: Lsn, effects: &mut Effects) {
        let Some(id) = self.resumable.pop_front() else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(batch) = session.batches.pop_front() else { return };
        self.kept -= batch.chunk.memory();
        self.run(id, batch, now, address, effects);
        // It may have to wait again, or have ended.
        if let Some(session) = self.sessions.get_mut(&id)
            && session.stalled_for.is_none()
            && !session.batches.is_empty()
        {
            self.resumable.push_front(id);
        }
    }

    /// Whether the session waits.
    pub(crate) fn stalls(&self, session: SessionId) -> bool {
        let session = self.sessions.get(&session);
        session.is_some_and(|it| it.stalled_for.is_some() || !it.batches.is_empty())
    }

    /// Keeps a batch until the session may go on: before the others that wait with it, if it has
    /// begun. With the session's end among what waits nobody is left who would hear the answers: it
    /// goes on without what it waits for.
    pub(crate) fn stall(&mut self, id: SessionId, batch: Stalled, begun: bool) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        self.kept += batch.chunk.memory();
        let ends = |command: &Command| matches!(command.operation, Operation::Disconnect);
        session.leaving |= batch.commands.iter().any(ends);
        match begun {
            true => session.batches.push_front(batch),
            false => session.batches.push_back(batch),
        }
        if session.leaving {
            self.resume(&mut vec![id]);
        }
    }

    /// These sessions need wait no more.
    pub(crate) fn resume(&mut self, waiting: &mut Vec<SessionId>) {
        for id in waiting.drain(..) {
            if let Some(session) = self.sessions.get_mut(&id)
                && session.stalled_for.take().is_some()
            {
                self.resumable.push_back(id);
            }
        }
    }

    /// Whether a command needs to know of a message that is only on disk; then it is asked for.
    pub(crate) fn must_wait(&mut self, command: &Command, step: &mut Step<'_>) -> bool {
        let (name, gets) = match &command.operation {
            Operation::Get { queue, .. } => (queue, true),
            // Without a name it is a new one.
            Operation::DeclareQueue(declare) if !declare.name.is_empty() => (&declare.name, false),
            // Whoever only wants to be rid of what cannot be read need not wait for it.
            Operation::DeleteQueue { name, if_empty: true, .. } => (name, false),
            _ => return false,
        };
        let Some(session) = self.sessions.get(&step.session) else { return false };
        if session.leaving || !session.holders.contains_key(&command.holder) {
            return false;
        }
        let Ok(id) = self.find_queue(command.holder, name, step) else { return false };
        if !self.queues[&id].has_packs() {
            return false;
        }
        self.expire_heads(id, step);
        let Some(queue) = self.queues.get_mut(&id) else { return false };
        let needs = match queue.head() {
            Some(Head::OnDisk(cold)) => gets || cold.expires() <= step.now,
            _ => false,
        };
        if needs {
            queue.wanted = true;
            queue.waiting.push(step.session);
            if let Some(session) = self.sessions.get_mut(&step.session) {
                session.stalled_for = Some(id);
            }
            self.load(id, step);
        }
        needs
    }
}

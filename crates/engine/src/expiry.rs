//! What time does: messages become too old, queues are of no use for too long.

use leveret_model::{QueueId, Time};

use crate::Reason;
use crate::engine::Engine;
use crate::queue::{Head, OVERHEAD_BYTES, Queue, mark_dirty};
use crate::step::Step;

impl Engine {
    /// When the engine is to be stepped even if nobody asks for anything; [`Time`] zero is at
    /// once, because a step has left something for the next one.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if !self.dying.is_empty() || self.may_wake_held_back() {
            return Some(Time(0));
        }
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Looks at the queues whose time has come, and goes on with consumers that were held back.
    pub(crate) fn meet_deadlines(&mut self, step: &mut Step<'_>) {
        self.wake_held_back();
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= step.now
        {
            self.deadlines.pop_first();
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            queue.deadline = Time::NEVER;
            if queue.end_of_use() <= step.now {
                self.delete_queue(id, step);
            } else {
                mark_dirty(queue, &mut self.dirty);
            }
        }
    }

    /// Ends what is too old at the head of a queue, as much as the step may. Says whether that is
    /// all of it.
    pub(crate) fn expire_head(&mut self, id: QueueId, step: &mut Step<'_>) -> bool {
        while let Some(queue) = self.queues.get_mut(&id)
            && queue.timed
            && queue.head_expired(step.now)
        {
            // Only taken off the queue here.
            if !step.may_work(OVERHEAD_BYTES) {
                return false;
            }
            if let Some(entry) = queue.take(&self.chunks) {
                self.die(id, entry, Reason::Expired, step);
            }
        }
        true
    }

    /// As [`Engine::expire_head`], to the end: for whoever asks what the queue holds.
    pub(crate) fn expire_heads(&mut self, id: QueueId, step: &mut Step<'_>) {
        while let Some(queue) = self.queues.get_mut(&id)
            && queue.timed
            && queue.head_expired(step.now)
            && let Some(entry) = queue.take(&self.chunks)
        {
            self.die(id, entry, Reason::Expired, step);
        }
    }

    /// Has the queue looked at again when its head is too old, or the queue itself is.
    pub(crate) fn arm(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let head = match queue.head() {
            Some(Head::Here(head)) => head.expires,
            // What is being loaded is looked at when it is there.
            Some(Head::OnDisk(cold)) if cold.loading => Time::NEVER,
            Some(Head::OnDisk(cold)) => cold.expires(),
            None => Time::NEVER,
        };
        let wanted = head.min(queue.end_of_use());
        if wanted < queue.deadline {
            if queue.deadline != Time::NEVER {
                self.deadlines.remove(&(queue.deadline, id));
            }
            queue.deadline = wanted;
            self.deadlines.insert((wanted, id));
        }
    }

    /// The queue is of use at this moment.
    pub(crate) fn touch(&mut self, id: QueueId, now: Time) {
        if let Some(queue) = self.queues.get_mut(&id)
            && queue.settings.expires.is_some()
        {
            queue.used = now;
            self.arm(id);
        }
    }
}

impl Queue {
    /// When it is deleted if nobody uses it until then.
    fn end_of_use(&self) -> Time {
        match self.settings.expires {
            Some(expires) if self.consumers.is_empty() => self.used.after(expires),
            _ => Time::NEVER,
        }
    }
}

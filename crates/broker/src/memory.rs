//! How much memory messages may take, and which publishers wait because they take more.
//!
//! Content that is still on its way in counts too. So that connections which all have parts of
//! bodies cannot wait for each other for ever, one of them at a time has the *turn*: it may go on
//! until it has one body whole, as long as the engine itself has room.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use leveret_model::SessionId;
use leveret_model::limits::MEMORY_RESUME_PERCENT;
use rustc_hash::FxHashMap;

/// What the messages of a broker take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What they take now, those that are not whole yet included.
    pub used: usize,
    /// What they may take before nobody may publish more.
    pub max: usize,
    /// Whether publishers wait because they took more.
    pub publishers_wait: bool,
}

/// Stores and loads that decide who is woken are sequentially consistent: who waits says so and
/// then looks at the figures, who changes these looks afterwards for somebody that waits.
pub(crate) struct Budget {
    max: usize,
    /// At which use publishers may go on.
    resume: usize,
    engine: AtomicUsize,
    unfinished: AtomicUsize,
    /// Whether anybody found it full since it was last at the mark. If not, nobody waits.
    blocked: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    sessions: FxHashMap<SessionId, Waiter>,
    /// Who may go on although it is full.
    turn: Option<SessionId>,
}

struct Waiter {
    waker: Waker,
    /// Whether it has parts of bodies.
    unfinished: bool,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Self {
        Budget {
            max,
            resume: max - max / 100 * (100 - MEMORY_RESUME_PERCENT),
            engine: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn memory(&self) -> Memory {
        let publishers_wait = self.blocked.load(Ordering::SeqCst);
        Memory { used: self.used(), max: self.max, publishers_wait }
    }

    /// What the engine holds after a step. [`Budget::review`] is due when no lock is held any more.
    pub(crate) fn set_engine(&self, bytes: usize) {
        if self.engine.load(Ordering::Relaxed) != bytes {
            self.engine.store(bytes, Ordering::SeqCst);
        }
    }

    /// Lets publishers go on if that is possible now.
    pub(crate) fn review(&self) {
        if self.blocked.load(Ordering::SeqCst) && (self.at_mark() || self.engine_at_mark()) {
            self.let_go();
        }
    }

    /// Whether this session should publish nothing more. `own` is what it has of bodies.
    pub(crate) fn full(&self, session: SessionId, own: usize) -> bool {
        if self.used() <= self.max {
            return false;
        }
        if !self.blocked.load(Ordering::SeqCst) {
            let first = !self.blocked.swap(true, Ordering::SeqCst);
            self.note_blocked(first);
        }
        !self.has_turn(session, own)
    }

    /// Ready when this session may publish again; otherwise it is woken then.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, session: SessionId, own: usize) -> Poll<()> {
        if self.at_mark() || self.has_turn(session, own) {
            return Poll::Ready(());
        }
        let waiter = Waiter { waker: cx.waker().clone(), unfinished: own > 0 };
        let mut waiting = self.lock();
        if self.used() <= self.max && !self.blocked.load(Ordering::SeqCst) {
            // Everybody was let go already, and it is not full again.
            return Poll::Ready(());
        }
        let first = !self.blocked.swap(true, Ordering::SeqCst);
        if own == 0 {
            // It gave up its body while it waited.
            waiting.end_turn(session);
        }
        // Wakers are dropped when the lock is free: what that does is not known here.
        let before = waiting.sessions.insert(session, waiter);
        drop(waiting);
        drop(before);
        // Looks again: who changed the figures before this did not see the waiter.
        self.note_blocked(first);
        if self.at_mark() || self.has_turn(session, own) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// A session has `after` bytes of bodies that are not whole, and had `before`.
    pub(crate) fn set_unfinished(&self, session: SessionId, before: usize, after: usize) {
        if after >= before {
            self.unfinished.fetch_add(after - before, Ordering::SeqCst);
            return;
        }
        self.unfinished.fetch_sub(before - after, Ordering::SeqCst);
        if self.blocked.load(Ordering::SeqCst) {
            self.lock().end_turn(session);
            self.review();
        }
    }

    /// Forgets a session that has ended. What it had of bodies was given back before.
    pub(crate) fn forget(&self, session: SessionId) {
        if self.blocked.load(Ordering::SeqCst) {
            let mut waiting = self.lock();
            waiting.end_turn(session);
            let waiter = waiting.sessions.remove(&session);
            drop(waiting);
            drop(waiter);
            self.review();
        }
    }

    fn used(&self) -> usize {
        let engine = self.engine.load(Ordering::SeqCst);
        engine.saturating_add(self.unfinished.load(Ordering::SeqCst))
    }

    fn at_mark(&self) -> bool {
        self.used() <= self.resume
    }

    fn engine_at_mark(&self) -> bool {
        self.engine.load(Ordering::SeqCst) <= self.resume
    }

    fn has_turn(&self, session: SessionId, own: usize) -> bool {
        own > 0 && self.engine_at_mark() && self.lock().turn == Some(session)
    }

    /// Somebody is to wait, the `first` one perhaps, unless that is over already.
    fn note_blocked(&self, first: bool) {
        if first {
            let Memory { used, max, .. } = self.memory();
            tracing::warn!(used, max, "messages take too much memory: publishers wait from now on");
        }
        self.review();
    }

    /// Wakes everybody, or who has the turn.
    fn let_go(&self) {
        let mut waiting = self.lock();
        if !self.at_mark() {
            let next = if self.engine_at_mark() { waiting.next() } else { None };
            drop(waiting);
            if let Some(waker) = next {
                waker.wake();
            }
            return;
        }
        // Under the lock, so that who is in the list is noted as waiting.
        if !self.blocked.swap(false, Ordering::SeqCst) {
            return;
        }
        let Waiting { sessions, .. } = std::mem::take(&mut *waiting);
        drop(waiting);
        let Memory { used, max, .. } = self.memory();
        tracing::info!(used, max, "messages take less memory again: publishers go on");
        sessions.into_values().for_each(|waiter| waiter.waker.wake());
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn end_turn(&mut self, session: SessionId) {
        if self.turn == Some(session) {
            self.turn = None;
        }
    }

    /// Whom to wake of those with parts of bodies: who has the turn, or gets it now.
    fn next(&mut self) -> Option<Waker> {
        if self.turn.is_none() {
            let mut unfinished = self.sessions.iter().filter(|(_, waiter)| waiter.unfinished);
            self.turn = unfinished.next().map(|(session, _)| *session);
        }
        self.sessions.remove(&self.turn?).map(|waiter| waiter.waker)
    }
}

#[cfg(test)]
mod tests;

//! How much memory messages may take, and which publishers wait because they take more, or because
//! too little of the disk is free (which `disk` finds out). Whatever the reason, they wait in one
//! list, and go on when there is none left.
//!
//! Content that is still on its way in counts too. So that connections which all have parts of
//! bodies cannot wait for each other for ever, one of them at a time has the *turn*: it may go on
//! until it has one body whole, as long as the engine itself has room.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use leveret_model::SessionId;
use leveret_model::limits::MEMORY_RESUME_PERCENT;
use rustc_hash::FxHashMap;

use crate::disk::Level;

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

/// Why nothing more should be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Messages take too much memory.
    pub memory: bool,
    /// Too little of the disk is free.
    pub disk: bool,
    /// So little of it that nothing should be done that makes the log larger.
    pub disk_critical: bool,
}

/// Stores and loads that decide who is woken are sequentially consistent: who waits says so and
/// then looks at the figures, who changes these looks afterwards for somebody that waits.
pub(crate) struct Budget {
    max: usize,
    /// At which use publishers may go on.
    resume: usize,
    engine: AtomicUsize,
    unfinished: AtomicUsize,
    /// Whether anybody found that messages take too much since they were last at the mark.
    short: AtomicBool,
    /// A [`Level`]: how much of the disk is free.
    disk: AtomicU8,
    /// Whether anybody found it full, for either reason, since all were let go. If not, nobody
    /// waits.
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
            short: AtomicBool::new(false),
            disk: AtomicU8::new(Level::Enough as u8),
            blocked: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn memory(&self) -> Memory {
        let publishers_wait = self.short.load(Ordering::SeqCst);
        Memory { used: self.used(), max: self.max, publishers_wait }
    }

    /// What the engine holds after a step. [`Budget::review`] is due when no lock is held any more.
    pub(crate) fn set_engine(&self, bytes: usize) {
        if self.engine.load(Ordering::Relaxed) != bytes {
            self.engine.store(bytes, Ordering::SeqCst);
        }
    }

    /// How much of the disk is free now. Lets publishers go on if that is possible.
    pub(crate) fn set_disk(&self, level: Level) {
        self.disk.store(level as u8, Ordering::SeqCst);
        self.review();
    }

    /// Lets publishers go on if that is possible now.
    pub(crate) fn review(&self) {
        if (self.blocked.load(Ordering::SeqCst) || self.short.load(Ordering::SeqCst))
            && (self.may_finish() || self.may_go_on() || self.is_over())
        {
            self.let_go();
        }
    }

    /// Why this session should publish nothing more, if it should not. `own` is what it has of
    /// bodies.
    pub(crate) fn shortage(&self, session: SessionId, own: usize) -> Option<Shortage> {
        let memory = self.used() > self.max;
        let disk = self.disk.load(Ordering::SeqCst);
        if !memory && disk == Level::Enough as u8 {
            return None;
        }
        let short = memory && raise(&self.short);
        let first = raise(&self.blocked);
        self.note(short);
        if short || first {
            // It may be over already, and who said so did not see that anybody waits.
            self.review();
        }
        if self.has_turn(session, own) {
            return None;
        }
        Some(Shortage {
            memory: memory || self.short.load(Ordering::SeqCst),
            disk: disk != Level::Enough as u8,
            disk_critical: disk == Level::Critical as u8,
        })
    }

    /// Ready when this session may publish again; otherwise it is woken then.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, session: SessionId, own: usize) -> Poll<()> {
        if self.may_go_on() || self.has_turn(session, own) {
            return Poll::Ready(());
        }
        let waiter = Waiter { waker: cx.waker().clone(), unfinished: own > 0 };
        let mut waiting = self.lock();
        if self.may_go_on() {
            // Everybody was let go already, and it is not full again.
            return Poll::Ready(());
        }
        let short = self.used() > self.max && raise(&self.short);
        raise(&self.blocked);
        if own == 0 {
            // It gave up its body while it waited.
            waiting.end_turn(session);
        }
        // Wakers are dropped when the lock is free: what that does is not known here.
        let before = waiting.sessions.insert(session, waiter);
        drop(waiting);
        drop(before);
        self.note(short);
        // Looks again: who changed the figures before this did not see the waiter.
        self.review();
        if self.may_go_on() || self.has_turn(session, own) {
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

    /// Whether enough of the disk is free.
    pub(crate) fn disk_has_room(&self) -> bool {
        self.disk.load(Ordering::SeqCst) == Level::Enough as u8
    }

    /// Whether all may publish: who waits for memory waits until it is at the mark, who waits for
    /// the disk only until memory is not full.
    fn may_go_on(&self) -> bool {
        let short = self.short.load(Ordering::SeqCst) || self.used() > self.max;
        self.disk_has_room() && (!short || self.at_mark())
    }

    /// Whether one may make a body whole.
    fn may_finish(&self) -> bool {
        self.disk_has_room() && self.engine_at_mark()
    }

    /// Whether messages took too much memory, and do not any more.
    fn is_over(&self) -> bool {
        self.short.load(Ordering::SeqCst) && self.at_mark()
    }

    fn has_turn(&self, session: SessionId, own: usize) -> bool {
        own > 0 && self.may_finish() && self.lock().turn == Some(session)
    }

    fn note(&self, short: bool) {
        if short {
            let Memory { used, max, .. } = self.memory();
            tracing::warn!(used, max, "messages take too much memory: publishers wait from now on");
        }
    }

    /// Wakes everybody, or who has the turn.
    fn let_go(&self) {
        let mut waiting = self.lock();
        let over = self.at_mark() && self.short.swap(false, Ordering::SeqCst);
        let all = self.may_go_on();
        let next = if !all && self.may_finish() { waiting.next() } else { None };
        // Under the lock, so that who is in the list is noted as waiting.
        let sessions = match all && self.blocked.swap(false, Ordering::SeqCst) {
            true => std::mem::take(&mut *waiting).sessions,
            false => FxHashMap::default(),
        };
        drop(waiting);
        if over {
            let Memory { used, max, .. } = self.memory();
            let then = if all { "publishers go on" } else { "publishers wait for the disk still" };
            tracing::info!(used, max, "messages take less memory again: {then}");
        }
        next.into_iter()
            .chain(sessions.into_values().map(|waiter| waiter.waker))
            .for_each(Waker::wake);
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

/// Says whether the flag was not up before.
fn raise(flag: &AtomicBool) -> bool {
    !flag.load(Ordering::SeqCst) && !flag.swap(true, Ordering::SeqCst)
}

#[cfg(test)]
mod tests;

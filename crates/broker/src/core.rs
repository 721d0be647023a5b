//! One turn of the engine: a batch in, its effects carried out.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::task::Waker;

use leveret_engine::{Batch, Effects, Engine, Load};
use leveret_model::limits::LOG_BACKLOG_BYTES_MAX;
use leveret_model::{Lsn, SessionId, Time};
use leveret_storage::{Log, Slot};
use rustc_hash::FxHashMap;

use crate::clock::Clock;
use crate::loader::{self, Loads};
use crate::memory::Budget;
use crate::outbox::Outbox;
use crate::packer::Packer;
use crate::progress::Progress;
use crate::waiters::Waiters;

/// Room for a step's records that is kept for the next, in bytes.
const KEPT_RECORDS_BYTES: usize = 8 * 1024 * 1024;
/// How long a tick is put off when the disk does not keep up, in milliseconds.
const TICK_PAUSE: u64 = 5;

/// Whose batches are ticks: nobody's. They are empty, and there only for the time to be noticed.
pub(crate) const TICK: SessionId = SessionId(0);

/// What may only be touched by one thread at a time.
pub(crate) struct Core {
    pub(crate) engine: Engine,
    pub(crate) outboxes: FxHashMap<SessionId, Arc<Outbox>>,
    effects: Effects,
    /// None in a broker that keeps everything in memory, and in a closed one.
    log: Option<Log>,
    closed: bool,
    waiters: Arc<Waiters>,
    progress: Arc<Progress>,
    pub(crate) budget: Arc<Budget>,
    clock: Arc<Clock>,
    packer: Arc<Packer>,
    loads: Loads,
    pub(crate) memory_target: usize,
    /// Whether messages took more than that when somebody looked, and the packer knows.
    pub(crate) crowded: bool,
    /// Whether there are transient messages to be spilled.
    pub(crate) spilling: bool,
}

/// Who is to hear of what the engine does, and what it needs to know.
#[derive(Clone)]
pub(crate) struct Around {
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) packer: Arc<Packer>,
    pub(crate) loads: Loads,
    /// From which size on messages leave memory, in bytes.
    pub(crate) memory_target: usize,
}

impl Around {
    /// And what the engine will need from packs.
    pub(crate) fn new(
        clock: Clock,
        memory_max: usize,
        memory_target: usize,
    ) -> (Around, Receiver<Load>) {
        let (loads, wanted) = loader::channel();
        let around = Around {
            waiters: Arc::default(),
            progress: Arc::default(),
            budget: Arc::new(Budget::new(memory_max)),
            clock: Arc::new(clock),
            packer: Arc::default(),
            loads,
            memory_target,
        };
        (around, wanted)
    }
}

impl Core {
    /// Without a log nothing is kept, and whatever is written is as good as durable at once.
    pub(crate) fn new(engine: Engine, log: Option<Log>, around: Around) -> Self {
        let Around { waiters, progress, budget, clock, packer, loads, memory_target } = around;
        let (outboxes, effects) = (FxHashMap::default(), Effects::default());
        budget.set_engine(engine.memory());
        clock.stepped(engine.deadline());
        Core {
            engine,
            outboxes,
            effects,
            log,
            closed: false,
            waiters,
            progress,
            budget,
            clock,
            packer,
            loads,
            memory_target,
            crowded: false,
            spilling: false,
        }
    }

    /// Drops whatever is submitted from now on. Returns the log, to be closed.
    pub(crate) fn close(&mut self) -> Option<Log> {
        self.closed = true;
        self.log.take()
    }

    pub(crate) fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    /// Runs a batch. Adds to `wakers` whom to wake when no lock is held any more.
    pub(crate) fn run(&mut self, batch: Batch, wakers: &mut Vec<Waker>) {
        let session = batch.session;
        let tick = session == TICK && batch.commands.is_empty();
        if tick && self.progress.backlog() > LOG_BACKLOG_BYTES_MAX {
            // Nobody waits for what time does, so that it waits for the disk.
            wakers.extend(self.clock.ticked(Some(self.clock.now().after(TICK_PAUSE))));
            return;
        }
        let publishes = !batch.chunk.is_empty();
        let before = self.progress.end();
        self.turn(wakers, |engine, now, address, effects| {
            engine.step(batch, now, address, effects);
        });
        if publishes && let Some(outbox) = self.outboxes.get(&session) {
            outbox.set_fills_log(self.progress.end() > before);
        }
        while self.engine.can_resume() && !self.closed {
            self.turn(wakers, Engine::resume_next);
        }
        if tick {
            wakers.extend(self.clock.ticked(self.engine.deadline()));
        }
        // Who fills memory faster than it can be spilled had better wait a little, too.
        let spilling = self.spilling && publishes && self.engine.memory() > 2 * self.memory_target;
        if (std::mem::take(&mut self.effects.congested) || spilling)
            && let Some(outbox) = self.outboxes.get(&session)
        {
            outbox.congest();
        }
    }

    /// Has the engine do something, and carries out what comes of it.
    pub(crate) fn turn(
        &mut self,
        wakers: &mut Vec<Waker>,
        work: impl FnOnce(&mut Engine, Time, Lsn, &mut Effects),
    ) {
        if self.closed {
            return;
        }
        let _whole = WholeOrNothing { panicking: std::thread::panicking() };
        let effects = &mut self.effects;
        let mut slot = self.log.as_ref().map(Log::reserve);
        if let Some(slot) = slot.as_mut().filter(|slot| slot.new_segment()) {
            begin_segment(&self.engine, slot);
            self.progress.appended(slot.position());
            self.packer.wake();
        }
        self.engine.set_log_behind(self.progress.backlog() > LOG_BACKLOG_BYTES_MAX);
        let address = slot.as_ref().map_or_else(|| self.progress.end(), Slot::position);
        work(&mut self.engine, self.clock.now(), address, effects);
        let memory = self.engine.memory();
        self.budget.set_engine(memory);
        if memory > self.memory_target && !std::mem::replace(&mut self.crowded, true) {
            self.packer.wake();
        }

        if !effects.log.is_empty() {
            self.progress.appended(address.advance(effects.log.len() as u64));
        }
        // A step that writes nothing may still wait for what earlier ones wrote.
        let end = self.progress.end();
        if slot.is_none() {
            self.progress.became_durable(end);
        }
        for confirm in effects.confirms.drain(..) {
            if let Some(outbox) = self.outboxes.get(&confirm.session) {
                self.waiters.confirm(end, Arc::clone(outbox), confirm);
            }
        }
        for mut outbound in effects.outbound.drain(..) {
            let Some(outbox) = self.outboxes.get(&outbound.session) else { continue };
            let durable = self.progress.durable();
            let promised = outbound.promise.is_some_and(|at| at >= durable);
            let stuck = || self.log.as_ref().is_some_and(Log::is_out_of_space);
            let waits = outbound.after_log || promised && !stuck();
            let held_back = waits && end > durable;
            if held_back {
                self.waiters.wake(end, Arc::clone(outbox));
            }
            let after = if held_back { end } else { Lsn(0) };
            if !outbound.items.is_empty() {
                outbound.compact();
                wakers.extend(outbox.push(after, outbound));
            }
        }
        match slot {
            Some(mut slot) => {
                slot.append(&effects.log, effects.records, effects.pinned);
            }
            None => wakers.extend(self.waiters.durable(end)),
        }
        effects.log.clear();
        effects.log.shrink_to(KEPT_RECORDS_BYTES);
        effects.records = 0;
        effects.pinned = 0;
        if let Some(log) = &self.log {
            if !effects.released.is_empty() {
                log.release(&effects.released);
            }
            if !effects.emptied.is_empty() {
                log.remove_packs(std::mem::take(&mut effects.emptied));
                self.packer.wake();
            }
        }
        effects.released.clear();
        // The loader ends only when the engine does.
        effects.loads.drain(..).for_each(|load| drop(self.loads.send(load)));
        // Of a tick the clock hears when all of it is done.
        wakers.extend(self.clock.stepped(self.engine.deadline()));
    }
}

/// Ends the process if the engine panics: its state, and what it had half written for the log,
/// would be wrong for everyone from then on. A restart reads what is right.
struct WholeOrNothing {
    /// Whether the thread was unwinding already, for a reason of its own.
    panicking: bool,
}

impl Drop for WholeOrNothing {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.panicking {
            tracing::error!("a defect in the engine: the broker stops here, and can be restarted");
            std::process::abort();
        }
    }
}

/// A segment begins with all definitions, so that older ones are not needed for them.
fn begin_segment(engine: &Engine, slot: &mut Slot<'_>) {
    let mut snapshot = Vec::new();
    let records = engine.snapshot(&mut snapshot);
    slot.append(&snapshot, records, 0);
}

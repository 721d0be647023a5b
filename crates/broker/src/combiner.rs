//! Who runs the engine: whichever thread has a batch (*flat combining*).
//!
//! A thread that finds the engine taken leaves its batch in the inbox, and the one that has it
//! runs it too. So a batch rarely waits for another thread to wake up, and the engine's state
//! stays in one core's cache while it is busy.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::Waker;

use leveret_engine::Batch;
use leveret_model::limits::INBOX_BATCHES_MAX;

use crate::core::Core;
use crate::memory::Budget;

pub(crate) struct Combiner {
    core: Mutex<Core>,
    inbox: Mutex<Vec<Batch>>,
    budget: Arc<Budget>,
}

impl Combiner {
    pub(crate) fn new(core: Core) -> Self {
        let budget = Arc::clone(&core.budget);
        Combiner { core: Mutex::new(core), inbox: Mutex::default(), budget }
    }

    /// Has a batch run: by this thread, or by the one that runs others at this moment. Batches of
    /// one thread are run in the order in which it submits them.
    pub(crate) fn submit(&self, batch: Batch) {
        let waiting = {
            let mut inbox = lock(&self.inbox);
            inbox.push(batch);
            inbox.len()
        };
        if waiting > INBOX_BATCHES_MAX {
            // The engine does not keep up: this thread waits its turn, and so brings no more.
            self.with(|_| ());
        } else {
            self.run_inbox();
        }
    }

    /// Does something else with the engine, after everything that was submitted before.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Core) -> T) -> T {
        let mut wakers = Vec::new();
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        self.drain(&mut core, &mut wakers);
        let result = f(&mut core);
        drop(core);
        self.wake(&mut wakers);
        // What was left in the inbox meanwhile is left to this thread.
        self.run_inbox();
        result
    }

    /// Runs what is in the inbox, unless another thread has the engine: whoever gives it up looks
    /// into the inbox again afterwards, so nothing stays there.
    fn run_inbox(&self) {
        let mut wakers = Vec::new();
        while !lock(&self.inbox).is_empty() {
            let Some(mut core) = self.try_core() else { return };
            self.drain(&mut core, &mut wakers);
            drop(core);
            self.wake(&mut wakers);
        }
    }

    /// Wakes who waits for what has been run, now that no lock is held.
    fn wake(&self, wakers: &mut Vec<Waker>) {
        wakers.drain(..).for_each(Waker::wake);
        self.budget.review();
    }

    /// Runs what is in the inbox at this moment. What comes meanwhile is for the next round, after
    /// those who wait for these batches were woken.
    fn drain(&self, core: &mut Core, wakers: &mut Vec<Waker>) {
        let batches = std::mem::take(&mut *lock(&self.inbox));
        for batch in batches {
            core.run(batch, wakers);
        }
    }

    fn try_core(&self) -> Option<MutexGuard<'_, Core>> {
        match self.core.try_lock() {
            Ok(core) => Some(core),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

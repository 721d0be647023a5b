//! Who waits for the log: confirms, outboxes held back, and publishers of too much.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use leveret_engine::{DurableConfirm, Item, Outbound};
use leveret_model::Lsn;

use crate::outbox::Outbox;

#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// In the order of the addresses.
    waiting: Mutex<VecDeque<Waiter>>,
    /// Publishers that wait for the log to catch up.
    parked: Mutex<Vec<Waker>>,
}

/// Until when, which outbox, and what it is to be told; nothing if it has it already.
type Waiter = (Lsn, Arc<Outbox>, Option<DurableConfirm>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiters {
    /// Sends a confirm when the log is durable up to `end`. Call this before the records are
    /// appended, so that they cannot become durable unnoticed.
    pub(crate) fn confirm(&self, end: Lsn, outbox: Arc<Outbox>, confirm: DurableConfirm) {
        lock(&self.waiting).push_back((end, outbox, Some(confirm)));
    }

    /// Wakes an outbox that holds something back until then. As [`Waiters::confirm`].
    pub(crate) fn wake(&self, end: Lsn, outbox: Arc<Outbox>) {
        lock(&self.waiting).push_back((end, outbox, None));
    }

    /// The log is durable up to `durable`. Returns whom to wake, which is best done when no lock is
    /// held.
    pub(crate) fn durable(&self, durable: Lsn) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut waiting = lock(&self.waiting);
        let due = waiting.partition_point(|(end, ..)| *end <= durable);
        let mut due: VecDeque<_> = waiting.drain(..due).collect();
        drop(waiting);
        while let Some((_, outbox, confirm)) = due.pop_front() {
            let Some(confirm) = confirm else {
                wakers.extend(outbox.waker());
                continue;
            };
            let mut items = vec![item(confirm)];
            // Neighbours for the same session travel together.
            while let Some((_, same, Some(confirm))) = due.front()
                && Arc::ptr_eq(same, &outbox)
            {
                items.push(item(*confirm));
                due.pop_front();
            }
            wakers.extend(outbox.push(Lsn(0), Outbound::of(confirm.session, items)));
        }
        wakers
    }

    /// Whether nobody waits.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.waiting).is_empty() && lock(&self.parked).is_empty()
    }

    /// Ready unless `full`; then this task is woken by [`Waiters::unpark`].
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>, full: impl Fn() -> bool) -> Poll<()> {
        if !full() {
            return Poll::Ready(());
        }
        lock(&self.parked).push(cx.waker().clone());
        // It may have become durable in between.
        if full() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Lets parked publishers look again.
    pub(crate) fn unpark(&self) {
        std::mem::take(&mut *lock(&self.parked)).into_iter().for_each(Waker::wake);
    }
}

fn item(confirm: DurableConfirm) -> Item {
    Item::Confirmed { holder: confirm.holder, confirmed: confirm.confirmed }
}

//! What a session is to be told, waiting for its connection to fetch it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use leveret_engine::{Item, Outbound};
use leveret_model::Lsn;
use leveret_model::limits::SESSION_OUTPUT_BYTES_MAX;

/// First in, first out, and one thing may have to wait until the log is durable up to an address:
/// then everything behind it waits too, so that order is kept.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    /// Whether the session publishes faster than consumers take.
    congested: AtomicBool,
    /// Whether what the session published last went to the log.
    fills_log: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<(Lsn, Outbound)>,
    /// What `queue` holds, in bytes.
    bytes: usize,
    waker: Option<Waker>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds something, to be told when the log is durable up to `after`. Returns whom to wake,
    /// which is best done when no lock is held.
    pub(crate) fn push(&self, after: Lsn, outbound: Outbound) -> Option<Waker> {
        let mut inner = self.lock();
        inner.bytes += cost(&outbound);
        inner.queue.push_back((after, outbound));
        inner.waker.take()
    }

    /// Whom to wake because the log has become durable.
    pub(crate) fn waker(&self) -> Option<Waker> {
        self.lock().waker.take()
    }

    /// Moves what may be told to `into`, not more than [`SESSION_OUTPUT_BYTES_MAX`] at a time or
    /// one entry; pending if there is nothing.
    pub(crate) fn poll(
        &self,
        cx: &mut Context<'_>,
        durable: impl Fn() -> Lsn,
        into: &mut Vec<Outbound>,
    ) -> Poll<()> {
        let mut inner = self.lock();
        let before = into.len();
        let mut bytes = 0;
        // Read under the lock: who makes it durable looks for a waker after that.
        let durable = durable();
        while let Some((after, next)) = inner.queue.front()
            && *after <= durable
        {
            let cost = cost(next);
            if bytes > 0 && bytes + cost > SESSION_OUTPUT_BYTES_MAX {
                break;
            }
            bytes += cost;
            inner.bytes -= cost;
            into.extend(inner.queue.pop_front().map(|(_, outbound)| outbound));
        }
        if into.len() > before {
            return Poll::Ready(());
        }
        if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Notes that the session had better pause before it publishes more.
    pub(crate) fn congest(&self) {
        self.congested.store(true, Ordering::Relaxed);
    }

    /// Whether that was noted since the last call.
    pub(crate) fn take_congestion(&self) -> bool {
        self.congested.load(Ordering::Relaxed) && self.congested.swap(false, Ordering::Relaxed)
    }

    /// Notes whether what the session published last went to the log.
    pub(crate) fn set_fills_log(&self, fills: bool) {
        if self.fills_log.load(Ordering::Relaxed) != fills {
            self.fills_log.store(fills, Ordering::Relaxed);
        }
    }

    /// Whether it did.
    pub(crate) fn fills_log(&self) -> bool {
        self.fills_log.load(Ordering::Relaxed)
    }

    /// Bytes of what waits in it.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

/// What an entry keeps in memory, in bytes: content, and confirms and answers that have none.
fn cost(outbound: &Outbound) -> usize {
    outbound.bytes + outbound.items.len() * size_of::<Item>()
}

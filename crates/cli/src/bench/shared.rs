//! What the producers, the consumers and the thread that keeps the time tell each other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How often one who has nothing to do looks whether it is over.
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// How often one who is ready looks whether to begin.
const READY_LOOK: Duration = Duration::from_millis(1);

/// Signals to the tasks, and what they have done so far.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) ready: AtomicU64,
    pub(crate) go: AtomicBool,
    pub(crate) measuring: AtomicBool,
    pub(crate) stop: AtomicBool,
    /// A task ended with an error: the figures of the others are not worth having.
    pub(crate) failed: AtomicBool,
    pub(crate) published: AtomicU64,
    pub(crate) confirmed: AtomicU64,
    pub(crate) nacked: AtomicU64,
    pub(crate) consumed: AtomicU64,
    pub(crate) producers_done: AtomicU64,
    pub(crate) consumers_done: AtomicU64,
}

impl Shared {
    /// Says that one more is ready and waits until all are.
    pub(crate) async fn wait_for_go(&self) {
        self.ready.fetch_add(1, Relaxed);
        while !self.go.load(Relaxed) && !self.is_over() {
            tokio::time::sleep(READY_LOOK).await;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub(crate) fn is_measuring(&self) -> bool {
        self.measuring.load(Relaxed)
    }

    /// Ends everything because of an error.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Relaxed);
        self.stop.store(true, Relaxed);
    }
}

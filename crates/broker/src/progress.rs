//! How far the log is, for those who do not hold the engine.

use std::sync::atomic::{AtomicU64, Ordering};

use leveret_model::Lsn;

/// Addresses that only grow.
#[derive(Default)]
pub(crate) struct Progress {
    appended: AtomicU64,
    durable: AtomicU64,
}

impl Progress {
    pub(crate) fn appended(&self, end: Lsn) {
        self.appended.store(end.0, Ordering::Release);
    }

    /// The address after everything appended.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.appended.load(Ordering::Acquire))
    }

    pub(crate) fn became_durable(&self, end: Lsn) {
        self.durable.fetch_max(end.0, Ordering::AcqRel);
    }

    /// Everything below it is durable.
    pub(crate) fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Bytes appended and not durable yet.
    pub(crate) fn backlog(&self) -> u64 {
        let appended = self.appended.load(Ordering::Acquire);
        appended.saturating_sub(self.durable.load(Ordering::Acquire))
    }
}

//! A log without threads.

use std::fmt;

use super::Committer;
use crate::commit::SealedFrame;
use crate::files::Keeper;

/// Does what the threads of a log would do, one piece at a time and when it is told to: for
/// simulations. It never waits, but for room when it closes.
pub struct Stepper {
    committer: Committer,
    keeper: Keeper,
    /// There was no room for it.
    waiting: Option<SealedFrame>,
}

impl Stepper {
    pub(super) fn new(committer: Committer, keeper: Keeper) -> Self {
        Stepper { committer, keeper, waiting: None }
    }

    /// Writes and syncs one frame, if there is something to write, and lets go what it makes
    /// superfluous. False if there was nothing to do, or no room to do it
    /// ([`super::Log::is_out_of_space`]); then the next call tries again.
    pub fn commit(&mut self) -> bool {
        let next = || self.committer.shared.lock().commit.take();
        let Some(frame) = self.waiting.take().or_else(next) else { return false };
        self.waiting = self.committer.commit(frame).err();
        self.waiting.is_none()
    }

    /// Does one job of the keeper: takes away what was let go, or prepares for what comes. False if
    /// there was none, or no room for it.
    pub fn keep(&mut self) -> bool {
        self.keeper.step()
    }

    /// What closing does: writes everything, and the closing frame, and finishes the keeper's jobs.
    /// If there is no room it waits as long as [`super::Log::close`] does, by the disk's clock.
    pub fn close(mut self) {
        self.committer.shared.close();
        while self.commit() {}
        let lost = self.waiting.take();
        if let Some(frame) = lost.or_else(|| self.write_closing()) {
            self.committer.lose(&frame);
        }
        while self.keep() {}
    }

    /// Returns the closing frame if there was no room for it.
    fn write_closing(&mut self) -> Option<SealedFrame> {
        let frame = self.committer.shared.lock().commit.take_closing()?;
        self.committer.commit(frame).err()
    }
}

impl fmt::Debug for Stepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stepper").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

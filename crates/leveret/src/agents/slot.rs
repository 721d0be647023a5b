//! A place among the notes that an agent handles at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The place that a handler has. While it waits for an answer others may have it.
pub(super) struct Slot {
    slots: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    permit: Option<OwnedSemaphorePermit>,
    /// How many answers the handler waits for.
    waits: usize,
    /// The handler has ended.
    left: bool,
}

impl Slot {
    /// Waits for a place.
    pub(super) async fn enter(slots: &Arc<Semaphore>) -> Slot {
        // They are never closed.
        let permit = Arc::clone(slots).acquire_owned().await.ok();
        let state = Mutex::new(State { permit, waits: 0, left: false });
        Slot { slots: Arc::clone(slots), state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something without holding the place.
    pub(super) async fn outside<T>(&self, wait: impl Future<Output = T>) -> T {
        let outside = Outside::new(self);
        let done = wait.await;
        outside.back().await;
        done
    }

    /// The handler has ended, whoever holds on to what it was given.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.left = true;
        state.permit = None;
    }
}

/// A wait of a handler. Given up, the handler goes on without a place, if there is none at once.
struct Outside<'a> {
    slot: &'a Slot,
    back: bool,
}

impl<'a> Outside<'a> {
    fn new(slot: &'a Slot) -> Self {
        let mut state = slot.lock();
        state.waits += 1;
        state.permit = None;
        Outside { slot, back: false }
    }

    /// Waits for a place, unless the handler waits for something else still.
    async fn back(mut self) {
        if self.end() {
            let permit = Arc::clone(&self.slot.slots).acquire_owned().await.ok();
            self.keep(permit);
        }
    }

    /// Whether the handler needs a place again.
    fn end(&mut self) -> bool {
        if std::mem::replace(&mut self.back, true) {
            return false;
        }
        let mut state = self.slot.lock();
        state.waits -= 1;
        state.waits == 0 && !state.left
    }

    fn keep(&self, permit: Option<OwnedSemaphorePermit>) {
        let mut state = self.slot.lock();
        if state.waits == 0 && !state.left {
            state.permit = permit;
        }
    }
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        if self.end() {
            self.keep(Arc::clone(&self.slot.slots).try_acquire_owned().ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    #[tokio::test(start_paused = true)]
    async fn who_waits_leaves_the_place_to_others() {
        let slots = Arc::new(Semaphore::new(1));
        let second = Duration::from_secs(1);
        let slot = Slot::enter(&slots).await;
        assert_eq!(slots.available_permits(), 0);
        let both = async {
            tokio::join!(slot.outside(sleep(second)), slot.outside(sleep(second * 2)));
        };
        let other = async {
            sleep(second / 2).await;
            assert_eq!(slots.available_permits(), 1);
            let other = Slot::enter(&slots).await;
            sleep(second * 3).await;
            drop(other);
        };
        let start = tokio::time::Instant::now();
        tokio::join!(both, other);
        assert_eq!(start.elapsed(), second * 7 / 2, "it waits for its place");
        assert_eq!(slots.available_permits(), 0);
        let given_up = timeout(second, slot.outside(sleep(second * 2))).await;
        assert!(given_up.is_err() && slots.available_permits() == 0);
        slot.leave();
        slot.outside(sleep(second)).await;
        assert_eq!(slots.available_permits(), 1);
    }
}

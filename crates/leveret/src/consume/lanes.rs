//! Messages between the inlet and the workers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};

use crate::transport::Inbound;

/// What was fetched and is not begun. Where order is wanted, a message waits here until no other
/// one of its key is being handled; those of other keys go past it. The prefetch bounds it.
pub(crate) struct Lanes {
    ready: Sender<Arc<Inbound>>,
    taken: Receiver<Arc<Inbound>>,
    order: Order,
    state: Mutex<State>,
}

/// What is known of the order in which messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    /// No other consumer may begin before this one is done.
    pub(crate) kept: bool,
    /// Those of a key wait for each other, as several are handled at a time.
    pub(crate) by_key: bool,
    /// What a lost connection brought comes again on the next one.
    pub(crate) again: bool,
}

#[derive(Default)]
struct State {
    /// The connection that brought the last message.
    epoch: u64,
    /// By the keys that are ready or being handled: what waits for its turn.
    busy: HashMap<String, VecDeque<Arc<Inbound>>>,
}

impl Lanes {
    pub(crate) fn new(order: Order) -> Lanes {
        let (ready, taken) = async_channel::unbounded();
        Lanes { ready, taken, order, state: Mutex::default() }
    }

    /// Whether no other consumer may begin before this one is done.
    pub(crate) fn keep_order(&self) -> bool {
        self.order.kept
    }

    /// Whether what a lost connection brought comes again.
    pub(crate) fn come_again(&self) -> bool {
        self.order.again
    }

    /// Where workers take from.
    pub(crate) fn ready(&self) -> &Receiver<Arc<Inbound>> {
        &self.taken
    }

    /// Puts a message in. Whether workers still take any.
    pub(crate) fn put(&self, inbound: Arc<Inbound>) -> bool {
        let mut state = self.lock();
        if inbound.token.epoch != state.epoch && self.order.again {
            state.epoch = inbound.token.epoch;
            self.forget(&mut state);
        }
        if let (true, Some(key)) = (self.order.by_key, &inbound.letter.key) {
            match state.busy.get_mut(key) {
                Some(waiting) => {
                    waiting.push_back(inbound);
                    return true;
                }
                None => drop(state.busy.insert(key.clone(), VecDeque::new())),
            }
        }
        self.ready.try_send(inbound).is_ok()
    }

    /// What came by a connection that is lost and was not begun comes again, in its order.
    fn forget(&self, state: &mut State) {
        state.busy.values_mut().for_each(VecDeque::clear);
        while let Ok(old) = self.taken.try_recv() {
            if let Some(key) = self.key(&old) {
                state.busy.remove(&key);
            }
        }
    }

    /// What [`Lanes::done`] is to be told of a message.
    pub(crate) fn key(&self, inbound: &Inbound) -> Option<String> {
        self.order.by_key.then(|| inbound.letter.key.clone()).flatten()
    }

    /// A message of that key is done with: the next one may go, behind what is ready, so that no
    /// key keeps others from their turn.
    pub(crate) fn done(&self, key: Option<String>) {
        let Some(key) = key else { return };
        let mut state = self.lock();
        match state.busy.get_mut(&key).and_then(VecDeque::pop_front) {
            // When no more are taken, it goes back to its queue with all that was not begun.
            Some(next) => drop(self.ready.try_send(next)),
            None => drop(state.busy.remove(&key)),
        }
    }

    /// No more are put in.
    pub(crate) fn close(&self) {
        self.ready.close();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::letter::Letter;
    use crate::transport::Token;

    fn inbound(key: &str, epoch: u64, tag: u64) -> Arc<Inbound> {
        Arc::new(Inbound {
            token: Token { epoch, tag },
            redelivered: false,
            deliveries: None,
            exchange: String::new(),
            subject: String::new(),
            letter: Letter { key: Some(key.to_owned()), ..Letter::default() },
        })
    }

    fn next(lanes: &Lanes) -> Option<u64> {
        lanes.ready().try_recv().ok().map(|it| it.token.tag)
    }

    fn done(lanes: &Lanes, key: &str) {
        lanes.done(Some(key.to_owned()));
    }

    #[test]
    fn a_key_waits_for_itself_and_for_no_other() {
        let lanes = Lanes::new(Order { kept: true, by_key: true, again: true });
        for (tag, key) in ["a", "a", "b", "a"].into_iter().enumerate() {
            assert!(lanes.put(inbound(key, 1, tag as u64)));
        }
        assert_eq!([next(&lanes), next(&lanes), next(&lanes)], [Some(0), Some(2), None]);
        done(&lanes, "a");
        assert_eq!([next(&lanes), next(&lanes)], [Some(1), None]);
        done(&lanes, "b");
        done(&lanes, "a");
        assert_eq!([next(&lanes), next(&lanes)], [Some(3), None]);
        done(&lanes, "a");
        assert!(lanes.lock().busy.is_empty(), "nothing is kept for ever");
        lanes.close();
        assert!(!lanes.put(inbound("a", 1, 9)));
    }

    #[test]
    fn what_a_lost_connection_brought_is_left_to_the_next_one() {
        let lanes = Lanes::new(Order { kept: true, by_key: true, again: true });
        for (tag, key) in [(1, "a"), (2, "a"), (3, "b")] {
            lanes.put(inbound(key, 1, tag));
        }
        assert_eq!(next(&lanes), Some(1), "it is being handled");
        for (tag, key) in [(11, "a"), (12, "a"), (13, "b")] {
            lanes.put(inbound(key, 2, tag));
        }
        assert_eq!([next(&lanes), next(&lanes)], [Some(13), None]);
        done(&lanes, "a");
        assert_eq!([next(&lanes), next(&lanes)], [Some(11), None]);
        let own = Lanes::new(Order { kept: false, by_key: false, again: false });
        own.put(inbound("a", 1, 1));
        own.put(inbound("a", 2, 2));
        assert_eq!([next(&own), next(&own)], [Some(1), Some(2)]);
    }
}

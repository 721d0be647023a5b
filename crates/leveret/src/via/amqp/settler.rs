//! Acknowledgements: as few as say what is to be said.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use leveret_client::Channel;
use leveret_client::method::BasicNack;

use crate::transport::{Settler, Token};

/// A message that is settled so far ahead of its eldest is not remembered, but settled on its own:
/// what is remembered is bounded, whatever tags the broker makes up. With a prefetch, which is at
/// most this, there is no such message.
const AHEAD_MAX: u64 = 65_535;

/// Settles the messages of a subscription's channel. Those that are settled in order are
/// acknowledged together when somebody flushes; one that is settled before its elders at once, or
/// a slow elder would keep the broker from sending more.
#[derive(Default)]
pub(crate) struct AmqpSettler {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    channel: Option<Channel>,
    epoch: u64,
    /// The tag of the oldest message that is not settled, and which behind it are.
    first: u64,
    settled: VecDeque<bool>,
    /// The last tag before `first` that the broker was not told of, if there is any: a tag that it
    /// was told of must not be named again.
    held_back: Option<u64>,
}

impl AmqpSettler {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the messages are those of this channel. Returns what it is called in tokens.
    pub(crate) fn begin(&self, channel: Channel) -> u64 {
        let mut state = self.lock();
        let epoch = state.epoch + 1;
        *state = State { channel: Some(channel), epoch, first: 1, ..State::default() };
        epoch
    }
}

impl State {
    /// Marks a message as settled. Whether it was the oldest; `None` if it is of no concern.
    fn settle(&mut self, token: Token) -> Option<bool> {
        if token.epoch != self.epoch {
            return None;
        }
        let ahead = token.tag.checked_sub(self.first)?;
        if ahead > AHEAD_MAX {
            return Some(false);
        }
        // It fits: it was just compared.
        let index = ahead as usize;
        if index >= self.settled.len() {
            self.settled.resize(index + 1, false);
        }
        self.settled[index] = true;
        while self.settled.front() == Some(&true) {
            self.settled.pop_front();
            self.first += 1;
        }
        Some(index == 0)
    }

    fn flush(&mut self) {
        if let (Some(last), Some(channel)) = (self.held_back.take(), &self.channel) {
            // If the channel has ended, they come again.
            let _ = channel.ack(last, true);
        }
    }
}

impl Settler for AmqpSettler {
    fn ack(&self, token: Token) {
        let mut state = self.lock();
        match state.settle(token) {
            Some(true) => state.held_back = Some(token.tag),
            Some(false) => {
                if let Some(channel) = &state.channel {
                    // If the channel has ended, it comes again.
                    let _ = channel.ack(token.tag, false);
                }
            }
            None => {}
        }
    }

    fn release(&self, token: Token) {
        let mut state = self.lock();
        // What is acknowledged up to there must not take this one along.
        state.flush();
        if state.settle(token).is_some()
            && let Some(channel) = &state.channel
        {
            let nack = BasicNack { delivery_tag: token.tag, multiple: false, requeue: true };
            // If the channel has ended, it comes again.
            let _ = channel.send(nack);
        }
    }

    fn flush(&self) {
        self.lock().flush();
    }

    fn is_current(&self, token: Token) -> bool {
        let state = self.lock();
        token.epoch == state.epoch && state.channel.as_ref().is_some_and(Channel::is_open)
    }
}

impl fmt::Debug for AmqpSettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("AmqpSettler").field("out", &state.settled.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_whatever_the_tags() {
        let mut state = State { epoch: 1, first: 1, ..State::default() };
        let mut settle = |tag| {
            let settled = state.settle(Token { epoch: 1, tag });
            (settled, state.first, state.settled.len())
        };
        for tag in [u64::MAX, 1 << 40, AHEAD_MAX + 2] {
            assert_eq!(settle(tag), (Some(false), 1, 0));
        }
        assert_eq!(settle(AHEAD_MAX + 1), (Some(false), 1, AHEAD_MAX as usize + 1));
        assert_eq!(settle(1), (Some(true), 2, AHEAD_MAX as usize));
        assert_eq!(settle(1), (None, 2, AHEAD_MAX as usize));
    }
}

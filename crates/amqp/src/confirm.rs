//! Publisher confirms: as few acks as say what is safe, and never one that covers a message
//! that is not.

use std::collections::BTreeMap;

use leveret_amqp_wire::publish::{write_ack, write_nack};
use leveret_broker::engine::Confirmed;

/// The confirms of one channel.
///
/// Clients keep count in different ways, so that three rules hold. An ack never names a number
/// that was answered before, not even to cover others with it: some forget numbers, and ignore
/// acks of those they have forgotten (aiormq does). RabbitMQ's rabbit_channel keeps to that too.
/// A nack names one number. And an ack of several covers no rejected number, not even one whose
/// nack was sent before, as long as one below it was open: some put answers into order before they
/// look at them (amqp091-go does), and would take the ack for the answer.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// The engine's name for this publisher.
    publisher: u64,
    /// Every message below this number is settled.
    open: u64,
    /// What to say of these, before `unacked`; empty unless some were rejected.
    before: Vec<Answer>,
    /// Of these, behind the last rejected one: the highest that was not acked yet, and how many
    /// were not.
    unacked: (u64, u64),
    /// Settled messages beyond one that is not yet, as runs by their first.
    ahead: BTreeMap<u64, Run>,
    /// The first of each run in `ahead` that was not answered yet, unless it is gone from there.
    fresh: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    last: u64,
    rejected: bool,
    answered: bool,
}

#[derive(Debug)]
enum Answer {
    /// The highest of so many.
    Ack(u64, u64),
    /// From the first to the last.
    Nack(u64, u64),
}

impl Confirms {
    pub(crate) fn new(publisher: u64) -> Self {
        Confirms {
            publisher,
            open: 1,
            before: Vec::new(),
            unacked: (0, 0),
            ahead: BTreeMap::new(),
            fresh: Vec::new(),
        }
    }

    /// Takes note of messages that are safe. What is meant for a publisher that had this channel
    /// before is dropped.
    pub(crate) fn confirmed(&mut self, confirmed: Confirmed) {
        self.settled(confirmed, false);
    }

    /// Takes note of messages that were refused.
    pub(crate) fn rejected(&mut self, confirmed: Confirmed) {
        self.settled(confirmed, true);
    }

    fn settled(&mut self, confirmed: Confirmed, rejected: bool) {
        let Confirmed { publisher, first, last } = confirmed;
        if publisher != self.publisher {
            return;
        }
        let run = Run { last, rejected, answered: false };
        if first != self.open {
            self.ahead.insert(first, run);
            self.fresh.push(first);
            return;
        }
        self.advance(run);
        while let Some(run) = self.ahead.remove(&self.open) {
            self.advance(run);
        }
    }

    /// `run` begins where everything is settled up to.
    fn advance(&mut self, run: Run) {
        if run.rejected {
            // Also if it was answered: then only to end what one ack may cover.
            let (highest, count) = std::mem::take(&mut self.unacked);
            if count > 0 {
                self.before.push(Answer::Ack(highest, count));
            }
            if !run.answered {
                self.before.push(Answer::Nack(self.open, run.last));
            }
        } else if !run.answered {
            self.unacked = (run.last, self.unacked.1 + run.last + 1 - self.open);
        }
        self.open = run.last + 1;
    }

    /// Writes the answers for what was noted.
    pub(crate) fn write(&mut self, channel: u16, out: &mut Vec<u8>) {
        for answer in self.before.drain(..) {
            match answer {
                Answer::Ack(highest, count) => write_ack(out, channel, highest, count > 1),
                Answer::Nack(first, last) => write_each(out, channel, first, last, true),
            }
        }
        let (highest, count) = std::mem::take(&mut self.unacked);
        if count > 0 {
            write_ack(out, channel, highest, count > 1);
        }
        for first in self.fresh.drain(..) {
            let Some(run) = self.ahead.get_mut(&first) else { continue };
            run.answered = true;
            write_each(out, channel, first, run.last, run.rejected);
        }
    }
}

fn write_each(out: &mut Vec<u8>, channel: u16, first: u64, last: u64, rejected: bool) {
    for number in first..=last {
        match rejected {
            true => write_nack(out, channel, number, false),
            false => write_ack(out, channel, number, false),
        }
    }
}

#[cfg(test)]
#[path = "confirm_tests.rs"]
mod tests;

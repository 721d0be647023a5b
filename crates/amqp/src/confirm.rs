//! Publisher confirms: as few acks as say what is safe, and never one that covers a message
//! that is not.

use std::collections::BTreeMap;

use leveret_amqp_wire::publish::write_ack;
use leveret_broker::engine::Confirmed;

/// The confirms of one channel.
///
/// An ack never names a number that was acked before, not even to cover others with it: clients
/// forget numbers, and ignore acks of those they have forgotten (aiormq does). RabbitMQ's
/// rabbit_channel keeps to the same rule.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// The engine's name for this publisher.
    publisher: u64,
    /// Every message below this number is safe.
    open: u64,
    /// Of these, the highest that was not acked yet, and how many were not.
    unacked: (u64, u64),
    /// Safe messages beyond one that is not yet, as runs: by their first, the last, and whether
    /// they were acked.
    ahead: BTreeMap<u64, (u64, bool)>,
    /// The first of each run in `ahead` that was not acked yet, unless it is gone from there.
    fresh: Vec<u64>,
}

impl Confirms {
    pub(crate) fn new(publisher: u64) -> Self {
        let (ahead, fresh) = (BTreeMap::new(), Vec::new());
        Confirms { publisher, open: 1, unacked: (0, 0), ahead, fresh }
    }

    /// Takes note. What is meant for a publisher that had this channel before is dropped.
    pub(crate) fn confirmed(&mut self, confirmed: Confirmed) {
        let Confirmed { publisher, first, last } = confirmed;
        if publisher != self.publisher {
            return;
        }
        if first != self.open {
            self.ahead.insert(first, (last, false));
            self.fresh.push(first);
            return;
        }
        self.advance(last, false);
        while let Some((last, acked)) = self.ahead.remove(&self.open) {
            self.advance(last, acked);
        }
    }

    fn advance(&mut self, last: u64, acked: bool) {
        if !acked {
            self.unacked = (last, self.unacked.1 + last + 1 - self.open);
        }
        self.open = last + 1;
    }

    /// Writes the acks for what was noted.
    pub(crate) fn write(&mut self, channel: u16, out: &mut Vec<u8>) {
        let (highest, count) = std::mem::take(&mut self.unacked);
        if count > 0 {
            write_ack(out, channel, highest, count > 1);
        }
        for first in self.fresh.drain(..) {
            let Some((last, acked)) = self.ahead.get_mut(&first) else { continue };
            *acked = true;
            for number in first..=*last {
                write_ack(out, channel, number, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_amqp_wire::{Method, frame};

    fn acks(confirms: &mut Confirms) -> Vec<(u64, bool)> {
        let mut out = Vec::new();
        confirms.write(1, &mut out);
        let mut rest = &out[..];
        let mut acks = Vec::new();
        while let Some((frame, used)) = frame::parse(rest, 4096).unwrap() {
            let Ok(Method::BasicAck(ack)) = Method::decode(frame.payload) else { panic!() };
            acks.push((ack.delivery_tag, ack.multiple));
            rest = &rest[used..];
        }
        acks
    }

    fn run(confirms: &mut Confirms, first: u64, last: u64) {
        confirms.confirmed(Confirmed { publisher: 7, first, last });
    }

    #[test]
    fn neighbours_are_one_ack() {
        let mut confirms = Confirms::new(7);
        run(&mut confirms, 1, 1);
        assert_eq!(acks(&mut confirms), [(1, false)]);
        run(&mut confirms, 2, 5);
        run(&mut confirms, 6, 9);
        assert_eq!(acks(&mut confirms), [(9, true)]);
        assert_eq!(acks(&mut confirms), []);
    }

    #[test]
    fn no_ack_covers_an_open_message() {
        let mut confirms = Confirms::new(7);
        run(&mut confirms, 3, 4);
        assert_eq!(acks(&mut confirms), [(3, false), (4, false)]);
        run(&mut confirms, 1, 1);
        run(&mut confirms, 6, 6);
        assert_eq!(acks(&mut confirms), [(1, false), (6, false)]);
        run(&mut confirms, 2, 2);
        assert_eq!(acks(&mut confirms), [(2, false)]);
        run(&mut confirms, 8, 9);
        run(&mut confirms, 5, 5);
        run(&mut confirms, 7, 7);
        // 6 was acked before; 9 was not, and everything below it is safe.
        assert_eq!(acks(&mut confirms), [(9, true)]);
    }

    #[test]
    fn a_hole_filled_before_the_write_needs_one_ack() {
        let mut confirms = Confirms::new(7);
        run(&mut confirms, 2, 3);
        run(&mut confirms, 1, 1);
        assert_eq!(acks(&mut confirms), [(3, true)]);
    }

    #[test]
    fn what_an_earlier_publisher_sent_is_not_confirmed_to_this_one() {
        let mut confirms = Confirms::new(8);
        run(&mut confirms, 1, 9);
        assert_eq!(acks(&mut confirms), []);
    }
}

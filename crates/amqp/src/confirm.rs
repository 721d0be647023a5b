//! Publisher confirms: as few acks as say what is safe, and never one that covers a message
//! that is not.

use std::collections::BTreeMap;

use leveret_amqp_wire::publish::write_ack;
use leveret_broker::engine::Confirmed;

/// The confirms of one channel.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// The engine's name for this publisher.
    publisher: u64,
    /// Every message below this number is safe.
    open: u64,
    /// Every message below this number was acked.
    acked: u64,
    /// Safe messages beyond one that is not yet: first and last of each run.
    ahead: BTreeMap<u64, u64>,
    /// Runs of `ahead` that were not acked yet.
    fresh: Vec<(u64, u64)>,
}

impl Confirms {
    pub(crate) fn new(publisher: u64) -> Self {
        Confirms { publisher, open: 1, acked: 1, ahead: BTreeMap::new(), fresh: Vec::new() }
    }

    /// Takes note. What is meant for a publisher that had this channel before is dropped.
    pub(crate) fn confirmed(&mut self, confirmed: Confirmed) {
        if confirmed.publisher != self.publisher {
            return;
        }
        if confirmed.first != self.open {
            self.ahead.insert(confirmed.first, confirmed.last);
            self.fresh.push((confirmed.first, confirmed.last));
            return;
        }
        self.open = confirmed.last + 1;
        while let Some(last) = self.ahead.remove(&self.open) {
            self.open = last + 1;
        }
    }

    /// Writes the acks for what was noted.
    pub(crate) fn write(&mut self, channel: u16, out: &mut Vec<u8>) {
        if self.open > self.acked {
            write_ack(out, channel, self.open - 1, self.open - self.acked > 1);
            self.acked = self.open;
        }
        for (first, last) in self.fresh.drain(..) {
            for number in first.max(self.open)..=last {
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
        assert_eq!(acks(&mut confirms), [(4, true)]);
        run(&mut confirms, 5, 5);
        assert_eq!(acks(&mut confirms), [(6, true)]);
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

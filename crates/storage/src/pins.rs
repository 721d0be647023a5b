//! Which segments are still needed. Pure.

use std::collections::VecDeque;

use leveret_model::Lsn;

/// The segments of the log, oldest first, and how many live things each holds.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    segments: VecDeque<Segment>,
}

#[derive(Debug)]
struct Segment {
    first: Lsn,
    pins: u64,
    /// Where the log ended when the last pin went. What took it away is below.
    freed: Lsn,
}

impl Pins {
    /// The next segment begins at `first`.
    pub(crate) fn begin(&mut self, first: Lsn) {
        debug_assert!(self.segments.back().is_none_or(|last| last.first < first));
        self.segments.push_back(Segment { first, pins: 0, freed: Lsn(0) });
    }

    /// One live thing more at each of `lsns`.
    pub(crate) fn pin(&mut self, lsns: &[Lsn]) {
        for &lsn in lsns {
            if let Some(segment) = self.find(lsn) {
                segment.pins += 1;
            }
        }
    }

    /// `count` live things more in the newest segment.
    pub(crate) fn pin_newest(&mut self, count: u32) {
        if let Some(segment) = self.segments.back_mut() {
            segment.pins += u64::from(count);
        }
    }

    /// One live thing fewer at each of `lsns`, because of records that end at `end` at most.
    pub(crate) fn release(&mut self, lsns: &[Lsn], end: Lsn) {
        for &lsn in lsns {
            let Some(segment) = self.find(lsn) else { continue };
            debug_assert!(segment.pins > 0, "released more often than pinned: {lsn}");
            segment.pins = segment.pins.saturating_sub(1);
            if segment.pins == 0 {
                segment.freed = end;
            }
        }
    }

    /// Takes the segments off that nothing needs, oldest first: without pins, with what unpinned
    /// them durable, and with the next segment's first frame durable, which repeats their
    /// definitions.
    pub(crate) fn reclaim(&mut self, durable: Lsn) -> Vec<Lsn> {
        let mut free = Vec::new();
        while let (Some(oldest), Some(next)) = (self.segments.front(), self.segments.get(1)) {
            if oldest.pins > 0 || durable < oldest.freed || durable <= next.first {
                break;
            }
            free.push(oldest.first);
            self.segments.pop_front();
        }
        free
    }

    /// The segment that holds `lsn`. Most often it is the newest.
    fn find(&mut self, lsn: Lsn) -> Option<&mut Segment> {
        let index = match self.segments.back() {
            Some(newest) if newest.first <= lsn => self.segments.len(),
            _ => self.segments.partition_point(|segment| segment.first <= lsn),
        };
        debug_assert!(index > 0, "no segment holds {lsn}");
        self.segments.get_mut(index.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Pins {
        let mut pins = Pins::default();
        for first in [0, 100, 200] {
            pins.begin(Lsn(first));
        }
        pins
    }

    #[test]
    fn the_newest_segment_stays() {
        assert_eq!(three().reclaim(Lsn(u64::MAX)), [Lsn(0), Lsn(100)]);
    }

    #[test]
    fn only_a_prefix_goes() {
        let mut pins = three();
        pins.pin(&[Lsn(40), Lsn(50), Lsn(150)]);
        pins.release(&[Lsn(150)], Lsn(210));
        pins.release(&[Lsn(40)], Lsn(220));
        assert_eq!(pins.reclaim(Lsn(300)), []);
        pins.release(&[Lsn(50)], Lsn(230));
        assert_eq!(pins.reclaim(Lsn(300)), [Lsn(0), Lsn(100)]);
    }

    #[test]
    fn a_segment_outlives_what_freed_it_until_that_is_durable() {
        let mut pins = three();
        pins.pin(&[Lsn(40)]);
        pins.release(&[Lsn(40)], Lsn(260));
        assert_eq!(pins.reclaim(Lsn(259)), []);
        assert_eq!(pins.reclaim(Lsn(260)), [Lsn(0), Lsn(100)]);
    }

    #[test]
    fn a_segment_stays_until_the_next_has_a_durable_frame() {
        let mut pins = three();
        assert_eq!(pins.reclaim(Lsn(200)), [Lsn(0)]);
        assert_eq!(pins.reclaim(Lsn(201)), [Lsn(100)]);
    }

    #[test]
    fn pins_of_an_append_are_in_the_newest_segment() {
        let mut pins = three();
        pins.pin_newest(2);
        pins.begin(Lsn(300));
        pins.release(&[Lsn(299), Lsn(200)], Lsn(310));
        assert_eq!(pins.reclaim(Lsn(310)), [Lsn(0), Lsn(100), Lsn(200)]);
    }
}

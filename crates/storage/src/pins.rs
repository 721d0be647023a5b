//! Which segments are still needed, and which packs. Pure.

use std::collections::VecDeque;

use leveret_model::{Lsn, PackId};

use crate::segment::Sealed;

/// The segments of the log, oldest first, and how many live things each holds; and the packs that
/// are to go.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    segments: VecDeque<Segment>,
    /// Where the segments ended that a restart found.
    found_end: Lsn,
    /// Packs without live things. What took the last away is below the address.
    removals: VecDeque<(Lsn, Vec<PackId>)>,
}

#[derive(Debug)]
struct Segment {
    first: Lsn,
    pins: u64,
    /// Where the log ended when the last pin went, or when it was retired. What made the segment
    /// superfluous is below.
    freed: Lsn,
    /// Why its pins count no more.
    retired: Option<Contents>,
}

/// What has become of the messages of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// None is needed any more.
    Gone,
    /// A pack has copies of those that are.
    Copied,
    /// The segment is to be the data file of this pack.
    Adopted(PackId),
}

/// A segment the log needs no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retired {
    pub(crate) segment: Sealed,
    /// The pack whose data file it becomes; if none, it is free to be used again.
    pub(crate) pack: Option<PackId>,
}

impl Pins {
    /// The segments that a restart found, oldest first, and where the last of them ends.
    pub(crate) fn found(segments: &[Lsn], end: Lsn) -> Self {
        let mut pins = Pins { found_end: end, ..Pins::default() };
        segments.iter().for_each(|&first| pins.begin(first));
        pins
    }

    /// The next segment begins at `first`.
    pub(crate) fn begin(&mut self, first: Lsn) {
        debug_assert!(self.segments.back().is_none_or(|last| last.first < first));
        self.segments.push_back(Segment { first, pins: 0, freed: Lsn(0), retired: None });
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

    /// The segments that are not added to any more, durable and not retired, oldest first.
    pub(crate) fn sealed(&self, durable: Lsn) -> Vec<Sealed> {
        // The last one found has an end of its own; the one that is being written has none.
        let ends = self.segments.iter().skip(1).map(|next| next.first);
        let segments = self.segments.iter().zip(ends.chain([self.found_end]));
        segments
            .filter(|(segment, _)| segment.retired.is_none())
            .filter(|(segment, end)| segment.first < *end && *end <= durable)
            .map(|(segment, end)| Sealed { first: segment.first, end })
            .collect()
    }

    /// The segment that begins at `first` is not needed for what it holds, because of records that
    /// end at `end` at most. False if there is none.
    pub(crate) fn retire(&mut self, first: Lsn, contents: Contents, end: Lsn) -> bool {
        let segment = self.segments.iter_mut().find(|segment| segment.first == first);
        let segment = segment.filter(|segment| segment.retired.is_none());
        let is_there = segment.is_some();
        if let Some(segment) = segment {
            (segment.retired, segment.freed) = (Some(contents), end);
        }
        is_there
    }

    /// Nothing lives in these packs any more, because of records that end at `end` at most.
    pub(crate) fn remove_packs(&mut self, packs: Vec<PackId>, end: Lsn) {
        self.removals.push_back((end, packs));
    }

    /// Takes the segments off that nothing needs, oldest first: without pins or retired, with what
    /// made them so durable, and with the next segment's first frame durable, which repeats their
    /// definitions. None before something was written: only then is everything pinned.
    ///
    /// What says that a segment's messages are in a pack lies behind a whole segment then, whose
    /// successor proves it. Were it at the log's end, damage there would pass for a write that was
    /// cut off, and the pack for one that nobody knows.
    pub(crate) fn reclaim(&mut self, durable: Lsn) -> Vec<Retired> {
        let mut free = Vec::new();
        while let (Some(oldest), Some(next)) = (self.segments.front(), self.segments.get(1)) {
            let written = durable > next.first && durable > self.found_end;
            let newest = self.segments.back().map_or(Lsn(0), |newest| newest.first);
            let proven = !oldest.is_moved() || newest >= oldest.freed && durable > newest;
            if !oldest.is_done(durable) || !written || !proven {
                break;
            }
            let segment = Sealed { first: oldest.first, end: next.first };
            free.push(Retired { segment, pack: oldest.pack() });
            self.segments.pop_front();
        }
        free
    }

    /// How many files the next segment would free: those that wait for no more than it, and the
    /// newest one, if nothing lives there.
    pub(crate) fn freed_by_next(&self, durable: Lsn) -> usize {
        let (Some(oldest), Some(newest)) = (self.segments.front(), self.segments.back()) else {
            return 0;
        };
        if newest.first >= oldest.freed {
            return 0;
        }
        let done = self.segments.iter().take_while(|segment| segment.is_done(durable));
        done.filter(|segment| segment.pack().is_none()).count()
    }

    /// Takes off the packs that may be deleted. A segment that was to be one of them need not.
    pub(crate) fn reclaim_packs(&mut self, durable: Lsn) -> Vec<PackId> {
        let mut free = Vec::new();
        while self.removals.front().is_some_and(|(end, _)| *end <= durable) {
            free.extend(self.removals.pop_front().into_iter().flat_map(|(_, packs)| packs));
        }
        for segment in &mut self.segments {
            if segment.pack().is_some_and(|pack| free.contains(&pack)) {
                segment.retired = Some(Contents::Gone);
            }
        }
        free
    }

    /// The segment that holds `lsn`, unless it is retired. Most often it is the newest.
    fn find(&mut self, lsn: Lsn) -> Option<&mut Segment> {
        let index = match self.segments.back() {
            Some(newest) if newest.first <= lsn => self.segments.len(),
            _ => self.segments.partition_point(|segment| segment.first <= lsn),
        };
        let segment = self.segments.get_mut(index.checked_sub(1)?)?;
        segment.retired.is_none().then_some(segment)
    }
}

impl Segment {
    /// Whether nothing needs it, for reasons that are durable.
    fn is_done(&self, durable: Lsn) -> bool {
        (self.pins == 0 || self.retired.is_some()) && self.freed <= durable
    }

    /// Whether what it held is in a pack.
    fn is_moved(&self) -> bool {
        self.retired.is_some_and(|contents| contents != Contents::Gone)
    }

    /// The pack whose data file it is to be.
    fn pack(&self) -> Option<PackId> {
        match self.retired {
            Some(Contents::Adopted(pack)) => Some(pack),
            _ => None,
        }
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

    fn gone(pins: &mut Pins, durable: Lsn) -> Vec<Lsn> {
        pins.reclaim(durable).iter().map(|retired| retired.segment.first).collect()
    }

    fn sealed(first: u64, end: u64) -> Sealed {
        Sealed { first: Lsn(first), end: Lsn(end) }
    }

    #[test]
    fn the_newest_segment_stays() {
        assert_eq!(gone(&mut three(), Lsn(u64::MAX)), [Lsn(0), Lsn(100)]);
    }

    #[test]
    fn only_a_prefix_goes() {
        let mut pins = three();
        pins.pin(&[Lsn(40), Lsn(50), Lsn(150)]);
        pins.release(&[Lsn(150)], Lsn(210));
        pins.release(&[Lsn(40)], Lsn(220));
        assert_eq!(gone(&mut pins, Lsn(300)), [] as [Lsn; 0]);
        pins.release(&[Lsn(50)], Lsn(230));
        assert_eq!(gone(&mut pins, Lsn(300)), [Lsn(0), Lsn(100)]);
    }

    #[test]
    fn a_segment_outlives_what_freed_it_until_that_is_durable() {
        let mut pins = three();
        pins.pin(&[Lsn(40)]);
        pins.release(&[Lsn(40)], Lsn(260));
        assert_eq!(gone(&mut pins, Lsn(259)), [] as [Lsn; 0]);
        assert_eq!(gone(&mut pins, Lsn(260)), [Lsn(0), Lsn(100)]);
    }

    #[test]
    fn a_segment_stays_until_the_next_has_a_durable_frame() {
        let mut pins = three();
        assert_eq!(gone(&mut pins, Lsn(200)), [Lsn(0)]);
        assert_eq!(gone(&mut pins, Lsn(201)), [Lsn(100)]);
    }

    #[test]
    fn pins_of_an_append_are_in_the_newest_segment() {
        let mut pins = three();
        pins.pin_newest(2);
        pins.begin(Lsn(300));
        pins.release(&[Lsn(299), Lsn(200)], Lsn(310));
        assert_eq!(gone(&mut pins, Lsn(310)), [Lsn(0), Lsn(100), Lsn(200)]);
    }

    #[test]
    fn sealed_segments_are_durable_to_their_end_and_not_the_newest() {
        let mut pins = three();
        assert_eq!(pins.sealed(Lsn(99)), []);
        assert_eq!(pins.sealed(Lsn(199)), [sealed(0, 100)]);
        assert_eq!(pins.sealed(Lsn(900)), [sealed(0, 100), sealed(100, 200)]);
        pins.retire(Lsn(0), Contents::Copied, Lsn(950));
        assert_eq!(pins.sealed(Lsn(900)), [sealed(100, 200)]);
    }

    #[test]
    fn segments_that_were_found_are_all_sealed() {
        let mut pins = Pins::found(&[Lsn(0), Lsn(100)], Lsn(150));
        let found = [sealed(0, 100), sealed(100, 150)];
        assert_eq!(pins.sealed(Lsn(150)), found);
        pins.begin(Lsn(150));
        assert_eq!(pins.sealed(Lsn(400)), found);
        assert_eq!(Pins::found(&[], Lsn(0)).sealed(Lsn(0)), []);
    }

    #[test]
    fn nothing_found_goes_before_something_is_written() {
        let mut pins = Pins::found(&[Lsn(0), Lsn(100)], Lsn(150));
        assert!(pins.retire(Lsn(0), Contents::Copied, Lsn(150)));
        assert_eq!(gone(&mut pins, Lsn(150)), []);
        pins.begin(Lsn(150));
        pins.pin(&[Lsn(120)]);
        assert_eq!(gone(&mut pins, Lsn(150)), []);
        assert_eq!(gone(&mut pins, Lsn(151)), [Lsn(0)]);
        pins.retire(Lsn(100), Contents::Copied, Lsn(200));
        pins.begin(Lsn(200));
        assert_eq!(gone(&mut pins, Lsn(201)), [Lsn(100), Lsn(150)]);
    }

    #[test]
    fn a_retired_segment_goes_with_its_pins() {
        let mut pins = three();
        pins.pin(&[Lsn(40), Lsn(50), Lsn(150)]);
        let pack = Some(PackId(7));
        assert!(pins.retire(Lsn(0), Contents::Adopted(PackId(7)), Lsn(260)));
        assert!(!pins.retire(Lsn(0), Contents::Copied, Lsn(100)), "once is enough");
        // Neither counts any more, nor does what comes with it.
        pins.release(&[Lsn(40), Lsn(50), Lsn(50)], Lsn(900));
        pins.pin(&[Lsn(1)]);
        assert_eq!(pins.reclaim(Lsn(260)), [], "damage could hide what retired it");
        pins.begin(Lsn(300));
        assert_eq!(pins.reclaim(Lsn(300)), []);
        assert_eq!(pins.reclaim(Lsn(301)), [Retired { segment: sealed(0, 100), pack }]);
        pins.release(&[Lsn(40)], Lsn(900));
        pins.pin(&[Lsn(40)]);
        assert!(!pins.retire(Lsn(0), Contents::Copied, Lsn(900)), "it is gone");
        assert_eq!(gone(&mut pins, Lsn(900)), []);
    }

    #[test]
    fn retired_segments_go_in_order() {
        let mut pins = three();
        pins.pin(&[Lsn(40), Lsn(210)]);
        pins.retire(Lsn(100), Contents::Adopted(PackId(7)), Lsn(250));
        pins.begin(Lsn(300));
        assert_eq!(gone(&mut pins, Lsn(320)), []);
        pins.retire(Lsn(0), Contents::Copied, Lsn(350));
        assert_eq!(gone(&mut pins, Lsn(390)), [], "the newest does not prove that");
        pins.begin(Lsn(400));
        assert_eq!(gone(&mut pins, Lsn(400)), []);
        assert_eq!(gone(&mut pins, Lsn(401)), [Lsn(0), Lsn(100)]);
        pins.retire(Lsn(200), Contents::Copied, Lsn(400));
        assert_eq!(gone(&mut pins, Lsn(401)), [Lsn(200), Lsn(300)]);
        pins.retire(Lsn(400), Contents::Copied, Lsn(400));
        assert_eq!(gone(&mut pins, Lsn(450)), [], "it is the newest");
    }

    #[test]
    fn packs_go_when_what_emptied_them_is_durable() {
        let mut pins = three();
        pins.remove_packs(vec![PackId(1), PackId(2)], Lsn(250));
        pins.remove_packs(vec![PackId(3)], Lsn(260));
        assert_eq!(pins.reclaim_packs(Lsn(249)), []);
        assert_eq!(pins.reclaim_packs(Lsn(250)), [PackId(1), PackId(2)]);
        assert_eq!(pins.reclaim_packs(Lsn(300)), [PackId(3)]);
        assert_eq!(pins.reclaim_packs(Lsn(300)), []);
    }

    #[test]
    fn a_segment_does_not_become_a_pack_that_is_gone() {
        let mut pins = three();
        pins.pin(&[Lsn(40)]);
        pins.retire(Lsn(100), Contents::Adopted(PackId(7)), Lsn(250));
        pins.remove_packs(vec![PackId(7)], Lsn(260));
        assert_eq!(pins.reclaim_packs(Lsn(260)), [PackId(7)]);
        pins.release(&[Lsn(40)], Lsn(270));
        pins.begin(Lsn(270));
        let packs: Vec<_> = pins.reclaim(Lsn(271)).iter().map(|retired| retired.pack).collect();
        assert_eq!(packs, [None, None, None]);
    }

    #[test]
    fn a_segment_of_which_nothing_is_needed_waits_for_no_proof() {
        let mut pins = three();
        pins.pin(&[Lsn(40), Lsn(150)]);
        pins.retire(Lsn(0), Contents::Gone, Lsn(260));
        assert_eq!(gone(&mut pins, Lsn(259)), []);
        assert_eq!(gone(&mut pins, Lsn(260)), [Lsn(0)]);
        // Nor one whose pack was emptied meanwhile.
        pins.retire(Lsn(100), Contents::Adopted(PackId(7)), Lsn(270));
        pins.remove_packs(vec![PackId(7)], Lsn(280));
        assert_eq!((pins.reclaim_packs(Lsn(279)), gone(&mut pins, Lsn(279))), (vec![], vec![]));
        assert_eq!(pins.reclaim_packs(Lsn(280)), [PackId(7)]);
        assert_eq!(gone(&mut pins, Lsn(280)), [Lsn(100)]);
    }

    #[test]
    fn what_the_next_segment_would_free_is_known() {
        let mut pins = three();
        assert_eq!(pins.freed_by_next(Lsn(300)), 0, "nothing waits for it");
        pins.pin(&[Lsn(40), Lsn(250)]);
        pins.retire(Lsn(0), Contents::Copied, Lsn(260));
        assert_eq!(pins.freed_by_next(Lsn(259)), 0);
        assert_eq!(pins.freed_by_next(Lsn(260)), 2);
        pins.release(&[Lsn(250)], Lsn(270));
        assert_eq!(pins.freed_by_next(Lsn(270)), 3, "the newest one, too");
        pins.retire(Lsn(100), Contents::Adopted(PackId(7)), Lsn(270));
        assert_eq!(pins.freed_by_next(Lsn(270)), 2, "packs take their room with them");
        pins.begin(Lsn(300));
        assert_eq!(pins.freed_by_next(Lsn(300)), 0, "it has begun");
        assert_eq!(gone(&mut pins, Lsn(301)), [Lsn(0), Lsn(100), Lsn(200)]);
        assert_eq!(pins.freed_by_next(Lsn(301)), 0);
    }
}

//! Sets of positions of one queue, as compact as they are dense.

use crate::Position;

/// Further apart than this, positions are better kept in sets of their own: the bits between them
/// would take more memory than a set does.
const GAP_MAX: u64 = 512;
/// Most positions from the lowest to the highest of a set, so that its bits take half a megabyte.
const SPAN_MAX: u64 = 1 << 22;
const WORD: u64 = u64::BITS as u64;

/// Positions between two bounds. Without holes it takes no memory besides itself; from the first
/// hole on that is not at an end, a bit for each position between the bounds.
#[derive(Debug, Clone, Default)]
pub struct PositionSet {
    /// The lowest position; whatever, if the set is empty.
    first: u64,
    /// How many positions there are from the lowest to the highest.
    span: u64,
    len: u64,
    /// A bit for each position of the span as it was when the first hole came, from `base` on.
    /// None if all are members.
    bits: Option<Bits>,
}

#[derive(Debug, Clone)]
struct Bits {
    base: u64,
    words: Box<[u64]>,
}

impl PositionSet {
    /// The positions of runs, which are in order: in several sets where gaps are wide, or where one
    /// would get too large.
    pub fn of_runs(runs: impl IntoIterator<Item = (Position, u64)>) -> Vec<PositionSet> {
        let mut sets = Vec::new();
        let mut near: Vec<(u64, u64)> = Vec::new();
        for (Position(mut first), mut count) in runs {
            let end = near.last().map(|(last, count)| last + count);
            debug_assert!(end.is_none_or(|end| end <= first), "runs in order");
            if end.is_some_and(|end| first - end > GAP_MAX) {
                sets.extend(Self::of_near(&mut near));
            }
            while count > 0 {
                let start = near.first().map_or(first, |(start, _)| *start);
                let fits = (start + SPAN_MAX).saturating_sub(first).min(count);
                if fits == 0 {
                    sets.extend(Self::of_near(&mut near));
                    continue;
                }
                match near.last_mut() {
                    Some((last, count)) if *last + *count == first => *count += fits,
                    _ => near.push((first, fits)),
                }
                (first, count) = (first + fits, count - fits);
            }
        }
        sets.extend(Self::of_near(&mut near));
        sets
    }

    /// As [`PositionSet::of_runs`], of single positions in order.
    pub fn of_sorted(positions: impl IntoIterator<Item = Position>) -> Vec<PositionSet> {
        let mut runs: Vec<(Position, u64)> = Vec::new();
        for position in positions {
            match runs.last_mut() {
                Some((first, count)) if first.0 + *count == position.0 => *count += 1,
                _ => runs.push((position, 1)),
            }
        }
        Self::of_runs(runs)
    }

    /// One set of runs close to each other, which are taken out.
    fn of_near(runs: &mut Vec<(u64, u64)>) -> Option<Self> {
        let (first, (last, count)) = (runs.first()?.0, *runs.last()?);
        let span = last + count - first;
        let mut set = PositionSet { first, span, len: span, bits: None };
        if runs.len() > 1 {
            let bits = set.bits();
            bits.words.fill(0);
            for &(from, count) in runs.iter() {
                (from..from + count).for_each(|position| bits.set(position));
            }
            set.len = runs.iter().map(|(_, count)| count).sum();
        }
        runs.clear();
        Some(set)
    }

    /// How many positions it holds.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The lowest position.
    #[must_use]
    pub fn first(&self) -> Option<Position> {
        (self.len > 0).then_some(Position(self.first))
    }

    /// The highest position.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        (self.len > 0).then(|| Position(self.first + self.span - 1))
    }

    /// The lowest position that is not below `from`.
    #[must_use]
    pub fn next(&self, from: Position) -> Option<Position> {
        self.runs(from).next().map(|(first, _)| first)
    }

    /// Whether it holds this one.
    #[must_use]
    pub fn contains(&self, position: Position) -> bool {
        self.len > 0
            && position.0.checked_sub(self.first).is_some_and(|offset| offset < self.span)
            && self.bits.as_ref().is_none_or(|bits| bits.get(position.0))
    }

    /// Takes one out; `false` if it was not there.
    pub fn remove(&mut self, position: Position) -> bool {
        if !self.contains(position) {
            return false;
        }
        let Position(position) = position;
        self.len -= 1;
        let last = self.first + self.span - 1;
        if let Some(bits) = &mut self.bits {
            bits.clear(position);
        } else if position != self.first && position != last {
            self.bits().clear(position);
            return true;
        }
        if self.len == 0 {
            (self.span, self.bits) = (0, None);
        } else if position == self.first {
            let next = self.seek(position + 1, true);
            self.span -= next - self.first;
            self.first = next;
        } else if position == last {
            self.span = self.seek_back(position) - self.first + 1;
        }
        if self.len == self.span {
            self.bits = None;
        }
        true
    }

    /// The runs of neighbours it holds that are not below `from`, in order.
    pub fn runs(&self, from: Position) -> impl Iterator<Item = (Position, u64)> {
        let mut at = from.0.max(self.first);
        let end = self.first + self.span;
        std::iter::from_fn(move || {
            let first = self.seek(at, true);
            if first >= end {
                return None;
            }
            at = self.seek(first, false);
            Some((Position(first), at - first))
        })
    }

    /// What it takes in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.bits.as_ref().map_or(0, |bits| size_of_val(&*bits.words))
    }

    /// The next position from `at` on that is a member, or is not; the end if there is none.
    fn seek(&self, at: u64, member: bool) -> u64 {
        let end = self.first + self.span;
        match &self.bits {
            None if member => at,
            None => end,
            Some(bits) => bits.seek(at, end, member),
        }
    }

    /// The highest member below `at`; there is one.
    fn seek_back(&self, at: u64) -> u64 {
        match &self.bits {
            None => at - 1,
            Some(bits) => (self.first..at).rev().find(|&each| bits.get(each)).unwrap_or(self.first),
        }
    }

    /// The bits, made now if all were members.
    fn bits(&mut self) -> &mut Bits {
        let words = self.span.div_ceil(WORD) as usize;
        let base = self.first;
        self.bits.get_or_insert_with(|| Bits { base, words: vec![u64::MAX; words].into() })
    }
}

/// Two sets are the same if they hold the same positions.
impl PartialEq for PositionSet {
    fn eq(&self, other: &Self) -> bool {
        self.runs(Position(0)).eq(other.runs(Position(0)))
    }
}

impl Bits {
    fn at(&self, position: u64) -> (usize, u64) {
        let offset = position - self.base;
        ((offset / WORD) as usize, 1 << (offset % WORD))
    }

    fn get(&self, position: u64) -> bool {
        let (word, bit) = self.at(position);
        self.words[word] & bit != 0
    }

    fn set(&mut self, position: u64) {
        let (word, bit) = self.at(position);
        self.words[word] |= bit;
    }

    fn clear(&mut self, position: u64) {
        let (word, bit) = self.at(position);
        self.words[word] &= !bit;
    }

    fn seek(&self, at: u64, end: u64, member: bool) -> u64 {
        let mut at = at;
        while at < end {
            let offset = at - self.base;
            let word = self.words[(offset / WORD) as usize];
            let wanted = if member { word } else { !word } >> (offset % WORD);
            if wanted != 0 {
                return end.min(at + u64::from(wanted.trailing_zeros()));
            }
            at += WORD - offset % WORD;
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn members(set: &PositionSet) -> Vec<u64> {
        let runs = set.runs(Position(0));
        runs.flat_map(|(first, count)| first.0..first.0 + count).collect()
    }

    #[test]
    fn a_queue_settled_in_order_needs_no_bits() {
        let mut sets = PositionSet::of_runs([(Position(10), 1_000)]);
        let mut set = sets.remove(0);
        for position in 10..1_009 {
            assert!(set.remove(Position(position)));
            assert_eq!(set.memory(), size_of::<PositionSet>());
        }
        assert_eq!((set.first(), set.last()), (Some(Position(1_009)), Some(Position(1_009))));
        assert!(set.remove(Position(1_009)) && set.is_empty() && set.first().is_none());
    }

    #[test]
    fn wide_gaps_make_sets() {
        let far = 1 << 60;
        let sets = PositionSet::of_sorted([1, 2, 5, far, far + 1].map(Position));
        assert_eq!(
            sets.iter().map(members).collect::<Vec<_>>(),
            [vec![1, 2, 5], vec![far, far + 1]]
        );
        assert!(sets.iter().map(PositionSet::memory).sum::<usize>() < 200);
    }

    #[test]
    fn no_set_takes_more_than_its_limit() {
        let runs = [(Position(7), 3 * SPAN_MAX), (Position(8 + 3 * SPAN_MAX), SPAN_MAX + 1)];
        let mut sets = PositionSet::of_runs(runs);
        assert_eq!(sets.iter().map(PositionSet::len).sum::<u64>(), 4 * SPAN_MAX + 1);
        for set in &mut sets {
            let (Some(first), Some(last)) = (set.first(), set.last()) else { panic!("empty") };
            set.remove(Position(first.0.midpoint(last.0)));
            assert!(set.memory() <= (SPAN_MAX / 8) as usize + 64);
        }
    }

    proptest! {
        #[test]
        fn it_is_a_set(
            start in proptest::collection::btree_set(0_u64..2_000, 1..300),
            removed in proptest::collection::vec(0_u64..2_000, 0..400),
            from in 0_u64..2_000,
        ) {
            let mut plain: BTreeSet<u64> = start;
            let mut sets = PositionSet::of_sorted(plain.iter().copied().map(Position));
            for position in removed {
                let known = sets.iter_mut().map(|set| set.remove(Position(position)));
                prop_assert_eq!(known.filter(|known| *known).count() == 1, plain.remove(&position));
                let all: Vec<u64> = sets.iter().flat_map(members).collect();
                prop_assert!(all.iter().eq(&plain));
                for set in &sets {
                    let own = members(set);
                    prop_assert_eq!(set.len() as usize, own.len());
                    prop_assert_eq!(set.first().map(|it| it.0), own.first().copied());
                    prop_assert_eq!(set.last().map(|it| it.0), own.last().copied());
                    let next = own.iter().copied().find(|each| *each >= from);
                    prop_assert_eq!(set.next(Position(from)).map(|it| it.0), next);
                    prop_assert_eq!(set.contains(Position(from)), own.contains(&from));
                }
            }
        }
    }
}

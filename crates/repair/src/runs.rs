//! Sets of positions, kept as runs.

use std::collections::BTreeMap;
use std::fmt;

use leveret_model::Position;

/// How many runs are told one by one.
const SHOWN_MAX: usize = 20;

/// A set of positions: where each run begins and where it ends. Runs do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runs(BTreeMap<u64, u64>);

impl Runs {
    pub(crate) fn add(&mut self, first: u64, count: u64) {
        let (mut first, mut end) = (first, first.saturating_add(count));
        if first == end {
            return;
        }
        if let Some((&start, &until)) = self.0.range(..=first).next_back()
            && until >= first
        {
            if until >= end {
                return;
            }
            first = start;
        }
        while let Some((&start, &until)) = self.0.range(first..=end).next() {
            end = end.max(until);
            self.0.remove(&start);
        }
        self.0.insert(first, end);
    }

    pub(crate) fn contains(&self, position: Position) -> bool {
        let run = self.0.range(..=position.0).next_back();
        run.is_some_and(|(_, end)| *end > position.0)
    }

    /// Those of a run that are not in the set, as runs.
    pub(crate) fn missing_of(&self, first: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut at, mut missing) = (first, Vec::new());
        if let Some((_, until)) = self.0.range(..=first).next_back() {
            at = at.max(*until);
        }
        if at < end {
            for (&start, &until) in self.0.range(at..end) {
                if start > at {
                    missing.push((at, start));
                }
                at = until;
            }
        }
        if at < end {
            missing.push((at, end));
        }
        missing
    }

    /// Without those of another set.
    pub(crate) fn without(&self, other: &Runs) -> Runs {
        let left = self.0.iter().flat_map(|(first, end)| other.missing_of(*first, *end));
        Runs(left.collect())
    }

    /// First positions and ends, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(first, end)| (*first, *end))
    }

    pub(crate) fn positions(&self) -> impl Iterator<Item = Position> {
        self.iter().flat_map(|(first, end)| (first..end).map(Position))
    }

    pub(crate) fn len(&self) -> u64 {
        self.iter().map(|(first, end)| end - first).sum()
    }

    /// How many are below a position.
    pub(crate) fn below(&self, position: u64) -> u64 {
        self.0.range(..position).map(|(first, end)| end.min(&position) - first).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, end)| *end)
    }
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, end)) in self.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match end - first {
                _ if index == SHOWN_MAX => {
                    return write!(f, " and {} more runs", self.0.len() - index);
                }
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", end - 1)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_sets_they_stand_for() {
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let (mut a, mut b) = (Runs::default(), Runs::default());
            let (mut plain_a, mut plain_b) = ([false; 64], [false; 64]);
            for _ in 0..8 {
                let (first, count) = (random(56), random(8));
                a.add(first, count);
                (first..first + count).for_each(|at| plain_a[at as usize] = true);
                let (first, count) = (random(56), random(8));
                b.add(first, count);
                (first..first + count).for_each(|at| plain_b[at as usize] = true);
            }
            let without = a.without(&b);
            for at in 0..64 {
                assert_eq!(a.contains(Position(at)), plain_a[at as usize]);
                let left = plain_a[at as usize] && !plain_b[at as usize];
                assert_eq!(without.contains(Position(at)), left, "{a} without {b} at {at}");
            }
            assert_eq!(a.len(), plain_a.iter().filter(|is| **is).count() as u64);
            assert_eq!(a.below(30), plain_a[..30].iter().filter(|is| **is).count() as u64);
            let runs: Vec<_> = a.iter().collect();
            assert!(runs.windows(2).all(|two| two[0].1 < two[1].0), "they touch: {a}");
        }
    }
}

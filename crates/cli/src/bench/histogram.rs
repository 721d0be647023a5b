//! Latencies, as a histogram of nanoseconds: 64 steps a power of two, so that a quantile is within
//! 1.6 % of the truth and recording is a shift and an addition.

const STEP_BITS: u32 = 6;
const STEPS: usize = 1 << STEP_BITS;
/// The largest index there is, for `u64::MAX`, and one more.
const SLOTS: usize = (64 - STEP_BITS as usize + 1) * STEPS;

/// How often each latency occurred.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Histogram { counts: vec![0; SLOTS], total: 0, max: 0 }
    }

    #[inline]
    fn slot(nanos: u64) -> usize {
        if nanos < STEPS as u64 {
            return nanos as usize;
        }
        let shift = 63 - nanos.leading_zeros() - STEP_BITS;
        ((shift as usize + 1) << STEP_BITS) + ((nanos >> shift) as usize & (STEPS - 1))
    }

    /// The largest value of a slot.
    fn top(slot: usize) -> u64 {
        if slot < STEPS {
            return slot as u64;
        }
        let shift = (slot >> STEP_BITS) as u32 - 1;
        let next = (STEPS + (slot & (STEPS - 1))) as u128 + 1;
        // The last slot ends with u64::MAX.
        u64::try_from((next << shift) - 1).unwrap_or(u64::MAX)
    }

    #[inline]
    pub(crate) fn record(&mut self, nanos: u64) {
        self.counts[Self::slot(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The value that a share `q` of all are not above.
    pub(crate) fn quantile(&self, q: f64) -> u64 {
        let wanted = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (slot, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Self::top(slot).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut histogram = Histogram::new();
        for nanos in 1..=1_000_000 {
            histogram.record(nanos);
        }
        for q in [0.01, 0.5, 0.99, 0.999] {
            let (got, truth) = (histogram.quantile(q) as f64, q * 1e6);
            assert!((got - truth).abs() <= truth * 0.02, "{q}: {got} instead of {truth}");
        }
        assert_eq!(histogram.quantile(1.0), 1_000_000);
    }

    #[test]
    fn every_value_has_a_slot_that_it_is_not_above() {
        for bits in 0..64 {
            for value in [1 << bits, (1 << bits) - 1, u64::MAX >> bits] {
                let slot = Histogram::slot(value);
                assert!(slot < SLOTS && Histogram::top(slot) >= value, "{value}");
            }
        }
    }

    #[test]
    fn merged_is_as_if_recorded_in_one() {
        let (mut low, mut high) = (Histogram::new(), Histogram::new());
        low.record(1);
        high.record(1000);
        low.merge(&high);
        assert_eq!((low.quantile(0.5), low.quantile(1.0), low.max()), (1, 1000, 1000));
    }
}

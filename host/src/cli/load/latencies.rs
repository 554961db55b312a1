//! How long things took, as a histogram.

use hdrhistogram::Histogram;

/// Longest latency told apart, in microseconds: ten minutes.
const US_MAX: u64 = 600_000_000;

/// Latencies in microseconds, from one to ten minutes with three digits; longer ones count as ten minutes.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self(
            Histogram::new_with_max(US_MAX, 3)
                .expect("one to ten minutes at three digits is a valid range"),
        )
    }

    /// Adds one.
    pub fn record(&mut self, us: u64) {
        self.0.saturating_record(us.max(1));
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        // Both have the same range, so nothing can be out of it.
        let _ = self.0.add(&other.0);
    }

    /// What this part of them does not exceed: 0.5 is the median. 0 when there are none.
    #[must_use]
    pub fn quantile_us(&self, part: f64) -> u64 {
        self.0.value_at_quantile(part)
    }

    /// The longest; 0 when there are none.
    #[must_use]
    pub fn max_us(&self) -> u64 {
        self.0.max()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<Self> for Latencies {
    fn from_iter<I: IntoIterator<Item = Self>>(all: I) -> Self {
        all.into_iter().fold(Self::new(), |mut sum, one| {
            sum.add(&one);
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_several_are_put_together() {
        let of = |us: &[u64]| {
            let mut latencies = Latencies::new();
            us.iter().for_each(|us| latencies.record(*us));
            latencies
        };
        let all: Latencies = [of(&[1, 2]), of(&[3]), of(&[])].into_iter().collect();
        assert_eq!((all.count(), all.quantile_us(0.5), all.max_us()), (3, 2, 3));
        assert_eq!(of(&[0]).max_us(), 1);
        assert!(of(&[u64::MAX]).max_us() >= US_MAX);
        assert_eq!(Latencies::new().quantile_us(0.99), 0);
    }
}

//! Growing back-off for what keeps failing. Pure but for reading the clock where its owner asks.

use std::time::Duration;

use tokio::time::Instant;

/// How long something that failed is left alone.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    strikes: u32,
    until: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            strikes: 0,
            until: None,
        }
    }

    /// It failed: from now on it is left alone for a while, twice as long as the last time.
    pub(super) fn strike(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.strikes).unwrap_or(u32::MAX);
        let pause = self.min.saturating_mul(factor).min(self.max);
        self.strikes = self.strikes.saturating_add(1).min(31);
        self.until = Instant::now().checked_add(pause);
        pause
    }

    /// How often it failed in a row.
    pub(super) fn strikes(&self) -> u32 {
        self.strikes
    }

    /// It worked: the next pause is a short one again. A pause under way goes on.
    pub(super) fn forgive(&mut self) {
        self.strikes = 0;
    }

    /// How much longer it is to be left alone, if at all.
    pub(super) fn left(&self) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over_after_success() {
        let second = Duration::from_secs(1);
        let mut pause = Backoff::new(second, second * 5);
        let pauses: Vec<u64> = (0..40).map(|_| pause.strike().as_secs()).collect();
        assert_eq!(pauses[..5], [1, 2, 4, 5, 5]);
        assert_eq!(pauses[39], 5);
        pause.forgive();
        assert!(pause.left().is_some(), "what was decided holds");
        assert_eq!(pause.strike(), second);
    }
}

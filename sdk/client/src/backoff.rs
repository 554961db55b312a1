//! How long to wait before the next attempt: doubled each time up to a maximum, with jitter so that many clients of
//! one broker do not come back at the same moment. The shortest and the longest wait are options
//! ([`ClientOptions::backoff`](crate::ClientOptions::backoff)), whose defaults are here. No timers here, only durations.

use std::time::Duration;

use crate::error::ConnectError;
use crate::random::Random;

/// Wait before the second attempt, unless [`ClientOptions::backoff_min`](crate::ClientOptions::backoff_min) says another: a broker
/// that restarts is back sooner than anybody notices.
pub(crate) const WAIT_MIN_DEFAULT: Duration = Duration::from_millis(50);
/// Longest wait, unless [`ClientOptions::backoff_max`](crate::ClientOptions::backoff_max) says another: a broker that comes back
/// has all of its clients within this.
pub(crate) const WAIT_MAX_DEFAULT: Duration = Duration::from_secs(5);

/// The waits between attempts at one thing.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: Random,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, random: Random) -> Self {
        // A zero would never grow.
        let min = min.max(Duration::from_millis(1));
        Self {
            min,
            max: max.max(min),
            next: min,
            random,
        }
    }

    /// The wait before the next attempt: between half and all of the current step.
    pub(crate) fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        step.mul_f64(self.random.within(0.5..=1.0))
    }

    /// The same where the broker has said when to come back: not before, and not all at once.
    pub(crate) fn next_after(&mut self, told: Option<Duration>) -> Duration {
        let wait = self.next();
        match told {
            Some(told) => wait.max(told.mul_f64(self.random.within(1.0..=1.5))),
            None => wait,
        }
    }

    /// The same after an attempt to connect that failed. How long a broker wants to be left alone when it has no time is where the
    /// steps go on from, so that clients which are too many come ever more seldom.
    pub(crate) fn next_after_error(&mut self, error: &ConnectError) -> Duration {
        let told = error.retry_after();
        if let Some(told) = told {
            self.next = self.next.max(told.min(self.max));
        }
        self.next_after(told)
    }

    /// The thing worked; the next failure starts from the shortest wait.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(35));
        let mut backoff = Backoff::new(min, max, Random::new(Some(1)));
        for step in [10, 20, 35, 35] {
            let wait = backoff.next();
            let step = Duration::from_millis(step);
            assert!(wait >= step / 2 && wait <= step, "{wait:?} for {step:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= min);
    }

    #[test]
    fn who_is_too_many_comes_ever_more_seldom() {
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(5));
        let mut backoff = Backoff::new(min, max, Random::new(Some(1)));
        let addr = "broker:4433".to_owned();
        let busy = ConnectError::Busy { addr };
        for (least, most) in [
            (1_000, 1_500),
            (1_000, 2_000),
            (2_000, 4_000),
            (2_500, 5_000),
        ] {
            let wait = backoff.next_after_error(&busy).as_millis();
            assert!(wait >= least && wait <= most, "{wait} of {least} to {most}");
        }
        backoff.reset();
        let lost = ConnectError::Closed;
        assert!(backoff.next_after_error(&lost) <= min);
    }

    #[test]
    fn who_is_told_when_to_come_back_does_not_come_before() {
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(5));
        let mut backoff = Backoff::new(min, max, Random::new(Some(1)));
        let told = Duration::from_secs(2);
        let waits: Vec<_> = (0..8).map(|_| backoff.next_after(Some(told))).collect();
        assert!(waits.iter().all(|wait| *wait >= told && *wait <= max));
        assert!(waits.windows(2).all(|waits| waits[0] != waits[1]));
    }
}

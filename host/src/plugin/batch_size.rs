//! How many events go into one call while calls fail: fewer after each failure, down to one, and more again as they go well. So
//! what fails is found alone, and what is sound beside it soon travels in large batches again. Pure.

use super::call_input::CALL_EVENTS_MAX;

// One event in a hundred that fails costs about as much as halving, and each second one much less.
const SHRINK: usize = 8;

/// How many events a call may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchSize(usize);

impl Default for BatchSize {
    fn default() -> Self {
        Self(CALL_EVENTS_MAX)
    }
}

impl BatchSize {
    /// For what has just failed.
    pub(super) fn of_one() -> Self {
        Self(1)
    }

    /// How many of so many events go into the next call.
    pub(super) fn of(self, events: usize) -> usize {
        events.min(self.0)
    }

    /// Nothing has failed for a while.
    pub(super) fn is_whole(self) -> bool {
        self.0 >= CALL_EVENTS_MAX
    }

    /// A call on so many events, of so many that there were for one, went well.
    pub(super) fn went_well(&mut self, events: usize, of: usize) {
        if !self.is_whole() && events >= self.0.min(of) {
            self.0 = (self.0 * 2).min(CALL_EVENTS_MAX);
        }
    }

    /// A call on so many events failed.
    pub(super) fn failed(&mut self, events: usize) {
        self.0 = (events / SHRINK).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Calls until each of `count` events is dealt with, when calls on some of them fail.
    fn calls(count: usize, is_bad: impl Fn(usize) -> bool) -> usize {
        let mut window = BatchSize::default();
        let (mut at, mut calls) = (0, 0);
        while at < count {
            let left = count - at;
            let events = window.of(left);
            calls += 1;
            if !(at..at + events).any(&is_bad) {
                window.went_well(events, left);
                at += events;
            } else if events == 1 {
                at += 1;
            } else {
                window.failed(events);
            }
        }
        assert!(window.of(1) == 1);
        calls
    }

    #[test]
    fn what_fails_is_found_alone_in_a_bounded_number_of_calls() {
        assert_eq!(calls(512, |_| false), 1);
        assert!(calls(512, |event| event == 300) <= 40);
        assert_eq!(calls(512, |_| true), 512 + 3);
        assert!(calls(512, |event| event % 2 == 1) <= 512 + 256 + 8);
    }
}

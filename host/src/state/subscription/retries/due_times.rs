//! Which events are left alone until when; how long that is, `backoff` says. Kept as sets of positions per moment, of which there are few however many events wait.

use crate::domain::Millis;
use crate::state::positions_by_value::PositionsByValue;

/// A delay is rounded up to this many steps at most, so that the moments to remember do not grow with the events:
/// the step of one hour is 8 s, and what is below 512 ms is exact.
const STEPS: u64 = 256;
/// The same while more events are delayed than [`DELAYED_EXACT_MAX`]: what waits for an hour may wait a quarter longer.
const COARSE_STEPS: u64 = 4;
/// Up to here, due times are as exact as [`STEPS`] makes them: about 3 bytes each, so 12 MiB.
const DELAYED_EXACT_MAX: u64 = 4 * 1024 * 1024;

/// Positions to be tried again later, by when.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::state::subscription) struct DueTimes(
    pub(in crate::state::subscription) PositionsByValue<Millis>,
);

impl DueTimes {
    pub(in crate::state::subscription) fn is_coarse(&self) -> bool {
        self.0.len() > DELAYED_EXACT_MAX
    }

    pub(in crate::state::subscription) fn insert(
        &mut self,
        first: u64,
        last: u64,
        now: Millis,
        due: Millis,
    ) {
        let steps = match self.is_coarse() {
            true => COARSE_STEPS,
            false => STEPS,
        };
        self.0.insert(first, last, rounded_up(now, due, steps));
    }

    pub(in crate::state::subscription) fn remove(&mut self, first: u64, last: u64) {
        if !self.0.is_empty() {
            self.0.take(first, last);
        }
    }
}

// The step is a power of two, and the moments are multiples of it, so that delays given at different times meet.
fn rounded_up(now: Millis, due: Millis, steps: u64) -> Millis {
    let step = due.0.saturating_sub(now.0) / steps;
    match step.checked_ilog2() {
        None => due,
        Some(power) => Millis(
            due.0
                .checked_next_multiple_of(1 << power)
                .unwrap_or(u64::MAX),
        ),
    }
}

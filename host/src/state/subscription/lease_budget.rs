//! An event handed to a consumer, and taking no more of those that wait than there is room for. Who gets which is not known here.

use std::ops::Range;

use crate::domain::Position;
use crate::state::position_set::PositionSet;

/// An event handed to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which event.
    pub position: Position,
    /// How often it has been handed out, this time included.
    pub attempt: u32,
    /// A consumer that had it before lost its connection. All events of one lease are, or none.
    pub suspect: bool,
}

/// Removes at most `budget` positions from the front of `from`.
pub(super) fn pick(from: &mut PositionSet, budget: &mut u64) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    for (first, last) in from.ranges(0, u64::MAX) {
        let Some(last) = spend(budget, first, last) else {
            break;
        };
        runs.push((first, last));
    }
    for (first, last) in &runs {
        from.remove_range(*first, *last);
    }
    runs
}

/// How many positions these are.
pub(super) fn count(runs: &[(u64, u64)]) -> u64 {
    runs.iter().map(|(first, last)| last - first + 1).sum()
}

/// Takes at most `budget` positions from the front of `first..=last` and returns the last of them.
pub(super) fn spend(budget: &mut u64, first: u64, last: u64) -> Option<u64> {
    if *budget == 0 {
        return None;
    }
    let count = (*budget).min(last - first + 1);
    *budget -= count;
    Some(first + count - 1)
}

/// Appends leases of all of `positions`.
pub(super) fn push_leases(
    out: &mut Vec<Lease>,
    positions: Range<u64>,
    attempt: u32,
    suspect: bool,
) {
    out.extend(positions.map(|position| Lease {
        position: Position(position),
        attempt,
        suspect,
    }));
}

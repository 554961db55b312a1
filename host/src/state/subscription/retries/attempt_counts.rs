//! How often each event was tried. Kept as sets of positions per count, so that an event that waits for another attempt costs a few
//! bytes however many there are and however they alternate with others; there is no number of them at which the rest would have to
//! stand still.

use serde::{Deserialize, Serialize};

use crate::state::positions_by_value::PositionsByValue;

/// Different counts that are told apart. Beyond them a count is rounded down, so that nothing is given up too early.
const COUNTS_MAX: usize = 256;

/// How often an event was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::state::subscription) struct Tried {
    /// How often that counts: it was nacked, its deadline passed, or it was alone in hand when its consumer was lost.
    pub(in crate::state::subscription) failed: u32,
    /// How often it has been handed out and came back.
    pub(in crate::state::subscription) handed: u32,
}

impl Tried {
    pub(in crate::state::subscription) fn again(self, failed: bool) -> Self {
        if planted!(AttemptNotCounted) {
            return self;
        }
        Self {
            failed: self.failed.saturating_add(u32::from(failed)),
            handed: self.handed.saturating_add(1),
        }
    }
}

/// How often each event was tried that came back at least once, those that are given up among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::state::subscription) struct Tries(
    pub(in crate::state::subscription) PositionsByValue<Tried>,
);

impl Tries {
    pub(in crate::state::subscription) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Shows the runs of `first..=last`, rising, those that never came back among them.
    pub(in crate::state::subscription) fn show(
        &self,
        first: u64,
        last: u64,
        mut run: impl FnMut(u64, u64, Tried),
    ) {
        if self.is_empty() {
            return run(first, last, Tried::default());
        }
        fill_gaps(first, last, self.0.overlapping(first, last), &mut run);
    }

    /// Like [`show`](Self::show), and forgets them.
    pub(in crate::state::subscription) fn take(
        &mut self,
        first: u64,
        last: u64,
    ) -> Vec<(u64, u64, Tried)> {
        let mut runs = Vec::new();
        let known = match self.is_empty() {
            true => Vec::new(),
            false => self.0.take(first, last),
        };
        fill_gaps(first, last, known, &mut |first, last, tried| {
            runs.push((first, last, tried));
        });
        runs
    }

    /// Remembers it of positions of which nothing is known.
    pub(in crate::state::subscription) fn insert(&mut self, first: u64, last: u64, tried: Tried) {
        let mut kept = tried;
        if self.0.classes() >= COUNTS_MAX {
            kept = self.0.at_or_below(tried).unwrap_or(tried);
        }
        if kept != Tried::default() {
            self.0.insert(first, last, kept);
        }
    }

    /// How often an event was tried in vain.
    pub(in crate::state::subscription) fn in_vain(&self, position: u64) -> u32 {
        let mut failed = 0;
        self.show(position, position, |_, _, tried| failed = tried.failed);
        failed
    }

    /// How many of `first..=last` failed before.
    pub(in crate::state::subscription) fn failed(&self, first: u64, last: u64) -> u64 {
        let mut failed = 0;
        if !self.is_empty() {
            self.show(first, last, |first, last, tried| {
                failed += if tried.failed > 0 {
                    last - first + 1
                } else {
                    0
                };
            });
        }
        failed
    }
}

fn fill_gaps(
    first: u64,
    last: u64,
    known: Vec<(u64, u64, Tried)>,
    run: &mut impl FnMut(u64, u64, Tried),
) {
    let mut at = first;
    for (from, to, tried) in known {
        if at < from {
            run(at, from - 1, Tried::default());
        }
        run(from, to, tried);
        at = to + 1;
    }
    if at <= last {
        run(at, last, Tried::default());
    }
}

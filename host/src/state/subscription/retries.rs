//! What came back from a consumer: how often each event was tried, until when it is left alone, and when it is given
//! up. Kept as sets of positions per value, so that an event that waits for another attempt costs a few bytes
//! however many there are and however they alternate with others; there is no number of them at which the rest
//! would have to stand still.

use serde::{Deserialize, Serialize};

use super::{GiveUpReason, SubscriptionState};
use crate::domain::Millis;
use crate::state::position_set::PositionSet;
use crate::state::positions_by_value::PositionsByValue;

/// A delay is rounded up to this many steps at most, so that the moments to remember do not grow with the events:
/// the step of one hour is 8 s, and what is below 512 ms is exact.
const STEPS: u64 = 256;
/// The same while more events are delayed than [`DELAYED_EXACT_MAX`]: what waits for an hour may wait a quarter longer.
const COARSE_STEPS: u64 = 4;
/// Up to here, delays are as exact as [`STEPS`] makes them: about 3 bytes each, so 12 MiB.
const DELAYED_EXACT_MAX: u64 = 4 * 1024 * 1024;
/// Different counts that are told apart. Beyond them a count is rounded down, so that nothing is given up too early.
const COUNTS_MAX: usize = 256;

/// How often an event was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Tried {
    /// How often that counts: it was nacked, its deadline passed, or it was alone in hand when its consumer was lost.
    pub(super) failed: u32,
    /// How often it has been handed out and came back.
    pub(super) handed: u32,
}

impl Tried {
    pub(super) fn again(self, failed: bool) -> Self {
        Self {
            failed: self.failed.saturating_add(u32::from(failed)),
            handed: self.handed.saturating_add(1),
        }
    }
}

/// How often each event was tried that came back at least once, those that are given up among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tries(pub(super) PositionsByValue<Tried>);

impl Tries {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Shows the runs of `first..=last`, rising, those that never came back among them.
    pub(super) fn show(&self, first: u64, last: u64, mut run: impl FnMut(u64, u64, Tried)) {
        if self.is_empty() {
            return run(first, last, Tried::default());
        }
        fill_gaps(first, last, self.0.overlapping(first, last), &mut run);
    }

    /// Like [`show`](Self::show), and forgets them.
    pub(super) fn take(&mut self, first: u64, last: u64) -> Vec<(u64, u64, Tried)> {
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
    pub(super) fn insert(&mut self, first: u64, last: u64, tried: Tried) {
        let mut kept = tried;
        if self.0.classes() >= COUNTS_MAX {
            kept = self.0.at_or_below(tried).unwrap_or(tried);
        }
        if kept != Tried::default() {
            self.0.insert(first, last, kept);
        }
    }

    /// How many of `first..=last` failed before.
    pub(super) fn failed(&self, first: u64, last: u64) -> u64 {
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

/// Positions to be tried again later, by when.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Delays(pub(super) PositionsByValue<Millis>);

impl Delays {
    pub(super) fn is_coarse(&self) -> bool {
        self.0.len() > DELAYED_EXACT_MAX
    }

    pub(super) fn insert(&mut self, first: u64, last: u64, now: Millis, due: Millis) {
        let steps = match self.is_coarse() {
            true => COARSE_STEPS,
            false => STEPS,
        };
        self.0.insert(first, last, rounded_up(now, due, steps));
    }

    pub(super) fn remove(&mut self, first: u64, last: u64) {
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

/// Limits that a subscription has reached, and that make it less exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strain {
    /// So many events wait for another attempt that they may wait a quarter longer than they should.
    pub coarse_delays: bool,
    /// So many events wait for their dead letter that further ones share their reasons, and of many different ones only the
    /// kind is kept.
    pub coarse_reasons: bool,
}

impl Strain {
    /// The names of those that are reached, as they are shown.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let coarse = self.coarse_delays.then_some("coarse_delays");
        let reasons = self.coarse_reasons.then_some("coarse_reasons");
        coarse.into_iter().chain(reasons)
    }
}

/// Why events come back.
pub(super) enum Return {
    /// The consumer is gone, which says nothing about the event.
    Detached,
    /// The consumer asked for another attempt, after this delay if it said one.
    Nacked(Option<u64>),
    /// The deadline passed.
    Expired,
    /// The consumer lost its connection, and this alone was in its hands.
    Cut,
}

impl SubscriptionState {
    /// Which limits it has reached.
    #[must_use]
    pub fn strain(&self) -> Strain {
        Strain {
            coarse_delays: self.delayed.is_coarse(),
            coarse_reasons: self.given_up.are_coarse() || self.failed.are_coarse(),
        }
    }

    // `first..=last` were in flight and are in no place now.
    pub(super) fn hand_back(&mut self, first: u64, last: u64, why: &Return, now: Millis) {
        self.landed(first, last);
        let failed = !matches!(why, Return::Detached);
        if matches!(why, Return::Nacked(_)) {
            self.clear(first, last);
        }
        for (first, last, tried) in self.tries.take(first, last) {
            let tried = tried.again(failed);
            if failed && self.is_exhausted(tried) {
                let reason = match why {
                    Return::Cut => GiveUpReason::ConsumersLost,
                    _ => GiveUpReason::AttemptsExhausted,
                };
                self.tries.insert(first, last, tried);
                self.clear(first, last);
                self.record_given_up(first, last, &reason);
                continue;
            }
            let delay_ms = match why {
                Return::Detached => 0,
                Return::Nacked(Some(delay_ms)) => *delay_ms,
                Return::Nacked(None) | Return::Expired | Return::Cut => {
                    self.policy.backoff_after(tried.failed)
                }
            };
            self.tries.insert(first, last, tried);
            self.leave_alone(first, last, delay_ms, now);
        }
    }

    fn is_exhausted(&self, tried: Tried) -> bool {
        self.policy.attempts_max > 0 && tried.failed >= self.policy.attempts_max
    }

    // `first..=last` are in no place now: they are deliverable again after `delay_ms`.
    pub(super) fn leave_alone(&mut self, first: u64, last: u64, delay_ms: u64, now: Millis) {
        if delay_ms == 0 {
            self.make_ready(first, last);
        } else {
            self.delay(first, last, now.plus(delay_ms), now);
        }
    }

    // `first..=last` are in no place now: they are deliverable again at `due`, or a little later.
    pub(super) fn delay(&mut self, first: u64, last: u64, due: Millis, now: Millis) {
        self.delayed.insert(first, last, now, due);
        self.effects.arm(self.delayed.0.first());
    }

    // `first..=last` are in no place now: they are deliverable.
    pub(super) fn make_ready(&mut self, first: u64, last: u64) {
        let Self {
            tries,
            suspects,
            ready,
            retries,
            ..
        } = self;
        let mut place = |first, last, suspect| {
            tries.show(first, last, |first, last, tried| {
                let place = match (suspect, tried.failed > 0) {
                    (true, true) => &mut suspects.accused,
                    (true, false) => &mut suspects.untried,
                    (false, true) => &mut *retries,
                    (false, false) => &mut *ready,
                };
                place.insert_range(first, last);
            });
        };
        if suspects.all.is_empty() {
            return place(first, last, false);
        }
        let suspected: Vec<_> = suspects.all.ranges(first, last).collect();
        for (first, last) in suspects.all.gaps(first, last) {
            place(first, last, false);
        }
        for (first, last) in suspected {
            place(first, last, true);
        }
    }

    // Moves what is due to where it is handed out from.
    pub(super) fn release_due(&mut self, now: Millis) -> bool {
        let mut released = false;
        while let Some(due) = self.delayed.0.pop_first(now) {
            for (first, last) in due.ranges(0, u64::MAX) {
                self.make_ready(first, last);
            }
            released = true;
        }
        released
    }

    // `first..=last` are not in flight any more. Called while their tries are still known.
    pub(super) fn landed(&mut self, first: u64, last: u64) {
        self.in_flight -= last - first + 1;
        self.retries_in_flight -= self.tries.failed(first, last);
    }

    // How often it was tried in vain.
    pub(super) fn attempts(&self, position: u64) -> u32 {
        let mut attempts = 0;
        let tries = &self.tries;
        tries.show(position, position, |_, _, tried| attempts = tried.failed);
        attempts
    }

    // What was handed out before and is in no other place.
    pub(super) fn sent_and_back(&self) -> PositionSet {
        let mut back = PositionSet::default();
        if let Some(last) = self.next_fresh.checked_sub(1) {
            for (first, last) in self.pending.ranges(0, last) {
                back.insert_range(first, last);
            }
        }
        for (_, set) in self.delayed.0.iter() {
            for (first, last) in set.ranges(0, u64::MAX) {
                back.remove_range(first, last);
            }
        }
        for (first, last) in self.given_up.all().ranges(0, u64::MAX) {
            back.remove_range(first, last);
        }
        back
    }
}

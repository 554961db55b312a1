//! Which events a consumer may have had in hand when it lost its connection, who tries them, and how many at a time. What is done with
//! them is said in `lost_consumers`.

use crate::domain::{ConsumerId, Millis};
use crate::state::position_set::PositionSet;

/// Events that may have brought a consumer down.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspects {
    /// All of them, wherever they are.
    pub(super) all: PositionSet,
    /// To be handed out as soon as somebody asks; they never failed.
    pub(super) untried: PositionSet,
    /// The same of those that failed before.
    pub(super) accused: PositionSet,
    /// Holds nothing but suspects.
    pub(super) tester: Option<ConsumerId>,
    /// Gets nothing new, so that it can become the tester.
    pub(super) draining: Option<ConsumerId>,
    /// How many the tester may hold; 0 stands for one.
    window: u64,
    /// Since when some wait for a tester, and whether somebody was told when the wait was over.
    pub(super) waiting: Option<(Millis, bool)>,
    /// Since the last cut that counted an attempt, nothing was answered.
    pub(super) shaken: bool,
}

impl Suspects {
    /// How many the tester may hold.
    pub(super) fn window(&self) -> u64 {
        self.window.max(1)
    }

    /// The tester has answered: it may hold twice as many, and at most `max`.
    pub(super) fn grow(&mut self, max: u64) {
        self.window = self.window().saturating_mul(2).min(max);
    }

    /// A consumer was cut: one at a time again.
    pub(super) fn shrink(&mut self) {
        self.window = 1;
    }

    /// Nobody tests, and nobody waits for a tester.
    pub(super) fn retire(&mut self) {
        self.tester = None;
        self.draining = None;
        self.waiting = None;
    }

    /// `first..=last` are suspects no more. They are in no place where suspects wait.
    pub(super) fn clear(&mut self, first: u64, last: u64) {
        if !self.all.is_empty() {
            self.all.remove_range(first, last);
        }
    }
}

//! What is known of events of which the filters have not said yet that they match: they came back before a crash, after which they are
//! judged again. Nothing is done with it here.

use serde::{Deserialize, Serialize};

use super::give_up_reason::GiveUpReason;
use super::reasons_by_position::Reasons;
use super::retries::attempt_counts::Tried;
use crate::domain::Millis;
use crate::state::position_set::PositionSet;
use crate::state::range_map::RangeMap;

/// What is known of undecided events: they came back before a crash, after which their filters judge them again.
#[derive(Clone, Debug, Default)]
pub(super) struct Ahead {
    pub(super) events: RangeMap<Known>,
    pub(super) given_up: Reasons,
}

/// The same as [`CameBack`](super::CameBack) of some events, without a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) tried: Tried,
    pub(super) suspect: bool,
    pub(super) due: Option<Millis>,
}

impl Ahead {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Notes it, unless more is known already. What was given up stays so.
    pub(super) fn insert(
        &mut self,
        first: u64,
        last: u64,
        known: Known,
        given_up: Option<&GiveUpReason>,
    ) {
        let before: Vec<_> = self.events.overlapping(first, last).collect();
        let newer = before
            .iter()
            .filter(|(_, _, before)| before.tried.handed > known.tried.handed);
        let mut newest = PositionSet::default();
        newer.for_each(|(first, last, _)| {
            newest.insert_range(*first, *last);
        });
        for (first, last) in self.given_up.all().ranges(first, last) {
            newest.insert_range(first, last);
        }
        for (first, last) in newest.gaps(first, last) {
            self.events.take(first, last, |_, _, _| {});
            self.given_up.remove(first, last);
            self.events.insert(first, last, known);
            if let Some(reason) = given_up {
                self.given_up.insert(first, last, reason);
            }
        }
    }

    /// Everything up to `through` is decided.
    pub(super) fn decided(&mut self, through: u64) {
        if !self.is_empty() {
            self.events.take(0, through, |_, _, _| {});
            self.given_up.remove(0, through);
        }
    }

    /// Moves the moments of all of them.
    pub(super) fn move_dues(&mut self, moved: impl Fn(Millis) -> Millis) {
        let all: Vec<_> = self.events.iter().collect();
        self.events = RangeMap::default();
        for (first, last, known) in all {
            let due = known.due.map(&moved);
            self.events.insert(first, last, Known { due, ..known });
        }
    }
}

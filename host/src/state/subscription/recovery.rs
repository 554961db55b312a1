//! Recovery: what the journal says of events that came back. What is said of one that is not decided yet waits until it is.

use super::SubscriptionState;
use super::came_back::{CameBack, Next};
use super::give_up_reason::GiveUpReason;
use super::known_ahead::Known;
use super::retries::attempt_counts::Tried;
use crate::domain::Millis;
use crate::state::position_set::PositionSet;

impl SubscriptionState {
    /// Recovery: the journal says that these came back, at this moment. What is older than what the state says already is
    /// ignored, so a repetition does no harm. Nobody is attached.
    pub fn is_back(&mut self, back: &CameBack, now: Millis) {
        let Some(last) = back.first.checked_add(back.more) else {
            return;
        };
        let (given_up, due) = match &back.next {
            Next::Ready => (None, None),
            Next::At(due) => (None, Some(*due)),
            Next::GivenUp(reason) => (Some(reason), None),
        };
        let known = Known {
            tried: Tried {
                failed: back.failed,
                handed: back.handed,
            },
            suspect: back.suspect,
            due,
        };
        let decided: Vec<_> = self
            .pending
            .ranges(back.first, last.min(self.evaluated))
            .collect();
        for (first, last) in decided {
            self.is_known(first, last, known, given_up, now);
        }
        let undecided = back.first.max(self.evaluated + 1);
        if undecided <= last {
            for (first, last) in self.acked_ahead.gaps(undecided, last) {
                self.ahead.insert(first, last, known, given_up);
            }
        }
    }

    /// `first..=last` are pending just now, and what is known of them counts.
    pub(super) fn take_up_known(&mut self, first: u64, last: u64) {
        reached!(CameBackBeforeMatch);
        let known: Vec<_> = self.ahead.events.overlapping(first, last).collect();
        for (first, last, known) in known {
            // Rounded when it was decided.
            let now = known.due.unwrap_or_default();
            for (first, last, reason) in self.ahead.given_up.runs(first, last) {
                self.is_known(first, last, known, Some(&reason), now);
            }
            let mut rest = PositionSet::default();
            rest.insert_range(first, last);
            for (first, last) in self.given_up.all().ranges(first, last) {
                rest.remove_range(first, last);
            }
            for (first, last) in rest.ranges(first, last) {
                self.is_known(first, last, known, None, now);
            }
        }
    }

    // `first..=last` are pending.
    fn is_known(
        &mut self,
        first: u64,
        last: u64,
        known: Known,
        given_up: Option<&GiveUpReason>,
        now: Millis,
    ) {
        self.were_handed_out(last);
        let mut runs = Vec::new();
        self.tries.show(first, last, |first, last, tried| {
            if tried.handed <= known.tried.handed {
                runs.push((first, last));
            }
        });
        let mut open = PositionSet::default();
        for (first, last) in runs {
            open.insert_range(first, last);
        }
        for (first, last) in self.given_up.all().ranges(first, last) {
            open.remove_range(first, last);
        }
        for (first, last) in open.ranges(first, last) {
            self.take_from_its_place(first, last);
            self.tries.take(first, last);
            self.tries.insert(first, last, known.tried);
            if planted!(AttemptCountedTwice) {
                self.tries.take(first, last);
                self.tries.insert(first, last, known.tried.again(true));
            }
            match known.suspect {
                true => {
                    self.suspects.all.insert_range(first, last);
                }
                false => self.suspects.clear(first, last),
            }
            match (given_up, known.due) {
                (Some(reason), _) => {
                    self.suspects.clear(first, last);
                    self.record_given_up(first, last, reason);
                }
                (None, Some(_)) if planted!(WaitForgotten) => self.make_ready(first, last),
                (None, Some(due)) => self.delay(first, last, due, now),
                (None, None) => self.make_ready(first, last),
            }
        }
    }

    // Events are handed out in order, so whatever is pending up to `last` was, and is in no consumer's hands now.
    fn were_handed_out(&mut self, last: u64) {
        if last < self.next_fresh {
            return;
        }
        let first = std::mem::replace(&mut self.next_fresh, last + 1);
        let mut back = PositionSet::default();
        for (first, last) in self.pending.ranges(first, last) {
            back.insert_range(first, last);
        }
        for (first, last) in self.given_up.all().ranges(first, last) {
            back.remove_range(first, last);
        }
        for (first, last) in back.ranges(first, last) {
            self.make_ready(first, last);
        }
    }
}

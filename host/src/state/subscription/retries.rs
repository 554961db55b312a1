//! What comes back from a consumer: it is handed out again, at once or later, or has been tried often enough and is given up. How
//! long it waits is said in `backoff`; why consumers give something back is not known here.

pub(super) mod attempt_counts;
pub(super) mod backoff;
pub(super) mod due_times;

use std::sync::Arc;

use self::attempt_counts::Tried;
use super::SubscriptionState;
use super::came_back::Next;
use super::give_up_reason::GiveUpReason;
use crate::domain::Millis;
use crate::state::position_set::PositionSet;

/// Why events come back.
pub(super) enum Return {
    /// The consumer takes no frames of their size, as this says.
    TooLarge(Arc<str>),
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
    // `first..=last` were in flight and are in no place now.
    pub(super) fn hand_back(&mut self, first: u64, last: u64, why: &Return, now: Millis) {
        self.landed(first, last);
        let failed = !matches!(why, Return::Detached) || planted!(OthersPay);
        if matches!(why, Return::Nacked(_)) {
            self.suspects.clear(first, last);
        }
        for (first, last, tried) in self.tries.take(first, last) {
            let tried = tried.again(failed);
            if failed && self.is_exhausted(tried) {
                let reason = match why {
                    Return::Cut => GiveUpReason::ConsumersLost,
                    Return::Expired => GiveUpReason::DeadlineMissed,
                    Return::TooLarge(why) => GiveUpReason::TooLarge(why.clone()),
                    Return::Nacked(_) if planted!(WrongReasonTold) => {
                        GiveUpReason::Terminated("".into())
                    }
                    Return::Nacked(_) | Return::Detached => GiveUpReason::AttemptsExhausted,
                };
                self.tries.insert(first, last, tried);
                self.suspects.clear(first, last);
                self.tell_back(first, last, tried, &Next::GivenUp(reason.clone()));
                self.record_given_up(first, last, &reason);
                continue;
            }
            let delay_ms = match why {
                Return::Detached => 0,
                Return::Nacked(Some(delay_ms)) => *delay_ms,
                _ if planted!(BackoffIgnored) => 0,
                Return::Nacked(None) | Return::Expired | Return::Cut | Return::TooLarge(_) => {
                    backoff::step_ms(&self.policy, tried.failed)
                }
            };
            self.tries.insert(first, last, tried);
            let next = match delay_ms {
                0 => Next::Ready,
                _ => Next::At(now.plus(delay_ms)),
            };
            self.tell_back(first, last, tried, &next);
            self.leave_alone(first, last, delay_ms, now);
        }
    }

    fn is_exhausted(&self, tried: Tried) -> bool {
        if planted!(GivenUpEarly) && tried.failed + 1 == self.policy.attempts_max {
            return true;
        }
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
                if suspect {
                    reached!(SuspectQueued);
                }
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
                if planted!(DueGoesNowhere) {
                    continue;
                }
                self.make_ready(first, last);
            }
            reached!(DelayOver);
            released = true;
        }
        released
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

//! What consumers answer: an event is done with (ack), is wanted again (nack), or can never be processed (term). Each answer returns
//! what its consumer did not hold any more, for which it changes nothing. And acks that the
//! journal or the broker itself has. When an unanswered event comes back is in `ack_deadlines`, when one that was tried is handed out
//! again in `retries`.

use std::ops::RangeInclusive;

use super::give_up_reason::{GiveUpReason, bounded};
use super::lease_budget::count;
use super::retries::Return;
use super::{SubscriptionState, bounds};
use crate::domain::{ConsumerId, DELAY_MS_MAX, Millis, Position};
use crate::state::range_map::push_range;

impl SubscriptionState {
    /// Events are done with: those among `ranges` that `consumer` holds. They are to be written down. Returns the others.
    pub fn ack(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
    ) -> Vec<RangeInclusive<Position>> {
        let had_some = self.has_deliverable();
        let is_testing = self.is_testing();
        let answered = self.take_answered(consumer, ranges);
        for (first, last) in answered.iter().copied() {
            if !planted!(AckedStaysInFlight) {
                self.landed(first, last);
            }
            self.remove_pending(first, last);
            push_range(&mut self.effects.acked, Position(first)..=Position(last));
        }
        // Mostly there was room before, and nobody waits for it.
        self.effects.wakes |=
            !answered.is_empty() && (is_testing || !had_some && self.has_deliverable());
        self.not_held(consumer, ranges, &answered)
    }

    /// Whatever of `ranges` is pending is done with, as the broker itself found. It is to be written down.
    pub fn finish(&mut self, ranges: &[RangeInclusive<Position>]) -> u64 {
        let finished = self.remove_all(ranges);
        for (first, last) in &finished {
            push_range(&mut self.effects.acked, Position(*first)..=Position(*last));
        }
        count(&finished)
    }

    /// Whatever of `ranges` is pending is done with, as the journal says already.
    ///
    /// Positions that are not decided yet are remembered and skipped when they match. The caller vouches that such ranges end near
    /// the journal's end; they are kept as given.
    pub fn is_acked(&mut self, ranges: &[RangeInclusive<Position>]) {
        self.remove_all(ranges);
        if !planted!(AckedAheadForgotten) {
            self.acked_before_match(ranges);
        }
    }

    // Removes what is pending, wherever it is, and returns what that was.
    fn remove_all(&mut self, ranges: &[RangeInclusive<Position>]) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        for range in ranges {
            let (first, last) = bounds(range);
            self.drop_flights(first, last);
            self.take_from_its_place(first, last);
            let removed: Vec<(u64, u64)> = self.pending.ranges(first, last).collect();
            for (first, last) in removed {
                self.remove_pending(first, last);
                all.push((first, last));
            }
        }
        self.effects.wakes |= !all.is_empty();
        all
    }

    /// The consumer wants these events again, after `delay_ms`, which counts as [`DELAY_MS_MAX`] at most, or the policy's back-off. Returns those that it
    /// does not hold.
    pub fn nack(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        delay_ms: Option<u64>,
        now: Millis,
    ) -> Vec<RangeInclusive<Position>> {
        let delay_ms = delay_ms.map(|delay_ms| delay_ms.min(DELAY_MS_MAX));
        let answered = self.take_answered(consumer, ranges);
        for (first, last) in answered.iter().copied() {
            if planted!(NackLost) {
                self.landed(first, last);
                continue;
            }
            reached!(Nacked);
            self.hand_back(first, last, &Return::Nacked(delay_ms), now);
        }
        self.effects.wakes = true;
        self.not_held(consumer, ranges, &answered)
    }

    /// The consumer takes no frames that this event fits in, as `why` says: another may. It counts as an attempt.
    pub fn too_large(&mut self, consumer: ConsumerId, position: Position, why: &str, now: Millis) {
        let why = Return::TooLarge(bounded(why));
        for (first, last) in self.take_flights(consumer, &[position..=position]) {
            self.hand_back(first, last, &why, now);
        }
        self.effects.wakes = true;
    }

    /// The consumer can never process these events: they are given up. Returns those that it does not hold.
    pub fn term(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        reason: &str,
    ) -> Vec<RangeInclusive<Position>> {
        let reason = GiveUpReason::Terminated(bounded(reason));
        let answered = self.take_answered(consumer, ranges);
        for (first, last) in answered.iter().copied() {
            self.give_up_flight(first, last, &reason);
        }
        self.effects.wakes = true;
        self.not_held(consumer, ranges, &answered)
    }

    // Removes from `consumer` what it holds of `ranges` and answers now.
    fn take_answered(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
    ) -> Vec<(u64, u64)> {
        let taken = self.take_flights(consumer, ranges);
        if !taken.is_empty() {
            self.answered(consumer);
            self.stalled.remove(&consumer);
        }
        taken
    }

    fn remove_pending(&mut self, first: u64, last: u64) {
        self.pending
            .remove_range(first, last + u64::from(planted!(AckTakesTheNext)));
        self.suspects.clear(first, last);
        if !self.tries.is_empty() {
            self.tries.0.take(first, last);
        }
        if !self.given_up.is_empty() {
            self.given_up.remove(first, last);
            self.given_up_waiting.remove_range(first, last);
        }
    }
}

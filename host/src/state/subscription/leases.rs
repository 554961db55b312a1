//! The leases: which consumer gets which events next, and holds them until it answers, its time is over or it is gone. The one place
//! that chooses. What becomes of an event after that, its ack, its deadline, its retries and its end, is in the files beside it.
//!
//! What failed before never takes everything: while something fresh waits, a quarter of the window is not for
//! retries, and of what is handed out every fourth is fresh.

use std::ops::RangeInclusive;

use super::SubscriptionState;
use super::lease_budget::{Lease, count, pick, push_leases, spend};
use super::lost_consumers::Turn;
use crate::domain::{ConsumerId, Millis, Position};
use crate::state::range_map::push_range;

/// While something fresh waits, one in this many of the window and of what is handed out is for it.
const FRESH_SHARE: u64 = 4;

impl SubscriptionState {
    /// Attaches a consumer.
    pub fn attach(&mut self, consumer: ConsumerId) {
        self.consumers.entry(consumer).or_default();
    }

    /// The consumers that could be handed what others hold. Nobody while paused.
    pub fn successors(&self) -> impl Iterator<Item = ConsumerId> {
        let consumers = self.consumers.iter().filter(|_| self.paused.is_none());
        let successors = consumers
            .filter(|(id, consumer)| consumer.looks_from.is_none() && !self.stalled.contains(id));
        successors.map(|(id, _)| *id)
    }

    /// Whether a consumer with credit would get something now.
    #[must_use]
    pub fn has_deliverable(&self) -> bool {
        self.paused.is_none()
            && self.in_flight < self.in_flight_max()
            && (!self.ready.is_empty()
                || !self.retries.is_empty()
                || !self.suspects.untried.is_empty()
                || !self.suspects.accused.is_empty()
                || self.has_fresh())
    }

    /// Hands at most `events_max` events to `consumer`, appended to `out`: first what was given back, then what failed
    /// and is to be tried again, then what was never handed out, each in order. Nothing while paused, and never
    /// more than the policy allows to be in flight. One that only looks is shown what it has not seen.
    pub fn lease(
        &mut self,
        consumer: ConsumerId,
        events_max: usize,
        now: Millis,
        out: &mut Vec<Lease>,
    ) {
        let Some(asking) = self.consumers.get(&consumer) else {
            return;
        };
        let is_paused = self.paused.is_some() && !planted!(PausedHandsOut);
        if is_paused || self.stalled.contains(&consumer) {
            return;
        }
        if let Some(from) = asking.looks_from {
            return self.show(consumer, from, events_max, out);
        }
        // More than it takes may be due, which others wait for.
        self.effects.wakes |= self.release_due(now);
        let room = self.in_flight_max().saturating_sub(self.in_flight);
        let mut budget = room.min(events_max as u64);
        if room == 0 {
            reached!(WindowFull);
        }
        if budget == 0 {
            return;
        }
        match self.turn(consumer, now) {
            Turn::Wait => return,
            Turn::Suspects(at_most) => {
                let runs = self.pick_suspects(&mut budget.min(at_most));
                return self.hand_out(consumer, &runs, now, out);
            }
            Turn::Sound(spare) => budget = budget.min(room.saturating_sub(spare)),
        }
        let runs = pick(&mut self.ready, &mut budget);
        self.hand_out(consumer, &runs, now, out);
        let fresh_waits = !self.retries.is_empty() && self.has_fresh();
        if !self.retries.is_empty() {
            let mut share = match fresh_waits {
                true => self.share_of_retries(budget),
                false => budget,
            };
            budget -= share;
            let runs = pick(&mut self.retries, &mut share);
            budget += share;
            self.retries_in_a_row += count(&runs);
            self.hand_out(consumer, &runs, now, out);
        }
        let runs = self.pick_fresh(&mut budget);
        if !runs.is_empty() || !fresh_waits {
            self.retries_in_a_row = 0;
        }
        self.hand_out(consumer, &runs, now, out);
        if budget > 0 && fresh_waits && !self.has_fresh() {
            let runs = pick(&mut self.retries, &mut budget);
            self.hand_out(consumer, &runs, now, out);
        }
    }

    /// Events that were leased but not sent: they are deliverable again at once, and the attempt does not
    /// count.
    pub fn give_back(
        &mut self,
        consumer: ConsumerId,
        positions: impl IntoIterator<Item = Position>,
    ) {
        let mut runs = Vec::new();
        for position in positions {
            push_range(&mut runs, position..=position);
        }
        if self.show_again(consumer, &runs) {
            return;
        }
        self.come_back(consumer, &runs);
    }

    /// Events that were sent and that the consumer's client gives back before its application has got them: as
    /// [`give_back`](Self::give_back), and others get them, since this consumer gets nothing more until it
    /// [goes on](Self::goes_on). Whoever only looks holds none.
    pub fn take_back(&mut self, consumer: ConsumerId, ranges: &[RangeInclusive<Position>]) {
        self.come_back(consumer, ranges);
        if self.consumers.contains_key(&consumer) && self.stalled.insert(consumer) {
            self.effects.stalled += 1;
            self.drain_no_stalled();
        }
    }

    fn come_back(&mut self, consumer: ConsumerId, ranges: &[RangeInclusive<Position>]) {
        let unsent = self.take_unsent(consumer, ranges);
        for (first, last) in unsent.iter().copied() {
            self.make_ready(first, last);
        }
        self.effects.wakes |= !unsent.is_empty();
    }

    /// Like [`give_back`](Self::give_back), but they are not handed out again before `due`: the broker itself cannot send
    /// them now.
    pub fn postpone(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        due: Millis,
        now: Millis,
    ) {
        for (first, last) in self.take_unsent(consumer, ranges) {
            self.delay(first, last, due, now);
        }
        // What it held has left room for others.
        self.effects.wakes = true;
    }

    // How many of `budget` retries may take while something fresh waits. With a window of one they take turns.
    fn share_of_retries(&self, budget: u64) -> u64 {
        let window = self.in_flight_max();
        let of_window = match window {
            1 => 1,
            _ => window - (window / FRESH_SHARE).max(1),
        };
        let for_fresh = self.retries_in_a_row.saturating_add(budget) / FRESH_SHARE;
        budget
            .saturating_sub(for_fresh)
            .min(of_window.saturating_sub(self.retries_in_flight))
    }

    // The one place that chooses among what was never handed out: here in order of commit.
    fn pick_fresh(&mut self, budget: &mut u64) -> Vec<(u64, u64)> {
        let given_up = self.given_up.all();
        let mut runs = Vec::new();
        let mut next_fresh = self.next_fresh;
        'pending: for (first, last) in self.pending.ranges(self.next_fresh, u64::MAX) {
            let mut at = first;
            while at <= last {
                let skipped = given_up.ranges(at, last).next();
                if let Some((first, last)) = skipped
                    && first == at
                {
                    at = last + 1;
                    next_fresh = at;
                    continue;
                }
                let until = skipped.map_or(last, |(first, _)| first - 1);
                let Some(end) = spend(budget, at, until) else {
                    break 'pending;
                };
                runs.push((at, end));
                at = end + 1 + u64::from(planted!(FreshPassedOver) && end < until);
                next_fresh = at;
                if end < until {
                    break 'pending;
                }
            }
        }
        self.next_fresh = next_fresh;
        if planted!(LastHandedOutFirst)
            && let Some((first, last)) = runs.pop_if(|(first, last)| first < last)
        {
            runs.extend([(last, last), (first, last - 1)]);
        }
        runs
    }

    fn hand_out(
        &mut self,
        consumer: ConsumerId,
        runs: &[(u64, u64)],
        now: Millis,
        out: &mut Vec<Lease>,
    ) {
        let Some(holder) = self.consumers.get_mut(&consumer) else {
            return;
        };
        let deadline = holder.deadline(now, self.policy.ack_deadline_ms);
        let suspect = match runs.first() {
            Some((first, _)) => self.suspects.all.contains(*first),
            None => return,
        };
        if !planted!(DeadlineNotArmed) {
            self.effects.arm(Some(deadline));
        }
        for (first, last) in runs.iter().copied() {
            holder.hold(first, last, deadline);
            self.in_flight += last - first + 1;
            self.tries.show(first, last, |first, last, tried| {
                let count = last - first + 1;
                self.retries_in_flight += if tried.failed > 0 { count } else { 0 };
                self.redelivered += if tried.handed > 0 { count } else { 0 };
                push_leases(
                    out,
                    first..last + 1,
                    tried.handed.saturating_add(1),
                    suspect,
                );
            });
        }
    }

    // Removes what `consumer` holds of `ranges` as if it had not been handed out.
    fn take_unsent(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
    ) -> Vec<(u64, u64)> {
        let unsent = self.take_flights(consumer, ranges);
        for (first, last) in unsent.iter().copied() {
            self.landed(first, last);
            let mut again = 0;
            self.tries.show(first, last, |first, last, tried| {
                again += if tried.handed > 0 {
                    last - first + 1
                } else {
                    0
                };
            });
            self.redelivered = self.redelivered.saturating_sub(again);
        }
        unsent
    }
}

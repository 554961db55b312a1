//! The consumers' side: handing out, acks, returns with back-off, deadlines and giving up.

use std::ops::RangeInclusive;

use super::{
    Consumer, GiveUpReason, GivenUp, GivenUpEntry, Lease, RETURNED_RANGES_MAX, SubscriptionState,
    bounded, bounds, push_run,
};
use crate::domain::{ConsumerId, Millis, Position};

/// After a look at all deadlines of a consumer the next one waits a millisecond for this many ranges it holds,
/// so that many scattered deadlines cannot keep the broker looking. 65,536 of them expire up to 1 s late.
const RANGES_SCANNED_PER_MS: u64 = 64;

/// Why events come back.
enum Return {
    /// The consumer is gone.
    Detached,
    /// The consumer asked for another attempt, after this delay if it said one.
    Nacked(Option<u64>),
    /// The deadline passed.
    Expired,
}

impl SubscriptionState {
    /// Attaches a consumer.
    pub fn attach(&mut self, consumer: ConsumerId) {
        self.consumers.entry(consumer).or_default();
    }

    /// Detaches a consumer. What it held is deliverable again at once; the attempt stays counted, but a lost
    /// consumer alone never makes an event be given up.
    pub fn detach(&mut self, consumer: ConsumerId) {
        if let Some(consumer) = self.consumers.remove(&consumer) {
            for (first, last, _) in consumer.flights.iter() {
                self.hand_back(first, last, &Return::Detached, Millis(0));
            }
        }
    }

    /// Whether a consumer with credit would get something now.
    #[must_use]
    pub fn has_deliverable(&self) -> bool {
        self.paused.is_none()
            && self.in_flight < self.in_flight_max()
            && (!self.ready.is_empty() || (self.may_lease_fresh() && self.has_fresh()))
    }

    /// Hands at most `events_max` events to `consumer`, appended to `out`: first what is to be tried again,
    /// then what was never handed out, each in order. Nothing while paused, and never more than the policy
    /// allows to be in flight.
    pub fn lease(
        &mut self,
        consumer: ConsumerId,
        events_max: usize,
        now: Millis,
        out: &mut Vec<Lease>,
    ) {
        if self.paused.is_some() || !self.consumers.contains_key(&consumer) {
            return;
        }
        self.release_due(now);
        let mut budget = self
            .in_flight_max()
            .saturating_sub(self.in_flight)
            .min(events_max as u64);
        let runs = self.pick_ready(&mut budget);
        self.hand_out(consumer, &runs, now, out);
        if self.may_lease_fresh() {
            let runs = self.pick_fresh(&mut budget);
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
            push_run(&mut runs, position.0, position.0);
        }
        for (first, last) in self.take_unsent(consumer, &runs) {
            self.ready.insert_range(first, last);
        }
    }

    /// Like [`give_back`](Self::give_back), but they are not handed out again before `due`: the broker itself cannot send
    /// them now.
    pub fn postpone(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        due: Millis,
    ) {
        for (first, last) in self.take_unsent(consumer, ranges) {
            self.delayed.insert(first, last, due);
        }
    }

    /// Events are done with: those among `ranges` that `consumer` holds, or without a consumer whatever is
    /// pending. The runs that really were removed are appended to `acked`.
    ///
    /// Without a consumer, positions that are not decided yet are remembered and skipped when they match. The
    /// caller vouches that such ranges end near the journal's end; they are kept as given.
    pub fn ack(
        &mut self,
        consumer: Option<ConsumerId>,
        ranges: &[RangeInclusive<Position>],
        acked: &mut Vec<RangeInclusive<Position>>,
    ) {
        if let Some(consumer) = consumer {
            for (first, last) in self.take_flights(consumer, ranges) {
                self.in_flight -= last - first + 1;
                self.remove_pending(first, last);
                push_run(acked, first, last);
            }
            return;
        }
        for range in ranges {
            let (first, last) = bounds(range);
            self.drop_flights(first, last);
            self.ready.remove_range(first, last);
            self.delayed.by_position.take(first, last, |_, _, _| {});
            self.drop_given_up(first, last);
            let removed: Vec<(u64, u64)> = self.pending.ranges(first, last).collect();
            for (first, last) in removed {
                self.remove_pending(first, last);
                push_run(acked, first, last);
            }
        }
        self.acked_before_match(ranges);
    }

    /// The consumer wants these events again, after `delay_ms` or the policy's back-off.
    pub fn nack(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        delay_ms: Option<u64>,
        now: Millis,
    ) {
        for (first, last) in self.take_flights(consumer, ranges) {
            self.hand_back(first, last, &Return::Nacked(delay_ms), now);
        }
    }

    /// The consumer can never process these events: they are given up.
    pub fn term(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        reason: &str,
    ) {
        let reason = GiveUpReason::Terminated(bounded(reason));
        for (first, last) in self.take_flights(consumer, ranges) {
            self.give_up_flight(first, last, &reason);
        }
    }

    /// Gives up an event the consumer holds, for a reason the broker found. Returns whether it held it.
    pub fn give_up(
        &mut self,
        consumer: ConsumerId,
        position: Position,
        reason: GiveUpReason,
    ) -> bool {
        let flights = self.take_flights(consumer, &[position..=position]);
        for (first, last) in &flights {
            self.give_up_flight(*first, *last, &reason);
        }
        !flights.is_empty()
    }

    /// Starts the deadline of events the consumer holds anew.
    pub fn extend(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        now: Millis,
    ) {
        let deadline = now.plus(self.policy.ack_deadline_ms);
        let extended = self.take_flights(consumer, ranges);
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            for (first, last) in extended {
                consumer.hold(first, last, deadline);
            }
        }
    }

    /// Applies the passing of time: what is not acked by its deadline comes back with back-off or is given up,
    /// and what is due becomes deliverable. Returns whether something may have become deliverable.
    pub fn tick(&mut self, now: Millis) -> bool {
        let expired = self.expire(now);
        self.release_due(now) || expired
    }

    /// When [`tick`](Self::tick) has something to do next. May be early, never late.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Millis> {
        let deadline = self
            .consumers
            .values()
            .filter_map(|consumer| consumer.next_scan)
            .min();
        let due = self.delayed.by_due.first().map(|(due, _, _)| *due);
        deadline.into_iter().chain(due).min()
    }

    /// At most `max` events that were given up, each handed out once. Their dead letters durable, the caller
    /// acks them without a consumer; if that fails, it calls [`give_up_failed`](Self::give_up_failed).
    pub fn take_given_up(&mut self, max: usize) -> Vec<GivenUp> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(position) = self.given_up_waiting.pop_first()
        {
            if let Some(entry) = self.given_up.get(&position) {
                taken.push(GivenUp {
                    position: Position(position),
                    attempts: entry.attempts,
                    reason: entry.reason.clone(),
                });
            }
        }
        taken
    }

    /// Whether [`take_given_up`](Self::take_given_up) has something to hand out.
    #[must_use]
    pub fn has_given_up(&self) -> bool {
        !self.given_up_waiting.is_empty()
    }

    /// The dead letter could not be written: the event is handed out by
    /// [`take_given_up`](Self::take_given_up) again.
    pub fn give_up_failed(&mut self, position: Position) {
        if self.given_up.contains_key(&position.0) {
            self.given_up_waiting.insert(position.0);
        }
    }

    pub(super) fn record_given_up(&mut self, position: u64, entry: GivenUpEntry) {
        self.given_up.insert(position, entry);
        self.given_up_waiting.insert(position);
        self.dead_lettered += 1;
    }

    fn in_flight_max(&self) -> u64 {
        u64::from(self.policy.in_flight_events_max.max(1))
    }

    fn may_lease_fresh(&self) -> bool {
        let returned = self.attempts.len() + self.delayed.by_due.len() + self.given_up.len();
        returned < RETURNED_RANGES_MAX
    }

    fn has_fresh(&self) -> bool {
        self.pending
            .ranges(self.next_fresh, u64::MAX)
            .any(|(first, last)| {
                (self.given_up.range(first..=last).count() as u64) < last - first + 1
            })
    }

    fn pick_ready(&mut self, budget: &mut u64) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        for (first, last) in self.ready.ranges(0, u64::MAX) {
            let Some(last) = spend(budget, first, last) else {
                break;
            };
            runs.push((first, last));
        }
        for (first, last) in &runs {
            self.ready.remove_range(*first, *last);
        }
        runs
    }

    // The one place that chooses among what was never handed out: here in order of commit.
    fn pick_fresh(&mut self, budget: &mut u64) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        let mut next_fresh = self.next_fresh;
        'pending: for (first, last) in self.pending.ranges(self.next_fresh, u64::MAX) {
            let mut at = first;
            for given_up in self
                .given_up
                .range(first..=last)
                .map(|(position, _)| *position)
            {
                if at < given_up {
                    let Some(end) = spend(budget, at, given_up - 1) else {
                        break 'pending;
                    };
                    runs.push((at, end));
                    next_fresh = end + 1;
                    if end < given_up - 1 {
                        break 'pending;
                    }
                }
                at = given_up + 1;
                next_fresh = at;
            }
            if at <= last {
                let Some(end) = spend(budget, at, last) else {
                    break;
                };
                runs.push((at, end));
                next_fresh = end + 1;
                if end < last {
                    break;
                }
            }
        }
        self.next_fresh = next_fresh;
        runs
    }

    fn hand_out(
        &mut self,
        consumer: ConsumerId,
        runs: &[(u64, u64)],
        now: Millis,
        out: &mut Vec<Lease>,
    ) {
        let deadline = now.plus(self.policy.ack_deadline_ms);
        let Some(holder) = self.consumers.get_mut(&consumer) else {
            return;
        };
        for (first, last) in runs.iter().copied() {
            holder.hold(first, last, deadline);
            self.in_flight += last - first + 1;
            let mut at = first;
            for (from, to, attempts) in self.attempts.overlapping(first, last) {
                push_leases(out, at..from, 1);
                push_leases(out, from..to + 1, attempts.saturating_add(1));
                self.redelivered += to - from + 1;
                at = to + 1;
            }
            push_leases(out, at..last + 1, 1);
        }
    }

    // Removes from `consumer` what it holds of `ranges`; the caller says where it goes.
    fn take_flights(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
    ) -> Vec<(u64, u64)> {
        let mut taken = Vec::new();
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            for range in ranges {
                let (first, last) = bounds(range);
                consumer.release(first, last, |first, last| taken.push((first, last)));
            }
        }
        taken
    }

    // Removes what `consumer` holds of `ranges` as if it had not been handed out.
    fn take_unsent(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
    ) -> Vec<(u64, u64)> {
        let unsent = self.take_flights(consumer, ranges);
        for (first, last) in unsent.iter().copied() {
            self.in_flight -= last - first + 1;
            let again: u64 = self
                .attempts
                .overlapping(first, last)
                .map(|(first, last, _)| last - first + 1)
                .sum();
            self.redelivered = self.redelivered.saturating_sub(again);
        }
        unsent
    }

    fn drop_flights(&mut self, first: u64, last: u64) {
        for consumer in self.consumers.values_mut() {
            consumer.release(first, last, |first, last| {
                self.in_flight -= last - first + 1
            });
        }
    }

    fn drop_given_up(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let dropped: Vec<u64> = self
            .given_up
            .range(first..=last)
            .map(|(position, _)| *position)
            .collect();
        for position in dropped {
            self.given_up.remove(&position);
            self.given_up_waiting.remove(&position);
        }
    }

    fn remove_pending(&mut self, first: u64, last: u64) {
        self.pending.remove_range(first, last);
        if !self.attempts.is_empty() {
            self.attempts.take(first, last, |_, _, _| {});
        }
    }

    // `first..=last` were in flight and are in no place now.
    fn hand_back(&mut self, first: u64, last: u64, why: &Return, now: Millis) {
        self.in_flight -= last - first + 1;
        for (first, last, attempts) in self.take_attempts(first, last) {
            let exhausted = self.policy.attempts_max > 0 && attempts >= self.policy.attempts_max;
            if exhausted && !matches!(why, Return::Detached) {
                self.give_up_run(first, last, attempts, &GiveUpReason::AttemptsExhausted);
                continue;
            }
            self.attempts.insert(first, last, attempts);
            let delay_ms = match why {
                Return::Detached => 0,
                Return::Nacked(Some(delay_ms)) => *delay_ms,
                Return::Nacked(None) | Return::Expired => self.policy.backoff_after(attempts),
            };
            if delay_ms == 0 {
                self.ready.insert_range(first, last);
            } else {
                self.delayed.insert(first, last, now.plus(delay_ms));
            }
        }
    }

    // Removes the attempt counts of `first..=last` and returns them with the present attempt counted.
    fn take_attempts(&mut self, first: u64, last: u64) -> Vec<(u64, u64, u32)> {
        let mut counted = Vec::new();
        let mut at = first;
        self.attempts.take(first, last, |from, to, attempts| {
            if at < from {
                counted.push((at, from - 1, 1));
            }
            counted.push((from, to, attempts.saturating_add(1)));
            at = to + 1;
        });
        if at <= last {
            counted.push((at, last, 1));
        }
        counted
    }

    fn give_up_flight(&mut self, first: u64, last: u64, reason: &GiveUpReason) {
        self.in_flight -= last - first + 1;
        for (first, last, attempts) in self.take_attempts(first, last) {
            self.give_up_run(first, last, attempts, reason);
        }
    }

    fn give_up_run(&mut self, first: u64, last: u64, attempts: u32, reason: &GiveUpReason) {
        for position in first..=last {
            self.record_given_up(
                position,
                GivenUpEntry {
                    attempts,
                    reason: reason.clone(),
                },
            );
        }
    }

    fn expire(&mut self, now: Millis) -> bool {
        let mut expired = Vec::new();
        for consumer in self.consumers.values_mut() {
            if consumer.next_scan.is_some_and(|scan| scan <= now) {
                consumer.take_expired(now, &mut expired);
            }
        }
        for (first, last) in &expired {
            self.hand_back(*first, *last, &Return::Expired, now);
        }
        !expired.is_empty()
    }

    // Moves what is due from delayed to ready.
    fn release_due(&mut self, now: Millis) -> bool {
        let mut released = false;
        while let Some(hint) = self.delayed.by_due.first().copied()
            && hint.0 <= now
        {
            self.delayed.by_due.pop_first();
            let (_, first, last) = hint;
            let due: Vec<(u64, u64)> = self
                .delayed
                .by_position
                .overlapping(first, last)
                .filter(|(_, _, due)| *due <= now)
                .map(|(first, last, _)| (first, last))
                .collect();
            for (first, last) in due {
                self.delayed.by_position.take(first, last, |_, _, _| {});
                self.ready.insert_range(first, last);
                released = true;
            }
        }
        released
    }
}

impl Consumer {
    fn hold(&mut self, first: u64, last: u64, deadline: Millis) {
        self.flights.insert(first, last, deadline);
        self.next_scan = Some(self.next_scan.map_or(deadline, |scan| scan.min(deadline)));
    }

    fn release(&mut self, first: u64, last: u64, mut released: impl FnMut(u64, u64)) {
        self.flights
            .take(first, last, |first, last, _| released(first, last));
        if self.flights.is_empty() {
            self.next_scan = None;
        }
    }

    fn take_expired(&mut self, now: Millis, expired: &mut Vec<(u64, u64)>) {
        let found = expired.len();
        let mut next = None;
        for (first, last, deadline) in self.flights.iter() {
            if deadline <= now {
                expired.push((first, last));
            } else {
                next = Some(next.map_or(deadline, |next: Millis| next.min(deadline)));
            }
        }
        for (first, last) in &expired[found..] {
            self.flights.take(*first, *last, |_, _, _| {});
        }
        let pause_ms = self.flights.len() as u64 / RANGES_SCANNED_PER_MS;
        self.next_scan = next.map(|next| next.max(now.plus(pause_ms)));
    }
}

// Takes at most `budget` positions from the front of `first..=last` and returns the last of them.
fn spend(budget: &mut u64, first: u64, last: u64) -> Option<u64> {
    if *budget == 0 {
        return None;
    }
    let count = (*budget).min(last - first + 1);
    *budget -= count;
    Some(first + count - 1)
}

fn push_leases(out: &mut Vec<Lease>, positions: std::ops::Range<u64>, attempt: u32) {
    out.extend(positions.map(|position| Lease {
        position: Position(position),
        attempt,
    }));
}

//! Deadlines of what a consumer holds, and what they mean for events that its application has not got yet. An application's time
//! begins when it gets an event: what waits in its client, or on the way there, misses no deadline while the application
//! takes others, and when it takes none for that long, it goes to somebody else without an attempt being counted. Who let that
//! happen gets nothing more until it goes on. And what the broker itself is at work on, reading it or transforming it, is late for no
//! fault of the event's: it has no deadline.

use std::ops::RangeInclusive;

use super::consumer::UNSEEN_MS_MIN;
use super::retries::Return;
use super::{SubscriptionState, bounds};
use crate::domain::{ConsumerId, Millis, Position};
use crate::state::position_set::PositionSet;

/// Longest time for which one extension keeps an event in a consumer's hands: a day. Whoever is at work for longer extends again,
/// so that what nobody is at work on any more comes back on its own.
pub(super) const EXTENSION_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// What a consumer was leased and its application has not got, as far as that is known.
#[derive(Clone, Debug, Default)]
pub struct Unseen {
    /// The broker reads or transforms them for it.
    pub at_work: Vec<RangeInclusive<Position>>,
    /// They wait for being sent.
    pub unsent: Vec<RangeInclusive<Position>>,
    /// They wait in its client.
    pub sent: Vec<RangeInclusive<Position>>,
}

impl SubscriptionState {
    /// Attaches a consumer that says what it has handed to its application, see [`handed_over`](Self::handed_over).
    pub fn attach_saying(&mut self, consumer: ConsumerId) {
        self.consumers.entry(consumer).or_default().says = true;
    }

    /// Attaches a part of the broker that answers everything it takes, and whose delays are no fault of an event's: what it
    /// holds has no deadline.
    pub fn attach_untimed(&mut self, consumer: ConsumerId) {
        self.consumers.entry(consumer).or_default().untimed = true;
    }

    /// The consumer's application has got these events: for those that it still holds, the deadline begins.
    pub fn handed_over(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        now: Millis,
    ) {
        let held = self.take_flights(consumer, ranges);
        let deadline = now.plus(self.policy.ack_deadline_ms);
        if let Some(holder) = self.consumers.get_mut(&consumer) {
            holder.handed_at = Some(now);
            for (first, last) in &held {
                holder.hold(*first, *last, deadline);
            }
        }
        self.effects.arm((!held.is_empty()).then_some(deadline));
        self.goes_on(consumer);
    }

    /// The consumer asks for more: its application goes on.
    pub fn goes_on(&mut self, consumer: ConsumerId) {
        self.effects.wakes |= self.stalled.remove(&consumer);
    }

    /// How many consumers get nothing more until their applications go on.
    #[must_use]
    pub fn stalled(&self) -> usize {
        self.stalled.len()
    }

    /// Starts the deadline of events the consumer holds anew: so long from now, at most a day, or as long as the
    /// policy says. Returns those that it does not hold.
    pub fn extend(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        extend_for_ms: Option<u64>,
        now: Millis,
    ) -> Vec<RangeInclusive<Position>> {
        let extended = self.take_flights(consumer, ranges);
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            let extend_for_ms = extend_for_ms.map(|ms| ms.min(EXTENSION_MS_MAX));
            let deadline = now.plus(extend_for_ms.unwrap_or(self.policy.ack_deadline_ms));
            for (first, last) in &extended {
                consumer.hold(*first, *last, deadline);
            }
            self.effects.arm((!extended.is_empty()).then_some(deadline));
        }
        self.not_held(consumer, ranges, &extended)
    }

    /// Applies the passing of time: what is not acked by its deadline comes back with back-off or is given up,
    /// and what is due becomes deliverable. `unseen` knows what a consumer's application has not got, for which no attempt
    /// counts. Returns whether something may have become deliverable.
    pub fn tick(&mut self, now: Millis, unseen: impl Fn(ConsumerId) -> Option<Unseen>) -> bool {
        let expired = self.expire(now, unseen);
        let waited = self.wait_is_over(now);
        let changed = self.release_due(now) || expired || waited;
        self.effects.arm(self.next_wakeup());
        self.effects.has_given_up |= self.has_given_up();
        self.effects.wakes |= changed;
        changed
    }

    /// When [`tick`](Self::tick) has something to do next. May be early, never late.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Millis> {
        let deadline = self
            .consumers
            .values()
            .filter_map(|consumer| consumer.next_scan)
            .min();
        let due = self.delayed.0.first();
        deadline
            .into_iter()
            .chain(due)
            .chain(self.wait_ends())
            .min()
    }

    // What missed its deadline comes back.
    fn expire(&mut self, now: Millis, unseen: impl Fn(ConsumerId) -> Option<Unseen>) -> bool {
        let (mut expired, mut never_seen) = (Vec::new(), Vec::new());
        for (id, consumer) in &mut self.consumers {
            if consumer.next_scan.is_none_or(|scan| scan > now) {
                continue;
            }
            let found = expired.len();
            consumer.take_expired(now, &mut expired);
            if found == expired.len() {
                continue;
            }
            let Some(unseen) = unseen(*id) else {
                continue;
            };
            let mut late = expired.split_off(found);
            // Not sooner, for whoever looks has everybody else wait.
            let renewed = now.plus(self.policy.ack_deadline_ms.max(UNSEEN_MS_MIN));
            for (first, last) in take_within(&mut late, &unseen.at_work) {
                consumer.hold(first, last, renewed);
            }
            let again = consumer.unseen_until(self.policy.ack_deadline_ms);
            for (ranges, is_sent) in [(&unseen.unsent, false), (&unseen.sent, true)] {
                for (first, last) in take_within(&mut late, ranges) {
                    match again {
                        Some(deadline) if deadline > now => consumer.hold(first, last, deadline),
                        _ => never_seen.push((is_sent.then_some(*id), first, last)),
                    }
                }
            }
            expired.append(&mut late);
        }
        for (first, last) in &expired {
            if planted!(LateGoesNowhere) {
                self.landed(*first, *last);
                continue;
            }
            reached!(DeadlineMissed);
            if planted!(LatePanics) {
                panic!("it is planted");
            }
            self.hand_back(*first, *last, &Return::Expired, now);
        }
        let stalled_before = self.stalled.len();
        for (stalled, first, last) in &never_seen {
            self.landed(*first, *last);
            self.make_ready(*first, *last);
            if stalled.is_some() {
                reached!(ApplicationStands);
            }
            self.stalled.extend(stalled);
        }
        self.effects.stalled += (self.stalled.len() - stalled_before) as u64;
        self.drain_no_stalled();
        !expired.is_empty() || !never_seen.is_empty()
    }
}

// Takes out of `runs` what lies in `ranges`.
fn take_within(runs: &mut Vec<(u64, u64)>, ranges: &[RangeInclusive<Position>]) -> Vec<(u64, u64)> {
    let mut wanted = PositionSet::default();
    let start = runs.iter().map(|run| run.0).min();
    let end = runs.iter().map(|run| run.1).max();
    if let Some((start, end)) = start.zip(end) {
        for (first, last) in ranges.iter().map(bounds) {
            wanted.insert_range(first.max(start), last.min(end));
        }
    }
    let (mut taken, mut left) = (Vec::new(), Vec::new());
    for (first, last) in runs.drain(..) {
        taken.extend(wanted.ranges(first, last));
        left.extend(wanted.gaps(first, last));
    }
    *runs = left;
    taken
}

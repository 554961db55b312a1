//! Deadlines of what a consumer holds, and what they mean for events that its application has not got yet. An application's time
//! begins when it gets an event: what waits in its client, or on the way there, misses no deadline while the application
//! takes others, and when it takes none for that long, it goes to somebody else without an attempt being counted. Who let that
//! happen gets nothing more until it goes on.

use std::ops::RangeInclusive;

use super::returned::Return;
use super::{Consumer, SubscriptionState, bounds};
use crate::broker::positions::PositionSet;
use crate::domain::{ConsumerId, Millis, Position};

/// However short the ack deadline is: what a client has this long at least it had time to hand over, and to say so.
const UNSEEN_MS_MIN: u64 = 2_000;

/// What a consumer was leased and its application has not got, as far as that is known.
#[derive(Clone, Debug, Default)]
pub struct Unseen {
    /// These events, and others perhaps.
    pub ranges: Vec<RangeInclusive<Position>>,
}

/// What comes of handing events over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// The deadline that begins with it.
    pub deadline: Option<Millis>,
    /// The consumer gets something again.
    pub goes_on: bool,
}

impl SubscriptionState {
    /// Attaches a consumer that says what it has handed to its application, see [`handed_over`](Self::handed_over).
    pub fn attach_saying(&mut self, consumer: ConsumerId) {
        self.consumers.entry(consumer).or_default().says = true;
    }

    /// The consumer's application has got these events: for those that it still holds, the deadline begins.
    pub fn handed_over(
        &mut self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        now: Millis,
    ) -> HandedOver {
        let held = self.take_flights(consumer, ranges);
        let deadline = now.plus(self.policy.ack_deadline_ms);
        if let Some(holder) = self.consumers.get_mut(&consumer) {
            holder.handed_at = Some(now);
            for (first, last) in &held {
                holder.hold(*first, *last, deadline);
            }
        }
        HandedOver {
            deadline: (!held.is_empty()).then_some(deadline),
            goes_on: self.stalled.remove(&consumer),
        }
    }

    // What missed its deadline comes back.
    pub(super) fn expire(
        &mut self,
        now: Millis,
        unseen: impl Fn(ConsumerId) -> Option<Unseen>,
    ) -> bool {
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
            let late = expired.split_off(found);
            let hidden = within(&late, &unseen.ranges);
            let again = consumer.unseen_until(self.policy.ack_deadline_ms);
            for (first, last) in late {
                expired.extend(hidden.gaps(first, last));
                for (first, last) in hidden.ranges(first, last) {
                    match again {
                        Some(deadline) if deadline > now => consumer.hold(first, last, deadline),
                        _ => never_seen.push((*id, first, last)),
                    }
                }
            }
        }
        for (first, last) in &expired {
            self.hand_back(*first, *last, &Return::Expired, now);
        }
        for (consumer, first, last) in &never_seen {
            self.landed(*first, *last);
            self.make_ready(*first, *last);
            if self.consumers.get(consumer).is_some_and(|it| it.says) {
                self.stalled.insert(*consumer);
            }
        }
        !expired.is_empty() || !never_seen.is_empty()
    }
}

impl Consumer {
    // When something that it is leased now misses its deadline.
    pub(super) fn deadline(&self, now: Millis, ack_deadline_ms: u64) -> Millis {
        match self.says {
            true => now.plus(ack_deadline_ms.max(UNSEEN_MS_MIN)),
            false => now.plus(ack_deadline_ms),
        }
    }

    // How long what its application has not got may wait, from when that got something last.
    fn unseen_until(&self, ack_deadline_ms: u64) -> Option<Millis> {
        let at = self.handed_at?;
        Some(at.plus(ack_deadline_ms.max(UNSEEN_MS_MIN)))
    }
}

// What of `ranges` lies between the first and the last of `runs`.
fn within(runs: &[(u64, u64)], ranges: &[RangeInclusive<Position>]) -> PositionSet {
    let mut found = PositionSet::default();
    let start = runs.iter().map(|run| run.0).min();
    let end = runs.iter().map(|run| run.1).max();
    if let Some((start, end)) = start.zip(end) {
        for (first, last) in ranges.iter().map(bounds) {
            found.insert_range(first.max(start), last.min(end));
        }
    }
    found
}

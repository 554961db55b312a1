//! Giving up: events that nobody will get any more, why, and how they are taken to be written as dead letters. An event that is given
//! up stays pending until its dead letter is durable. Letters themselves are written elsewhere.

use std::ops::RangeInclusive;

use super::came_back::Next;
use super::give_up_reason::GiveUpReason;
use super::{SubscriptionState, bounds};
use crate::domain::{ConsumerId, Position};
use crate::state::position_set::PositionSet;

/// An event that will not be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Which event.
    pub position: Position,
    /// How many attempts at it counted.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: GiveUpReason,
}

impl SubscriptionState {
    /// Gives up an event the consumer holds, for a reason the broker found. Returns whether it held it.
    pub fn give_up(
        &mut self,
        consumer: ConsumerId,
        position: Position,
        reason: &GiveUpReason,
    ) -> bool {
        let flights = self.take_flights(consumer, &[position..=position]);
        for (first, last) in &flights {
            self.give_up_flight(*first, *last, reason);
        }
        self.effects.wakes |= !flights.is_empty();
        !flights.is_empty()
    }

    /// Gives up what is pending in a range and in nobody's hands, for a reason the broker found. Returns how many that were.
    pub fn give_up_pending(
        &mut self,
        range: RangeInclusive<Position>,
        reason: &GiveUpReason,
    ) -> u64 {
        let (first, last) = (range.start().0, range.end().0);
        let mut idle = PositionSet::default();
        for (first, last) in self.pending.ranges(first, last) {
            idle.insert_range(first, last);
        }
        for consumer in self.consumers.values() {
            for (first, last, _) in consumer.flights.iter() {
                idle.remove_range(first, last);
            }
        }
        for (first, last) in self.given_up.all().ranges(first, last) {
            idle.remove_range(first, last);
        }
        for (first, last) in idle.ranges(first, last) {
            self.take_from_its_place(first, last);
            self.suspects.clear(first, last);
            self.tell_given_up(first, last, reason);
            self.record_given_up(first, last, reason);
        }
        self.effects.wakes |= !idle.is_empty();
        idle.len()
    }

    pub(super) fn give_up_flight(&mut self, first: u64, last: u64, reason: &GiveUpReason) {
        self.landed(first, last);
        for (first, last, tried) in self.tries.take(first, last) {
            self.tries.insert(first, last, tried.again(true));
        }
        self.suspects.clear(first, last);
        self.tell_given_up(first, last, reason);
        self.record_given_up(first, last, reason);
    }

    // Their letters are owed, whatever happens before these are written.
    fn tell_given_up(&mut self, first: u64, last: u64, reason: &GiveUpReason) {
        let next = Next::GivenUp(reason.bounded());
        let mut runs = Vec::new();
        self.tries.show(first, last, |first, last, tried| {
            runs.push((first, last, tried))
        });
        for (first, last, tried) in runs {
            self.tell_back(first, last, tried, &next);
        }
    }

    // `first..=last` are in no place now.
    pub(super) fn record_given_up(&mut self, first: u64, last: u64, reason: &GiveUpReason) {
        reached!(GivenUp);
        self.given_up.insert(first, last, &reason.bounded());
        self.given_up_waiting.insert_range(first, last);
        self.effects.has_given_up = true;
    }

    /// At most `max` events that were given up, each handed out once. Their dead letters durable, the caller
    /// says that they [are acked](Self::is_acked); if that fails, it calls [`give_up_failed`](Self::give_up_failed).
    pub fn take_given_up(&mut self, max: usize) -> Vec<GivenUp> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(position) = self.given_up_waiting.first()
        {
            self.given_up_waiting.remove_range(position, position);
            let Some(reason) = self.given_up.get(position).cloned() else {
                continue;
            };
            taken.push(GivenUp {
                position: Position(position),
                attempts: self.tries.in_vain(position),
                reason,
            });
        }
        taken
    }

    /// Whether [`take_given_up`](Self::take_given_up) has something to hand out.
    #[must_use]
    pub fn has_given_up(&self) -> bool {
        !self.given_up_waiting.is_empty()
    }

    /// The dead letters could not be written: the events are handed out by
    /// [`take_given_up`](Self::take_given_up) again.
    pub fn give_up_failed(&mut self, range: &RangeInclusive<Position>) {
        let (first, last) = bounds(range);
        for (first, last) in self.given_up.all().ranges(first, last) {
            self.given_up_waiting.insert_range(first, last);
            self.effects.has_given_up = true;
        }
    }
}

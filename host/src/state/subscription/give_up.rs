//! Giving up: events that nobody will get any more, why, and how they are taken to be written as dead letters. An event that is given
//! up stays pending until its dead letter is durable. Letters themselves are written elsewhere.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{REASON_BYTES_MAX, SubscriptionState, bounded, bounds};
use crate::domain::{ConsumerId, Position};
use crate::state::position_set::PositionSet;

/// An event that will not be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Which event.
    pub position: Position,
    /// How often it was tried: handed out, and not acked in the end.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: GiveUpReason,
}

/// Why an event goes to the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GiveUpReason {
    /// It was tried as often as the policy allows.
    AttemptsExhausted,
    /// A consumer said that it can never be processed.
    Terminated(Arc<str>),
    /// A filter failed on it.
    FilterFailed(Arc<str>),
    /// A transform refused it.
    TransformRejected(Arc<str>),
    /// A transform failed on it.
    TransformFailed(Arc<str>),
    /// It went through more routes than allowed.
    HopLimit,
    /// It could not be read any more, and an operator gave it up.
    Unreadable(Arc<str>),
    /// It was tried as often as the policy allows, the last time by a consumer that lost its connection with nothing else
    /// in hand.
    ConsumersLost,
}

impl GiveUpReason {
    // The same, with no more said than is kept.
    pub(super) fn bounded(&self) -> Self {
        match self {
            Self::Terminated(text)
            | Self::FilterFailed(text)
            | Self::TransformRejected(text)
            | Self::TransformFailed(text)
            | Self::Unreadable(text)
                if text.len() > REASON_BYTES_MAX =>
            {
                self.of_its_kind(&bounded(text))
            }
            _ => self.clone(),
        }
    }

    // The same with `text` in place of what was said.
    pub(super) fn of_its_kind(&self, text: &str) -> Self {
        match self {
            Self::Terminated(_) => Self::Terminated(text.into()),
            Self::FilterFailed(_) => Self::FilterFailed(text.into()),
            Self::TransformRejected(_) => Self::TransformRejected(text.into()),
            Self::TransformFailed(_) => Self::TransformFailed(text.into()),
            Self::Unreadable(_) => Self::Unreadable(text.into()),
            Self::AttemptsExhausted | Self::HopLimit | Self::ConsumersLost => self.clone(),
        }
    }
}

impl fmt::Display for GiveUpReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttemptsExhausted => {
                f.write_str("handed out as often as the subscription allows")
            }
            Self::Terminated(reason) => write!(f, "refused by the consumer: {reason}"),
            Self::FilterFailed(reason) => write!(f, "filter failed: {reason}"),
            Self::TransformRejected(reason) => write!(f, "refused by the transform: {reason}"),
            Self::TransformFailed(reason) => write!(f, "transform failed: {reason}"),
            Self::Unreadable(reason) => write!(f, "cannot be read: {reason}"),
            Self::HopLimit => {
                f.write_str("went through more routes than allowed; look for a cycle")
            }
            Self::ConsumersLost => f.write_str(
                "tried as often as the subscription allows; the last consumer lost its connection with nothing else in hand",
            ),
        }
    }
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
            self.ready.remove_range(first, last);
            self.retries.remove_range(first, last);
            self.suspects.untried.remove_range(first, last);
            self.suspects.accused.remove_range(first, last);
            self.delayed.remove(first, last);
            self.clear(first, last);
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
        self.clear(first, last);
        self.record_given_up(first, last, reason);
    }

    // `first..=last` are in no place now.
    pub(super) fn record_given_up(&mut self, first: u64, last: u64, reason: &GiveUpReason) {
        self.given_up.insert(first, last, &reason.bounded());
        self.given_up_waiting.insert_range(first, last);
        self.dead_lettered += last - first + 1;
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
                attempts: self.attempts(position),
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

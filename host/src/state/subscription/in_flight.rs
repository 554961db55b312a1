//! What is in flight, in the hands of any consumer: how much may be, and how it lands. Where it goes then is said by whoever lets it
//! land.

use std::ops::RangeInclusive;

use super::{SubscriptionState, bounds};
use crate::domain::{ConsumerId, Position};

impl SubscriptionState {
    // How many may be at a time.
    pub(super) fn in_flight_max(&self) -> u64 {
        u64::from(self.policy.in_flight_events_max.max(1))
    }

    // Removes from `consumer` what it holds of `ranges`; the caller says where it goes.
    pub(super) fn take_flights(
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

    // Removes `first..=last` from whoever holds it.
    pub(super) fn drop_flights(&mut self, first: u64, last: u64) {
        let mut dropped = Vec::new();
        for consumer in self.consumers.values_mut() {
            consumer.release(first, last, |first, last| dropped.push((first, last)));
        }
        for (first, last) in dropped {
            self.landed(first, last);
        }
    }

    // `first..=last` are not in flight any more. Called while their tries are still known.
    pub(super) fn landed(&mut self, first: u64, last: u64) {
        self.in_flight -= last - first + 1;
        self.retries_in_flight -= self.tries.failed(first, last);
    }
}

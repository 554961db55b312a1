//! What is in flight, in the hands of any consumer: how much may be, how it lands, and how that is noted. Where it goes then is said
//! by whoever lets it land.

use std::ops::RangeInclusive;

use super::came_back::{CameBack, Next};
use super::lease_budget::count;
use super::retries::attempt_counts::Tried;
use super::{SubscriptionState, bounds};
use crate::domain::{ConsumerId, Position};
use crate::state::position_set::PositionSet;

impl SubscriptionState {
    // How many may be at a time.
    pub(super) fn in_flight_max(&self) -> u64 {
        u64::from(self.policy.in_flight_events_max.max(1))
    }

    /// How many events are in this consumer's hands.
    #[must_use]
    pub fn held_by(&self, consumer: ConsumerId) -> u64 {
        self.consumers.get(&consumer).map_or(0, |one| one.held())
    }

    /// The oldest event that is in anybody's hands, and how often it was handed out.
    #[must_use]
    pub fn oldest_in_flight(&self) -> Option<(Position, u32)> {
        let held = self.consumers.values();
        let oldest = held.filter_map(|one| one.flights.span()).min()?.0;
        let mut before = 0;
        self.tries
            .show(oldest, oldest, |_, _, tried| before = tried.handed);
        Some((Position(oldest), before.saturating_add(1)))
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

    // What of `ranges`, each once and rising, a consumer does not hold any more, if it held `taken` of them. Whoever only looks holds
    // nothing, and its answers are nobody's business.
    pub(super) fn not_held(
        &self,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
        taken: &[(u64, u64)],
    ) -> Vec<RangeInclusive<Position>> {
        let named = ranges.iter().map(bounds);
        let named = named.fold(0u64, |sum, (first, last)| {
            sum.saturating_add(last.saturating_sub(first).saturating_add(1))
        });
        let looks = self.consumers.get(&consumer);
        let looks = looks.is_some_and(|consumer| consumer.looks_from.is_some());
        if looks || named == count(taken) {
            return Vec::new();
        }
        let mut held = PositionSet::default();
        for (first, last) in taken {
            held.insert_range(*first, *last);
        }
        reached!(AnsweredTooLate);
        let mut late = Vec::new();
        for (first, last) in ranges.iter().map(bounds) {
            let gaps = held.gaps(first, last).into_iter();
            late.extend(gaps.map(|(first, last)| Position(first)..=Position(last)));
        }
        late
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

    /// Notes for whoever writes it down that `first..=last` came back, tried so often.
    pub(super) fn tell_back(&mut self, first: u64, last: u64, tried: Tried, next: &Next) {
        let mut tell = |first, last, suspect| {
            self.effects.came_back.push(CameBack {
                first,
                more: last - first,
                failed: tried.failed,
                handed: tried.handed,
                suspect,
                next: next.clone(),
            });
        };
        if self.suspects.all.is_empty() {
            return tell(first, last, false);
        }
        for (first, last) in self.suspects.all.gaps(first, last) {
            tell(first, last, false);
        }
        for (first, last) in self.suspects.all.ranges(first, last) {
            tell(first, last, true);
        }
    }

    // `first..=last` are pending, in nobody's hands and not given up: they are in no place now.
    pub(super) fn take_from_its_place(&mut self, first: u64, last: u64) {
        self.ready.remove_range(first, last);
        self.retries.remove_range(first, last);
        if !planted!(SuspectStaysPlaced) {
            self.suspects.untried.remove_range(first, last);
            self.suspects.accused.remove_range(first, last);
        }
        self.delayed.remove(first, last);
    }
}

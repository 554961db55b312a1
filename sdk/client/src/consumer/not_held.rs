//! What a consumer answered or extended and did not hold any more, as the broker says: told to the application by the next
//! confirmation, and by the deliveries themselves. Bounded: the oldest are forgotten. Pure.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use tidegate_wire::limits::NOT_HELD_RANGES_MAX;

use crate::error::SubscribeError;

/// What was not held.
#[derive(Debug, Default)]
pub(super) struct NotHeld {
    /// Of the present stream, each with how many deliveries had come on it: what comes again later is held again.
    ranges: VecDeque<(RangeInclusive<u64>, u64)>,
    /// What nobody was told yet.
    untold: Vec<RangeInclusive<u64>>,
    /// There was more.
    more: bool,
}

impl NotHeld {
    /// None of these were, of the `delivered` that had come.
    pub(super) fn add(&mut self, range: RangeInclusive<u64>, delivered: u64) {
        if self.ranges.len() == NOT_HELD_RANGES_MAX {
            self.ranges.pop_front();
        }
        self.ranges.push_back((range.clone(), delivered));
        match self.untold.len() < NOT_HELD_RANGES_MAX {
            true => self.untold.push(range),
            false => self.more = true,
        }
    }

    /// There were more than were named.
    pub(super) fn add_more(&mut self) {
        self.more = true;
    }

    /// Whether the delivery `number` of the present stream, at `position`, is among them.
    pub(super) fn names(&self, position: u64, number: u64) -> bool {
        let mut ranges = self.ranges.iter();
        ranges.any(|(range, delivered)| number <= *delivered && range.contains(&position))
    }

    /// What is to be told, once.
    pub(super) fn take_error(&mut self) -> Option<SubscribeError> {
        let positions = std::mem::take(&mut self.untold);
        let more = std::mem::take(&mut self.more);
        (more || !positions.is_empty()).then_some(SubscribeError::NotHeld { positions, more })
    }

    /// Nobody heard of it after all.
    pub(super) fn tell_again(&mut self, positions: Vec<RangeInclusive<u64>>, more: bool) {
        let room = NOT_HELD_RANGES_MAX.saturating_sub(self.untold.len());
        self.more |= more || positions.len() > room;
        self.untold.extend(positions.into_iter().take(room));
    }

    /// The stream is over, and with it whatever it delivered.
    pub(super) fn forget_stream(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_is_held_again_and_each_is_told_once() {
        let mut not_held = NotHeld::default();
        not_held.add(5..=7, 10);
        assert!(not_held.names(6, 10));
        assert!(!not_held.names(6, 11), "delivered after that");
        assert!(!not_held.names(8, 1));
        let error = not_held.take_error().expect("not told yet");
        assert!(error.to_string().starts_with("3 of the events"), "{error}");
        assert!(not_held.take_error().is_none());
        not_held.forget_stream();
        assert!(!not_held.names(6, 1));
    }

    #[test]
    fn more_than_is_kept_is_said_to_be_more() {
        let mut not_held = NotHeld::default();
        for position in 0..=NOT_HELD_RANGES_MAX as u64 {
            not_held.add(position..=position, 1);
        }
        assert!(!not_held.names(0, 1), "the oldest is forgotten");
        let error = not_held.take_error().expect("not told yet");
        let error = error.to_string();
        assert!(error.starts_with("more than 4096 of the events"), "{error}");
    }
}

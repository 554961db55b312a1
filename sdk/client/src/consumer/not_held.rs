//! What a consumer answered or extended and did not hold any more, as the broker says: told to the application by the next
//! confirmation, and by the deliveries themselves. Bounded: the lowest positions are forgotten. Pure.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use tidegate_wire::limits::NOT_HELD_RANGES_MAX;

use crate::error::SubscribeError;

/// What was not held.
#[derive(Debug, Default)]
pub(super) struct NotHeld {
    /// Of the present stream: disjoint ranges, by where they begin.
    ranges: BTreeMap<u64, Range>,
    /// What nobody was told yet.
    untold: Vec<RangeInclusive<u64>>,
    /// There was more.
    more: bool,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    last: u64,
    /// How many deliveries had come on the stream: what comes again later is held again.
    delivered: u64,
}

impl NotHeld {
    /// None of these were, of the `delivered` that had come.
    pub(super) fn add(&mut self, range: RangeInclusive<u64>, delivered: u64) {
        let (first, last) = (*range.start(), *range.end());
        // Of what was said of these before, more deliveries were had since.
        while let Some((&start, &old)) = self.ranges.range(..=last).next_back()
            && old.last >= first
        {
            self.ranges.remove(&start);
            if old.last > last {
                self.ranges.insert(last + 1, old);
            }
            if start < first {
                let before = Range {
                    last: first - 1,
                    ..old
                };
                self.ranges.insert(start, before);
            }
        }
        self.ranges.insert(first, Range { last, delivered });
        while self.ranges.len() > NOT_HELD_RANGES_MAX {
            self.ranges.pop_first();
        }
        self.tell(range);
    }

    /// An answer to the event at `position` was late, which has come again since: the newest delivery of it may be held.
    pub(super) fn add_earlier(&mut self, position: u64) {
        self.tell(position..=position);
    }

    fn tell(&mut self, range: RangeInclusive<u64>) {
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
        let before = self.ranges.range(..=position).next_back();
        before.is_some_and(|(_, range)| range.last >= position && number <= range.delivered)
    }

    /// What is to be told, once: each event once, however often it was answered.
    pub(super) fn take_error(&mut self) -> Option<SubscribeError> {
        let mut untold = std::mem::take(&mut self.untold);
        let more = std::mem::take(&mut self.more);
        untold.sort_unstable_by_key(|range| *range.start());
        let mut positions: Vec<RangeInclusive<u64>> = Vec::with_capacity(untold.len());
        for range in untold {
            match positions.last_mut() {
                Some(last) if range.start() <= last.end() => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => positions.push(range),
            }
        }
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
    fn a_late_answer_to_an_earlier_delivery_says_nothing_of_the_newest() {
        let mut not_held = NotHeld::default();
        not_held.add(5..=5, 10);
        not_held.add_earlier(5);
        assert!(not_held.names(5, 10), "the broker has said so");
        not_held.add_earlier(6);
        assert!(!not_held.names(6, 1));
        let error = not_held.take_error().expect("both").to_string();
        assert!(error.starts_with("2 of the events"), "{error}");
    }

    #[test]
    fn what_was_not_held_twice_goes_by_the_second_time() {
        let mut not_held = NotHeld::default();
        not_held.add(5..=9, 10);
        not_held.add(1..=2, 10);
        // The first in its middle, over its end, and at both ends of others.
        not_held.add(6..=6, 15);
        not_held.add(9..=12, 20);
        let named = |number| {
            let all = 0..=14;
            all.filter(|position| not_held.names(*position, number))
                .collect::<Vec<_>>()
        };
        assert_eq!(named(10), [1, 2, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(named(11), [6, 9, 10, 11, 12]);
        assert_eq!(named(16), [9, 10, 11, 12]);
        not_held.add(0..=14, 30);
        assert_eq!(not_held.ranges.len(), 1);
        match not_held.take_error() {
            Some(SubscribeError::NotHeld { positions, more }) => {
                assert_eq!((positions, more), (vec![0..=14], false));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn more_than_is_kept_is_said_to_be_more() {
        let mut not_held = NotHeld::default();
        for position in 0..=NOT_HELD_RANGES_MAX as u64 {
            not_held.add(position..=position, 1);
        }
        assert!(!not_held.names(0, 1), "the lowest is forgotten");
        assert!(not_held.names(1, 1));
        let error = not_held.take_error().expect("not told yet");
        let error = error.to_string();
        assert!(error.starts_with("more than 4096 of the events"), "{error}");
    }
}

//! What was extended and is not answered: until when each is held. Bounded. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Extensions that are remembered, beside those that have passed.
const EXTENSIONS_MAX: usize = 65_536;

/// Deadlines by position, in milliseconds of the consumer's clock.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    by_position: BTreeMap<u64, u64>,
    /// The same the other way round: what passes first comes first.
    by_deadline: BTreeSet<(u64, u64)>,
    /// Until when one is held, at most, that was not remembered.
    others_until: u64,
}

impl Extensions {
    /// The event at `position` is held until `expires_ms`. When as many others are held as are remembered, this one is not.
    pub(super) fn insert(&mut self, position: u64, expires_ms: u64, now_ms: u64) {
        self.remove(position);
        while let Some(&(passed, position)) = self.by_deadline.first()
            && passed <= now_ms
        {
            self.by_deadline.pop_first();
            self.by_position.remove(&position);
        }
        if self.by_position.len() < EXTENSIONS_MAX {
            self.by_position.insert(position, expires_ms);
            self.by_deadline.insert((expires_ms, position));
        } else {
            self.others_until = self.others_until.max(expires_ms);
        }
    }

    /// The one at `position` is answered.
    pub(super) fn remove(&mut self, position: u64) {
        if let Some(expires_ms) = self.by_position.remove(&position) {
            self.by_deadline.remove(&(expires_ms, position));
        }
    }

    /// None at these positions is held any more.
    pub(super) fn remove_range(&mut self, range: &RangeInclusive<u64>) {
        let positions = self.by_position.range(range.clone());
        let positions: Vec<u64> = positions.map(|(position, _)| *position).collect();
        for position in positions {
            self.remove(position);
        }
    }

    /// Until when the event at `position` is held, if it was extended.
    pub(super) fn expires_ms(&self, position: u64) -> Option<u64> {
        self.by_position.get(&position).copied()
    }

    /// Until when any is held, at most.
    pub(super) fn last_ms(&self) -> Option<u64> {
        let last = self.by_deadline.last().map(|(expires_ms, _)| *expires_ms);
        let others = Some(self.others_until).filter(|until| *until > 0);
        last.max(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_passed_makes_room_and_nothing_else_does() {
        let mut extensions = Extensions::default();
        let all = EXTENSIONS_MAX as u64;
        for position in 0..all {
            extensions.insert(position, 100 + position % 2, 0);
        }
        assert_eq!(extensions.last_ms(), Some(101));
        extensions.insert(all, 400, 99);
        assert_eq!(extensions.expires_ms(all), None, "there is no room");
        assert_eq!(extensions.last_ms(), Some(400), "and yet it is held");
        // Once more the same, and for longer, takes no room.
        extensions.insert(0, 300, 99);
        assert_eq!(extensions.expires_ms(0), Some(300));
        extensions.insert(all, 500, 100);
        assert_eq!(extensions.expires_ms(all), Some(500));
        assert_eq!(extensions.expires_ms(2), None, "it has passed");
        assert_eq!(
            (extensions.expires_ms(0), extensions.expires_ms(1)),
            (Some(300), Some(101))
        );
        extensions.remove(0);
        extensions.remove(7);
        extensions.remove_range(&(3..=5));
        assert_eq!(extensions.expires_ms(0), None);
        assert_eq!(extensions.expires_ms(5), None);
        assert_eq!(extensions.last_ms(), Some(500));
        extensions.remove(all);
        assert_eq!(extensions.last_ms(), Some(400));
        assert_eq!(extensions.by_position.len(), extensions.by_deadline.len());
    }
}

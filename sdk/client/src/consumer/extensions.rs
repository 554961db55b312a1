//! What was extended by its position, from elsewhere: until when each is held. Bounded, since a position says nothing of whether its
//! delivery is still in anybody's hands. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Extensions that are remembered, beside those that have passed.
const EXTENSIONS_MAX: usize = 65_536;

/// Deadlines by position, in milliseconds of the consumer's clock.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    by_position: BTreeMap<u64, u64>,
    /// The same the other way round: what passes first comes first.
    by_deadline: BTreeSet<(u64, u64)>,
}

impl Extensions {
    /// The event at `position` is held until `expires_ms`. When as many others are held as are remembered, this one is not.
    pub(super) fn insert(&mut self, position: u64, expires_ms: u64, now_ms: u64) {
        if let Some(earlier) = self.by_position.remove(&position) {
            self.by_deadline.remove(&(earlier, position));
        }
        while let Some(&(passed, position)) = self.by_deadline.first()
            && passed <= now_ms
        {
            self.by_deadline.pop_first();
            self.by_position.remove(&position);
        }
        if self.by_position.len() < EXTENSIONS_MAX {
            self.by_position.insert(position, expires_ms);
            self.by_deadline.insert((expires_ms, position));
        }
    }

    /// Until when the event at `position` is held, if it was extended.
    pub(super) fn expires_ms(&self, position: u64) -> Option<u64> {
        self.by_position.get(&position).copied()
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
        extensions.insert(all, 500, 99);
        assert_eq!(extensions.expires_ms(all), None, "there is no room");
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
        assert_eq!(extensions.by_position.len(), extensions.by_deadline.len());
    }
}

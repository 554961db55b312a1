//! Events in hand that were to be read and cannot be, as somebody finds them one after the other: which they are, why the first of them,
//! and how long a consumer leaves them alone. What shares a fate with one that was found is not asked for again. What becomes of them is
//! decided by who wanted them; when the disk is asked again, by the store's `unreadable_events`.

use std::ops::RangeInclusive;

use crate::domain::Position;
use crate::state::range_map::push_range;
use crate::store::ReadError;
use crate::telemetry::error_line::with_causes;

/// How long a consumer leaves alone what cannot be read.
pub(super) const RETRY_MS: u64 = 10_000;

/// Events whose block cannot be read.
#[derive(Default)]
pub(super) struct UnreadableEvents {
    ranges: Vec<RangeInclusive<Position>>,
    why: String,
    // The stretch that was found last.
    known: Option<RangeInclusive<Position>>,
}

impl UnreadableEvents {
    /// Whether this one is known to be unreadable without looking.
    pub(super) fn covers(&self, position: Position) -> bool {
        let known = self.known.as_ref();
        known.is_some_and(|known| known.contains(&position))
    }

    /// This one turned out to be.
    pub(super) fn found(&mut self, position: Position, error: &ReadError) {
        if self.ranges.is_empty() {
            self.why = with_causes(error);
        }
        if let ReadError::Unreadable { first, last, .. } = error {
            self.known = Some(*first..=*last);
        }
        self.add(position);
    }

    /// One that is [covered](Self::covers) is as well.
    pub(super) fn add(&mut self, position: Position) {
        push_range(&mut self.ranges, position..=position);
    }

    /// All that were found, in that order.
    pub(super) fn ranges(&self) -> &[RangeInclusive<Position>] {
        &self.ranges
    }

    /// Why the first of them cannot be read.
    pub(super) fn why(&self) -> &str {
        &self.why
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_shares_a_fate_is_known_without_looking() {
        let damage = || ReadError::damaged(Path::new("a"), "it");
        let mut unreadable = UnreadableEvents::default();
        unreadable.found(Position(3), &damage());
        assert!(!unreadable.covers(Position(4)), "it may be another's");
        let stretch = ReadError::Unreadable {
            path: "b".into(),
            first: Position(5),
            last: Position(9),
            source: Arc::new(damage()),
        };
        unreadable.found(Position(6), &stretch);
        assert!(unreadable.covers(Position(9)) && !unreadable.covers(Position(10)));
        unreadable.add(Position(7));
        let at = |first, last| Position(first)..=Position(last);
        assert_eq!(unreadable.ranges(), [at(3, 3), at(6, 7)]);
        assert!(unreadable.why().contains("it in a"), "{}", unreadable.why());
    }
}

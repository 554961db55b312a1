//! A set of positions: a roaring treemap that knows its length and hands out its runs. Runs are pairs of first
//! and last; one long run may come in several pieces.

use std::io;

use roaring::RoaringTreemap;

/// Runs up to this long are inserted one by one, so that scattered events end in array or bitmap containers:
/// a container of tens of thousands of tiny runs would be shifted as a whole on every removal.
const SHORT_RUN: u64 = 4;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PositionSet {
    map: RoaringTreemap,
    len: u64,
}

impl PositionSet {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.map.min()
    }

    pub(super) fn contains(&self, position: u64) -> bool {
        self.map.contains(position)
    }

    pub(super) fn contains_range(&self, first: u64, last: u64) -> bool {
        self.map.contains_range(first..=last)
    }

    /// Returns how many were new.
    pub(super) fn insert_range(&mut self, first: u64, last: u64) -> u64 {
        if first > last {
            return 0;
        }
        let added = if last - first < SHORT_RUN {
            (first..=last)
                .map(|position| u64::from(self.map.insert(position)))
                .sum()
        } else {
            self.map.insert_range(first..=last)
        };
        self.len += added;
        added
    }

    /// Returns how many were there.
    pub(super) fn remove_range(&mut self, first: u64, last: u64) -> u64 {
        if first > last || self.len == 0 {
            return 0;
        }
        let removed = if first == last {
            u64::from(self.map.remove(first))
        } else {
            self.map.remove_range(first..=last)
        };
        self.len -= removed;
        removed
    }

    /// The runs within `first..=last`, rising.
    pub(super) fn ranges(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let (first_high, first_low) = split(first);
        let (last_high, last_low) = split(last);
        self.map
            .bitmaps()
            .skip_while(move |(high, _)| *high < first_high)
            .take_while(move |(high, _)| first <= last && *high <= last_high)
            .flat_map(move |(high, bitmap)| {
                let from = if high == first_high { first_low } else { 0 };
                let to = if high == last_high {
                    last_low
                } else {
                    u32::MAX
                };
                let mut runs = bitmap.range(from..=to);
                std::iter::from_fn(move || runs.next_range())
                    .map(move |run| (join(high, *run.start()), join(high, *run.end())))
            })
    }

    /// What of `first..=last` is not in the set, rising.
    pub(super) fn gaps(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = Some(first);
        for (start, end) in self.ranges(first, last) {
            if let Some(from) = at.filter(|from| *from < start) {
                gaps.push((from, start - 1));
            }
            at = end.checked_add(1);
        }
        if let Some(from) = at.filter(|from| *from <= last) {
            gaps.push((from, last));
        }
        gaps
    }

    /// A copy of what lies within `first..=last`.
    pub(super) fn within(&self, first: u64, last: u64) -> RoaringTreemap {
        let mut part = RoaringTreemap::new();
        for (start, end) in self.ranges(first, last) {
            part.insert_range(start..=end);
        }
        part
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        self.map.serialize_into(out)
    }

    /// Reads what [`write`](Self::write) wrote and advances `bytes` past it.
    pub(super) fn read(bytes: &mut &[u8]) -> io::Result<Self> {
        let map = RoaringTreemap::deserialize_from(bytes)?;
        if map.bitmaps().any(|(_, bitmap)| bitmap.is_empty()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an empty part"));
        }
        let len = map.len();
        Ok(Self { map, len })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves are what is wanted"
)]
fn split(position: u64) -> (u32, u32) {
    ((position >> 32) as u32, position as u32)
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    // Around the borders of containers (2^16) and of bitmaps (2^32).
    fn near_borders() -> impl Strategy<Value = u64> {
        (
            prop::sample::select(vec![0u64, 1 << 16, 1 << 32, 3 << 32]),
            0u64..200,
        )
            .prop_map(|(base, offset)| base.saturating_sub(100) + offset)
    }

    proptest! {
        #[test]
        fn behaves_like_a_plain_set(
            steps in prop::collection::vec((any::<bool>(), near_borders(), 0u64..80), 1..60),
            window in (near_borders(), near_borders()),
        ) {
            let mut set = PositionSet::default();
            let mut model = BTreeSet::new();
            for (insert, first, length) in steps {
                let last = first + length;
                if insert {
                    set.insert_range(first, last);
                    model.extend(first..=last);
                } else {
                    set.remove_range(first, last);
                    model.retain(|position| !(first..=last).contains(position));
                }
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert_eq!(set.first(), model.first().copied());
            }
            let expected: Vec<u64> = model
                .iter()
                .copied()
                .filter(|position| (window.0..=window.1).contains(position))
                .collect();
            let found: Vec<u64> = set.ranges(window.0, window.1).flat_map(|(a, b)| a..=b).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(set.within(window.0, window.1).iter().collect::<Vec<_>>(), expected);
            if window.0 <= window.1 && window.1 - window.0 < 1000 {
                let gaps: Vec<u64> = set.gaps(window.0, window.1).into_iter().flat_map(|(a, b)| a..=b).collect();
                let absent: Vec<u64> = (window.0..=window.1).filter(|p| !model.contains(p)).collect();
                prop_assert_eq!(gaps, absent);
            }
            let mut bytes = Vec::new();
            set.write(&mut bytes).expect("a Vec takes all");
            let mut rest = &bytes[..];
            prop_assert_eq!(PositionSet::read(&mut rest).expect("just written"), set);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn reading_nonsense_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PositionSet::read(&mut &bytes[..]);
        }
    }

    #[test]
    fn a_reversed_or_empty_window_has_no_runs() {
        let mut set = PositionSet::default();
        set.insert_range(5, 500);
        assert_eq!(set.ranges(9, 8).count(), 0);
        assert_eq!(set.ranges(600, u64::MAX).count(), 0);
        assert_eq!(set.ranges(0, u64::MAX).collect::<Vec<_>>(), [(5, 500)]);
    }
}

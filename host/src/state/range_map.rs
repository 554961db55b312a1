//! A value per position, kept as ranges: neighbours with the same value are one entry, so what happens to a
//! batch costs one operation and not one per event.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::domain::Position;

#[derive(Clone, Debug)]
pub(super) struct RangeMap<V> {
    // First position → last position and value. Entries never overlap.
    entries: BTreeMap<u64, (u64, V)>,
}

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }
}

impl<V: Copy + PartialEq> RangeMap<V> {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of ranges.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64, V)> + '_ {
        self.entries
            .iter()
            .map(|(first, (last, value))| (*first, *last, *value))
    }

    /// The first and the last position that have a value.
    pub(super) fn span(&self) -> Option<(u64, u64)> {
        let (first, _) = self.entries.first_key_value()?;
        let (_, (last, _)) = self.entries.last_key_value()?;
        Some((*first, *last))
    }

    #[cfg(test)]
    pub(super) fn get(&self, position: u64) -> Option<V> {
        let (_, (last, value)) = self.entries.range(..=position).next_back()?;
        (*last >= position).then_some(*value)
    }

    /// Adds a range that overlaps nothing in the map.
    pub(super) fn insert(&mut self, mut first: u64, mut last: u64, value: V) {
        debug_assert!(first <= last && self.overlapping(first, last).next().is_none());
        if let Some((before, (before_last, before_value))) = self.entries.range(..first).next_back()
            && before_last.checked_add(1) == Some(first)
            && *before_value == value
        {
            first = *before;
        }
        if let Some(after) = last.checked_add(1)
            && let Some((after_last, after_value)) = self.entries.get(&after).copied()
            && after_value == value
        {
            self.entries.remove(&after);
            last = after_last;
        }
        self.entries.insert(first, (last, value));
    }

    /// The ranges that touch `first..=last`, cut to it, rising.
    pub(super) fn overlapping(
        &self,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = (u64, u64, V)> + '_ {
        let reaches_in = self
            .entries
            .range(..first)
            .next_back()
            .filter(|(_, (end, _))| first <= last && *end >= first);
        let starts_in = (first <= last)
            .then(|| self.entries.range(first..=last))
            .into_iter()
            .flatten();
        reaches_in
            .into_iter()
            .chain(starts_in)
            .map(move |(start, (end, value))| ((*start).max(first), (*end).min(last), *value))
    }

    /// Removes `first..=last` and shows each removed piece, rising.
    pub(super) fn take(&mut self, first: u64, last: u64, mut taken: impl FnMut(u64, u64, V)) {
        let mut at = first;
        while at <= last {
            let Some((start, end, value)) = self.touching(at, last) else {
                return;
            };
            let from = start.max(first);
            let to = end.min(last);
            if start < from {
                self.entries.insert(start, (from - 1, value));
            } else {
                self.entries.remove(&start);
            }
            if to < end {
                self.entries.insert(to + 1, (end, value));
            }
            taken(from, to, value);
            let Some(after) = to.checked_add(1) else {
                return;
            };
            at = after;
        }
    }

    // The first entry, whole, that touches `first..=last`.
    fn touching(&self, first: u64, last: u64) -> Option<(u64, u64, V)> {
        let whole = |(start, (end, value)): (&u64, &(u64, V))| (*start, *end, *value);
        self.entries
            .range(..=first)
            .next_back()
            .map(whole)
            .filter(|(_, end, _)| *end >= first)
            .or_else(|| self.entries.range(first..=last).next().map(whole))
    }
}

/// Adds `range` to rising ranges, joining it to the last one where they touch.
pub(crate) fn push_range(
    ranges: &mut Vec<RangeInclusive<Position>>,
    range: RangeInclusive<Position>,
) {
    match ranges.last_mut() {
        Some(last) if last.end().0.checked_add(1) == Some(range.start().0) => {
            *last = *last.start()..=*range.end();
        }
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_value_per_position(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20, 0u8..3), 1..80),
            window in (0u64..80, 0u64..80),
        ) {
            let mut map = RangeMap::default();
            let mut model = BTreeMap::new();
            for (insert, first, length, value) in steps {
                let last = first + length;
                let mut taken = Vec::new();
                map.take(first, last, |a, b, v| taken.extend((a..=b).map(|position| (position, v))));
                let expected: Vec<(u64, u8)> =
                    (first..=last).filter_map(|p| model.remove(&p).map(|v| (p, v))).collect();
                prop_assert_eq!(taken, expected);
                if insert {
                    map.insert(first, last, value);
                    model.extend((first..=last).map(|position| (position, value)));
                }
            }
            let flat = |runs: Vec<(u64, u64, u8)>| -> Vec<(u64, u8)> {
                runs.into_iter().flat_map(|(a, b, v)| (a..=b).map(move |p| (p, v))).collect()
            };
            let all: Vec<(u64, u8)> = model.iter().map(|(p, v)| (*p, *v)).collect();
            prop_assert_eq!(flat(map.iter().collect()), all);
            prop_assert_eq!(
                flat(map.overlapping(window.0, window.1).collect()),
                (window.0..=window.1).filter_map(|p| model.get(&p).map(|v| (p, *v))).collect::<Vec<_>>()
            );
            for position in 0..100 {
                prop_assert_eq!(map.get(position), model.get(&position).copied());
            }
        }
    }

    #[test]
    fn neighbours_with_the_same_value_are_one_entry() {
        let mut map = RangeMap::default();
        map.insert(1, 3, 'a');
        map.insert(7, 9, 'a');
        map.insert(4, 6, 'a');
        assert_eq!(map.iter().collect::<Vec<_>>(), [(1, 9, 'a')]);
        map.take(u64::MAX, u64::MAX, |_, _, _| {});
        map.insert(u64::MAX, u64::MAX, 'z');
        assert_eq!(map.get(u64::MAX), Some('z'));
    }
}

//! Positions by value, for values of which there are few: each value has a set of its own, so that a position costs
//! what it costs in a set, a few bytes at most, however the values alternate.

use std::collections::BTreeMap;

use super::position_set::PositionSet;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct PositionsByValue<V> {
    /// None of them is empty, and no position is in two.
    sets: BTreeMap<V, PositionSet>,
    all: PositionSet,
}

impl<V> Default for PositionsByValue<V> {
    fn default() -> Self {
        Self {
            sets: BTreeMap::new(),
            all: PositionSet::default(),
        }
    }
}

impl<V: Copy + Ord> PositionsByValue<V> {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Number of positions.
    pub(super) fn len(&self) -> u64 {
        self.all.len()
    }

    /// Number of values.
    pub(super) fn classes(&self) -> usize {
        self.sets.len()
    }

    pub(super) fn contains(&self, position: u64) -> bool {
        self.all.contains(position)
    }

    /// The lowest value.
    pub(super) fn first(&self) -> Option<V> {
        self.sets.first_key_value().map(|(value, _)| *value)
    }

    /// The highest value that is not above `value`.
    pub(super) fn at_or_below(&self, value: V) -> Option<V> {
        let (found, _) = self.sets.range(..=value).next_back()?;
        Some(*found)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (V, &PositionSet)> {
        self.sets.iter().map(|(value, set)| (*value, set))
    }

    /// Adds positions that have no value.
    pub(super) fn insert(&mut self, first: u64, last: u64, value: V) {
        debug_assert!(self.all.ranges(first, last).next().is_none());
        self.all.insert_range(first, last);
        self.sets
            .entry(value)
            .or_default()
            .insert_range(first, last);
    }

    /// Adds a whole class; false when the value or one of the positions is there already, or there are none.
    #[must_use]
    pub(super) fn insert_set(&mut self, value: V, set: PositionSet) -> bool {
        let sound = !set.is_empty()
            && !self.sets.contains_key(&value)
            && set
                .ranges(0, u64::MAX)
                .all(|(first, last)| self.all.insert_range(first, last) == last - first + 1);
        if sound {
            self.sets.insert(value, set);
        }
        sound
    }

    /// The runs within `first..=last` that have a value, rising.
    pub(super) fn overlapping(&self, first: u64, last: u64) -> Vec<(u64, u64, V)> {
        let mut runs = Vec::new();
        if self.all.ranges(first, last).next().is_none() {
            return runs;
        }
        for (value, set) in &self.sets {
            runs.extend(set.ranges(first, last).map(|(a, b)| (a, b, *value)));
        }
        runs.sort_unstable_by_key(|(first, _, _)| *first);
        runs
    }

    /// Removes `first..=last` and returns the runs that had a value, rising.
    pub(super) fn take(&mut self, first: u64, last: u64) -> Vec<(u64, u64, V)> {
        let runs = self.overlapping(first, last);
        if runs.is_empty() {
            return runs;
        }
        self.all.remove_range(first, last);
        for set in self.sets.values_mut() {
            set.remove_range(first, last);
        }
        self.sets.retain(|_, set| !set.is_empty());
        runs
    }

    /// Removes the lowest value, if it is not above `limit`, and returns its positions.
    pub(super) fn pop_first(&mut self, limit: V) -> Option<PositionSet> {
        let lowest = self.sets.first_entry()?;
        if *lowest.key() > limit {
            return None;
        }
        let set = lowest.remove();
        for (first, last) in set.ranges(0, u64::MAX) {
            self.all.remove_range(first, last);
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_value_per_position(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20, 0u8..3), 1..60),
            window in (0u64..80, 0u64..80),
            limit in 0u8..3,
        ) {
            let mut classes = PositionsByValue::default();
            let mut model = BTreeMap::new();
            let flat = |runs: Vec<(u64, u64, u8)>| -> Vec<(u64, u8)> {
                runs.into_iter().flat_map(|(a, b, v)| (a..=b).map(move |p| (p, v))).collect()
            };
            for (insert, first, length, value) in steps {
                let last = first + length;
                let expected: Vec<(u64, u8)> =
                    (first..=last).filter_map(|p| model.remove(&p).map(|v| (p, v))).collect();
                prop_assert_eq!(flat(classes.take(first, last)), expected);
                if insert {
                    classes.insert(first, last, value);
                    model.extend((first..=last).map(|position| (position, value)));
                }
                prop_assert_eq!(classes.len(), model.len() as u64);
            }
            let expected: Vec<(u64, u8)> = (window.0..=window.1).filter_map(|p| model.get(&p).map(|v| (p, *v))).collect();
            prop_assert_eq!(flat(classes.overlapping(window.0, window.1)), expected);
            let mut again = PositionsByValue::default();
            for (value, set) in classes.iter() {
                prop_assert!(again.insert_set(value, set.clone()));
                prop_assert!(!again.insert_set(value + 3, set.clone()));
            }
            prop_assert_eq!(&again, &classes);
            let lowest = model.values().min().copied();
            prop_assert_eq!(classes.first(), lowest);
            let popped = classes.pop_first(limit);
            let expected = lowest.filter(|lowest| *lowest <= limit);
            prop_assert_eq!(popped.is_some(), expected.is_some());
            model.retain(|_, value| Some(*value) != expected);
            prop_assert_eq!(flat(classes.overlapping(0, 100)), model.into_iter().collect::<Vec<_>>());
        }
    }
}

//! Intervals of numbers, and which of them hold a number: sorted by their low ends as a balanced tree, with the highest
//! end below each place, so that a lookup costs a logarithm and what it finds.

use std::cmp::Ordering;
use std::ops::Bound;

use super::ConjunctionId;
use crate::matcher::{Range, high_admits};
use crate::number::Number;

/// Built on the first lookup after a change, since rules change rarely.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    entries: Vec<(Range, ConjunctionId)>,
    /// The highest end in the subtree of each entry.
    highest: Vec<Bound<Number>>,
    is_built: bool,
}

impl Intervals {
    pub(super) fn insert(&mut self, range: Range, conjunction: ConjunctionId) {
        self.entries.push((range, conjunction));
        self.is_built = false;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds what holds `number`.
    pub(super) fn find(&mut self, number: Number, found: &mut Vec<ConjunctionId>) {
        if !self.is_built {
            self.build();
        }
        self.find_in(0, self.entries.len(), number, found);
    }

    fn build(&mut self) {
        self.entries
            .sort_by(|(left, _), (right, _)| low_order(left.low, right.low));
        self.highest = self.entries.iter().map(|(range, _)| range.high).collect();
        self.build_highest(0, self.entries.len());
        self.is_built = true;
    }

    /// The middle of a slice is the root of its tree.
    fn build_highest(&mut self, start: usize, end: usize) -> Option<Bound<Number>> {
        if start == end {
            return None;
        }
        let middle = start + (end - start) / 2;
        let below = [
            self.build_highest(start, middle),
            self.build_highest(middle + 1, end),
        ];
        for high in below.into_iter().flatten() {
            if high_order(high, self.highest[middle]) == Ordering::Greater {
                self.highest[middle] = high;
            }
        }
        Some(self.highest[middle])
    }

    fn find_in(&self, start: usize, end: usize, number: Number, found: &mut Vec<ConjunctionId>) {
        if start == end {
            return;
        }
        let middle = start + (end - start) / 2;
        if !high_admits(self.highest[middle], number) {
            return;
        }
        self.find_in(start, middle, number, found);
        let (range, conjunction) = &self.entries[middle];
        if !range.low_admits(number) {
            return;
        }
        if range.high_admits(number) {
            found.push(*conjunction);
        }
        self.find_in(middle + 1, end, number, found);
    }
}

fn low_order(left: Bound<Number>, right: Bound<Number>) -> Ordering {
    let key = |bound| match bound {
        Bound::Unbounded => None,
        Bound::Included(number) => Some((number, false)),
        Bound::Excluded(number) => Some((number, true)),
    };
    key(left).cmp(&key(right))
}

fn high_order(left: Bound<Number>, right: Bound<Number>) -> Ordering {
    let key = |bound| match bound {
        Bound::Unbounded => (1, None),
        Bound::Included(number) => (0, Some((number, true))),
        Bound::Excluded(number) => (0, Some((number, false))),
    };
    key(left).cmp(&key(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_scan_finds() {
        let number = |value: i128| Number::Integer(value);
        let bounds = |value: i128| {
            [
                Bound::Unbounded,
                Bound::Included(number(value)),
                Bound::Excluded(number(value)),
            ]
        };
        let mut ranges = Vec::new();
        for low in 0..6 {
            for high in low..6 {
                for low in bounds(low) {
                    for high in bounds(high) {
                        ranges.push(Range { low, high });
                    }
                }
            }
        }
        let mut intervals = Intervals::default();
        for (id, range) in (0..).zip(&ranges) {
            intervals.insert(*range, ConjunctionId(id));
        }
        for value in -1..7 {
            let mut found = Vec::new();
            intervals.find(number(value), &mut found);
            found.sort();
            let scanned: Vec<_> = (0..)
                .zip(&ranges)
                .filter(|(_, range)| range.contains(number(value)))
                .map(|(id, _)| ConjunctionId(id))
                .collect();
            assert_eq!(found, scanned, "{value}");
        }
    }
}

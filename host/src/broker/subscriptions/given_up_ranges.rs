//! Which stretches of positions were given up with dead letters since the start. An event that was in somebody's hands at that
//! moment was not among those that got their letter; it gets one when it is found missing. Decides nothing.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use crate::domain::Position;
use crate::locks::lock;
use crate::state::GiveUpReason;

/// Stretches that are remembered. The oldest gives way; what is missing there counts as done, without a letter.
const KNOWN_MAX: usize = 1024;

/// A range, and why it was given up.
type Reasoned = (RangeInclusive<Position>, GiveUpReason);

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct GivenUpRanges {
    stretches: Mutex<VecDeque<(Position, Position, GiveUpReason)>>,
}

impl GivenUpRanges {
    /// This stretch was given up.
    pub(crate) fn add(&self, (first, last): (Position, Position), reason: GiveUpReason) {
        let mut stretches = lock(&self.stretches);
        if stretches.len() >= KNOWN_MAX {
            stretches.pop_front();
        }
        stretches.push_back((first, last, reason));
    }

    /// What of `ranges` was given up, and why, and what is left of them.
    pub(crate) fn split(
        &self,
        ranges: &[RangeInclusive<Position>],
    ) -> (Vec<Reasoned>, Vec<RangeInclusive<Position>>) {
        let stretches = lock(&self.stretches);
        let (mut given_up, mut rest) = (Vec::new(), ranges.to_vec());
        for (first, last, reason) in &*stretches {
            let mut left = Vec::new();
            for range in rest {
                let (start, end) = range.into_inner();
                let part = start.max(*first)..=end.min(*last);
                if part.is_empty() {
                    left.push(start..=end);
                    continue;
                }
                if start < *first {
                    left.push(start..=Position(first.0 - 1));
                }
                if end > *last {
                    left.push(last.next()..=end);
                }
                given_up.push((part, reason.clone()));
            }
            rest = left;
        }
        (given_up, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_up_is_found() {
        let given_up = GivenUpRanges::default();
        let reason = GiveUpReason::HopLimit;
        let run = |first, last| Position(first)..=Position(last);
        assert_eq!(given_up.split(&[run(1, 9)]), (vec![], vec![run(1, 9)]));
        given_up.add((Position(5), Position(7)), reason.clone());
        given_up.add((Position(7), Position(8)), reason.clone());
        let (found, rest) = given_up.split(&[run(1, 5), run(7, 9), run(11, 12)]);
        let parts: Vec<_> = found.into_iter().map(|(range, _)| range).collect();
        assert_eq!(parts, [run(5, 5), run(7, 7), run(8, 8)], "each once");
        assert_eq!(rest, [run(1, 4), run(9, 9), run(11, 12)]);
        for position in 100..100 + KNOWN_MAX as u64 {
            let at = Position(position);
            given_up.add((at, at), reason.clone());
        }
        let (found, _) = given_up.split(&[run(1, 9)]);
        assert_eq!(found, [], "the oldest gave way");
    }
}

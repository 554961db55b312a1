//! Lists of positions as they travel: `Positions` holds ranges, each counted from the end of the one before;
//! `Deliver` holds numbers that count from the one before. What a peer sends is checked for overflow and bounded.

use std::ops::RangeInclusive;

use crate::pb;

/// Why a list of positions is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionsError {
    /// `first` and `more` differ in length.
    #[error("`first` has {first} entries but `more` has {more}; they must be equally many")]
    Unequal {
        /// Entries in `first`.
        first: usize,
        /// Entries in `more`.
        more: usize,
    },
    /// More ranges than this side accepts in one message.
    #[error("{ranges} ranges are more than the {max} accepted in one message; send several")]
    TooMany {
        /// How many there are.
        ranges: usize,
        /// How many are accepted.
        max: usize,
    },
    /// A range begins where the one before ends, or the numbers to encode do not rise.
    #[error("entry {index} does not lie after the one before it")]
    NotAscending {
        /// Its index in the list.
        index: usize,
    },
    /// A number does not fit 64 bits.
    #[error("entry {index} leads past the largest position there is")]
    Overflow {
        /// Its index in the list.
        index: usize,
    },
}

impl From<&PositionsError> for pb::Error {
    fn from(error: &PositionsError) -> Self {
        let code = match error {
            PositionsError::TooMany { .. } => pb::ErrorCode::TooLarge,
            _ => pb::ErrorCode::Malformed,
        };
        pb::Error::new(code, error.to_string())
    }
}

/// The ranges in `positions`, ascending and disjoint, none of them empty.
///
/// # Errors
/// When there are more than `ranges_max`, or they break the rules of the schema.
pub fn decode_positions(
    positions: &pb::Positions,
    ranges_max: usize,
) -> Result<Vec<RangeInclusive<u64>>, PositionsError> {
    let (first, more) = (&positions.first, &positions.more);
    if first.len() != more.len() {
        return Err(PositionsError::Unequal {
            first: first.len(),
            more: more.len(),
        });
    }
    if first.len() > ranges_max {
        return Err(PositionsError::TooMany {
            ranges: first.len(),
            max: ranges_max,
        });
    }
    let mut ranges = Vec::with_capacity(first.len());
    let mut end = 0u64;
    for (index, (first, more)) in first.iter().zip(more).enumerate() {
        if index > 0 && *first == 0 {
            return Err(PositionsError::NotAscending { index });
        }
        let start = end
            .checked_add(*first)
            .ok_or(PositionsError::Overflow { index })?;
        end = start
            .checked_add(*more)
            .ok_or(PositionsError::Overflow { index })?;
        ranges.push(start..=end);
    }
    Ok(ranges)
}

/// `ranges` as they travel. They may come in any order, touch or overlap: ranges that do are joined, and empty ones
/// left out. Cheapest when they are sorted already.
pub fn encode_positions(ranges: impl IntoIterator<Item = RangeInclusive<u64>>) -> pb::Positions {
    let mut ranges: Vec<_> = ranges
        .into_iter()
        .filter(|range| !range.is_empty())
        .collect();
    ranges.sort_unstable_by_key(|range| *range.start());
    let mut positions = pb::Positions {
        first: Vec::with_capacity(ranges.len()),
        more: Vec::with_capacity(ranges.len()),
    };
    let mut previous_end = 0u64;
    let mut ranges = ranges.into_iter();
    let Some(mut current) = ranges.next() else {
        return positions;
    };
    let mut push = |range: RangeInclusive<u64>| {
        positions.first.push(range.start() - previous_end);
        positions.more.push(range.end() - range.start());
        previous_end = *range.end();
    };
    for range in ranges {
        if *range.start() <= current.end().saturating_add(1) {
            let end = *current.end().max(range.end());
            current = *current.start()..=end;
        } else {
            push(current);
            current = range;
        }
    }
    push(current);
    positions
}

/// `numbers` as `Deliver` carries them: the first as it is, each other as its distance from the one before.
///
/// # Errors
/// [`PositionsError::NotAscending`] when a number is below the one before: such events need a `Deliver` of their own.
pub fn encode_deltas(numbers: impl IntoIterator<Item = u64>) -> Result<Vec<u64>, PositionsError> {
    let mut previous = 0u64;
    let delta = |(index, number): (usize, u64)| {
        let delta = number
            .checked_sub(previous)
            .ok_or(PositionsError::NotAscending { index })?;
        previous = number;
        Ok(delta)
    };
    numbers.into_iter().enumerate().map(delta).collect()
}

/// The numbers behind what [`encode_deltas`] made. There are as many as `deltas`, so their bound is the frame's.
///
/// # Errors
/// [`PositionsError::Overflow`] when one does not fit 64 bits.
pub fn decode_deltas(deltas: &[u64]) -> Result<Vec<u64>, PositionsError> {
    let mut previous = 0u64;
    let number = |(index, delta): (usize, &u64)| {
        previous = previous
            .checked_add(*delta)
            .ok_or(PositionsError::Overflow { index })?;
        Ok(previous)
    };
    deltas.iter().enumerate().map(number).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn check(
        first: &[u64],
        more: &[u64],
        expected: Result<Vec<RangeInclusive<u64>>, PositionsError>,
    ) {
        let positions = pb::Positions {
            first: first.to_vec(),
            more: more.to_vec(),
        };
        assert_eq!(decode_positions(&positions, 3), expected);
    }

    #[test]
    fn ranges_count_from_the_end_of_the_one_before() {
        check(&[], &[], Ok(vec![]));
        check(&[7, 3], &[2, 0], Ok(vec![7..=9, 12..=12]));
        check(&[0], &[u64::MAX], Ok(vec![0..=u64::MAX]));
        assert_eq!(
            encode_positions([12..=12, 7..=8, 9..=9]),
            pb::Positions {
                first: vec![7, 3],
                more: vec![2, 0]
            }
        );
        assert_eq!(encode_positions([]), pb::Positions::default());
    }

    #[test]
    fn lists_that_break_the_rules() {
        check(
            &[1],
            &[],
            Err(PositionsError::Unequal { first: 1, more: 0 }),
        );
        check(
            &[1, 0],
            &[0, 0],
            Err(PositionsError::NotAscending { index: 1 }),
        );
        check(
            &[u64::MAX],
            &[1],
            Err(PositionsError::Overflow { index: 0 }),
        );
        check(
            &[1, u64::MAX],
            &[0, 0],
            Err(PositionsError::Overflow { index: 1 }),
        );
        check(&[1; 3], &[0; 3], Ok(vec![1..=1, 2..=2, 3..=3]));
        check(
            &[1; 4],
            &[0; 4],
            Err(PositionsError::TooMany { ranges: 4, max: 3 }),
        );
    }

    #[test]
    fn deltas_refuse_to_fall_and_to_overflow() {
        assert_eq!(encode_deltas([5, 5, 9]), Ok(vec![5, 0, 4]));
        assert_eq!(
            encode_deltas([5, 4]),
            Err(PositionsError::NotAscending { index: 1 })
        );
        assert_eq!(decode_deltas(&[5, 0, 4]), Ok(vec![5, 5, 9]));
        assert_eq!(
            decode_deltas(&[u64::MAX, 1]),
            Err(PositionsError::Overflow { index: 1 })
        );
    }

    proptest! {
        #[test]
        fn any_set_of_positions_survives(set in prop::collection::btree_set(0u64..300, 0..100)) {
            let encoded = encode_positions(set.iter().rev().map(|position| *position..=*position));
            let ranges = decode_positions(&encoded, 300).unwrap();
            for pair in ranges.windows(2) {
                prop_assert!(*pair[0].end() + 1 < *pair[1].start(), "touching ranges were not joined");
            }
            let decoded: BTreeSet<u64> = ranges.into_iter().flatten().collect();
            prop_assert_eq!(decoded, set);
        }

        #[test]
        fn deltas_survive(mut numbers in prop::collection::vec(any::<u64>(), 0..50)) {
            numbers.sort_unstable();
            let deltas = encode_deltas(numbers.iter().copied()).unwrap();
            prop_assert_eq!(decode_deltas(&deltas).unwrap(), numbers);
        }

        #[test]
        fn arbitrary_lists_never_panic(
            first in prop::collection::vec(any::<u64>(), 0..10),
            more in prop::collection::vec(any::<u64>(), 0..10),
        ) {
            let _ = decode_deltas(&first);
            let _ = encode_deltas(first.iter().copied());
            let ranges = first.iter().zip(&more).map(|(start, end)| *start..=*end);
            let encoded = encode_positions(ranges);
            prop_assert!(decode_positions(&encoded, 10).is_ok());
            let _ = decode_positions(&pb::Positions { first, more }, 5);
        }
    }
}

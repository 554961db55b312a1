//! What a client answered and did not hold any more, on its way from the future that reads to the one that writes. Bounded: of more
//! than a message holds only that it was more is told.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_wire::limits::NOT_HELD_RANGES_MAX;
use tidegate_wire::pb;
use tidegate_wire::positions::encode_positions;
use tokio::sync::Notify;

use crate::domain::Position;
use crate::locks::lock;

/// Positions that the client is to be told.
pub(super) struct LateAnswers {
    ranges: Mutex<Vec<RangeInclusive<u64>>>,
    is_cut: AtomicBool,
    filled: Notify,
    /// The client wants to be told although it asked for no confirmation.
    at_once: bool,
}

impl LateAnswers {
    pub(super) fn new(at_once: bool) -> Self {
        Self {
            ranges: Mutex::default(),
            is_cut: AtomicBool::new(false),
            filled: Notify::new(),
            at_once,
        }
    }

    /// Adds what an answer named and its client did not hold.
    pub(super) fn add(&self, late: Vec<RangeInclusive<Position>>) {
        if late.is_empty() {
            return;
        }
        let mut ranges = lock(&self.ranges);
        let room = NOT_HELD_RANGES_MAX - ranges.len();
        if late.len() > room {
            self.is_cut.store(true, Ordering::Relaxed);
        }
        let plain = |range: RangeInclusive<Position>| range.start().0..=range.end().0;
        ranges.extend(late.into_iter().take(room).map(plain));
        drop(ranges);
        self.filled.notify_one();
    }

    /// Waits until there is something that the client wants to be told now. Cancel-safe.
    pub(super) async fn are_to_be_told(&self) {
        loop {
            if self.at_once && !lock(&self.ranges).is_empty() {
                return;
            }
            self.filled.notified().await;
        }
    }

    /// All there are, as they travel, and whether there were more.
    pub(super) fn take(&self) -> (Option<pb::Positions>, bool) {
        let ranges = std::mem::take(&mut *lock(&self.ranges));
        let is_cut = self.is_cut.swap(false, Ordering::Relaxed);
        let positions = (!ranges.is_empty()).then(|| encode_positions(ranges));
        (positions, is_cut)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn run(first: u64, last: u64) -> RangeInclusive<Position> {
        Position(first)..=Position(last)
    }

    #[test]
    fn they_are_told_once_at_once_or_when_something_is_confirmed() {
        for at_once in [true, false] {
            let late = LateAnswers::new(at_once);
            late.add(Vec::new());
            assert_eq!(late.are_to_be_told().now_or_never(), None);
            late.add(vec![run(7, 8)]);
            late.add(vec![run(3, 3)]);
            let told = late.are_to_be_told().now_or_never();
            assert_eq!(told.is_some(), at_once);
            let positions = pb::Positions {
                first: vec![3, 4],
                more: vec![0, 1],
            };
            assert_eq!(late.take(), (Some(positions), false));
            assert_eq!(late.are_to_be_told().now_or_never(), None);
            assert_eq!(late.take(), (None, false));
        }
    }

    #[test]
    fn more_than_a_message_holds_is_cut_and_that_is_told() {
        let late = LateAnswers::new(true);
        let many = (0..=NOT_HELD_RANGES_MAX as u64).map(|n| run(2 * n, 2 * n));
        late.add(many.collect());
        late.add(vec![run(1, 1)]);
        let (positions, is_cut) = late.take();
        assert_eq!(positions.map(|p| p.first.len()), Some(NOT_HELD_RANGES_MAX));
        assert!(is_cut);
    }
}

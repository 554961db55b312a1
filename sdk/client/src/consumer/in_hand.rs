//! What the application has in hand: how many of the present stream's deliveries it has got and not answered, by which a stream that moves
//! knows how long to wait. Each counts once, however often it is answered. Pure.

use std::collections::BTreeSet;

/// The answered ones of a stream, and the others by their positions where somebody may name them.
#[derive(Debug, Default)]
pub(super) struct InHand {
    /// So many are answered, or were never handed out.
    settled: u64,
    /// Of a consumer whose deliveries are answered by position too.
    by_position: Option<ByPosition>,
}

#[derive(Debug)]
struct ByPosition {
    /// Only those that were handed over after so many: what an application has when it begins to name positions is answered for sure
    /// only by its handles.
    from: u64,
    unanswered: BTreeSet<u64>,
}

impl InHand {
    /// Of the next stream.
    pub(super) fn reset(&mut self) {
        self.settled = 0;
        if let Some(by_position) = &mut self.by_position {
            by_position.from = 0;
            by_position.unanswered.clear();
        }
    }

    /// From now on, after `handed_over`, positions may be named.
    pub(super) fn count_positions(&mut self, handed_over: u64) {
        self.by_position.get_or_insert_with(|| ByPosition {
            from: handed_over,
            unanswered: BTreeSet::new(),
        });
    }

    /// The application gets the one at `position`.
    pub(super) fn hand_over(&mut self, position: u64) {
        if let Some(by_position) = &mut self.by_position
            && !by_position.unanswered.insert(position)
        {
            // It comes again: the one before is nobody's any more.
            self.settled += 1;
        }
    }

    /// So many were counted as handed over, and nobody got them.
    pub(super) fn pass_over(&mut self, events: u64) {
        self.settled += events;
    }

    /// The one at `position` is answered, which is delivery `number` of its stream where that is known.
    pub(super) fn settle(&mut self, number: Option<u64>, position: u64) {
        let settled = match &mut self.by_position {
            Some(by_position) if number.is_none_or(|number| number > by_position.from) => {
                by_position.unanswered.remove(&position)
            }
            _ => number.is_some(),
        };
        self.settled += u64::from(settled);
    }

    /// So many of `handed_over` are left.
    pub(super) fn of(&self, handed_over: u64) -> u64 {
        handed_over.saturating_sub(self.settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_answered_once_however_it_is_named() {
        let mut in_hand = InHand::default();
        in_hand.hand_over(10);
        in_hand.hand_over(11);
        in_hand.count_positions(2);
        in_hand.hand_over(12);
        in_hand.hand_over(13);
        // By handle, of those before and after, and by position.
        in_hand.settle(Some(1), 10);
        in_hand.settle(Some(3), 12);
        assert_eq!(in_hand.of(4), 2);
        in_hand.settle(None, 12);
        in_hand.settle(None, 13);
        in_hand.settle(None, 13);
        in_hand.settle(Some(4), 13);
        assert_eq!(in_hand.of(4), 1);
        // Of an earlier stream, or none.
        in_hand.settle(None, 7);
        assert_eq!(in_hand.of(4), 1);
    }

    #[test]
    fn one_that_comes_again_and_one_that_is_passed_over_are_not_in_hand_twice() {
        let mut in_hand = InHand::default();
        in_hand.count_positions(0);
        in_hand.hand_over(5);
        in_hand.hand_over(5);
        in_hand.pass_over(3);
        assert_eq!(in_hand.of(5), 1);
        in_hand.settle(Some(2), 5);
        assert_eq!(in_hand.of(5), 0);
        in_hand.reset();
        in_hand.hand_over(5);
        assert_eq!(in_hand.of(1), 1);
        in_hand.settle(Some(1), 5);
        assert_eq!(in_hand.of(1), 0);
    }
}

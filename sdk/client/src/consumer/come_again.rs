//! Which deliveries of the present stream have come again on it. Whoever has one of before in hand answers late, though the consumer holds
//! its event again: the answer is none to what came since, which somebody else may be at work on. Bounded: the lowest positions are
//! forgotten. Pure.

use std::collections::BTreeMap;

/// Positions that are remembered at once: as many as may be in hand of a subscription by default. An answer to an older delivery of
/// another is taken for one to the newest.
const POSITIONS_MAX: usize = 65_536;

/// What came again and is not answered.
#[derive(Debug, Default)]
pub(super) struct ComeAgain {
    /// The numbers of the newest deliveries.
    newest: BTreeMap<u64, u64>,
}

impl ComeAgain {
    /// What is at `position` came again, as delivery `number` of the stream.
    pub(super) fn add(&mut self, position: u64, number: u64) {
        self.newest.insert(position, number);
        while self.newest.len() > POSITIONS_MAX {
            self.newest.pop_first();
        }
    }

    /// Whether the event of delivery `number`, at `position`, came again since.
    pub(super) fn has_since(&self, position: u64, number: u64) -> bool {
        let newest = self.newest.get(&position);
        newest.is_some_and(|newest| *newest > number)
    }

    /// The newest of `position` is answered: what is said of any other is for the broker to judge.
    pub(super) fn settle(&mut self, position: u64) {
        self.newest.remove(&position);
    }

    /// The stream is over, and with it whatever it delivered.
    pub(super) fn forget_stream(&mut self) {
        self.newest.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_delivery_of_an_event_is_answered() {
        let mut come_again = ComeAgain::default();
        assert!(!come_again.has_since(7, 1), "it came once");
        come_again.add(7, 3);
        come_again.add(7, 5);
        assert!(come_again.has_since(7, 1));
        assert!(come_again.has_since(7, 3));
        assert!(!come_again.has_since(7, 5));
        assert!(!come_again.has_since(8, 1));
        come_again.settle(7);
        assert!(!come_again.has_since(7, 1));
        come_again.add(7, 9);
        come_again.forget_stream();
        assert!(!come_again.has_since(7, 1));
    }

    #[test]
    fn what_is_never_answered_takes_no_room_for_ever() {
        let mut come_again = ComeAgain::default();
        let last = POSITIONS_MAX as u64 + 1;
        (1..=last).for_each(|position| come_again.add(position, position + 1));
        assert_eq!(come_again.newest.len(), POSITIONS_MAX);
        assert!(!come_again.has_since(1, 1), "the lowest is forgotten");
        assert!(come_again.has_since(last, 1));
    }
}

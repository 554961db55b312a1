//! What of a stream's deliveries the client has not said to have handed to its application, in the order in which they
//! were sent. Kept for the moment at which the connection is lost. Pure.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::domain::Position;

/// Ranges of deliveries that are remembered. A client that says nothing for longer than that is taken to have handed over
/// the oldest.
const RANGES_MAX: usize = 65_536;

#[derive(Debug)]
pub(super) struct Unseen {
    /// The client says what it hands over.
    pub(super) says: bool,
    sent: VecDeque<RangeInclusive<Position>>,
    /// Deliveries that are not in `sent` any more.
    handed_over: u64,
}

impl Unseen {
    pub(super) fn new(says: bool) -> Self {
        Self {
            says,
            sent: VecDeque::new(),
            handed_over: 0,
        }
    }

    /// These were sent, one after the other.
    pub(super) fn sent(&mut self, positions: RangeInclusive<Position>) {
        if !self.says {
            return;
        }
        match self.sent.back_mut() {
            Some(last) if last.end().next() == *positions.start() => {
                *last = *last.start()..=*positions.end();
            }
            _ => self.sent.push_back(positions),
        }
        if self.sent.len() > RANGES_MAX
            && let Some(oldest) = self.sent.pop_front()
        {
            self.handed_over += count(&oldest);
        }
    }

    /// The application may have got so many deliveries of the stream.
    pub(super) fn handed_over(&mut self, deliveries: u64) {
        while let Some(oldest) = self.sent.front_mut()
            && self.handed_over < deliveries
        {
            let more = (deliveries - self.handed_over).min(count(oldest));
            self.handed_over += more;
            if more == count(oldest) {
                self.sent.pop_front();
            } else {
                *oldest = Position(oldest.start().0 + more)..=*oldest.end();
            }
        }
    }

    /// What it has not got.
    pub(super) fn take(&mut self) -> Vec<RangeInclusive<Position>> {
        std::mem::take(&mut self.sent).into()
    }
}

fn count(range: &RangeInclusive<Position>) -> u64 {
    range.end().0 - range.start().0 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, last: u64) -> RangeInclusive<Position> {
        Position(first)..=Position(last)
    }

    #[test]
    fn deliveries_count_in_the_order_in_which_they_were_sent() {
        let mut unseen = Unseen::new(true);
        unseen.sent(run(5, 6));
        unseen.sent(run(7, 9));
        unseen.sent(run(2, 2));
        unseen.handed_over(1);
        unseen.handed_over(1);
        assert_eq!(unseen.sent, [run(6, 9), run(2, 2)]);
        unseen.handed_over(4);
        unseen.handed_over(2);
        assert_eq!(unseen.sent, [run(9, 9), run(2, 2)]);
        // More than was sent is a lie, and counts for nothing later.
        unseen.handed_over(u64::MAX);
        unseen.sent(run(20, 20));
        assert_eq!(unseen.take(), [run(20, 20)]);
    }

    #[test]
    fn who_says_nothing_is_not_remembered_and_who_says_it_late_up_to_a_limit() {
        let mut unseen = Unseen::new(false);
        unseen.sent(run(1, 2));
        assert_eq!(unseen.take(), []);
        let mut unseen = Unseen::new(true);
        for position in 0..=RANGES_MAX as u64 {
            unseen.sent(run(2 * position, 2 * position));
        }
        assert_eq!(unseen.sent.len(), RANGES_MAX);
        unseen.handed_over(2);
        assert_eq!(unseen.take()[0], run(4, 4));
    }
}

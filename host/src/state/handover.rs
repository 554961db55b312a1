//! What of a consumer's deliveries its application has not got, as far as is known: those that the broker reads and transforms
//! for it, those that are not sent yet, and those that were sent and that its client has not said to have handed over, in the order in which they were sent.
//! Asked when the consumer's deadlines pass, and when it ends. Pure.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::Unseen;
use super::range_map::push_range;
use crate::domain::Position;

/// Ranges of deliveries that are remembered. A client that says nothing for longer than that is taken to have handed over
/// the oldest.
const RANGES_MAX: usize = 65_536;

#[derive(Debug)]
pub(crate) struct Handover {
    /// The client says what it hands over.
    says: bool,
    /// What is being read and transformed.
    at_work: Vec<RangeInclusive<Position>>,
    /// What waits for being sent: at most what is taken in one go, twice.
    fetched: Vec<RangeInclusive<Position>>,
    sent: VecDeque<RangeInclusive<Position>>,
    /// Deliveries that are not in `sent` any more.
    handed_over: u64,
    /// It says more before it hands over more than so many in all, if it says so.
    handed_over_max: Option<u64>,
}

impl Handover {
    pub(crate) fn new(says: bool) -> Self {
        Self {
            says,
            at_work: Vec::new(),
            fetched: Vec::new(),
            sent: VecDeque::new(),
            handed_over: 0,
            handed_over_max: None,
        }
    }

    pub(crate) fn says(&self) -> bool {
        self.says
    }

    /// These were leased, and are read and transformed now.
    pub(crate) fn begin(&mut self, positions: impl Iterator<Item = Position>) {
        self.at_work.clear();
        positions.for_each(|position| push_range(&mut self.at_work, position..=position));
    }

    /// That is done: these are to be sent.
    pub(crate) fn fetched(&mut self, positions: impl Iterator<Item = RangeInclusive<Position>>) {
        self.at_work.clear();
        self.fetched.extend(positions);
    }

    /// Of what was taken first, so many deliveries were sent now or are not to be.
    pub(crate) fn is_sent(&mut self, deliveries: usize) {
        self.fetched.drain(..deliveries.min(self.fetched.len()));
    }

    /// These were sent, one after the other.
    pub(crate) fn sent(&mut self, positions: RangeInclusive<Position>) {
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

    /// The application may have got so many deliveries of the stream. Returns those of which that is new.
    pub(crate) fn handed_over(&mut self, deliveries: u64) -> Vec<RangeInclusive<Position>> {
        let mut new = Vec::new();
        while let Some(oldest) = self.sent.front_mut()
            && self.handed_over < deliveries
        {
            let more = (deliveries - self.handed_over).min(count(oldest));
            self.handed_over += more;
            let (first, last) = (oldest.start().0, oldest.end().0);
            new.push(Position(first)..=Position(first + more - 1));
            if more == count(oldest) {
                self.sent.pop_front();
            } else {
                *oldest = Position(first + more)..=Position(last);
            }
        }
        new
    }

    /// The client says more before it hands over more than so many deliveries of the stream, whatever it said before.
    pub(crate) fn hands_over_at_most(&mut self, deliveries: u64) {
        self.handed_over_max = Some(deliveries);
    }

    /// What it has not got.
    pub(crate) fn unseen(&self) -> Unseen {
        Unseen {
            at_work: self.at_work.clone(),
            unsent: self.fetched.clone(),
            sent: self.sent.iter().cloned().collect(),
        }
    }

    /// The same in one.
    pub(crate) fn all_unseen(&self) -> Vec<RangeInclusive<Position>> {
        let parts = self.sent.iter().chain(&self.fetched).chain(&self.at_work);
        parts.cloned().collect()
    }

    /// What it cannot have got of these deliveries, unless several words of its client are lost with it. (It may have an event from an
    /// earlier delivery of the stream, whose deadline has passed, which has counted an attempt.)
    pub(crate) fn out_of_reach(&self) -> Vec<RangeInclusive<Position>> {
        let handed_over_max = self.handed_over_max.unwrap_or(u64::MAX);
        let mut within = handed_over_max.saturating_sub(self.handed_over);
        let mut ranges = Vec::new();
        for range in &self.sent {
            let reached = within.min(count(range));
            within -= reached;
            if reached < count(range) {
                ranges.push(Position(range.start().0 + reached)..=*range.end());
            }
        }
        ranges.extend(self.fetched.iter().chain(&self.at_work).cloned());
        ranges
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
        let mut handing = Handover::new(true);
        handing.sent(run(5, 6));
        handing.sent(run(7, 9));
        handing.sent(run(2, 2));
        assert_eq!(handing.handed_over(1), [run(5, 5)]);
        assert_eq!(handing.handed_over(1), []);
        assert_eq!(handing.sent, [run(6, 9), run(2, 2)]);
        assert_eq!(handing.handed_over(4), [run(6, 8)]);
        handing.handed_over(2);
        assert_eq!(handing.sent, [run(9, 9), run(2, 2)]);
        // More than was sent is a lie, and counts for nothing later.
        handing.handed_over(u64::MAX);
        handing.sent(run(20, 20));
        assert_eq!(handing.all_unseen(), [run(20, 20)]);
    }

    #[test]
    fn what_is_beyond_the_bound_that_the_client_has_said_is_out_of_reach() {
        let mut handing = Handover::new(true);
        handing.sent(run(5, 6));
        handing.sent(run(10, 13));
        handing.begin([20].map(Position).into_iter());
        assert_eq!(handing.out_of_reach(), [run(20, 20)], "it says no bound");
        handing.hands_over_at_most(0);
        assert_eq!(
            handing.out_of_reach(),
            [run(5, 6), run(10, 13), run(20, 20)]
        );
        handing.hands_over_at_most(1);
        assert_eq!(
            handing.out_of_reach(),
            [run(6, 6), run(10, 13), run(20, 20)]
        );
        handing.hands_over_at_most(u64::MAX);
        assert_eq!(handing.out_of_reach(), [run(20, 20)]);
        // The last word counts, and be it less.
        handing.hands_over_at_most(4);
        assert_eq!(handing.out_of_reach(), [run(12, 13), run(20, 20)]);
        handing.handed_over(3);
        assert_eq!(handing.out_of_reach(), [run(12, 13), run(20, 20)]);
        // More than it promised: it has not got the next.
        handing.handed_over(5);
        assert_eq!(handing.out_of_reach(), [run(13, 13), run(20, 20)]);
        // Of who says nothing, what was not sent.
        let mut handing = Handover::new(false);
        handing.sent(run(1, 2));
        handing.fetched([run(3, 4)].into_iter());
        assert_eq!(handing.out_of_reach(), [run(3, 4)]);
    }

    #[test]
    fn what_is_not_sent_yet_nobody_has_got() {
        for says in [true, false] {
            let mut handing = Handover::new(says);
            handing.begin([1, 2, 5].map(Position).into_iter());
            assert_eq!(handing.unseen().at_work, [run(1, 2), run(5, 5)]);
            handing.fetched([run(1, 2), run(5, 5)].into_iter());
            handing.fetched([run(6, 7)].into_iter());
            assert_eq!(handing.all_unseen(), [run(1, 2), run(5, 5), run(6, 7)]);
            handing.is_sent(2);
            handing.sent(run(1, 2));
            let sent = says.then_some(run(1, 2)).into_iter();
            let unseen: Vec<_> = sent.chain([run(6, 7)]).collect();
            assert_eq!(handing.all_unseen(), unseen);
        }
    }

    #[test]
    fn who_says_nothing_is_not_remembered_and_who_says_it_late_up_to_a_limit() {
        let mut handing = Handover::new(false);
        handing.sent(run(1, 2));
        assert_eq!(handing.all_unseen(), []);
        let mut handing = Handover::new(true);
        for position in 0..=RANGES_MAX as u64 {
            handing.sent(run(2 * position, 2 * position));
        }
        assert_eq!(handing.sent.len(), RANGES_MAX);
        handing.handed_over(2);
        assert_eq!(handing.all_unseen()[0], run(4, 4));
    }
}

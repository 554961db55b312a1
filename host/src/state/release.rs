//! What the store is about to let go of: a range of positions, and of it what stays because a subscription still needs it. That is
//! decided for the subscriptions there are at that moment. Who asks them, and what becomes of the events, is not known here.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::SubscriptionState;
use crate::domain::{Block, BlockError, Position, TopicId};

/// A range of positions in which only what somebody needs stays.
pub(crate) struct Release {
    first: Position,
    last: Position,
    pending: RoaringTreemap,
    // By topic: somebody has not looked at events after this position yet.
    unevaluated_after: HashMap<TopicId, Position>,
}

/// How much of a block stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stays {
    Nothing,
    Part,
    Whole,
}

impl Release {
    /// Nothing in `range` stays, until somebody is said to need it; without a range nothing leaves.
    pub(crate) fn new(range: Option<RangeInclusive<Position>>) -> Self {
        let (first, last) = range.unwrap_or(Position(1)..=Position(0)).into_inner();
        Self {
            first,
            last,
            pending: RoaringTreemap::new(),
            unevaluated_after: HashMap::new(),
        }
    }

    /// Keeps what a subscription has pending. Where it has not decided everything, returns up to where it has: of the topics that it
    /// may select, what comes [after](Self::keep_after) that stays.
    pub(crate) fn keep_pending(&mut self, state: &SubscriptionState) -> Option<Position> {
        self.pending |= state.needed(self.first, self.last);
        let evaluated = state.evaluated_through();
        (evaluated < self.last && !planted!(UndecidedNotKept)).then_some(evaluated)
    }

    /// Keeps what comes after a position, of these topics.
    pub(crate) fn keep_after(&mut self, position: Position, topics: impl Iterator<Item = TopicId>) {
        for topic in topics {
            let position = Position(position.0 + u64::from(planted!(FloorOffByOne)));
            let after = self.unevaluated_after.entry(topic).or_insert(position);
            *after = position.min(*after);
        }
    }

    /// Nothing after this position leaves.
    pub(crate) fn last(&self) -> Position {
        self.last
    }

    /// How much stays of a block of `topic` with these positions.
    pub(crate) fn stays(&self, topic: TopicId, first: Position, last: Position) -> Stays {
        let outside = last < self.first || first > self.last;
        let after = self.unevaluated_after.get(&topic);
        if outside || after.is_some_and(|after| *after < first) {
            return Stays::Whole;
        }
        let pending = self.pending.range_cardinality(first.0..=last.0);
        if pending == last.0 - first.0 + 1 {
            return Stays::Whole;
        }
        match pending > u64::from(planted!(LastOneNotKept))
            || after.is_some_and(|after| *after < last)
        {
            true => Stays::Part,
            false => Stays::Nothing,
        }
    }

    /// The block with only the events that stay; `None` when none does.
    ///
    /// # Errors
    ///
    /// Its events cannot be told apart.
    pub(crate) fn what_stays(&self, block: &Arc<Block>) -> Result<Option<Arc<Block>>, BlockError> {
        match self.stays(block.topic, block.first_position, block.last_position()) {
            Stays::Nothing => return Ok(None),
            Stays::Whole => return Ok(Some(block.clone())),
            Stays::Part => {}
        }
        let after = self.unevaluated_after.get(&block.topic).copied();
        let thinned = block.thinned(|position| {
            self.pending.contains(position.0) || after.is_some_and(|after| position > after)
        });
        Ok(thinned?.map(Arc::new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BlockBuilder, DeliveryPolicy, Millis, Sequence};

    // Without filters, and everything up to here is decided.
    fn state(evaluated: u64, matched: &[u64]) -> SubscriptionState {
        let mut state = SubscriptionState::new(DeliveryPolicy::default(), Position(1), 0);
        let matched = matched.iter().map(|at| Position(*at)..=Position(*at));
        state.observe(Position(evaluated), matched);
        state
    }

    // Ten events at positions from `first` on.
    fn block(topic: u64, first: u64) -> Arc<Block> {
        let mut builder = BlockBuilder::default();
        (0..10).for_each(|n| builder.push(&[n]));
        let (first, sequence) = (Position(first), Sequence(first));
        Arc::new(builder.finish(TopicId(topic), first, sequence, Millis(0)))
    }

    fn staying(release: &Release, topic: u64, first: u64) -> Vec<u64> {
        let block = block(topic, first);
        let staying = release.what_stays(&block).expect("readable");
        let Some(staying) = staying else {
            return Vec::new();
        };
        let events = staying.events().expect("readable");
        events.map(|(index, _)| staying.position(index).0).collect()
    }

    fn keep(release: &mut Release, state: &SubscriptionState, topics: &[u64]) {
        if let Some(after) = release.keep_pending(state) {
            release.keep_after(after, topics.iter().map(|topic| TopicId(*topic)));
        }
    }

    #[test]
    fn without_anybody_the_whole_range_leaves_and_nothing_else() {
        let release = Release::new(Some(Position(11)..=Position(40)));
        assert_eq!(staying(&release, 1, 1), Vec::from_iter(1..=10));
        assert_eq!(staying(&release, 1, 11), [0; 0]);
        assert_eq!(staying(&release, 2, 31), [0; 0]);
        assert_eq!(staying(&release, 1, 41), Vec::from_iter(41..=50));
        let nothing = Release::new(None);
        assert_eq!(staying(&nothing, 1, 1), Vec::from_iter(1..=10));
    }

    #[test]
    fn what_is_pending_and_what_is_undecided_stays() {
        let mut release = Release::new(Some(Position(1)..=Position(30)));
        keep(&mut release, &state(14, &[3, 5]), &[1]);
        assert_eq!(staying(&release, 1, 1), [3, 5]);
        assert_eq!(staying(&release, 1, 11), Vec::from_iter(15..=20));
        assert_eq!(staying(&release, 1, 21), Vec::from_iter(21..=30));
        // It has no eyes for this topic, whatever it has not looked at.
        assert_eq!(staying(&release, 2, 21), [0; 0]);
    }

    #[test]
    fn the_latest_of_many_decides_what_is_undecided() {
        let (early, late) = (state(25, &[]), state(8, &[]));
        let mut release = Release::new(Some(Position(1)..=Position(30)));
        for (state, topics) in [(&early, &[1, 2][..]), (&late, &[1]), (&early, &[1, 2])] {
            keep(&mut release, state, topics);
        }
        assert_eq!(staying(&release, 1, 1), [9, 10]);
        assert_eq!(staying(&release, 1, 11), Vec::from_iter(11..=20));
        assert_eq!(staying(&release, 2, 11), [0; 0]);
        assert_eq!(staying(&release, 2, 21), Vec::from_iter(26..=30));
    }
}

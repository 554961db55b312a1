//! What a checkpoint or the reclaimer is about to let go of. That is decided for the subscriptions there are at that
//! moment, and done some time after it; one that is created in between and starts in the past must not count on an event
//! that is gone before it is delivered. So what leaves is gone, from the moment that it is decided, for everybody who reads
//! the log to find events for subscriptions. Events that were found before are needed, and stay.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::broker::subscriptions::live::LiveSubscription;
use crate::domain::{Block, Position, TopicId, TopicName};
use crate::state::SubscriptionState;
use crate::store::ReadError;

/// A range of positions in which only what somebody needs stays.
pub(crate) struct Leaving {
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

impl Leaving {
    /// Nothing in `range` stays, until [`keep_for`](Self::keep_for) says so; without a range nothing leaves.
    pub(crate) fn new(range: Option<RangeInclusive<Position>>) -> Self {
        let (first, last) = range.unwrap_or(Position(1)..=Position(0)).into_inner();
        Self {
            first,
            last,
            pending: RoaringTreemap::new(),
            unevaluated_after: HashMap::new(),
        }
    }

    /// Keeps what `live` needs. `look` sees its state under the same lock, so that it knows of nothing that is not kept.
    /// `names` are those of all topics with events in the range.
    pub(crate) fn keep_for<T>(
        &mut self,
        live: &LiveSubscription,
        names: &HashMap<TopicId, TopicName>,
        look: impl FnOnce(&SubscriptionState) -> T,
    ) -> T {
        let (seen, evaluated) = {
            let state = live.lock();
            self.pending |= state.needed(self.first, self.last);
            (look(&state), state.evaluated_through())
        };
        if evaluated < self.last {
            let topics = names.iter().filter(|(_, name)| live.may_select(name));
            for (id, _) in topics {
                self.keep_after(*id, evaluated);
            }
        }
        seen
    }

    fn keep_after(&mut self, topic: TopicId, evaluated: Position) {
        let after = self.unevaluated_after.entry(topic).or_insert(evaluated);
        *after = evaluated.min(*after);
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
        match pending > 0 || after.is_some_and(|after| *after < last) {
            true => Stays::Part,
            false => Stays::Nothing,
        }
    }

    /// The block with only the events that stay; `None` when none does.
    ///
    /// # Errors
    ///
    /// Its events cannot be told apart.
    pub(crate) fn what_stays(&self, block: &Arc<Block>) -> Result<Option<Arc<Block>>, ReadError> {
        match self.stays(block.topic, block.first_position, block.last_position()) {
            Stays::Nothing => return Ok(None),
            Stays::Whole => return Ok(Some(block.clone())),
            Stays::Part => {}
        }
        let after = self.unevaluated_after.get(&block.topic).copied();
        let thinned = block.thinned(|position| {
            self.pending.contains(position.0) || after.is_some_and(|after| position > after)
        });
        let thinned = thinned.map_err(|error| {
            let what = format!("{error}, block at position {}", block.first_position);
            ReadError::damaged(Path::new("journal"), what)
        })?;
        Ok(thinned.map(Arc::new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BlockBuilder, DeliveryPolicy, Millis, Sequence, SubscriptionId};
    use crate::state::catalog::Subscription;

    // Without filters, starting at the first position.
    fn live(topics: &str) -> Arc<LiveSubscription> {
        let spec = serde_json::json!({"name": "s", "topics": [topics]});
        let spec = serde_json::from_value(spec).expect("valid specification");
        let subscription = Subscription::new(Arc::new(spec), Position(1));
        let state = SubscriptionState::new(DeliveryPolicy::default(), Position(1), 0);
        LiveSubscription::new(SubscriptionId(1), &subscription, state)
    }

    fn names() -> HashMap<TopicId, TopicName> {
        let name = |name: &str| name.parse().expect("valid name");
        HashMap::from([(TopicId(1), name("a")), (TopicId(2), name("b"))])
    }

    // Ten events at positions from `first` on.
    fn block(topic: u64, first: u64) -> Arc<Block> {
        let mut builder = BlockBuilder::default();
        (0..10).for_each(|n| builder.push(&[n]));
        let (first, sequence) = (Position(first), Sequence(first));
        Arc::new(builder.finish(TopicId(topic), first, sequence, Millis(0)))
    }

    fn staying(leaving: &Leaving, topic: u64, first: u64) -> Vec<u64> {
        let block = block(topic, first);
        let staying = leaving.what_stays(&block).expect("readable");
        let Some(staying) = staying else {
            return Vec::new();
        };
        let events = staying.events().expect("readable");
        events.map(|(index, _)| staying.position(index).0).collect()
    }

    #[test]
    fn without_anybody_the_whole_range_leaves_and_nothing_else() {
        let leaving = Leaving::new(Some(Position(11)..=Position(40)));
        assert_eq!(staying(&leaving, 1, 1), Vec::from_iter(1..=10));
        assert_eq!(staying(&leaving, 1, 11), [0; 0]);
        assert_eq!(staying(&leaving, 2, 31), [0; 0]);
        assert_eq!(staying(&leaving, 1, 41), Vec::from_iter(41..=50));
        let nothing = Leaving::new(None);
        assert_eq!(staying(&nothing, 1, 1), Vec::from_iter(1..=10));
    }

    #[test]
    fn what_is_pending_and_what_is_undecided_stays() {
        let live = live("a");
        let matched = [3, 5].map(|at| Position(at)..=Position(at));
        live.lock().observe(Position(14), matched);
        let mut leaving = Leaving::new(Some(Position(1)..=Position(30)));
        let through = leaving.keep_for(&live, &names(), SubscriptionState::evaluated_through);
        assert_eq!(through, Position(14));
        assert_eq!(staying(&leaving, 1, 1), [3, 5]);
        assert_eq!(staying(&leaving, 1, 11), Vec::from_iter(15..=20));
        assert_eq!(staying(&leaving, 1, 21), Vec::from_iter(21..=30));
        // It has no eyes for this topic, whatever it has not looked at.
        assert_eq!(staying(&leaving, 2, 21), [0; 0]);
    }

    #[test]
    fn the_latest_of_many_decides_what_is_undecided() {
        let (early, late) = (live("*"), live("a"));
        early.lock().observe(Position(25), []);
        late.lock().observe(Position(8), []);
        let mut leaving = Leaving::new(Some(Position(1)..=Position(30)));
        for live in [&early, &late, &early] {
            leaving.keep_for(live, &names(), |_| ());
        }
        assert_eq!(staying(&leaving, 1, 1), [9, 10]);
        assert_eq!(staying(&leaving, 1, 11), Vec::from_iter(11..=20));
        assert_eq!(staying(&leaving, 2, 11), [0; 0]);
        assert_eq!(staying(&leaving, 2, 21), Vec::from_iter(26..=30));
    }
}

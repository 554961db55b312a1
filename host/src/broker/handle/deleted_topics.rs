//! What a deleted topic leaves behind: its events are pending for subscriptions that selected it, which count them until they are
//! told that there are none. They are found by reading where the topic's blocks lie, which is in memory for what the journal has.

use std::ops::RangeInclusive;
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::Broker;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::{Position, TopicId, TopicName};
use crate::state::range_map::push_range;
use crate::store::ReadError;

/// Stretches that cannot be read and are passed over. What lies in them is found to be gone when it is to be delivered.
const UNREADABLE_MAX: usize = 64;

impl Broker {
    /// Lets no subscription count events of a topic that was deleted, or of all topics that there are not. What is in a consumer's
    /// hands is so no more. Answers for which subscriptions some were pending, and how many.
    pub(in crate::broker) async fn forget_events(
        &self,
        topic: Option<(TopicId, TopicName)>,
    ) -> Vec<(Arc<LiveSubscription>, u64)> {
        let broker = self.clone();
        let forget = move || broker.forget_events_now(topic.as_ref());
        let forgotten = self.0.spawner.blocking("deleted topics", forget).await;
        forgotten.unwrap_or_else(|why| {
            tracing::error!(error = %why, "events of a deleted topic count until they are to be delivered");
            Vec::new()
        })
    }

    fn forget_events_now(
        &self,
        topic: Option<&(TopicId, TopicName)>,
    ) -> Vec<(Arc<LiveSubscription>, u64)> {
        self.0.registry.tell_followers();
        let mut subscriptions = self.0.registry.all();
        subscriptions.retain(|live| {
            let spec = live.settings().spec.clone();
            let mut patterns = spec.topics.iter();
            topic.is_none_or(|(_, name)| patterns.any(|pattern| pattern.matches(name)))
        });
        // Those who are to decide have perhaps looked the topic up before, so what is undecided is looked at as well.
        let mut pending = RoaringTreemap::new();
        let mut undecided = self.0.log.end();
        for live in &subscriptions {
            let state = live.read();
            let decided = state.evaluated_through();
            pending |= state.needed(state.start(), decided);
            undecided = undecided.min(decided.next().max(state.start()));
        }
        let place = |from| self.0.reader.block_place(from);
        let gone = blocks_within(pending, undecided, place, |found| match topic {
            Some((id, _)) => found == *id,
            None => !self.catalog().topics_by_id.contains_key(&found),
        });
        if gone.is_empty() {
            return Vec::new();
        }
        let forget = |live: Arc<LiveSubscription>| {
            let pending = live.apply(|state, _| {
                let pending = state.finish(&gone);
                state.acked_before_match(&gone);
                pending
            });
            (pending > 0).then_some((live, pending))
        };
        subscriptions.into_iter().filter_map(forget).collect()
    }
}

// Where blocks of certain topics lie, of those that have one of these positions, and of those from `all_from` on. `place` answers
// where the block at a position lies, or else the first one after it.
fn blocks_within(
    mut positions: RoaringTreemap,
    all_from: Position,
    place: impl Fn(Position) -> Result<Option<(RangeInclusive<Position>, TopicId)>, ReadError>,
    is_wanted: impl Fn(TopicId) -> bool,
) -> Vec<RangeInclusive<Position>> {
    let mut found = Vec::new();
    let mut unreadable = 0;
    let mut next = Position(0);
    while unreadable < UNREADABLE_MAX {
        positions.remove_range(..next.0);
        let first = positions.min().map_or(all_from, Position).min(all_from);
        let at = first.max(next);
        match place(at) {
            Ok(Some((range, topic))) => {
                next = range.end().next();
                if is_wanted(topic) {
                    push_range(&mut found, range);
                }
            }
            Ok(None) => break,
            // All of it is known to be unreadable.
            Err(ReadError::Unreadable { last, .. }) => {
                unreadable += 1;
                next = last.max(at).next();
            }
            Err(_) => {
                unreadable += 1;
                next = at.next();
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::store::Damage;

    #[test]
    fn what_lies_behind_long_stretches_that_cannot_be_read_is_found() {
        // Every other hundred of positions can be read, in blocks of ten of two topics.
        let damage = || {
            ReadError::from(Damage::Content {
                path: PathBuf::from("a"),
                what: "all".into(),
            })
        };
        let place = |from: Position| {
            let hundred = from.0 / 100 * 100;
            if hundred.is_multiple_of(200) && hundred < 2_000 {
                return Err(ReadError::Unreadable {
                    path: PathBuf::from("a"),
                    first: Position(hundred),
                    last: Position(hundred + 99),
                    source: Arc::new(damage()),
                });
            }
            let first = from.0 / 10 * 10;
            let block = Position(first)..=Position(first + 9);
            Ok((first < 3_000).then_some((block, TopicId(first / 10 % 2))))
        };
        let mut pending = RoaringTreemap::new();
        pending.insert_range(0..2_500);
        let found = blocks_within(pending, Position(2_990), place, |topic| topic == TopicId(1));
        let of_stretches = 10 * 5 + 50 / 2;
        assert_eq!(found.len(), of_stretches + 1, "{found:?}");
        assert_eq!(found[0], Position(110)..=Position(119));
        assert_eq!(found[of_stretches], Position(2_990)..=Position(2_999));
        // What fails for another reason moves on as well, and ends.
        let fails = |_| Err(damage());
        assert_eq!(
            blocks_within(RoaringTreemap::new(), Position(1), fails, |_| true),
            []
        );
    }
}

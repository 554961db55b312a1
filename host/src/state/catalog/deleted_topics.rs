//! Topics that were deleted and not made again: what a topic that comes into being with such a name takes over. The sequences that
//! it gave are given to no other event, it is durable as it was unless whoever makes it says otherwise, and who publishes to it in
//! good faith does not make it anew for a while.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{Durability, Millis, Sequence, TopicName};

/// Names that are remembered: about 1 MiB of long ones. Beyond them the one that was deleted first is forgotten, but for its
/// sequences.
const NAMES_MAX: usize = 4_096;

/// What is remembered of a deleted topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeletedTopic {
    pub(crate) name: TopicName,
    /// When it was deleted, on the wall.
    pub(crate) at: Millis,
    pub(crate) durability: Durability,
    /// No sequence below this one is given to an event of that name.
    pub(crate) next_sequence: Sequence,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeletedTopics {
    by_name: BTreeMap<TopicName, DeletedTopic>,
    // What any topic begins with, for what is forgotten.
    next_sequence: Sequence,
}

impl DeletedTopics {
    /// As a checkpoint says it.
    pub(crate) fn restore(all: Vec<DeletedTopic>, next_sequence: Sequence) -> Self {
        let mut deleted = Self {
            by_name: BTreeMap::new(),
            next_sequence,
        };
        all.into_iter().for_each(|topic| deleted.insert(topic));
        deleted
    }

    pub(crate) fn insert(&mut self, topic: DeletedTopic) {
        self.by_name.insert(topic.name.clone(), topic);
        while self.by_name.len() > NAMES_MAX {
            let all = self.by_name.values();
            let Some(first) = all.min_by_key(|topic| topic.at).cloned() else {
                return;
            };
            self.by_name.remove(&first.name);
            self.next_sequence = self.next_sequence.max(first.next_sequence);
        }
    }

    /// A topic of that name is there.
    pub(crate) fn remove(&mut self, name: &TopicName) {
        self.by_name.remove(name);
    }

    pub(crate) fn get(&self, name: &TopicName) -> Option<&DeletedTopic> {
        self.by_name.get(name)
    }

    /// What is remembered, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = &DeletedTopic> {
        self.by_name.values()
    }

    /// What every topic begins with.
    pub(crate) fn next_sequence(&self) -> Sequence {
        self.next_sequence
    }

    /// What a topic of that name begins with.
    pub(crate) fn first_sequence(&self, name: &TopicName) -> Sequence {
        let own = self.get(name).map(|topic| topic.next_sequence);
        own.unwrap_or_default().max(self.next_sequence)
    }

    /// How many milliseconds it is ago that a topic of that name was deleted, if there was one. If that was later than `now`, the
    /// clock was set back, and it counts as deleted now.
    pub(crate) fn deleted_ms_ago(&mut self, name: &TopicName, now: Millis) -> Option<u64> {
        let topic = self.by_name.get_mut(name)?;
        topic.at = topic.at.min(now);
        Some(now.0 - topic.at.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(name: &str, at: u64, next: u64) -> DeletedTopic {
        DeletedTopic {
            name: name.parse().expect("a name"),
            at: Millis(at),
            durability: Durability::Interval,
            next_sequence: Sequence(next),
        }
    }

    #[test]
    fn what_is_forgotten_leaves_its_sequences_to_all() {
        let name = |text: &str| -> TopicName { text.parse().expect("a name") };
        let mut topics = DeletedTopics::default();
        topics.insert(deleted("first", 1, 70));
        assert_eq!(topics.first_sequence(&name("first")), Sequence(70));
        assert_eq!(topics.first_sequence(&name("other")), Sequence(0));
        for number in 0..NAMES_MAX as u64 {
            topics.insert(deleted(&format!("t{number}"), 2 + number, 5));
        }
        assert_eq!(topics.get(&name("first")), None);
        assert_eq!(topics.first_sequence(&name("other")), Sequence(70));
        let all: Vec<_> = topics.all().cloned().collect();
        assert_eq!(all.len(), NAMES_MAX);
        let restored = DeletedTopics::restore(all, topics.next_sequence());
        assert_eq!(restored, topics);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_wait_for_longer() {
        let mut topics = DeletedTopics::default();
        topics.insert(deleted("a", 100_000, 1));
        let name = "a".parse().expect("a name");
        assert_eq!(topics.deleted_ms_ago(&name, Millis(100_500)), Some(500));
        assert_eq!(topics.deleted_ms_ago(&name, Millis(1_000)), Some(0));
        assert_eq!(topics.deleted_ms_ago(&name, Millis(1_700)), Some(700));
        let other = "b".parse().expect("a name");
        assert_eq!(topics.deleted_ms_ago(&other, Millis(1_700)), None);
    }
}

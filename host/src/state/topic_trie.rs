//! Which subscriptions select a topic: all patterns in one trie of tokens, so that a new topic is matched
//! against 10,000 subscriptions without trying each. Knows nothing else of a subscription.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::domain::{SubscriptionId, TopicName, TopicPattern};

/// The patterns of all subscriptions.
#[derive(Clone, Debug, Default)]
pub struct TopicTrie {
    root: Node,
    patterns: BTreeMap<SubscriptionId, Vec<TopicPattern>>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// By the next token as it stands in the pattern, `*` among them.
    next: HashMap<Box<str>, Node>,
    /// Patterns that end here.
    here: BTreeSet<SubscriptionId>,
    /// Patterns that end here with `>`.
    rest: BTreeSet<SubscriptionId>,
}

impl TopicTrie {
    /// Adds a subscription, or replaces its patterns.
    pub fn insert(&mut self, id: SubscriptionId, patterns: &[TopicPattern]) {
        self.remove(id);
        for pattern in patterns {
            self.root.place(pattern).insert(id);
        }
        self.patterns.insert(id, patterns.to_vec());
    }

    /// Removes a subscription. Returns whether it was there.
    pub fn remove(&mut self, id: SubscriptionId) -> bool {
        let Some(patterns) = self.patterns.remove(&id) else {
            return false;
        };
        for pattern in patterns {
            self.root.remove(id, pattern.as_str());
        }
        true
    }

    /// The subscriptions that select `topic`, rising, each once.
    #[must_use]
    pub fn select(&self, topic: &TopicName) -> Vec<SubscriptionId> {
        let mut selected = Vec::new();
        self.root.select(Some(topic.as_str()), &mut selected);
        selected.sort_unstable();
        selected.dedup();
        selected
    }

    /// Whether any subscription that selects `topic` is one that is `wanted`. May ask twice about the same.
    pub fn any(&self, topic: &TopicName, mut wanted: impl FnMut(SubscriptionId) -> bool) -> bool {
        self.root.any(Some(topic.as_str()), &mut wanted)
    }

    /// Number of subscriptions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether there is no subscription.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

impl Node {
    // The set that `pattern` belongs in.
    fn place(&mut self, pattern: &TopicPattern) -> &mut BTreeSet<SubscriptionId> {
        let mut node = self;
        for token in pattern.as_str().split('.') {
            if token == ">" {
                return &mut node.rest;
            }
            node = node.next.entry(token.into()).or_default();
        }
        &mut node.here
    }

    // Depth is bounded by the length of a pattern: at most 128 tokens.
    fn remove(&mut self, id: SubscriptionId, pattern: &str) {
        let (token, tail) = match pattern.split_once('.') {
            Some((token, tail)) => (token, Some(tail)),
            None => (pattern, None),
        };
        if token == ">" {
            self.rest.remove(&id);
            return;
        }
        let Some(node) = self.next.get_mut(token) else {
            return;
        };
        match tail {
            Some(tail) => node.remove(id, tail),
            None => {
                node.here.remove(&id);
            }
        }
        if node.is_empty() {
            self.next.remove(token);
        }
    }

    fn select(&self, topic: Option<&str>, selected: &mut Vec<SubscriptionId>) {
        let Some(topic) = topic else {
            selected.extend(&self.here);
            return;
        };
        selected.extend(&self.rest);
        let (token, tail) = match topic.split_once('.') {
            Some((token, tail)) => (token, Some(tail)),
            None => (topic, None),
        };
        for token in [token, "*"] {
            if let Some(node) = self.next.get(token) {
                node.select(tail, selected);
            }
        }
    }

    fn any(&self, topic: Option<&str>, wanted: &mut impl FnMut(SubscriptionId) -> bool) -> bool {
        let Some(topic) = topic else {
            return self.here.iter().any(|id| wanted(*id));
        };
        if self.rest.iter().any(|id| wanted(*id)) {
            return true;
        }
        let (token, tail) = match topic.split_once('.') {
            Some((token, tail)) => (token, Some(tail)),
            None => (topic, None),
        };
        let mut nodes = [token, "*"]
            .into_iter()
            .filter_map(|token| self.next.get(token));
        nodes.any(|node| node.any(tail, wanted))
    }

    fn is_empty(&self) -> bool {
        self.next.is_empty() && self.here.is_empty() && self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns() -> impl Strategy<Value = Vec<TopicPattern>> {
        let pattern =
            "([abc*]\\.){0,3}[abc*>]".prop_map(|text| text.parse().expect("valid pattern"));
        prop::collection::vec(pattern, 0..4)
    }

    proptest! {
        #[test]
        fn selects_what_the_patterns_match(
            subscriptions in prop::collection::vec((0u64..12, prop::option::weighted(0.8, patterns())), 0..40),
            topics in prop::collection::vec("([abc]\\.){0,4}[abc]", 1..8),
        ) {
            let mut interests = TopicTrie::default();
            let mut model: BTreeMap<SubscriptionId, Vec<TopicPattern>> = BTreeMap::new();
            for (id, patterns) in subscriptions {
                let id = SubscriptionId(id);
                match patterns {
                    Some(patterns) => {
                        interests.insert(id, &patterns);
                        model.insert(id, patterns);
                    }
                    None => prop_assert_eq!(interests.remove(id), model.remove(&id).is_some()),
                }
            }
            prop_assert_eq!(interests.len(), model.len());
            for topic in topics {
                let topic: TopicName = topic.parse().expect("valid topic");
                let expected: Vec<SubscriptionId> = model
                    .iter()
                    .filter(|(_, patterns)| patterns.iter().any(|pattern| pattern.matches(&topic)))
                    .map(|(id, _)| *id)
                    .collect();
                for id in model.keys() {
                    let found = interests.any(&topic, |asked| asked == *id);
                    prop_assert_eq!(found, expected.contains(id));
                }
                prop_assert_eq!(interests.select(&topic), expected);
            }
            for id in model.keys() {
                interests.remove(*id);
            }
            prop_assert!(interests.root.is_empty(), "nothing is left behind");
        }
    }
}

//! What decides which events a subscription gets: its filters, and which topics they are asked about. It changes at
//! a position and not at a moment, so the earlier ones are kept for as long as an event could have to be judged by
//! them, after a crash too.

use serde::{Deserialize, Serialize};

use crate::domain::{PluginUse, Position, SubscriptionSpec, TopicName};

/// The filters of a subscription from a position on. One that exists never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FilterChain {
    /// The revision of the subscription that brought it; 0 for the one it was created with.
    pub(super) revision: u32,
    /// Its fence: the first position it judges.
    pub(super) from: Position,
    pub(super) filters: Vec<PluginUse>,
    /// Events of this topic are not for the subscription, unless it spells the topic out.
    pub(super) dead_letter: TopicName,
}

impl FilterChain {
    pub(super) fn of(spec: &SubscriptionSpec, revision: u32, from: Position) -> Self {
        Self {
            revision,
            from,
            filters: spec.filters.clone(),
            dead_letter: spec.dead_letter_topic(),
        }
    }

    /// Whether it decides otherwise than `spec` asks for.
    pub(super) fn differs_from(&self, spec: &SubscriptionSpec) -> bool {
        self.filters != spec.filters || self.dead_letter != spec.dead_letter_topic()
    }

    /// Whether events of `topic` are for the subscription `spec`. Its own dead letters are not, unless a pattern
    /// spells that topic out: otherwise a subscription to `>` would feed on what it gave up.
    pub(super) fn selects(&self, spec: &SubscriptionSpec, topic: &TopicName) -> bool {
        if *topic == self.dead_letter {
            let mut patterns = spec.topics.iter();
            return patterns.any(|pattern| pattern.as_str() == topic.as_str());
        }
        spec.selects(topic)
    }
}

//! What decides which events a subscription gets: its filters, and which topics they are asked about. It changes at
//! a position and not at a moment, so the earlier ones are kept for as long as an event could have to be judged by
//! them, after a crash too.

use serde::{Deserialize, Serialize};

use crate::domain::{BlockOrigin, PluginUse, Position, SubscriptionSpec, TopicName};

/// The filters of a subscription from a position on. One that exists never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilterChain {
    /// The revision of the subscription that brought it; 0 for the one it was created with.
    pub(crate) revision: u32,
    /// Its fence: the first position it judges.
    pub(crate) from: Position,
    pub(crate) filters: Vec<PluginUse>,
    /// Events of this topic are not for the subscription, unless it spells the topic out.
    pub(crate) dead_letter: TopicName,
    /// Dead letters are for the subscription whatever its patterns are. They were before it could be said.
    #[serde(default = "crate::domain::included_before")]
    pub(crate) include_dead_letters: bool,
}

impl FilterChain {
    pub(crate) fn of(spec: &SubscriptionSpec, revision: u32, from: Position) -> Self {
        Self {
            revision,
            from,
            filters: spec.filters.clone(),
            dead_letter: spec.dead_letter_topic(),
            include_dead_letters: spec.include_dead_letters,
        }
    }

    /// Whether it decides otherwise than `spec` asks for.
    pub(crate) fn differs_from(&self, spec: &SubscriptionSpec) -> bool {
        self.filters != spec.filters
            || self.dead_letter != spec.dead_letter_topic()
            || self.include_dead_letters != spec.include_dead_letters
    }

    /// Whether events of `topic` with this mark are for the subscription `spec`. Its own dead letters are not, unless a
    /// pattern spells that topic out: otherwise a subscription to `>` would feed on what it gave up. Nor are others',
    /// unless it or a pattern asks for them. What selects letters of a topic selects its ordinary events as well.
    pub(crate) fn selects(
        &self,
        spec: &SubscriptionSpec,
        topic: &TopicName,
        mark: BlockOrigin,
    ) -> bool {
        if *topic == self.dead_letter {
            let mut patterns = spec.topics.iter();
            return patterns.any(|pattern| pattern.as_str() == topic.as_str());
        }
        let takes_all = self.include_dead_letters || !mark.is_letter();
        let mut patterns = spec.topics.iter();
        patterns.any(|pattern| pattern.matches(topic) && (takes_all || pattern.asks_for_letters()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(patterns: &[&str], include: bool, topic: &str, mark: BlockOrigin) -> bool {
        let spec = serde_json::json!({
            "name": "s",
            "topics": patterns,
            "include_dead_letters": include,
            "delivery": {"dead_letter": "graves.s"},
        });
        let spec = serde_json::from_value(spec).expect("valid specification");
        let topic = topic.parse().expect("valid topic");
        FilterChain::of(&spec, 0, Position(1)).selects(&spec, &topic, mark)
    }

    #[test]
    fn letters_are_for_who_asks_and_ordinary_events_for_who_names_their_topic() {
        let check = |patterns: &[&str], topic: &str, [with, without, ordinary]: [bool; 3]| {
            for mark in [BlockOrigin::Letter, BlockOrigin::LastLetter] {
                let found = [true, false].map(|include| selects(patterns, include, topic, mark));
                assert_eq!(found, [with, without], "{patterns:?} {topic}");
            }
            for include in [true, false] {
                let found = selects(patterns, include, topic, BlockOrigin::Ordinary);
                assert_eq!(found, ordinary, "{patterns:?} {topic}");
            }
        };
        check(&[">"], "dead.other", [true, false, true]);
        check(&["*.other"], "dead.other", [true, false, true]);
        check(&["dead.>"], "dead.other", [true, true, true]);
        check(&["dead.*"], "dead.other", [true, true, true]);
        check(&["dead.other"], "dead.other", [true, true, true]);
        check(&[">", "dead.other"], "dead.other", [true, true, true]);
        check(&[">", "dead.third"], "dead.other", [true, false, true]);
        // Letters may go to any topic.
        check(&["graves.>"], "graves.other", [true, true, true]);
        check(&["*.other"], "graves.other", [true, false, true]);
        check(&["orders.>"], "dead.other", [false, false, false]);
        // Its own.
        check(&[">"], "graves.s", [false, false, false]);
        check(&["graves.s"], "graves.s", [true, true, true]);
    }

    #[test]
    fn taking_in_letters_is_judged_from_a_fence_on() {
        let spec = |include: bool| -> SubscriptionSpec {
            let spec =
                serde_json::json!({"name": "s", "topics": [">"], "include_dead_letters": include});
            serde_json::from_value(spec).expect("valid specification")
        };
        let chain = FilterChain::of(&spec(true), 0, Position(1));
        assert!(chain.differs_from(&spec(false)));
        assert!(!chain.differs_from(&spec(true)));
    }
}

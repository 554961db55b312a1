//! What a user asks for: subscriptions and routes, with their filters, transforms and outputs, as written in JSON to the admin API and
//! kept in the catalog. The parts of one that exists are well formed; whether it can be carried out is checked by
//! the broker, and whether it is allowed is the policy's business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::delivery_policy::DeliveryPolicy;
use super::{Digest, Millis, Name, Owner, Principal, TopicName, TopicPattern};

/// One use of a plugin: which, and what it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = r#"an object, such as {"plugin": "event-pattern"}"#
)]
pub struct PluginUse {
    /// Name of the plugin, optionally with a version: `event-pattern`, `scrub@3`, or its digest.
    pub plugin: String,
    /// Passed to the plugin's `configure`. Its form is the plugin's own.
    #[serde(default)]
    pub config: String,
    /// The exact bytes this resolved to. Filled in by the broker, and from then on what counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What happens to an event on which the plugin traps, times out or answers nonsense.
    #[serde(default)]
    pub on_failure: FailurePolicy,
}

/// What happens to an event that a plugin fails on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailurePolicy {
    /// To the dead-letter topic, with the failure in its headers.
    #[default]
    DeadLetter,
    /// As if the filter had not matched, or the transform had dropped it.
    Drop,
    /// As if the filter had matched, or the transform had kept it unchanged.
    Pass,
    /// Stop the subscription there until somebody resumes it. Nothing is lost.
    Pause,
}

/// Where a new subscription starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartAt {
    /// With the first event committed after it was created.
    #[default]
    New,
    /// With the oldest event that is still kept.
    Earliest,
}

/// A subscription or, when it has outputs, a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionSpec {
    /// Its name; subscriptions and routes share one name space.
    pub name: Name,
    /// Which topics. One that is created later joins by itself.
    pub topics: Vec<TopicPattern>,
    /// An event must pass all of them.
    #[serde(default)]
    pub filters: Vec<PluginUse>,
    /// Applied one after the other to what is about to be delivered.
    #[serde(default)]
    pub transforms: Vec<PluginUse>,
    /// Where it starts.
    #[serde(default)]
    pub start: StartAt,
    /// How it hands out events.
    #[serde(default)]
    pub delivery: DeliveryPolicy,
    /// For a route: output name → topic. Empty for a subscription, whose events go to consumers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<Name, TopicName>,
    /// Whose it is. Consumers are the owner's, or have a grant that names the subscription, and what the broker does by
    /// itself (a route's outputs, dead letters) needs the owner's rights. Absent: whoever may receive its topics may attach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Whether the dead letters of all topics that its patterns match are for it. Without it, only those for which a
    /// pattern asks, see [`TopicPattern::asks_for_letters`]. A specification that was kept before this could be said
    /// means all; in what callers ask for, the edge makes its absence mean the other.
    #[serde(default = "included_before")]
    pub include_dead_letters: bool,
    /// Milliseconds without a consumer after which the broker deletes it, with what it keeps; absent: never. A start counts from
    /// its own beginning. Not for routes, which have no consumers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_after_idle_ms: Option<u64>,
    /// When it was created. Filled in by the broker.
    #[serde(default)]
    pub created: Millis,
    /// Who created it. Filled in by the broker; absent when an older one did not. Where there is no owner, the broker
    /// acts in this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<Principal>,
}

/// What a specification says of dead letters that is older than the choice.
#[must_use]
pub fn included_before() -> bool {
    true
}

impl PluginUse {
    /// Bytes of its name and configuration.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.plugin.len() + self.config.len()
    }
}

impl SubscriptionSpec {
    /// One that takes all events of `topics`, and leaves everything else to the defaults.
    #[must_use]
    pub fn new(name: Name, topics: Vec<TopicPattern>) -> Self {
        Self {
            name,
            topics,
            filters: Vec::new(),
            transforms: Vec::new(),
            start: StartAt::default(),
            delivery: DeliveryPolicy::default(),
            outputs: BTreeMap::new(),
            owner: None,
            include_dead_letters: false,
            delete_after_idle_ms: None,
            created: Millis(0),
            created_by: None,
        }
    }

    /// Bytes of the texts in it that may be long: patterns, plugins with their configurations, outputs.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        let topics = self.topics.iter().map(|pattern| pattern.as_str().len());
        let plugins = self.filters.iter().chain(&self.transforms);
        let outputs = self.outputs.iter();
        topics.sum::<usize>()
            + plugins.map(PluginUse::text_bytes).sum::<usize>()
            + outputs
                .map(|(name, topic)| name.as_str().len() + topic.as_str().len())
                .sum::<usize>()
    }

    /// Whether the broker itself consumes this subscription and appends the results to topics.
    #[must_use]
    pub fn is_route(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// What it is called: a subscription or a route.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.is_route() {
            true => "route",
            false => "subscription",
        }
    }

    /// Whose rights count for what the broker does by itself with its events: the owner's, else the creator's. `None`
    /// for what an older broker created, which is not asked.
    #[must_use]
    pub fn responsible(&self) -> Option<&Principal> {
        let owner = self.owner.as_ref().map(Owner::subject);
        owner.or(self.created_by.as_ref())
    }

    /// Whether it is `who`'s own: the owner's, or where there is none the creator's.
    #[must_use]
    pub fn belongs_to(&self, who: &Principal) -> bool {
        match &self.owner {
            Some(owner) => owner.is(who),
            None => self.created_by.as_ref() == Some(who),
        }
    }

    /// Where given-up events go.
    #[must_use]
    pub fn dead_letter_topic(&self) -> TopicName {
        match &self.delivery.dead_letter {
            Some(topic) => topic.clone(),
            // A name is shorter than a topic may be and has the same characters; only dots at its ends or in
            // a row could make an invalid token, and those are folded away.
            None => {
                let tokens: Vec<&str> = self
                    .name
                    .as_str()
                    .split('.')
                    .filter(|token| !token.is_empty())
                    .collect();
                format!("dead.{}", tokens.join("."))
                    .trim_end_matches('.')
                    .parse()
                    .expect("a valid name without empty tokens makes a valid topic")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letter_topic_is_valid_for_any_name() {
        for name in ["a", "a.b", ".", "..a..", "x/y"] {
            let spec = SubscriptionSpec::new(name.parse().expect("valid name"), vec![]);
            assert!(spec.dead_letter_topic().as_str().starts_with("dead"));
        }
    }
}

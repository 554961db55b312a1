//! What a user asks for: subscriptions and routes, with their filters, transforms and outputs, as written in JSON to the admin API and
//! kept in the catalog, and changes of them. The parts of one that exists are well formed; whether it can be carried out is checked by
//! the broker, and whether it is allowed is the policy's business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::delivery_policy::{DeliveryPatch, DeliveryPolicy};
use super::{Digest, Millis, Name, Owner, Principal, TopicName, TopicPattern};

/// One use of a plugin: which, and what it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// What to change of a subscription or route. What is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubscriptionPatch {
    /// All filters; none at all lets every event pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filters: Option<Vec<PluginUse>>,
    /// All transforms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transforms: Option<Vec<PluginUse>>,
    /// How it hands out events.
    #[serde(skip_serializing_if = "DeliveryPatch::is_empty")]
    pub delivery: DeliveryPatch,
    /// All outputs of a route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<BTreeMap<Name, TopicName>>,
    /// See [`SubscriptionSpec::include_dead_letters`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_dead_letters: Option<bool>,
}

impl SubscriptionPatch {
    /// `spec` with these changes. Plugins that the patch names are looked up anew, in their newest version unless it
    /// names one.
    #[must_use]
    pub fn apply(self, mut spec: SubscriptionSpec) -> SubscriptionSpec {
        let anew = |mut uses: Vec<PluginUse>| {
            uses.iter_mut().for_each(|used| used.digest = None);
            uses
        };
        if let Some(filters) = self.filters {
            spec.filters = anew(filters);
        }
        if let Some(transforms) = self.transforms {
            spec.transforms = anew(transforms);
        }
        if let Some(outputs) = self.outputs {
            spec.outputs = outputs;
        }
        if let Some(include) = self.include_dead_letters {
            spec.include_dead_letters = include;
        }
        self.delivery.apply(&mut spec.delivery);
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let mut before: SubscriptionSpec = serde_json::from_value(serde_json::json!({
            "name": "s",
            "topics": ["a"],
            "filters": [{"plugin": "f", "config": "1"}],
            "transforms": [{"plugin": "t"}],
            "delivery": {"attempts_max": 3, "dead_letter": "dead"},
        }))
        .expect("valid specification");
        before.filters[0].digest = Some(Digest([7; 32]));
        let patched = |patch: serde_json::Value| {
            let patch: SubscriptionPatch = serde_json::from_value(patch).expect("valid patch");
            patch.apply(before.clone())
        };
        assert_eq!(patched(serde_json::json!({})), before);
        let fewer = patched(serde_json::json!({"transforms": [], "delivery": {"attempts_max": 0}}));
        assert_eq!(fewer.filters, before.filters, "pinned as before");
        assert_eq!(fewer.transforms, []);
        assert_eq!(fewer.delivery.attempts_max, 0);
        assert_eq!(fewer.delivery.dead_letter, before.delivery.dead_letter);
        assert!(before.include_dead_letters, "of an older broker");
        let without = patched(serde_json::json!({"include_dead_letters": false}));
        assert!(!without.include_dead_letters);
        let mut again = serde_json::json!({"filters": [before.filters[0]]});
        again["filters"][0]["digest"] = serde_json::json!(Digest([9; 32]));
        assert_eq!(patched(again).filters[0].digest, None, "looked up anew");
        for refused in [
            r#"{"topics": ["b"]}"#,
            r#"{"start": "new"}"#,
            r#"{"name": "x"}"#,
        ] {
            let error = serde_json::from_str::<SubscriptionPatch>(refused).expect_err(refused);
            assert!(error.to_string().contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn dead_letter_topic_is_valid_for_any_name() {
        for name in ["a", "a.b", ".", "..a..", "x/y"] {
            let spec = SubscriptionSpec::new(name.parse().expect("valid name"), vec![]);
            assert!(spec.dead_letter_topic().as_str().starts_with("dead"));
        }
    }
}

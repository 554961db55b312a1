//! What is to change of a subscription or route, as written in JSON to the admin API: whatever a patch does not name stays as it was,
//! down to each setting of a plugin that is named again. Whether the result can be carried out is the broker's business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::delivery_policy::DeliveryPatch;
use super::{Digest, FailurePolicy, Name, PluginUse, SubscriptionSpec, TopicName};

/// A plugin that a patch names. What is absent stays as it was where the subscription uses that plugin already, in whichever
/// version, and is the default where it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = r#"an object, such as {"plugin": "event-pattern"}"#
)]
pub struct PluginPatch {
    /// See [`PluginUse::plugin`].
    pub plugin: String,
    /// See [`PluginUse::config`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// See [`PluginUse::on_failure`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<FailurePolicy>,
    /// Taken, so that what was shown may be sent back, and not looked at: a plugin that is named is looked up anew.
    #[serde(default, skip_serializing)]
    digest: Option<Digest>,
}

impl PluginPatch {
    /// One that says no more than which plugin.
    #[must_use]
    pub fn new(plugin: impl Into<String>) -> Self {
        Self {
            plugin: plugin.into(),
            config: None,
            on_failure: None,
            digest: None,
        }
    }

    /// The plugin as it is used from now on, in the place of `before` if there is one.
    #[must_use]
    pub fn in_place_of(self, before: Option<&PluginUse>) -> PluginUse {
        let config = self.config.or_else(|| Some(before?.config.clone()));
        let on_failure = self.on_failure.or_else(|| Some(before?.on_failure));
        PluginUse {
            plugin: self.plugin,
            config: config.unwrap_or_default(),
            digest: None,
            on_failure: on_failure.unwrap_or_default(),
        }
    }
}

/// What to change of a subscription or route. What is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubscriptionPatch {
    /// All filters; none at all lets every event pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filters: Option<Vec<PluginPatch>>,
    /// All transforms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transforms: Option<Vec<PluginPatch>>,
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
    /// names one. `name_of` tells the name of a plugin from how it is written, with a version or as a digest.
    #[must_use]
    pub fn apply(
        self,
        mut spec: SubscriptionSpec,
        name_of: impl Fn(&str) -> String,
    ) -> SubscriptionSpec {
        if let Some(filters) = self.filters {
            spec.filters = anew(filters, &spec.filters, &name_of);
        }
        if let Some(transforms) = self.transforms {
            spec.transforms = anew(transforms, &spec.transforms, &name_of);
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

// Each takes the place of one before it of the same name: of one with the configuration that it says, else of the first.
fn anew(
    patches: Vec<PluginPatch>,
    before: &[PluginUse],
    name_of: &impl Fn(&str) -> String,
) -> Vec<PluginUse> {
    let mut left: Vec<(String, &PluginUse)> = before
        .iter()
        .map(|used| (name_of(&used.plugin), used))
        .collect();
    let names: Vec<String> = patches.iter().map(|patch| name_of(&patch.plugin)).collect();
    let mut places: Vec<Option<&PluginUse>> = vec![None; patches.len()];
    for by_config in [true, false] {
        for ((patch, name), place) in patches.iter().zip(&names).zip(&mut places) {
            let is_it = |(its_name, used): &(String, &PluginUse)| {
                its_name == name && (!by_config || patch.config.as_ref() == Some(&used.config))
            };
            if place.is_none()
                && let Some(found) = left.iter().position(is_it)
            {
                *place = Some(left.remove(found).1);
            }
        }
    }
    let uses = patches.into_iter().zip(places);
    uses.map(|(patch, place)| patch.in_place_of(place))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(plugin: &str) -> String {
        let name = plugin.split('@').next();
        name.unwrap_or_default().to_owned()
    }

    #[test]
    fn what_has_to_be_an_object_is_told_in_words_of_json() {
        #[track_caller]
        fn check<T: serde::de::DeserializeOwned + std::fmt::Debug>(text: &str) {
            let error = serde_json::from_str::<T>(text).expect_err("no object");
            let said = error.to_string();
            assert!(said.contains("expected an object, such as {\""), "{said}");
        }
        check::<SubscriptionSpec>(r#"{"name": "s", "topics": ["a"], "filters": [3]}"#);
        check::<SubscriptionSpec>(r#"{"name": "s", "topics": ["a"], "delivery": "x"}"#);
        check::<SubscriptionPatch>(r#"{"transforms": [true]}"#);
        check::<SubscriptionPatch>(r#"{"delivery": 3}"#);
    }

    fn spec(changed: serde_json::Value) -> SubscriptionSpec {
        let mut spec = serde_json::json!({"name": "s", "topics": ["a"]});
        let (Some(spec), Some(changed)) = (spec.as_object_mut(), changed.as_object()) else {
            panic!("both are objects");
        };
        spec.extend(changed.clone());
        serde_json::from_value(spec.clone().into()).expect("valid specification")
    }

    fn patched(before: &SubscriptionSpec, patch: serde_json::Value) -> SubscriptionSpec {
        let patch: SubscriptionPatch = serde_json::from_value(patch).expect("valid patch");
        patch.apply(before.clone(), name_of)
    }

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let mut before = spec(serde_json::json!({
            "filters": [{"plugin": "f", "config": "1"}],
            "transforms": [{"plugin": "t"}],
            "delivery": {"attempts_max": 3, "dead_letter": "dead"},
        }));
        before.filters[0].digest = Some(Digest([7; 32]));
        let patched = |patch| patched(&before, patch);
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
            r#"{"filters": [{"plugin": "p", "onfailure": "drop"}]}"#,
        ] {
            let error = serde_json::from_str::<SubscriptionPatch>(refused).expect_err(refused);
            assert!(error.to_string().contains("unknown field"), "{error}");
        }
    }

    fn stages(uses: &[PluginUse]) -> Vec<(&str, &str, FailurePolicy)> {
        uses.iter()
            .map(|used| (&*used.plugin, &*used.config, used.on_failure))
            .collect()
    }

    #[test]
    fn a_plugin_that_is_named_again_keeps_what_is_not_said_of_it() {
        use FailurePolicy::{DeadLetter, Drop, Pass, Pause};
        let two = serde_json::json!([
            {"plugin": "f", "config": "1", "on_failure": "pause"},
            {"plugin": "g@2", "config": "2", "on_failure": "drop"},
            {"plugin": "f", "config": "3", "on_failure": "pass"},
        ]);
        let before = spec(serde_json::json!({"filters": two, "transforms": two}));
        let check = |patch: serde_json::Value, expected: &[(&str, &str, FailurePolicy)]| {
            let after = patched(&before, serde_json::json!({"filters": patch}));
            assert_eq!(stages(&after.filters), expected, "{patch}");
            assert_eq!(after.transforms, before.transforms);
            let after = patched(&before, serde_json::json!({"transforms": patch}));
            assert_eq!(stages(&after.transforms), expected, "{patch}");
            assert_eq!(after.filters, before.filters);
        };
        // In another version, with another configuration, with another policy.
        check(
            serde_json::json!([{"plugin": "g@3"}]),
            &[("g@3", "2", Drop)],
        );
        check(
            serde_json::json!([{"plugin": "g", "config": ""}]),
            &[("g", "", Drop)],
        );
        check(
            serde_json::json!([{"plugin": "g", "on_failure": "dead-letter"}]),
            &[("g", "2", DeadLetter)],
        );
        // Of several, that with the same configuration; else the first.
        check(
            serde_json::json!([{"plugin": "f@9", "config": "3"}]),
            &[("f@9", "3", Pass)],
        );
        check(
            serde_json::json!([{"plugin": "f", "config": "4"}, {"plugin": "f", "config": "1"}]),
            &[("f", "4", Pass), ("f", "1", Pause)],
        );
        // What was not there before begins with the defaults.
        check(
            serde_json::json!([{"plugin": "h"}, {"plugin": "f"}, {"plugin": "f"}, {"plugin": "f"}]),
            &[
                ("h", "", DeadLetter),
                ("f", "1", Pause),
                ("f", "3", Pass),
                ("f", "", DeadLetter),
            ],
        );
    }
}

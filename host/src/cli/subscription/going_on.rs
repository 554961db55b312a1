//! What lets a paused subscription or route go on, as commands to type.

use crate::domain::{PluginWorld, SubscriptionInfo, paused_by, shell_word};

/// All that is to be done before a paused one goes on, and stays so.
pub(in crate::cli) fn going_on(info: &SubscriptionInfo) -> String {
    let reason = info.paused.as_deref().unwrap_or_default();
    let resume = resume(info);
    let Some(world) = paused_by(reason) else {
        return format!("`{resume}`");
    };
    let filters = info.spec.filters.len().min(info.plugin_labels.len());
    let (filters, transforms) = info.plugin_labels.split_at(filters);
    let (labels, flag) = match world {
        PluginWorld::Filter => (filters, "--filter"),
        PluginWorld::Transform => (transforms, "--transform"),
    };
    // The reason names the plugin as it is called. An update names all of them, and the others stay in their versions.
    let has_failed = |label: &String| labels.len() == 1 || names(reason, label);
    let flags = labels.iter().map(|label| {
        let named = match has_failed(label) {
            true => name_of(label),
            false => label.as_str(),
        };
        format!(" {flag} {}", shell_word(named))
    });
    let failed = labels.iter().find(|&label| has_failed(label));
    let failed = failed.map_or("the plugin", |label| name_of(label));
    let name = shell_word(info.spec.name.as_str());
    format!(
        "upload a version of {failed} that takes the event, then `tidegate {} update {name}{}`, then `{resume}`",
        info.spec.word(),
        flags.collect::<String>()
    )
}

/// The command that lets it go on.
pub(super) fn resume(info: &SubscriptionInfo) -> String {
    let name = shell_word(info.spec.name.as_str());
    format!("tidegate {} resume {name}", info.spec.word())
}

// As a word, since `p@1` is in `p@12`.
fn names(reason: &str, label: &str) -> bool {
    reason.split_whitespace().any(|word| word == label)
}

fn name_of(label: &str) -> &str {
    label.rsplit_once('@').map_or(label, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Position, plugin_pause};

    #[test]
    fn all_plugins_are_named_and_those_that_did_not_fail_stay_as_they_are() {
        let said = |outputs: serde_json::Value, uses: &[&str], why: &str| {
            let plugin = |label: &&str| serde_json::json!({"plugin": label});
            let uses: Vec<_> = uses.iter().map(plugin).collect();
            let labels = uses.iter().chain(&uses).map(|used| used["plugin"].clone());
            let info = serde_json::json!({
                "name": "s", "topics": ["t"], "filters": uses, "transforms": uses, "outputs": outputs, "depth": 0, "unevaluated": 1,
                "in_flight": 0, "oldest_unacked_ms": 0, "consumers": 1, "redelivered": 0, "dead_lettered": 0, "paused": why,
                "plugin_labels": labels.collect::<Vec<_>>(),
            });
            let info: SubscriptionInfo = serde_json::from_value(info).expect("a subscription");
            going_on(&info)
        };
        let failed = |world, plugin: &str| {
            let words = format!("plugin {plugin} failed in `evaluate` for s");
            plugin_pause(world, Position(7), &words)
        };
        let none = serde_json::json!({});
        assert_eq!(
            said(none.clone(), &["a@1"], "by local"),
            "`tidegate subscription resume s`"
        );
        let filter = failed(PluginWorld::Filter, "b@1");
        assert_eq!(
            said(none, &["a@1", "b@1", "b@12"], &filter),
            "upload a version of b that takes the event, then `tidegate subscription update s --filter a@1 --filter b --filter b@12`, then \
             `tidegate subscription resume s`"
        );
        let transform = failed(PluginWorld::Transform, "other");
        assert_eq!(
            said(serde_json::json!({"out": "x"}), &["a@1"], &transform),
            "upload a version of a that takes the event, then `tidegate route update s --transform a`, then `tidegate route resume s`"
        );
    }
}

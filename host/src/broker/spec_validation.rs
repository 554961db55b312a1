//! What is asked of a specification before it becomes a subscription or route: that it can be carried out, that what it names may
//! be named so, and that its plugins exist, fit and take their configurations. Nothing here changes anything but the specification,
//! whose plugins are pinned to their bytes.

use std::ops::RangeInclusive;
use std::sync::RwLock;

use super::error::{ChangeError, NotFound, Unavailable};
use crate::auth::{Policy, authorize};
use crate::domain::{
    DELAY_MS_MAX, Name, NameError, PluginInfo, PluginUse, PluginWorld, Principal, SubscriptionSpec,
    TopicName, UniqueKeys,
};
use crate::locks;
use crate::plugin::Plugins;
use crate::state::catalog::Catalog;
use crate::telemetry::error_line::with_causes;

/// What pins the plugins of somebody's specification.
pub(super) struct Pinning<'a> {
    pub(super) who: &'a Principal,
    pub(super) policy: &'a Policy,
    pub(super) catalog: &'a RwLock<Catalog>,
    pub(super) plugins: &'a Plugins,
}

impl Pinning<'_> {
    /// Pins every plugin of a specification that is not yet.
    pub(super) async fn pin_all(&self, spec: &mut SubscriptionSpec) -> Result<(), ChangeError> {
        let filters = spec
            .filters
            .iter_mut()
            .map(|used| (used, PluginWorld::Filter));
        let transforms = spec.transforms.iter_mut();
        let transforms = transforms.map(|used| (used, PluginWorld::Transform));
        for (used, world) in filters.chain(transforms) {
            if used.digest.is_none() {
                self.pin(used, world).await?;
            }
        }
        Ok(())
    }

    // Pins a plugin to the bytes its name means now, and lets it look at its configuration.
    async fn pin(&self, used: &mut PluginUse, world: PluginWorld) -> Result<(), ChangeError> {
        let plugin = self.usable(&used.plugin)?;
        if plugin.world != world {
            return Err(ChangeError::Invalid(format!(
                "plugin `{}` is a {}, but is used as a {}",
                used.plugin,
                plugin.world.word(),
                world.word()
            )));
        }
        // Whatever its plugin would make of it: others read it, too.
        UniqueKeys::check_if_json(&used.config).map_err(|error| {
            let plugin = &used.plugin;
            ChangeError::Invalid(format!("plugin `{plugin}`: its configuration: {error}"))
        })?;
        self.plugins
            .check(&plugin.digest, world, &used.config, &plugin.label())
            .await
            .map_err(|error| {
                let why = format!("plugin `{}`: {}", used.plugin, with_causes(&error));
                match error.is_passing() {
                    // Nothing was said of the configuration.
                    true => Unavailable::Overloaded(why).into(),
                    false => ChangeError::Invalid(why),
                }
            })?;
        used.digest = Some(plugin.digest);
        Ok(())
    }

    fn usable(&self, name: &str) -> Result<PluginInfo, NotFound> {
        let catalog = locks::read(self.catalog);
        let plugin =
            authorize::used_of(self.policy, self.who, catalog.meant_plugins(name)).cloned();
        plugin.ok_or_else(|| NotFound::Plugin(name.to_owned()))
    }
}

/// Refuses to change what a subscription or route is found and fed by.
pub(super) fn check_fixed(
    before: &SubscriptionSpec,
    spec: &SubscriptionSpec,
) -> Result<(), ChangeError> {
    let fixed = [
        ("name", spec.name == before.name),
        ("topics", spec.topics == before.topics),
        ("start", spec.start == before.start),
        ("created", spec.created == before.created),
        (
            "delete_after_idle_ms",
            spec.delete_after_idle_ms == before.delete_after_idle_ms,
        ),
    ];
    match fixed.into_iter().find(|(_, is_same)| !is_same) {
        None => Ok(()),
        Some((what, _)) => Err(ChangeError::Invalid(format!(
            "`{what}` of a subscription or route cannot be changed; create another one"
        ))),
    }
}

/// Refuses more topic patterns than may be.
pub(super) fn check_pattern_count(
    spec: &SubscriptionSpec,
    patterns_max: usize,
) -> Result<(), ChangeError> {
    if spec.topics.len() <= patterns_max {
        return Ok(());
    }
    Err(ChangeError::LimitReached(format!(
        "it has {} topic patterns, and `limits.subscription_patterns_max` allows {patterns_max}; use `*` and `>`, or several subscriptions",
        spec.topics.len()
    )))
}

/// Checks names that a specification brings into being. What was there before stays.
pub(super) fn check_new_names(
    spec: &SubscriptionSpec,
    before: Option<&SubscriptionSpec>,
) -> Result<(), NameError> {
    if before.is_none() {
        spec.name.check_new()?;
    }
    let known = |topic: &TopicName| {
        before.is_some_and(|before| {
            before.dead_letter_topic() == *topic || before.outputs.values().any(|t| t == topic)
        })
    };
    let topics = spec.outputs.values().chain(&spec.delivery.dead_letter);
    for topic in topics.filter(|topic| !known(topic)) {
        topic.check_new()?;
    }
    let outputs = spec.outputs.keys();
    let known = |name: &&Name| before.is_some_and(|before| before.outputs.contains_key(*name));
    for name in outputs.filter(|name| !known(name)) {
        name.check_new()?;
    }
    Ok(())
}

/// Refuses what can be refused of a specification without looking at anything else.
pub(super) fn check_spec(spec: &SubscriptionSpec) -> Result<(), String> {
    const FILTERS_MAX: usize = 8;
    const TRANSFORMS_MAX: usize = 8;
    const OUTPUTS_MAX: usize = 256;
    const BACKOFFS_MAX: usize = 64;
    const IDLE_MS: RangeInclusive<u64> = 1_000..=DELAY_MS_MAX;
    let delivery = &spec.delivery;
    if spec.topics.is_empty() {
        return Err("name at least one topic pattern, such as `orders.>`".into());
    }
    if spec.filters.len() > FILTERS_MAX || spec.transforms.len() > TRANSFORMS_MAX {
        return Err(format!(
            "at most {FILTERS_MAX} filters and {TRANSFORMS_MAX} transforms"
        ));
    }
    if spec.outputs.len() > OUTPUTS_MAX || delivery.backoff_ms.len() > BACKOFFS_MAX {
        return Err(format!(
            "at most {OUTPUTS_MAX} outputs and {BACKOFFS_MAX} times of back-off"
        ));
    }
    if delivery.ack_deadline_ms == 0 {
        return Err("`ack_deadline_ms` must be at least 1".into());
    }
    delivery.check_times()?;
    if delivery.in_flight_events_max == 0 {
        return Err("`in_flight_events_max` must be at least 1".into());
    }
    match spec.delete_after_idle_ms {
        Some(_) if spec.is_route() => {
            return Err(
                "`delete_after_idle_ms` is for subscriptions: a route has no consumers".into(),
            );
        }
        Some(ms) if !IDLE_MS.contains(&ms) => {
            return Err(format!(
                "`delete_after_idle_ms` must be from {} (1 s) to {} (30 days)",
                IDLE_MS.start(),
                IDLE_MS.end()
            ));
        }
        _ => {}
    }
    let dead_letter = spec.dead_letter_topic();
    if spec
        .topics
        .iter()
        .any(|pattern| pattern.as_str() == dead_letter.as_str())
    {
        return Err(format!(
            "its own dead-letter topic `{dead_letter}` is among its topics; use another subscription for it"
        ));
    }
    Ok(())
}

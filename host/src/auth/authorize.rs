//! Which rights an operation takes. The network, the admin API and the broker's own tasks ask here, and nowhere else is it
//! decided; the page "Who may do what" of the book says the same in words. What is refused with a reason is a `Result` and named for the
//! operation; what is only left out where it is not seen is a `bool`.
//!
//! Rights of a subscription or route are looked at twice: those of who acts, when it is acted, and those of whoever it belongs to
//! ([`standing`]), for as long as it exists.

use super::Denied;
use super::policy::Policy;
use super::rights::{Action, Right};
use crate::domain::{
    FailurePolicy, Owner, PluginInfo, Principal, SubscriptionSpec, TopicName, TopicPattern,
};

/// Whether `who` may publish to `topic`.
///
/// # Errors
///
/// They have no publish right on it.
pub fn publish(policy: &Policy, who: &Principal, topic: &TopicName) -> Result<(), Denied> {
    policy.check(who, &Action::Publish(topic))
}

/// Whether `who` may publish to any topic at all: asked before anything is done for a publisher.
///
/// # Errors
///
/// They have no publish right.
pub fn publish_anything(policy: &Policy, who: &Principal) -> Result<(), Denied> {
    policy.check_any(who, Right::Publish)
}

/// Whether there may be any subscription that `who` may consume: asked before anything is done for a consumer. Which they may is
/// for [`attach`] to say.
///
/// # Errors
///
/// They have neither a subscribe nor a consume right.
pub fn consume_anything(policy: &Policy, who: &Principal) -> Result<(), Denied> {
    match policy.holds(who, Right::Consume) {
        true => Ok(()),
        false => policy.check_any(who, Right::Subscribe),
    }
}

/// Whether `who` may measure the connection that they have: whoever may use the broker for anything.
///
/// # Errors
///
/// They have no right to publish, to consume or to administer anything.
pub fn measure(policy: &Policy, who: &Principal) -> Result<(), Denied> {
    if administers_anything(policy, who) || publish_anything(policy, who).is_ok() {
        return Ok(());
    }
    consume_anything(policy, who)
}

/// Whether `who` administers anything, for which there are connections when there are none for others.
#[must_use]
pub fn administers_anything(policy: &Policy, who: &Principal) -> bool {
    policy.holds(who, Right::Admin)
}

/// Whether `who` runs the broker, so that no quota of one principal is held against them.
#[must_use]
pub fn is_operator(policy: &Policy, who: &Principal) -> bool {
    policy.is_operator(who)
}

/// Whether `who` may see all topics, and how the broker fares.
///
/// # Errors
///
/// They have no admin right.
pub fn look_at_everything(policy: &Policy, who: &Principal) -> Result<(), Denied> {
    policy.check(who, &Action::AdminRead)
}

/// Whether `who` may create or delete `topic`.
///
/// # Errors
///
/// They have no admin right on it.
pub fn manage_topic(policy: &Policy, who: &Principal, topic: &TopicName) -> Result<(), Denied> {
    policy.check(who, &Action::AdminTopic(&TopicPattern::from(topic)))
}

/// Whether `who` may give up what cannot be read, which may be events of any topic.
///
/// # Errors
///
/// They have no admin right on everything.
pub fn give_up_damage(policy: &Policy, who: &Principal) -> Result<(), Denied> {
    policy.check(who, &Action::AdminTopic(&TopicPattern::everything()))
}

/// Whether `who` sees all metrics, and why the broker is unwell.
#[must_use]
pub fn reads_all_metrics(policy: &Policy, who: &Principal) -> bool {
    policy.allows(who, &Action::ReadMetrics)
}

/// Whether `who` sees what `owner`'s plugins take together, under that name: their own, those of nobody, and everybody's for who may
/// read all metrics or runs the broker. Admin on some topics is not enough.
#[must_use]
pub fn reads_owner_metrics(policy: &Policy, who: &Principal, owner: Option<&Owner>) -> bool {
    owner.is_none_or(|owner| owner.is(who))
        || policy.holds(who, Right::Metrics)
        || policy.allows(who, &Action::AdminPlugins)
}

/// Whether `who` may ask for subscriptions and routes at all. What they see then, [`sees_subscription`] says.
///
/// # Errors
///
/// No right of theirs is about subscriptions.
pub fn look_for_subscriptions(policy: &Policy, who: &Principal) -> Result<(), Denied> {
    policy.check(who, &Action::SeeSubscriptions)
}

/// The same for one by its name, which is `spec` if there is one: whoever that belongs to may, whatever they are granted by now.
///
/// # Errors
///
/// It is not theirs, and no right of theirs is about subscriptions.
pub fn look_for_subscription(
    policy: &Policy,
    who: &Principal,
    spec: Option<&SubscriptionSpec>,
) -> Result<(), Denied> {
    match spec.is_some_and(|spec| spec.belongs_to(who)) {
        true => Ok(()),
        false => look_for_subscriptions(policy, who),
    }
}

/// Whether `who` may create the subscription or route `spec`. What the broker will do by itself it does in the name of the
/// owner, who needs the rights for it, see [`standing`]; without an owner that is `who`. Whoever names another owner needs
/// admin on the topics, and, unless it is a plain subscription, the same rights as the owner.
///
/// # Errors
///
/// The first right that is lacking, and who lacks it.
pub fn create_subscription(
    policy: &Policy,
    who: &Principal,
    spec: &SubscriptionSpec,
) -> Result<(), Denied> {
    let may = || {
        let Some(owner) = &spec.owner else {
            return flows(policy, who, spec);
        };
        if !owner.is(who) {
            manages_topics(policy, who, spec)?;
        }
        if owner.is(who) || decides_where_events_go(spec) {
            flows(policy, who, spec)?;
        }
        flows(policy, owner.subject(), spec)
    };
    may().map_err(|denied| policy.counted(denied))
}

/// Whether `who` may change `before` to `after`. When that changes where events go or which plugins see them, whoever it
/// belongs to needs the rights for it, and `who` as well: admin on the topics alone does not let anybody lead a stranger's
/// events elsewhere.
///
/// # Errors
///
/// The first right that is lacking, and who lacks it.
pub fn change_subscription(
    policy: &Policy,
    who: &Principal,
    before: &SubscriptionSpec,
    after: &SubscriptionSpec,
) -> Result<(), Denied> {
    manage_subscription(policy, who, before)?;
    let same = before.outputs == after.outputs
        && before.dead_letter_topic() == after.dead_letter_topic()
        && before.filters == after.filters
        && before.transforms == after.transforms;
    if same {
        return Ok(());
    }
    let acting = match after.belongs_to(who) {
        true => Ok(()),
        false => flows(policy, who, after),
    };
    acting
        .and_then(|()| standing(policy, after))
        .map_err(|denied| policy.counted(denied))
}

/// Whether `who` may delete, resume or show everything of `spec`: it is theirs, or they have admin on all of its topics.
///
/// # Errors
///
/// The first pattern they have no admin right on.
pub fn manage_subscription(
    policy: &Policy,
    who: &Principal,
    spec: &SubscriptionSpec,
) -> Result<(), Denied> {
    if spec.belongs_to(who) {
        return Ok(());
    }
    manages_topics(policy, who, spec).map_err(|denied| policy.counted(denied))
}

/// Whether `who` may make `owner` the owner of `spec`: they manage it, and the new owner has the rights for what the broker
/// does with its events. A route is given to others only by those who have admin on its topics, since whoever wrote it
/// could not read its output by themselves any more.
///
/// # Errors
///
/// The first right that is lacking, and who lacks it.
pub fn give_subscription(
    policy: &Policy,
    who: &Principal,
    spec: &SubscriptionSpec,
    owner: Option<&Owner>,
) -> Result<(), Denied> {
    manage_subscription(policy, who, spec)?;
    let after = SubscriptionSpec {
        owner: owner.cloned(),
        ..spec.clone()
    };
    let given = match spec.is_route() && !after.belongs_to(who) {
        true => manages_topics(policy, who, spec),
        false => Ok(()),
    };
    given
        .and_then(|()| standing(policy, &after))
        .map_err(|denied| policy.counted(denied))
}

/// Whether the broker may go on with what it does by itself for `spec`, a route's outputs and dead letters, in the name of
/// whoever it belongs to: subscribe on its topics, and publish on its outputs and its dead-letter topic. Who decides nothing
/// about where events go (no outputs, no dead-letter topic but `dead.NAME`, no plugin whose failure makes dead letters) may
/// have admin in place of subscribe. What an older broker created belongs to nobody, and goes on. Not counted as a refusal.
///
/// # Errors
///
/// The first right that is lacking.
pub fn standing(policy: &Policy, spec: &SubscriptionSpec) -> Result<(), Denied> {
    match spec.responsible() {
        Some(responsible) => flows(policy, responsible, spec),
        None => Ok(()),
    }
}

/// Whether `who` may attach a consumer to the subscription `name`, which is `spec` if there is one: to one without owner
/// with subscribe on all of its topics; to one with an owner as the owner, with the same, or with a consume right on its
/// name, if they or the owner may receive its topics. `false`: they are to be told that there is none. That is said to whoever
/// may look at all, or may consume this name, of one that does not exist and of one that they may not see.
///
/// # Errors
///
/// They may not, or there is none and they are not to know; the refusal is the same.
pub fn attach(
    policy: &Policy,
    who: &Principal,
    name: &str,
    spec: Option<&SubscriptionSpec>,
) -> Result<bool, Denied> {
    if let Some(spec) = spec {
        match may_attach(policy, who, spec) {
            Ok(()) => return Ok(true),
            // Who sees it anyway may be told what is missing.
            Err(denied) if sees_subscription(policy, who, spec) => {
                return Err(policy.counted(denied));
            }
            Err(_) => {}
        }
    }
    let everything = TopicPattern::everything();
    let may_know = policy.allows(who, &Action::AdminRead)
        || policy.allows(who, &Action::Consume(name))
        || policy.allows(who, &Action::Subscribe(&everything));
    match may_know {
        true => Ok(false),
        false => policy.check(who, &Action::Consume(name)).map(|()| false),
    }
}

/// Whether `who`, who consumes `spec`, may go on with it.
///
/// # Errors
///
/// They may attach to it no more.
pub fn stay_attached(
    policy: &Policy,
    who: &Principal,
    spec: &SubscriptionSpec,
) -> Result<(), Denied> {
    let name = spec.name.as_str();
    match attach(policy, who, name, Some(spec))? {
        true => Ok(()),
        // That it is there is no news to them.
        false => Err(policy.counted(Denied {
            who: who.clone(),
            right: Right::Consume,
            on: name.to_owned(),
        })),
    }
}

fn may_attach(policy: &Policy, who: &Principal, spec: &SubscriptionSpec) -> Result<(), Denied> {
    match &spec.owner {
        Some(owner) if !owner.is(who) => {
            policy.ask(who, &Action::Consume(spec.name.as_str()))?;
            receives(policy, owner.subject(), spec).or_else(|_| receives(policy, who, spec))
        }
        _ => receives(policy, who, spec),
    }
}

/// Whether `who` may see `spec`: all of those with admin on anything, who it belongs to, and who may consume it.
#[must_use]
pub fn sees_subscription(policy: &Policy, who: &Principal, spec: &SubscriptionSpec) -> bool {
    spec.belongs_to(who)
        || policy.allows(who, &Action::AdminRead)
        || may_attach(policy, who, spec).is_ok()
}

/// Whether `who` may read what `spec`'s plugins said of events they failed on, which may quote them: who may receive its topics,
/// and, where it has an owner, is that or may consume it.
///
/// # Errors
///
/// The first right that is lacking.
pub fn read_log(policy: &Policy, who: &Principal, spec: &SubscriptionSpec) -> Result<(), Denied> {
    may_attach(policy, who, spec)
        .and_then(|()| receives(policy, who, spec))
        .map_err(|denied| policy.counted(denied))
}

/// Whether `who` may ask for plugins at all. What they see then, [`sees_plugin`] says.
///
/// # Errors
///
/// No right of theirs is about plugins.
pub fn look_for_plugins(policy: &Policy, who: &Principal) -> Result<(), Denied> {
    policy.check(who, &Action::SeePlugins)
}

/// Whether `who` may upload a plugin as `name`, if that is not somebody else's, see [`owns_plugin`].
///
/// # Errors
///
/// They have no upload right on it.
pub fn upload_plugin(policy: &Policy, who: &Principal, name: &str) -> Result<(), Denied> {
    policy.check(who, &Action::Upload(name))
}

/// Whether `who` may do with all plugins whatever can be done: give names away, free them.
///
/// # Errors
///
/// They have no admin right on everything.
pub fn manage_plugins(policy: &Policy, who: &Principal) -> Result<(), Denied> {
    policy.check(who, &Action::AdminPlugins)
}

/// Whether `who` may delete versions of the plugin whose name is `owner`'s.
///
/// # Errors
///
/// It is not theirs, and they have no admin right on everything.
pub fn delete_plugin(
    policy: &Policy,
    who: &Principal,
    owner: Option<&Owner>,
) -> Result<(), Denied> {
    match owns_plugin(policy, who, owner) {
        true => Ok(()),
        false => manage_plugins(policy, who),
    }
}

/// Whether `who` may use `plugin` in what they create, and see it: it comes with the broker, belongs to nobody, is theirs, or
/// they have a use right on its name.
#[must_use]
pub fn uses_plugin(policy: &Policy, who: &Principal, plugin: &PluginInfo) -> bool {
    uses_plugin_name(policy, who, &plugin.name, plugin.owner.as_ref())
}

/// The one of these plugins, which have the same bytes, that `who` uses: their own before others that they may use.
pub fn used_of<'a>(
    policy: &Policy,
    who: &Principal,
    same: impl Iterator<Item = &'a PluginInfo>,
) -> Option<&'a PluginInfo> {
    let usable = same.filter(|plugin| uses_plugin(policy, who, plugin));
    usable.min_by_key(|plugin| !plugin.owner.as_ref().is_some_and(|owner| owner.is(who)))
}

/// Whether `who` may see `plugin`: if they may use it, or have admin on anything.
#[must_use]
pub fn sees_plugin(policy: &Policy, who: &Principal, plugin: &PluginInfo) -> bool {
    sees_plugin_name(policy, who, &plugin.name, plugin.owner.as_ref())
}

/// The same for a plugin's name, which is `owner`'s and need not have versions.
#[must_use]
pub fn sees_plugin_name(
    policy: &Policy,
    who: &Principal,
    name: &str,
    owner: Option<&Owner>,
) -> bool {
    uses_plugin_name(policy, who, name, owner) || policy.allows(who, &Action::AdminRead)
}

/// Whether the name of a plugin, which is `owner`'s, and with it its versions, is `who`'s to change: theirs, or they have admin
/// on everything. One that belongs to nobody is nobody's to take.
#[must_use]
pub fn owns_plugin(policy: &Policy, who: &Principal, owner: Option<&Owner>) -> bool {
    owner.is_some_and(|owner| owner.is(who)) || policy.allows(who, &Action::AdminPlugins)
}

/// Whether names of plugins, whoever they belong to, are `who`'s to take and change.
#[must_use]
pub fn owns_all_plugins(policy: &Policy, who: &Principal) -> bool {
    policy.allows(who, &Action::AdminPlugins)
}

/// Whether `who` sees what a plugin holds of the machine, whose name is `owner`'s: whoever may change it, and everybody of one that
/// belongs to nobody.
#[must_use]
pub fn sees_holdings(policy: &Policy, who: &Principal, owner: Option<&Owner>) -> bool {
    owner.is_none() || owns_plugin(policy, who, owner)
}

fn uses_plugin_name(policy: &Policy, who: &Principal, name: &str, owner: Option<&Owner>) -> bool {
    owner.is_none_or(|owner| owner.is(who)) || policy.allows(who, &Action::Use(name))
}

// What `subject` needs so that events may flow out of `spec` in its name.
fn flows(policy: &Policy, subject: &Principal, spec: &SubscriptionSpec) -> Result<(), Denied> {
    let decides = decides_where_events_go(spec);
    for pattern in &spec.topics {
        if decides || !policy.allows(subject, &Action::AdminTopic(pattern)) {
            policy.ask(subject, &Action::Subscribe(pattern))?;
        }
    }
    policy.ask(subject, &Action::Publish(&spec.dead_letter_topic()))?;
    let mut outputs = spec.outputs.values();
    outputs.try_for_each(|output| policy.ask(subject, &Action::Publish(output)))
}

// Whether events reach other topics by more than that their consumers give them up.
fn decides_where_events_go(spec: &SubscriptionSpec) -> bool {
    let mut plugins = spec.filters.iter().chain(&spec.transforms);
    spec.is_route()
        || spec.delivery.dead_letter.is_some()
        || plugins.any(|used| used.on_failure == FailurePolicy::DeadLetter)
}

fn receives(policy: &Policy, subject: &Principal, spec: &SubscriptionSpec) -> Result<(), Denied> {
    let mut patterns = spec.topics.iter();
    patterns.try_for_each(|pattern| policy.ask(subject, &Action::Subscribe(pattern)))
}

fn manages_topics(policy: &Policy, who: &Principal, spec: &SubscriptionSpec) -> Result<(), Denied> {
    let mut patterns = spec.topics.iter();
    patterns.try_for_each(|pattern| policy.ask(who, &Action::AdminTopic(pattern)))
}

#[cfg(test)]
mod tests;

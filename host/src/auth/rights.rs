//! Which rights an operation takes. The network, the admin API and the broker's own tasks ask here, and nowhere else is it
//! decided; the page "Who may do what" of the book says the same in words. Rights of a subscription or route are looked at twice:
//! those of who acts, when it is acted, and those of whoever it belongs to ([`standing`]), for as long as it exists.

use super::{Action, Denied, Policy};
use crate::domain::{FailurePolicy, Owner, PluginInfo, Principal, SubscriptionSpec, TopicPattern};

/// Whether `who` may create the subscription or route `spec`. What the broker will do by itself it does in the name of the
/// owner, who needs the rights for it, see [`standing`]; without an owner that is `who`. Whoever names another owner needs
/// admin on the topics, and, unless it is a plain subscription, the same rights as the owner.
///
/// # Errors
///
/// The first right that is lacking, and who lacks it.
pub fn create(policy: &Policy, who: &Principal, spec: &SubscriptionSpec) -> Result<(), Denied> {
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
pub fn change(
    policy: &Policy,
    who: &Principal,
    before: &SubscriptionSpec,
    after: &SubscriptionSpec,
) -> Result<(), Denied> {
    manage(policy, who, before)?;
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
pub fn manage(policy: &Policy, who: &Principal, spec: &SubscriptionSpec) -> Result<(), Denied> {
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
pub fn give(
    policy: &Policy,
    who: &Principal,
    spec: &SubscriptionSpec,
    owner: Option<&Owner>,
) -> Result<(), Denied> {
    manage(policy, who, spec)?;
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
            Err(denied) if sees(policy, who, spec) => return Err(policy.counted(denied)),
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
pub fn sees(policy: &Policy, who: &Principal, spec: &SubscriptionSpec) -> bool {
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

/// Whether `who` may use `plugin` in what they create, and see it: it comes with the broker, belongs to nobody, is theirs, or
/// they have a use right on its name.
#[must_use]
pub fn uses(policy: &Policy, who: &Principal, plugin: &PluginInfo) -> bool {
    uses_name(policy, who, &plugin.name, plugin.owner.as_ref())
}

/// The one of these plugins, which have the same bytes, that `who` uses: their own before others that they may use.
pub fn used_of<'a>(
    policy: &Policy,
    who: &Principal,
    same: impl Iterator<Item = &'a PluginInfo>,
) -> Option<&'a PluginInfo> {
    let usable = same.filter(|plugin| uses(policy, who, plugin));
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
    uses_name(policy, who, name, owner) || policy.allows(who, &Action::AdminRead)
}

/// Whether the name of a plugin, which is `owner`'s, and with it its versions, is `who`'s to change: theirs, or they have admin
/// on everything. One that belongs to nobody is nobody's to take.
#[must_use]
pub fn owns_plugin(policy: &Policy, who: &Principal, owner: Option<&Owner>) -> bool {
    owner.is_some_and(|owner| owner.is(who)) || policy.allows(who, &Action::AdminPlugins)
}

fn uses_name(policy: &Policy, who: &Principal, name: &str, owner: Option<&Owner>) -> bool {
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
mod tests {
    use super::*;
    use crate::auth::Right;
    use crate::auth::policy::tests::policy;

    const SHOP: &str = r#"
        [[grants]]
        principals = ["cn:billing", "cn:shipping"]
        publish = ["dead.>", "bills.>"]
        subscribe = ["orders.>"]
        [[grants]]
        principals = ["cn:helper"]
        consume = ["billing-*"]
        [[grants]]
        principals = ["cn:admin"]
        publish = ["loot.>", "dead.>"]
        subscribe = ["loot.>"]
        admin = ["orders.>", "loot.>"]
        [[grants]]
        principals = ["cn:root"]
        publish = [">"]
        subscribe = [">"]
        admin = [">"]
        [[grants]]
        principals = ["cn:watcher"]
        admin = ["elsewhere"]
        [[grants]]
        principals = ["cn:all-topics"]
        subscribe = [">"]
        [[grants]]
        principals = ["cn:squad-*"]
        publish = ["dead.>"]
        subscribe = ["orders.>"]
    "#;

    fn who(text: &str) -> Principal {
        Principal::common_name(text)
    }

    fn spec(owner: Option<&str>, created_by: Option<&str>, more: &str) -> SubscriptionSpec {
        let mut spec: serde_json::Value = serde_json::from_str(more).expect("JSON");
        spec["name"] = "billing-eu".into();
        spec["topics"] = serde_json::json!(["orders.eu"]);
        let mut spec: SubscriptionSpec = serde_json::from_value(spec).expect("a specification");
        spec.owner = owner.map(|owner| format!("cn:{owner}").parse().expect("an owner"));
        spec.created_by = created_by.map(who);
        spec
    }

    #[test]
    fn of_the_same_bytes_somebody_uses_their_own() {
        let policy = policy(
            "[[grants]]\nprincipals = [\"cn:a\", \"cn:b\"]\nuse = [\"second\"]\n[[grants]]\nprincipals = [\"cn:all\"]\nuse = [\"*\"]",
        );
        let plugin = |name: &str, owner: &str| {
            let digest = format!("sha256:{}", "0".repeat(64));
            let plugin = serde_json::json!({"name": name, "version": 1, "digest": digest, "world": "filter", "bytes": 1,
                "uploaded": 0, "bundled": false, "owner": owner});
            serde_json::from_value::<PluginInfo>(plugin).expect("a plugin")
        };
        let same = [
            plugin("first", "cn:a"),
            plugin("second", "cn:other"),
            plugin("third", "cn:b"),
        ];
        let used = |by: &str| {
            let used = used_of(&policy, &who(by), same.iter());
            used.map(|plugin| plugin.name.as_str())
        };
        assert_eq!(used("a"), Some("first"));
        assert_eq!(used("b"), Some("third"), "before what they may use");
        assert_eq!(used("other"), Some("second"));
        assert_eq!(used("all"), Some("first"));
        assert_eq!(used("nobody"), None);
    }

    const PLAIN: &str = "{}";
    const ROUTE: &str = r#"{"outputs": {"out": "bills.eu"}}"#;
    const LOOT: &str = r#"{"outputs": {"out": "loot.eu"}}"#;
    const LOOT_LETTERS: &str = r#"{"delivery": {"dead_letter": "loot.dead"}}"#;
    const TRAP: &str = r#"{"filters": [{"plugin": "mine"}]}"#;
    const LENIENT: &str = r#"{"filters": [{"plugin": "mine", "on_failure": "drop"}]}"#;

    fn lacks(result: Result<(), Denied>) -> Option<(String, Right, String)> {
        let denied = result.err()?;
        Some((
            denied.who.as_str().trim_start_matches("cn:").to_owned(),
            denied.right,
            denied.on,
        ))
    }

    fn lacking(who: &str, right: Right, on: &str) -> Option<(String, Right, String)> {
        Some((who.to_owned(), right, on.to_owned()))
    }

    #[test]
    fn creating_takes_what_the_broker_will_do_by_itself() {
        let policy = policy(SHOP);
        let check = |by: &str, owner: Option<&str>, more: &str, expected| {
            let spec = spec(owner, None, more);
            assert_eq!(
                lacks(create(&policy, &who(by), &spec)),
                expected,
                "{by} {owner:?} {more}"
            );
        };
        let read = |who| lacking(who, Right::Subscribe, "orders.eu");
        check("billing", None, PLAIN, None);
        check("billing", None, ROUTE, None);
        check(
            "billing",
            None,
            LOOT,
            lacking("billing", Right::Publish, "loot.eu"),
        );
        check("stranger", None, PLAIN, read("stranger"));
        // Admin stands in for subscribe where nothing is decided about events but who may manage them.
        check("admin", None, PLAIN, None);
        check("admin", None, LENIENT, None);
        for more in [LOOT, LOOT_LETTERS, TRAP] {
            check("admin", None, more, read("admin"));
        }
        // In somebody else's name only by those who manage the topics, and with no more rights than one's own.
        check(
            "billing",
            Some("shipping"),
            PLAIN,
            lacking("billing", Right::Admin, "orders.eu"),
        );
        check("admin", Some("billing"), PLAIN, None);
        check("admin", Some("root"), LOOT, read("admin"));
        check("admin", Some("stranger"), PLAIN, read("stranger"));
        check("root", Some("billing"), ROUTE, None);
        check(
            "root",
            Some("billing"),
            LOOT,
            lacking("billing", Right::Publish, "loot.eu"),
        );
        // Groups: all of them, or nobody.
        check("squad-1", Some("squad-*"), PLAIN, None);
        check("squad-1", Some("squa*"), PLAIN, read("squa*"));
    }

    #[test]
    fn changing_does_not_lead_a_strangers_events_elsewhere() {
        let policy = policy(SHOP);
        let check = |by: &str, before: &SubscriptionSpec, more: &str, expected| {
            let after = SubscriptionSpec {
                owner: before.owner.clone(),
                created_by: before.created_by.clone(),
                ..spec(None, None, more)
            };
            assert_eq!(
                lacks(change(&policy, &who(by), before, &after)),
                expected,
                "{by} {more}"
            );
        };
        let fewer_attempts = r#"{"delivery": {"attempts_max": 1}}"#;
        let read = lacking("admin", Right::Subscribe, "orders.eu");
        for before in [
            spec(None, None, PLAIN),
            spec(None, Some("billing"), PLAIN),
            spec(Some("billing"), Some("root"), PLAIN),
        ] {
            check("admin", &before, fewer_attempts, None);
            check("admin", &before, LOOT_LETTERS, read.clone());
            check("admin", &before, TRAP, read.clone());
            check(
                "shipping",
                &before,
                fewer_attempts,
                lacking("shipping", Right::Admin, "orders.eu"),
            );
        }
        let owned = spec(Some("billing"), None, ROUTE);
        check("billing", &owned, fewer_attempts, None);
        check(
            "root",
            &owned,
            LOOT,
            lacking("billing", Right::Publish, "loot.eu"),
        );
    }

    #[test]
    fn what_is_created_is_its_owners_or_creators() {
        let policy = policy(SHOP);
        let manages = |by: &str, spec: &SubscriptionSpec| manage(&policy, &who(by), spec).is_ok();
        let created = spec(None, Some("billing"), PLAIN);
        assert!(manages("billing", &created) && manages("admin", &created));
        assert!(!manages("shipping", &created) && !manages("watcher", &created));
        let given = spec(Some("shipping"), Some("billing"), PLAIN);
        assert!(manages("shipping", &given) && !manages("billing", &given));
        let seen = |by: &str, spec: &SubscriptionSpec| sees(&policy, &who(by), spec);
        assert!(seen("watcher", &given) && seen("helper", &given));
        assert!(!seen("billing", &given) && !seen("stranger", &given));
    }

    #[test]
    fn owners_are_those_who_could_have_created_it() {
        let policy = policy(SHOP);
        let check = |by: &str, spec: &SubscriptionSpec, to: Option<&str>, expected| {
            let owner = to.map(|to| format!("cn:{to}").parse().expect("an owner"));
            let given = give(&policy, &who(by), spec, owner.as_ref());
            assert_eq!(lacks(given), expected, "{by} to {to:?}");
        };
        let plain = spec(Some("billing"), Some("root"), PLAIN);
        let route = spec(Some("billing"), Some("root"), ROUTE);
        check("billing", &plain, Some("shipping"), None);
        check(
            "billing",
            &route,
            Some("shipping"),
            lacking("billing", Right::Admin, "orders.eu"),
        );
        check("admin", &route, Some("shipping"), None);
        check(
            "admin",
            &route,
            Some("admin"),
            lacking("admin", Right::Subscribe, "orders.eu"),
        );
        check(
            "shipping",
            &plain,
            Some("shipping"),
            lacking("shipping", Right::Admin, "orders.eu"),
        );
        check("billing", &plain, None, None);
    }

    #[test]
    fn attaching_takes_ownership_or_a_grant_for_the_name() {
        let policy = policy(SHOP);
        let may = |by: &str, spec: &SubscriptionSpec| {
            attach(&policy, &who(by), "billing-eu", Some(spec)) == Ok(true)
        };
        let free = spec(None, Some("billing"), PLAIN);
        assert!(may("billing", &free) && may("shipping", &free));
        assert!(!may("admin", &free) && !may("helper", &free));
        let owned = spec(Some("billing"), None, PLAIN);
        assert!(may("billing", &owned) && may("helper", &owned));
        assert!(!may("shipping", &owned) && !may("root", &owned));
        let by_admin = spec(Some("admin"), None, PLAIN);
        assert!(!may("admin", &by_admin), "admin does not read");
        assert!(!may("helper", &by_admin), "nor does it in others' names");
    }

    #[test]
    fn who_may_not_consume_does_not_learn_what_there_is() {
        let policy = policy(SHOP);
        let owned = spec(Some("billing"), None, PLAIN);
        // As much as they may otherwise: of one that is another's they learn what they learn of one that is not there.
        for by in ["stranger", "shipping", "all-topics"] {
            let told = |spec| attach(&policy, &who(by), "billing-eu", spec);
            let (there, missing) = (told(Some(&owned)), told(None));
            assert_eq!(there, missing, "{by}");
            assert_ne!(there, Ok(true), "{by}");
        }
        let unreadable = spec(Some("admin"), None, PLAIN);
        let told = |spec| attach(&policy, &who("helper"), "billing-eu", spec);
        assert_eq!(told(Some(&unreadable)), Ok(false));
        assert_eq!(told(None), Ok(false));
        for by in ["watcher", "helper", "root"] {
            assert_eq!(attach(&policy, &who(by), "billing-eu", None), Ok(false));
        }
        // Who sees it is told what is missing.
        for by in ["watcher", "root"] {
            assert!(
                attach(&policy, &who(by), "billing-eu", Some(&owned)).is_err(),
                "{by}"
            );
        }
    }

    #[test]
    fn the_name_of_a_plugin_is_its_owners() {
        let policy = policy(
            r#"
            [[grants]]
            principals = ["cn:user"]
            use = ["scrub"]
            [[grants]]
            principals = ["cn:root"]
            admin = [">"]
            "#,
        );
        let plugin = |owner: Option<&str>| -> PluginInfo {
            serde_json::from_value(serde_json::json!({
                "name": "scrub", "version": 1, "digest": crate::domain::Digest([1; 32]), "world": "filter",
                "bytes": 1, "uploaded": 0, "bundled": false, "owner": owner,
            }))
            .expect("a plugin")
        };
        let check = |by: &str, owner: Option<&str>, used: bool, owned: bool| {
            let (by, plugin) = (who(by), plugin(owner));
            assert_eq!(uses(&policy, &by, &plugin), used, "{by} uses {owner:?}");
            assert_eq!(
                owns_plugin(&policy, &by, plugin.owner.as_ref()),
                owned,
                "{by} owns {owner:?}"
            );
        };
        check("maker", Some("cn:maker"), true, true);
        check("user", Some("cn:maker"), true, false);
        check("other", Some("cn:maker"), false, false);
        check("root", Some("cn:maker"), true, true);
        check("other", None, true, false);
    }
}

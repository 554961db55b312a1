//! What operations take, case by case, and what nobody can do who should not.

use super::*;
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

#[test]
fn whoever_may_do_anything_may_measure() {
    let policy = policy(SHOP);
    let may = |by: &str| measure(&policy, &who(by)).is_ok();
    for by in ["billing", "helper", "all-topics", "watcher", "root"] {
        assert!(may(by), "{by}");
    }
    assert!(!may("nobody"));
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
            lacks(create_subscription(&policy, &who(by), &spec)),
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
            lacks(change_subscription(&policy, &who(by), before, &after)),
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
    let manages =
        |by: &str, spec: &SubscriptionSpec| manage_subscription(&policy, &who(by), spec).is_ok();
    let created = spec(None, Some("billing"), PLAIN);
    assert!(manages("billing", &created) && manages("admin", &created));
    assert!(!manages("shipping", &created) && !manages("watcher", &created));
    let given = spec(Some("shipping"), Some("billing"), PLAIN);
    assert!(manages("shipping", &given) && !manages("billing", &given));
    let seen = |by: &str, spec: &SubscriptionSpec| sees_subscription(&policy, &who(by), spec);
    assert!(seen("watcher", &given) && seen("helper", &given));
    assert!(!seen("billing", &given) && !seen("stranger", &given));
}

#[test]
fn owners_are_those_who_could_have_created_it() {
    let policy = policy(SHOP);
    let check = |by: &str, spec: &SubscriptionSpec, to: Option<&str>, expected| {
        let owner = to.map(|to| format!("cn:{to}").parse().expect("an owner"));
        let given = give_subscription(&policy, &who(by), spec, owner.as_ref());
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
        assert_eq!(
            uses_plugin(&policy, &by, &plugin),
            used,
            "{by} uses {owner:?}"
        );
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

#[test]
fn who_may_not_look_is_told_what_would_be_enough() {
    let policy = policy(SHOP);
    let watcher = Principal::common_name("watcher");
    assert!(look_at_everything(&policy, &watcher).is_ok(), "of anything");
    let denied = look_at_everything(&policy, &Principal::common_name("billing"));
    assert_eq!(
        denied.expect_err("nothing to administer").to_string(),
        "cn:billing has no admin right at all; a table [[policy.grants]] with principals = [\"cn:billing\"] and admin = [TOPICS] would give one"
    );
}

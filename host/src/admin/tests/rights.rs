//! Whose things are, and what others see of them.

use super::plugins::another;
use super::*;
use crate::broker::{ChangeError, NotFound};
use crate::plugin::bundled::bundled;

pub(super) fn team_grants() -> Vec<Grant> {
    let names = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.parse().expect("valid"))
            .collect()
    };
    let team = |who: &str, upload: &[&str], used: &[&str]| Grant {
        principals: vec![who.parse().expect("valid")],
        publish: vec!["dead.>".parse().expect("valid")],
        subscribe: vec!["orders.>".parse().expect("valid")],
        upload: names(upload),
        r#use: names(used),
        ..Grant::default()
    };
    let mut all = grants();
    all.extend([
        team("cn:maker", &["team-*"], &[]),
        team("cn:rival", &["team-*"], &[]),
        team("cn:user", &[], &["team-*"]),
        team("cn:stranger", &[], &[]),
    ]);
    all
}

pub(super) async fn upload(
    fixture: &Fixture,
    who: &str,
    name: &str,
    body: &'static [u8],
    expected: u16,
) -> Value {
    let request = Request::post(format!("/v1/plugins/{name}")).body(Body::from(body));
    let (status, answer) = fixture.send(who, request.expect("a request")).await;
    assert_eq!(status, expected, "{who}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_brings_its_own_filter_and_its_name_stays_its_own() {
    let fixture = Fixture::with(team_grants(), 16 << 20).await;
    let bytes = |name: &str| {
        let mut plugins = bundled().into_iter();
        plugins
            .find(|plugin| plugin.name == name)
            .expect("there")
            .bytes
    };
    let (filter, other) = (bytes("event-pattern"), bytes("json-reshape"));
    upload(&fixture, "cn:stranger", "team-a", filter, 403).await;
    upload(&fixture, "cn:maker", "elsewhere", filter, 403).await;
    upload(&fixture, "cn:maker", "team-a", filter, 201).await;
    // The name is taken, whoever else may upload under such names.
    upload(&fixture, "cn:rival", "team-a", other, 403).await;

    let show = "GET /v1/plugins/team-a";
    let shown = fixture.check("cn:user", show, None, 200).await;
    assert_eq!(
        (&shown["owner"], &shown["uploaded_by"]),
        (&json!("cn:maker"), &json!("cn:maker"))
    );
    assert_eq!(shown["wit"], "tidegate:plugin@0.1.0/filter");
    assert!(shown["limits"]["memory_bytes_max"].is_u64(), "{shown}");
    assert!(shown.get("holds").is_none(), "{shown}");
    let owners = fixture.check("cn:maker", show, None, 200).await;
    assert_eq!(owners["holds"]["owner_instances_max"], 256, "{owners}");
    assert!(owners["holds"]["memory_bytes"].is_u64(), "{owners}");
    let digest = shown["digest"].as_str().expect("a digest").to_owned();
    for name in ["team-a", "team-a@1", &digest, "team-b"] {
        let call = format!("GET /v1/plugins/{name}");
        fixture.check("cn:stranger", &call, None, 404).await;
    }
    let create = |name: &str, plugin: &str| {
        let mut spec = subscription(name, "orders.eu").expect("a body");
        spec["filters"] = json!([{ "plugin": plugin, "config": r#"{"a": [1]}"# }]);
        Some(spec)
    };
    let call = "POST /v1/subscriptions";
    for plugin in ["team-a", &digest, "team-b"] {
        fixture
            .check("cn:stranger", call, create("strangers", plugin), 404)
            .await;
    }
    for (who, name) in [
        ("cn:maker", "makers"),
        ("cn:user", "users"),
        ("local", "locals"),
    ] {
        let mut spec = create(name, "team-a").expect("a body");
        spec["owner"] = who.into();
        fixture.check(who, call, Some(spec), 201).await;
    }
    let bundled = "DELETE /v1/plugins/event-pattern";
    fixture.check("cn:nobody", bundled, None, 403).await;
    let delete = "DELETE /v1/plugins/team-a";
    fixture.check("cn:stranger", delete, None, 404).await;
    fixture.check("cn:user", delete, None, 403).await;
    let in_use = fixture.check("cn:maker", delete, None, 409).await;
    let told = in_use["message"].as_str().expect("text");
    assert!(told.contains("makers"), "{told}");
    fixture
        .check("cn:maker", "DELETE /v1/subscriptions/makers", None, 204)
        .await;
    let in_use = fixture.check("cn:maker", delete, None, 409).await;
    let told = in_use["message"].as_str().expect("text");
    assert!(told.contains("2 subscriptions of others"), "{told}");

    // Only who administers everything gives it away.
    let chown = "POST /v1/plugins/team-a/chown";
    let to = |owner: Value| Some(json!({ "owner": owner }));
    fixture
        .check("cn:maker", chown, to("cn:rival".into()), 403)
        .await;
    fixture.check("local", chown, to(Value::Null), 400).await;
    fixture
        .check("local", chown, to("cn:ri*".into()), 200)
        .await;
    upload(&fixture, "cn:maker", "team-a", other, 403).await;
    upload(&fixture, "cn:rival", "team-a", another(filter), 201).await;
    let shown = fixture.check("cn:rival", show, None, 200).await;
    assert_eq!(
        (&shown["version"], &shown["owner"]),
        (&json!(2), &json!("cn:ri*"))
    );
    fixture.check("cn:maker", show, None, 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_created_is_ones_own_and_can_be_given_away() {
    let fixture = Fixture::new().await;
    let named = |name: &str| format!("/v1/subscriptions/{name}");
    let spec = |owner: Option<&str>| {
        let mut spec = subscription("mail-a", "orders.>").expect("a body");
        if let Some(owner) = owner {
            spec["owner"] = owner.into();
        }
        Some(spec)
    };
    let create = "POST /v1/subscriptions";
    // In another's name only by those who have admin on the topics.
    fixture
        .check("cn:reader", create, spec(Some("cn:other")), 403)
        .await;
    fixture
        .check("cn:reader", create, spec(Some("reader")), 400)
        .await;
    let made = fixture
        .check("cn:reader", create, spec(Some("cn:reader")), 201)
        .await;
    assert_eq!(
        (&made["owner"], &made["created_by"]),
        (&json!("cn:reader"), &json!("cn:reader"))
    );
    let show = format!("GET {}", named("mail-a"));
    let missing = format!("GET {}", named("mail-b"));
    for who in ["cn:reader", "cn:owner", "local"] {
        fixture.check(who, &show, None, 200).await;
    }
    // What one may not see and what is not there are answered alike.
    for who in ["cn:other", "cn:nobody"] {
        let there = fixture.ask(who, "GET", &named("mail-a"), None).await;
        let not_there = fixture.ask(who, "GET", &named("mail-b"), None).await;
        assert_eq!(there.0, not_there.0);
        assert_eq!(there.1["code"], not_there.1["code"]);
    }
    fixture.check("cn:other", &missing, None, 404).await;
    for (who, count) in [
        ("cn:reader", 1),
        ("cn:other", 0),
        ("cn:helper", 1),
        ("local", 1),
    ] {
        let list = fixture.check(who, "GET /v1/subscriptions", None, 200).await;
        assert_eq!(list.as_array().map(Vec::len), Some(count), "{who}");
        let page = fixture.check(who, "GET /metrics", None, 200).await;
        let told = page.as_str().expect("text").contains("mail-a");
        assert_eq!(told, count == 1, "{who}");
    }

    // A scraper sees all of that in the metrics, and nothing else.
    let page = fixture.check("cn:scraper", "GET /metrics", None, 200).await;
    assert!(page.as_str().expect("text").contains("mail-a"));
    fixture.check("cn:scraper", &show, None, 403).await;
    let lists = ["subscriptions", "topics", "plugins", "status"];
    for list in lists.map(|list| format!("GET /v1/{list}")) {
        fixture.check("cn:scraper", &list, None, 403).await;
    }

    // What plugins say of events is for those who may receive them.
    let log = format!("GET {}/log", named("mail-a"));
    for (who, status) in [("cn:reader", 200), ("cn:owner", 403), ("cn:other", 404)] {
        fixture.check(who, &log, None, status).await;
    }

    let chown = format!("POST {}/chown", named("mail-a"));
    let to = |owner: &str| Some(json!({ "owner": owner }));
    fixture.check("cn:other", &chown, to("cn:other"), 404).await;
    fixture
        .check("cn:reader", &chown, to("cn:nobody"), 403)
        .await;
    fixture.check("cn:reader", &chown, to("a b"), 400).await;
    let patch = format!("PATCH {}", named("mail-a"));
    fixture.check("local", &patch, to("cn:other"), 422).await;
    let given = fixture
        .check("cn:reader", &chown, to("cn:other"), 200)
        .await;
    assert_eq!(
        (&given["owner"], &given["revision"]),
        (&json!("cn:other"), &json!(1))
    );
    let delete = format!("DELETE {}", named("mail-a"));
    fixture.check("cn:reader", &delete, None, 404).await;
    let nobodys = fixture
        .check("local", &chown, Some(json!({ "owner": null })), 200)
        .await;
    assert!(nobodys.get("owner").is_none(), "{nobodys}");
    fixture.check("cn:reader", &delete, None, 204).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_gets_a_name_that_passes_for_something_else() {
    let fixture = Fixture::new().await;
    for name in ["-x", "/x", ".", "..", "a/../b"] {
        let (create, spec) = ("POST /v1/subscriptions", subscription(name, "orders.>"));
        fixture.check("local", create, spec, 422).await;
        let mut route = subscription("r", "orders.>").expect("a body");
        route["outputs"] = json!({ name: "out" });
        fixture.check("local", create, Some(route), 422).await;
    }
    for name in ["-x", "/x", "a//b"] {
        let topic = Some(json!({ "name": name }));
        fixture.check("local", "POST /v1/topics", topic, 422).await;
        let mut route = subscription("r", "orders.>").expect("a body");
        route["outputs"] = json!({ "out": name });
        let create = "POST /v1/subscriptions";
        fixture.check("local", create, Some(route), 422).await;
        let mut spec = subscription("s", "orders.>").expect("a body");
        spec["delivery"] = json!({ "dead_letter": name });
        fixture.check("local", create, Some(spec), 422).await;
    }
    for name in ["-x", "%2E%2E", "%2Fx"] {
        let upload = format!("POST /v1/plugins/{name}");
        fixture.check("local", &upload, None, 422).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_looked_up_is_deleted_and_no_other_of_its_name() {
    let fixture = Fixture::new().await;
    let (create, delete) = ("POST /v1/subscriptions", "DELETE /v1/subscriptions/s");
    let spec = || subscription("s", "orders.>");
    fixture.check("local", create, spec(), 201).await;
    let found = fixture.broker.find("s").expect("there");
    fixture.check("local", delete, None, 204).await;
    fixture.check("local", create, spec(), 201).await;
    // Somebody's rights to the first one are none to the second.
    let deleted = fixture.broker.delete_subscription(&found).await;
    assert!(matches!(
        deleted,
        Err(ChangeError::NotFound(NotFound::Subscription(_)))
    ));
    let paused = fixture.broker.pause_subscription(&found, "by whom").await;
    assert!(matches!(
        paused,
        Err(ChangeError::NotFound(NotFound::Subscription(_)))
    ));
    let resumed = fixture.broker.resume_subscription(&found).await;
    assert!(matches!(
        resumed,
        Err(ChangeError::NotFound(NotFound::Subscription(_)))
    ));
    let show = "GET /v1/subscriptions/s";
    fixture.check("local", show, None, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebodys_they_see_and_delete_whatever_they_are_granted_by_now() {
    let fixture = Fixture::with(team_grants(), 16 << 20).await;
    for name in ["mine", "kept"] {
        let body = subscription(name, "orders.eu");
        let create = "POST /v1/subscriptions";
        fixture.check("cn:maker", create, body, 201).await;
    }
    fixture.policy.reload(grants());
    for who in ["cn:maker", "cn:rival"] {
        fixture.check(who, "GET /v1/subscriptions", None, 403).await;
    }
    for call in ["GET", "DELETE"].map(|method| format!("{method} /v1/subscriptions/mine")) {
        fixture.check("cn:rival", &call, None, 403).await;
    }
    let show = "GET /v1/subscriptions/mine";
    let shown = fixture.check("cn:maker", show, None, 200).await;
    assert_eq!(shown["created_by"], "cn:maker");
    let delete = "DELETE /v1/subscriptions/mine";
    fixture.check("cn:maker", delete, None, 204).await;
    fixture.check("cn:maker", show, None, 403).await;
}

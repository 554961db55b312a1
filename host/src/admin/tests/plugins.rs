//! What is kept of plugins, and for how long: limits, names, numbers, files.

use std::collections::HashSet;

use super::rights::{team_grants, upload};
use super::*;
use crate::plugin::bundled::bundled;

fn component(name: &str) -> &'static [u8] {
    let mut plugins = bundled().into_iter();
    let plugin = plugins.find(|plugin| plugin.name == name);
    plugin.expect("bundled").bytes
}

// The same plugin as other bytes: with a custom section that nobody reads.
pub(super) fn another(component: &'static [u8]) -> &'static [u8] {
    [component, &[0, 2, 1, b'x']].concat().leak()
}

// Names of the files that are kept of plugins, without the key of the cache.
fn files(fixture: &Fixture) -> (HashSet<String>, usize) {
    let names = |folder: &str| -> HashSet<String> {
        let entries = std::fs::read_dir(fixture.dir.path().join(folder)).expect("readable");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .map(|name| name.into_string().expect("text"))
            .collect()
    };
    let compiled = names("cache");
    let compiled = compiled.iter().filter(|name| name.ends_with(".cwasm"));
    (names("plugins"), compiled.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_and_a_name_are_given_once() {
    let fixture = Fixture::with(team_grants(), 16 << 20).await;
    let filter = component("event-pattern");
    let other = another(filter);
    upload(&fixture, "cn:maker", "team-a", filter, 201).await;
    upload(&fixture, "cn:maker", "team-a", other, 201).await;
    let delete = "DELETE /v1/plugins/team-a@2";
    fixture.check("cn:maker", delete, None, 204).await;
    upload(&fixture, "cn:maker", "team-a", other, 201).await;
    let shown = fixture
        .check("cn:maker", "GET /v1/plugins/team-a", None, 200)
        .await;
    assert_eq!(shown["version"], 3);
    let delete = "DELETE /v1/plugins/team-a";
    fixture.check("cn:maker", delete, None, 204).await;
    assert_eq!(files(&fixture), (HashSet::new(), 0));

    // The name is still its owner's, and is seen to be.
    upload(&fixture, "cn:rival", "team-a", filter, 403).await;
    let names = fixture
        .check("cn:maker", "GET /v1/plugin-names", None, 200)
        .await;
    assert_eq!(
        names,
        json!([{"name": "team-a", "owner": "cn:maker", "last_version": 3, "versions": 0, "bundled": false}])
    );
    let seen = fixture
        .check("cn:stranger", "GET /v1/plugin-names", None, 200)
        .await;
    assert_eq!(seen, json!([]));
    fixture.check("cn:maker", delete, None, 404).await;
    let free = "DELETE /v1/plugins/team-a?free_name=true";
    fixture.check("cn:maker", free, None, 403).await;
    let one = "DELETE /v1/plugins/team-a@3?free_name=true";
    fixture.check("local", one, None, 422).await;
    fixture.check("local", free, None, 204).await;
    upload(&fixture, "cn:rival", "team-a", filter, 201).await;
    let shown = fixture
        .check("cn:rival", "GET /v1/plugins/team-a", None, 200)
        .await;
    assert_eq!(
        (&shown["version"], &shown["owner"]),
        (&json!(4), &json!("cn:rival"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_limited_and_what_is_refused_leaves_nothing() {
    let fixture = Fixture::with(team_grants(), 64 << 20).await;
    let filter = component("event-pattern");
    let other = another(filter);
    let limit = PLUGINS.versions.principal;
    for n in 0..limit {
        upload(&fixture, "cn:maker", &format!("team-{n}"), filter, 201).await;
    }
    let kept = files(&fixture);
    assert_eq!((kept.0.len(), kept.1), (1, 1), "of the same bytes");
    let refused = upload(&fixture, "cn:maker", "team-more", other, 403).await;
    assert_eq!(refused["code"], "limit-reached");
    let told = refused["message"].as_str().expect("text");
    assert!(told.contains("limits.principal_plugins_max"), "{told}");
    let refused = upload(&fixture, "cn:maker", "team-0", other, 403).await;
    assert_eq!(refused["code"], "limit-reached");
    assert_eq!(files(&fixture), kept, "nothing is left of what was refused");
    // The same bytes are no further version, and others have a share of their own.
    upload(&fixture, "cn:maker", "team-0", filter, 201).await;
    upload(&fixture, "cn:rival", "team-more", other, 201).await;
    assert_eq!(files(&fixture).1, 2);

    // A name alone counts, until it is freed or used again.
    fixture
        .check("cn:maker", "DELETE /v1/plugins/team-0", None, 204)
        .await;
    upload(&fixture, "cn:maker", "team-new", filter, 403).await;
    upload(&fixture, "cn:maker", "team-0", filter, 201).await;
    let free = "DELETE /v1/plugins/team-0?free_name=true";
    fixture.check("local", free, None, 204).await;
    upload(&fixture, "cn:maker", "team-new", filter, 201).await;

    // What is no plugin leaves nothing either.
    let before = files(&fixture);
    upload(
        &fixture,
        "cn:rival",
        "team-broken",
        b"\0asm\x0d\0\x01\0junk",
        422,
    )
    .await;
    assert_eq!(files(&fixture), before);
    for name in ["team-1", "team-2", "team-new"] {
        let delete = format!("DELETE /v1/plugins/{name}");
        fixture.check("cn:maker", &delete, None, 204).await;
    }
    assert_eq!(files(&fixture).1, 1, "the rival's stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_plugins_are_limited() {
    let bytes = Quota {
        all: 64 << 20,
        principal: component("json-reshape").len(),
    };
    let fixture =
        Fixture::with_plugins(team_grants(), 64 << 20, PluginQuotas { bytes, ..PLUGINS }).await;
    upload(
        &fixture,
        "cn:maker",
        "team-a",
        component("json-reshape"),
        201,
    )
    .await;
    let refused = upload(
        &fixture,
        "cn:maker",
        "team-a",
        another(component("json-reshape")),
        403,
    )
    .await;
    let told = refused["message"].as_str().expect("text");
    assert!(told.contains("limits.principal_plugin_bytes_max"), "{told}");
    assert_eq!(files(&fixture).1, 1);
    upload(
        &fixture,
        "local",
        "team-a",
        another(component("json-reshape")),
        201,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_come_in_pages() {
    let fixture = Fixture::with(team_grants(), 64 << 20).await;
    let filter = component("event-pattern");
    for name in ["a", "b", "c"] {
        upload(&fixture, "local", name, filter, 201).await;
    }
    upload(&fixture, "local", "b", another(filter), 201).await;
    assert_eq!(
        pages(&fixture, "/v1/plugins?limit=2").await,
        [["a", "b"], ["b", "c"]]
    );
    assert_eq!(
        pages(&fixture, "/v1/plugin-names?limit=2").await,
        [vec!["a", "b"], vec!["c"]]
    );
    for wrong in ["limit=0", "after=a"] {
        let call = format!("GET /v1/plugins?{wrong}");
        fixture.check("local", &call, None, 400).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_says_a_name_twice_is_refused_with_its_place() {
    let fixture = Fixture::with(team_grants(), 16 << 20).await;
    upload(
        &fixture,
        "cn:maker",
        "team-a",
        component("event-pattern"),
        201,
    )
    .await;
    let create = |config: &str| {
        let mut spec = subscription("s", "orders.eu").expect("a body");
        spec["filters"] = json!([{ "plugin": "team-a", "config": config }]);
        Some(spec)
    };
    let call = "POST /v1/subscriptions";
    let twice = create("{\"a\": [1],\n \"a\": [2]}");
    let refused = fixture.check("cn:maker", call, twice, 422).await;
    let told = refused["message"].as_str().expect("text");
    let expected = "`a` stands twice in one object at line 2 column 4";
    assert!(told.contains(expected), "{told}");
    let made = create(r#"{"a": [1, 2]}"#);
    fixture.check("cn:maker", call, made, 201).await;
}

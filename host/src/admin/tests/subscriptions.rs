//! Subscriptions and routes: which rights it takes to make, change and delete one, and what counts against the limits of who does.

use super::*;

const CREATE: &str = "POST /v1/subscriptions";

// From these topics, into a topic.
fn route(name: &str, topic: &str, output: &str) -> Option<Value> {
    let mut spec = subscription(name, topic).expect("a body");
    spec["outputs"] = json!({ "out": output });
    Some(spec)
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list").iter();
    let names = list.map(|info| info["name"].as_str().expect("a name"));
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_need_their_inputs_and_outputs() {
    let fixture = Fixture::new().await;
    let of_orders = subscription("s", "orders.>");
    let made = fixture.check("cn:reader", CREATE, of_orders.clone(), 201);
    assert_eq!(made.await["topics"], json!(["orders.>"]));
    let copies = route("r", "orders.*", "copies");
    let mut unknown = subscription("u", "a").expect("a body");
    unknown["filters"] = json!([{ "plugin": "nobody" }]);
    fixture
        .check_all([
            ("cn:reader", CREATE, of_orders, 409),
            ("cn:reader", CREATE, subscription("t", "mail.>"), 403),
            ("cn:reader", CREATE, copies.clone(), 403),
            ("local", CREATE, copies, 201),
            ("local", CREATE, Some(unknown), 404),
        ])
        .await;

    let list = |path: &'static str| fixture.check("local", path, None, 200);
    assert_eq!(names(&list("GET /v1/subscriptions").await), ["r", "s"]);
    assert_eq!(names(&list("GET /v1/routes").await), ["r"]);
    let status = list("GET /v1/status").await;
    assert_eq!(
        (&status["subscriptions"], &status["routes"]),
        (&json!(1), &json!(1))
    );

    let pause = "POST /v1/subscriptions/s/pause";
    let why = json!({"reason": " look\n\u{202e}at it "});
    let paused = fixture.check("cn:owner", pause, Some(why), 200).await;
    assert_eq!(paused["paused"], "by cn:owner: look\\n\\u{202e}at it");
    fixture
        .check_all([
            ("cn:other", pause, Some(json!({})), 403),
            ("cn:owner", pause, Some(json!({"until": 7})), 400),
            ("cn:owner", pause, Some(json!({})), 200),
            (
                "local",
                "POST /v1/subscriptions/none/pause",
                Some(json!({})),
                404,
            ),
            ("cn:other", "DELETE /v1/subscriptions/s", None, 403),
            ("cn:owner", "POST /v1/subscriptions/s/resume", None, 204),
            ("cn:owner", "DELETE /v1/subscriptions/s", None, 204),
            ("cn:owner", "DELETE /v1/subscriptions/s", None, 404),
            ("local", "GET /v1/subscriptions/s", None, 404),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_changes_a_subscription_needs_what_the_change_does() {
    let fixture = Fixture::new().await;
    fixture
        .check_all([
            ("cn:reader", CREATE, subscription("s", "orders.>"), 201),
            ("local", CREATE, route("r", "orders.*", "copies"), 201),
        ])
        .await;
    let to_s = "PATCH /v1/subscriptions/s";
    let changed = json!({"delivery": {"attempts_max": 3}});
    let changed = fixture.check("cn:owner", to_s, Some(changed), 200).await;
    assert_eq!(
        (&changed["revision"], &changed["delivery"]["attempts_max"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(
        changed["include_dead_letters"],
        json!(false),
        "nobody asked"
    );
    let changed = json!({"include_dead_letters": true});
    let changed = fixture.check("cn:owner", to_s, Some(changed), 200).await;
    assert_eq!(
        (&changed["revision"], &changed["include_dead_letters"]),
        (&json!(2), &json!(true))
    );

    let by_owner = |change: Value, expected: u16| ("cn:owner", to_s, Some(change), expected);
    let dropping = json!({ "plugin": "nobody", "on_failure": "drop" });
    let to_r = "PATCH /v1/subscriptions/r";
    let into_mine = json!({"outputs": {"out": "dead.mine"}});
    let to_nobody = "PATCH /v1/subscriptions/nobody";
    fixture
        .check_all([
            by_owner(json!({"delivery": {"dead_letter": "mail"}}), 403),
            by_owner(json!({"topics": ["orders.eu"]}), 422),
            // Who does not receive these events does not decide where they go either.
            by_owner(json!({"filters": [{ "plugin": "nobody" }]}), 403),
            by_owner(json!({"delivery": {"dead_letter": "dead.mine"}}), 403),
            by_owner(json!({"filters": [dropping]}), 404),
            by_owner(json!({"filter": []}), 400),
            ("cn:other", to_s, Some(json!({"filters": []})), 403),
            ("cn:owner", to_r, Some(into_mine), 403),
            ("local", to_nobody, Some(json!({})), 404),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_included_for_who_asks() {
    let fixture = Fixture::new().await;
    let mut all = subscription("all", ">").expect("a body");
    all["include_dead_letters"] = json!(true);
    let all = fixture.check("local", CREATE, Some(all), 201).await;
    assert_eq!(all["include_dead_letters"], json!(true));
    fixture
        .check("local", "DELETE /v1/subscriptions/all", None, 204)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_specifications_count_by_their_bytes() {
    let fixture = Fixture::new().await;
    let long = |name: &str| {
        let patterns = (0..4).map(|one| format!("orders.{one}{}", "x".repeat(200)));
        Some(json!({ "name": name, "topics": patterns.collect::<Vec<_>>() }))
    };
    for name in ["a", "b"] {
        fixture.check("cn:reader", CREATE, long(name), 201).await;
    }
    let refused = fixture.check("cn:reader", CREATE, long("c"), 403).await;
    assert_eq!(refused["code"], "limit-reached");
    let told = refused["message"].as_str().expect("text");
    assert!(told.contains("principal_specification_bytes_max"), "{told}");
    let short = subscription("short", "orders.>");
    fixture.check("cn:reader", CREATE, short, 201).await;
    let delete = "DELETE /v1/subscriptions/a";
    fixture.check("cn:reader", delete, None, 204).await;
    fixture.check("cn:reader", CREATE, long("c"), 201).await;

    // A change that makes one longer counts as well.
    let outputs = |count: usize| {
        let output = |one| (format!("o{one}"), json!(format!("out.{}", "y".repeat(240))));
        json!((0..count).map(output).collect::<serde_json::Map<_, _>>())
    };
    let mut route = subscription("route", "orders.>").expect("a body");
    route["outputs"] = outputs(1);
    fixture.check("local", CREATE, Some(route), 201).await;
    let patch = "PATCH /v1/subscriptions/route";
    let longer = Some(json!({ "outputs": outputs(200) }));
    let refused = fixture.check("local", patch, longer, 403).await;
    let told = refused["message"].as_str().expect("text");
    assert!(told.contains("limits.specification_bytes_max"), "{told}");
    let longer = Some(json!({ "outputs": outputs(50) }));
    fixture.check("local", patch, longer, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_subscriptions_append_to_count_for_who_makes_them() {
    let mut all = grants();
    all[1].publish.push("out.>".parse().expect("a pattern"));
    let fixture = Fixture::with(all, 4_096).await;
    let route = |name: &str, outputs: std::ops::Range<usize>| {
        let output = |n| (format!("o{n}"), json!(format!("out.{n}")));
        let outputs: serde_json::Map<_, _> = outputs.map(output).collect();
        Some(json!({ "name": name, "topics": ["orders.>"], "outputs": outputs }))
    };
    let most = QUOTA.principal - 1;
    // The topic of its dead letters is one more.
    fixture
        .check("cn:reader", CREATE, route("r", 0..most + 1), 403)
        .await;
    fixture
        .check("cn:reader", CREATE, route("r", 0..most), 201)
        .await;
    let made = fixture
        .check("local", "GET /v1/topics/out.0", None, 200)
        .await;
    assert_eq!(made["created_by"], "cn:reader");
    let patch = "PATCH /v1/subscriptions/r";
    let other =
        |outputs| Some(json!({ "outputs": route("", outputs).expect("a body")["outputs"] }));
    let refused = fixture.check("cn:reader", patch, other(20..22), 403).await;
    let told = refused["message"].as_str().expect("text");
    assert!(told.contains("limits.principal_topics_max"), "{told}");
    fixture.check("cn:reader", patch, other(20..21), 200).await;
    fixture.check("cn:reader", patch, other(0..most), 200).await;
    let full = subscription("another", "orders.>");
    fixture.check("cn:reader", CREATE, full, 403).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_says_what_has_it_only_to_who_may_see_that() {
    let fixture = Fixture::new().await;
    fixture
        .check_all([
            ("local", CREATE, subscription("mail-in", "mail.>"), 201),
            ("local", CREATE, route("mail-out", "mail.>", "copies"), 201),
        ])
        .await;
    let told = async |who, name: &str, status| {
        let refused = fixture.check(who, CREATE, subscription(name, "orders.>"), status);
        refused.await["message"].as_str().expect("text").to_owned()
    };
    let expected = "route `mail-out` exists already";
    assert_eq!(told("local", "mail-out", 409).await, expected);
    for name in ["mail-in", "mail-out"] {
        let expected = format!("subscription or route `{name}` exists already");
        assert_eq!(told("cn:reader", name, 409).await, expected);
    }
    // Who could not make it learns nothing, taken or free: neither where a plugin is missing nor at the end of a quota.
    let without = |name: &str| {
        let mut spec = subscription(name, "orders.>").expect("a body");
        spec["filters"] = json!([{ "plugin": "nobody" }]);
        Some(spec)
    };
    fixture
        .check_all([
            ("cn:reader", CREATE, without("mail-in"), 404),
            ("cn:reader", CREATE, without("free"), 404),
        ])
        .await;
    for one in 0..QUOTA.principal {
        let spec = subscription(&format!("s{one}"), "orders.>");
        fixture.check("cn:reader", CREATE, spec, 201).await;
    }
    let of_a_free_one = told("cn:reader", "free", 403).await;
    assert!(of_a_free_one.contains("limits."), "{of_a_free_one}");
    assert_eq!(told("cn:reader", "mail-in", 403).await, of_a_free_one);
    // One's own is seen.
    let expected = "subscription `s0` exists already";
    assert_eq!(told("cn:reader", "s0", 409).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_one_may_be_idle_is_said_when_it_is_made() {
    let fixture = Fixture::new().await;
    let mut spec = subscription("s", "orders.>").expect("a body");
    spec["delete_after_idle_ms"] = json!(60_000);
    let made = fixture.check("local", CREATE, Some(spec), 201).await;
    assert_eq!(made["delete_after_idle_ms"], 60_000);
    let patch = Some(json!({"delete_after_idle_ms": 1}));
    let refused = fixture.check("local", "PATCH /v1/subscriptions/s", patch, 422);
    let told = refused.await["message"].to_string();
    assert!(told.contains("cannot be changed"), "{told}");
    let never = fixture.check("local", CREATE, subscription("t", "orders.>"), 201);
    assert!(never.await.get("delete_after_idle_ms").is_none());
}

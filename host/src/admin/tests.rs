//! Every resource with a whole broker behind it: statuses, bodies and rights.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::auth::Grant;
use crate::broker::{BrokerOptions, CheckpointDue, PluginQuotas, RecoveredStore};
use crate::disk::RealFileSystem;
use crate::domain::Principal;
use crate::plugin::{PluginOptions, Plugins};
use crate::state::quotas::Quota;
use crate::store::{self, StoreOptions};

mod plugins;
mod requests;
mod rights;
mod subscriptions;

const QUOTA: Quota = Quota {
    all: 100,
    principal: 8,
};
const PLUGINS: PluginQuotas = PluginQuotas {
    versions: Quota {
        all: 20,
        principal: 3,
    },
    bytes: Quota {
        all: 64 << 20,
        principal: 32 << 20,
    },
};
const MIB: u64 = 1 << 20;

struct Fixture {
    broker: Broker,
    policy: Arc<Policy>,
    router: Router,
    app: Context,
    dir: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(grants(), 4_096).await
    }

    async fn with(grants: Vec<Grant>, module_bytes_max: usize) -> Self {
        Self::with_plugins(grants, module_bytes_max, PLUGINS).await
    }

    async fn with_plugins(
        grants: Vec<Grant>,
        module_bytes_max: usize,
        plugin_quotas: PluginQuotas,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store_options = StoreOptions {
            journal_file_bytes: MIB,
            journal_bytes_max: 16 * MIB,
            journal_reserve_bytes: 4 * MIB,
            ..StoreOptions::default()
        };
        let examined = store::examine(
            &dir.path().join("store"),
            store_options,
            Arc::new(RealFileSystem),
        )
        .expect("opens");
        let readable = RecoveredStore::of(examined, 100).expect("readable");
        let plugin_options = PluginOptions {
            cache_dir: dir.path().join("cache"),
            ..PluginOptions::default()
        };
        let plugins = Plugins::start(plugin_options).expect("starts");
        let policy = Arc::new(Policy::new(grants));
        let metrics = Metrics::default();
        let broker_options = BrokerOptions {
            clock: crate::runtime::Clock::start(),
            metrics: metrics.clone(),
            file_system: Arc::new(RealFileSystem),
            plugins_dir: dir.path().join("plugins"),
            auto_create_topics: true,
            recreate_after_ms: 0,
            interval_ms: 100,
            tail_bytes: 4 << 20,
            checkpoint_at: CheckpointDue {
                bytes: 8 * MIB,
                blocks: 10_000,
            },
            journal_bytes_max: 16 * MIB,
            producers_max: 100,
            topics: QUOTA,
            subscriptions: QUOTA,
            specification_bytes: Quota {
                all: 32 << 10,
                principal: 2_000,
            },
            plugins: plugin_quotas,
            subscription_patterns_max: 4,
            event_bytes_max: crate::domain::EVENT_BYTES_MAX,
            delivery_bytes_max: crate::domain::EVENT_BYTES_MAX,
            policy: policy.clone(),
        };
        let broker = Broker::start(broker_options, readable, plugins, &[])
            .await
            .expect("starts");
        let options = AdminOptions {
            connections_max: 64,
            address_connections_max: 64,
            principal_connections_max: 64,
            request_timeout: Duration::from_secs(30),
            upload_timeout: Duration::from_secs(60),
            module_bytes_max,
        };
        let counted = Arc::new(counters::AdminCounters::default());
        metrics.read({
            let (counted, policy) = (counted.clone(), policy.clone());
            move || counted.families(&policy)
        });
        metrics.read(|| {
            let kind = crate::telemetry::metrics_registry::Kind::Gauge;
            vec![crate::telemetry::Family::single(
                "from_elsewhere",
                "A part",
                kind,
                1.0,
            )]
        });
        let app = Context {
            broker: broker.clone(),
            policy: policy.clone(),
            metrics,
            counted,
            lookups: lookups::Lookups::new(broker.spawner().clone()),
            options: Arc::new(options),
            started: Instant::now(),
        };
        Self {
            broker,
            policy,
            router: router(app.clone(), &CancellationToken::new()),
            app,
            dir,
        }
    }

    // The same resources, of a broker that stops with `shutdown`.
    fn router_until(&self, shutdown: &CancellationToken) -> Router {
        router(self.app.clone(), shutdown)
    }

    async fn ask(&self, who: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
        self.send(who, request.body(body).expect("a request")).await
    }

    async fn send(&self, who: &str, mut request: Request<Body>) -> (u16, Value) {
        let who: Principal = who.parse().expect("a principal");
        request.extensions_mut().insert(who);
        let answer = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("infallible");
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), usize::MAX)
            .await
            .expect("a body");
        let text = String::from_utf8(body.to_vec()).expect("text");
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    async fn check(&self, who: &str, call: &str, body: Option<Value>, expected: u16) -> Value {
        let (method, path) = call.split_once(' ').expect("METHOD PATH");
        let (status, answer) = self.ask(who, method, path, body).await;
        assert_eq!(status, expected, "{who}: {call}: {answer}");
        if status >= 400 && path.starts_with("/v1") {
            for field in ["code", "message", "retryable"] {
                assert!(answer.get(field).is_some(), "{call}: {answer}");
            }
        }
        answer
    }

    // One after the other: who asks for what, with which body, and the status that answers.
    async fn check_all<const N: usize>(&self, cases: [(&str, &str, Option<Value>, u16); N]) {
        for (who, call, body, expected) in cases {
            self.check(who, call, body, expected).await;
        }
    }
}

// Names of all pages, each followed from the one before.
async fn pages(fixture: &Fixture, first: &str) -> Vec<Vec<String>> {
    let (mut pages, mut next) = (Vec::new(), Some(first.to_owned()));
    while let Some(path) = next {
        let mut request = Request::get(&path).body(Body::empty()).expect("a request");
        request.extensions_mut().insert(Principal::local());
        let answer = fixture.router.clone().oneshot(request).await;
        let answer = answer.expect("infallible");
        assert_eq!(answer.status(), 200, "{path}");
        let link = answer.headers().get(header::LINK);
        next = link.map(|link| {
            let link = link.to_str().expect("text");
            let path = link.strip_prefix('<').and_then(|link| link.split_once('>'));
            path.expect("<PATH>; …").0.to_owned()
        });
        let body = to_bytes(answer.into_body(), usize::MAX).await;
        let page: Value = serde_json::from_slice(&body.expect("a body")).expect("JSON");
        let names = page.as_array().expect("a list").iter();
        let names = names.map(|item| item["name"].as_str().expect("a name").to_owned());
        pages.push(names.collect());
    }
    pages
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let fixture = Fixture::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        let topic = Some(json!({ "name": name }));
        fixture.check("local", "POST /v1/topics", topic, 201).await;
        let mut spec = subscription(&format!("of-{name}"), name).expect("a body");
        if name < "c" {
            spec["outputs"] = json!({ "out": "copies" });
        }
        fixture
            .check("local", "POST /v1/subscriptions", Some(spec), 201)
            .await;
    }
    assert_eq!(
        pages(&fixture, "/v1/topics?limit=2").await,
        [["a", "b"], ["c", "copies"], ["d", "e"]]
    );
    assert_eq!(
        pages(&fixture, "/v1/subscriptions?limit=3").await,
        [vec!["of-a", "of-b", "of-c"], vec!["of-d", "of-e"]]
    );
    assert_eq!(
        pages(&fixture, "/v1/routes?limit=1").await,
        [["of-a"], ["of-b"]]
    );
    assert_eq!(pages(&fixture, "/v1/topics").await.len(), 1);
    for wrong in ["limit=0", "limit=1001", "limit=x", "cursor=a..b", "after=a"] {
        let call = format!("GET /v1/topics?{wrong}");
        fixture.check("local", &call, None, 400).await;
    }
    let shown = fixture.check("local", "GET /v1/topics/a", None, 200).await;
    assert_eq!(
        (&shown["subscriptions"], &shown["subscription_count"]),
        (&json!(["of-a"]), &json!(1))
    );
    let status = fixture.check("local", "GET /v1/status", None, 200).await;
    let counts = ["topics", "subscriptions", "routes"].map(|key| status[key].as_u64());
    assert_eq!(counts, [Some(6), Some(3), Some(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_makes_so_many_and_an_operator_more() {
    let fixture = Fixture::new().await;
    let topic = |n: usize| Some(json!({ "name": format!("orders.{n}") }));
    let spec = |n: usize| subscription(&format!("of-{n}"), "orders.>");
    for n in 0..QUOTA.principal {
        let (topic, spec) = (topic(n), spec(n));
        fixture
            .check("cn:owner", "POST /v1/topics", topic, 201)
            .await;
        let call = "POST /v1/subscriptions";
        fixture.check("cn:reader", call, spec, 201).await;
    }
    let more = QUOTA.principal;
    let call = "POST /v1/topics";
    let refused = fixture.check("cn:owner", call, topic(more), 403).await;
    assert_eq!(refused["code"], "limit-reached");
    let call = "POST /v1/subscriptions";
    let refused = fixture.check("cn:reader", call, spec(more), 403).await;
    assert_eq!(refused["code"], "limit-reached");
    let info = fixture
        .check("local", "POST /v1/topics", topic(more), 201)
        .await;
    assert_eq!(info["created_by"], "local");
    fixture
        .check("local", "POST /v1/subscriptions", spec(more), 201)
        .await;
    fixture
        .check("cn:owner", "DELETE /v1/topics/orders.0", None, 200)
        .await;
    fixture
        .check("cn:owner", "POST /v1/topics", topic(more + 1), 201)
        .await;

    let mut wide = subscription("wide", "orders.a").expect("a body");
    wide["topics"] = json!(["orders.a", "orders.b", "orders.c", "orders.d", "orders.e"]);
    let call = "POST /v1/subscriptions";
    let refused = fixture.check("local", call, Some(wide), 403).await;
    assert_eq!(refused["code"], "limit-reached");
}

fn grants() -> Vec<Grant> {
    let patterns = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.parse().expect("valid"))
            .collect()
    };
    let grant = |who: &str, publish: &[&str], subscribe: &[&str], admin: &[&str]| Grant {
        principals: vec![who.parse().expect("valid")],
        publish: patterns(publish),
        subscribe: patterns(subscribe),
        admin: patterns(admin),
        ..Grant::default()
    };
    vec![
        grant("local", &[">"], &[">"], &[">"]),
        grant("cn:reader", &["dead.>"], &["orders.>"], &[]),
        grant("cn:other", &["dead.>"], &["orders.>"], &[]),
        grant("cn:owner", &["dead.>"], &[], &["orders.>"]),
        Grant {
            consume: vec!["mail-*".parse().expect("valid")],
            upload: vec!["team-*".parse().expect("valid")],
            ..grant("cn:helper", &[], &[], &[])
        },
        Grant {
            metrics: true,
            ..grant("cn:scraper", &[], &[], &[])
        },
    ]
}

fn subscription(name: &str, topic: &str) -> Option<Value> {
    Some(json!({ "name": name, "topics": [topic] }))
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_managed_by_those_who_may() {
    let fixture = Fixture::new().await;
    let topic = |name: &str| Some(json!({ "name": name }));
    let made = fixture
        .check("cn:owner", "POST /v1/topics", topic("orders.eu"), 201)
        .await;
    assert_eq!(made["name"], "orders.eu");
    assert_eq!(made["durability"], "sync");
    fixture
        .check("cn:owner", "POST /v1/topics", topic("orders.eu"), 409)
        .await;
    fixture
        .check("cn:owner", "POST /v1/topics", topic("mail"), 403)
        .await;
    fixture
        .check("cn:reader", "POST /v1/topics", topic("orders.us"), 403)
        .await;
    fixture
        .check("local", "POST /v1/topics", topic("a..b"), 400)
        .await;
    fixture
        .check(
            "local",
            "POST /v1/topics",
            Some(json!({ "name": "a", "x": 1 })),
            400,
        )
        .await;
    fixture.check("local", "POST /v1/topics", None, 415).await;
    assert_eq!(
        fixture.check("local", "GET /v1/topics", None, 200).await[0]["name"],
        "orders.eu"
    );
    fixture
        .check("cn:reader", "GET /v1/topics", None, 403)
        .await;
    fixture
        .check("local", "GET /v1/topics/orders.eu", None, 200)
        .await;
    fixture
        .check("local", "GET /v1/topics/orders.us", None, 404)
        .await;
    fixture
        .check("cn:owner", "DELETE /v1/topics/orders.eu", None, 200)
        .await;
    fixture
        .check("cn:owner", "DELETE /v1/topics/orders.eu", None, 404)
        .await;
    fixture.check("local", "PUT /v1/topics", None, 405).await;
    fixture.check("local", "GET /v1/nothing", None, 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_checked_and_limited() {
    let fixture = Fixture::new().await;
    let upload = |who: &'static str, body: Vec<u8>| {
        let request = Request::post("/v1/plugins/scrub")
            .body(Body::from(body))
            .expect("a request");
        fixture.send(who, request)
    };
    for who in ["cn:owner", "cn:helper"] {
        assert_eq!(upload(who, b"x".to_vec()).await.0, 403, "{who}");
    }
    // Its name is granted, so what is wrong with it is told.
    let request = Request::post("/v1/plugins/team-scrub").body(Body::from("no component"));
    let (status, answer) = fixture.send("cn:helper", request.expect("a request")).await;
    assert_eq!(
        (status, &answer["code"]),
        (422, &json!("invalid")),
        "{answer}"
    );
    assert_eq!(upload("local", vec![0; 5_000]).await.0, 413);
    let (status, answer) = upload("local", b"no component".to_vec()).await;
    assert_eq!(
        (status, &answer["code"]),
        (422, &json!("invalid")),
        "{answer}"
    );
    fixture.check("local", "GET /v1/plugins", None, 200).await;
    fixture
        .check("local", "DELETE /v1/plugins/scrub", None, 404)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_need_no_grant() {
    let fixture = Fixture::new().await;
    let nobody = "cn:nobody";
    assert_eq!(
        fixture.check(nobody, "GET /v1/whoami", None, 200).await["principal"],
        nobody
    );
    assert_eq!(
        fixture.check(nobody, "GET /healthz", None, 200).await["status"],
        "ok"
    );
    assert_eq!(
        fixture.check(nobody, "GET /readyz", None, 200).await["status"],
        "ready"
    );
    fixture.check(nobody, "GET /v1/status", None, 403).await;
    let page = fixture.check(nobody, "GET /metrics", None, 200).await;
    let page = page.as_str().expect("text");
    for part in [
        "tidegate_from_elsewhere 1\n",
        "tidegate_admin_requests_total{status=\"4xx\"} 1\n",
        "right=\"admin\"} 1\n",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("# EOF"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_in_health_and_metrics_until_it_is_over() {
    use crate::telemetry::conditions::Condition;
    let fixture = Fixture::new().await;
    let conditions = fixture.broker.conditions().clone();
    conditions.raise(Condition::Unreadable("part 3".into()), "it is damaged");
    let noted = fixture.check("local", "GET /readyz", None, 200).await;
    assert_eq!(noted["status"], "degraded");
    let expected = json!([{"condition": "unreadable", "subject": "part 3", "unready": false, "reason": "it is damaged"}]);
    assert_eq!(noted["conditions"], expected);
    // Names of plugins, principals and files are not for everybody.
    let noted = fixture.check("cn:nobody", "GET /readyz", None, 200).await;
    let unnamed = json!([{"condition": "unreadable", "unready": false}]);
    assert_eq!(noted["conditions"], unnamed);
    conditions.raise(Condition::StoreFailed, "EIO");
    let unready = fixture.check("cn:nobody", "GET /readyz", None, 503).await;
    assert_eq!(unready["store_fault"], "the store refuses writes");
    let unready = fixture.check("local", "GET /readyz", None, 503).await;
    assert_eq!(unready["status"], "unready");
    assert_eq!(unready["conditions"][0]["condition"], "store_failed");
    assert_eq!(unready["store_fault"], "EIO");
    let health = fixture.check("cn:nobody", "GET /healthz", None, 200).await;
    assert_eq!(health["status"], "degraded");
    let page = fixture.check("cn:nobody", "GET /metrics", None, 200).await;
    let page = page.as_str().expect("text");
    let unnamed = "tidegate_condition{condition=\"unreadable\"} 1\n";
    assert!(page.contains(unnamed), "{page}");
    let page = fixture.check("local", "GET /metrics", None, 200).await;
    let page = page.as_str().expect("text");
    for line in [
        "tidegate_condition{condition=\"unreadable\",subject=\"part 3\"} 1\n",
        "tidegate_condition{condition=\"store_failed\"} 1\n",
        "tidegate_store_failed 1\n",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
    conditions.clear(&Condition::StoreFailed);
    conditions.clear(&Condition::Unreadable("part 3".into()));
    let ready = fixture.check("cn:nobody", "GET /readyz", None, 200).await;
    assert_eq!(ready, json!({"status": "ready"}));
}

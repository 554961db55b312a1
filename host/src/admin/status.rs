//! Who one is, how the broker fares, and its metrics.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::error_response::ErrorResponse;
use crate::auth::authorize;
use crate::broker::Health as BrokerHealth;
use crate::domain::Principal;
use crate::telemetry::conditions::{Condition, Raised};
use crate::telemetry::metrics_registry;

/// Answer of `/v1/whoami`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WhoAmI {
    /// Who the broker takes the caller for.
    principal: Principal,
}

/// Answer of `/v1/status`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    uptime_ms: u64,
    ready: bool,
    store_fault: Option<String>,
    conditions: Vec<ShownCondition>,
    topics: usize,
    subscriptions: usize,
    routes: usize,
    plugins: usize,
}

/// Answer of `/healthz` and `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_fault: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<ShownCondition>,
}

/// Something that is wrong.
#[derive(Debug, Serialize)]
pub(super) struct ShownCondition {
    /// Its kind, as in the metric `tidegate_condition`.
    condition: &'static str,
    /// What it holds for, where there can be several.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// Whether it makes the broker unready.
    unready: bool,
    /// Why, for those who may know names of others.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl ShownCondition {
    // Subject and reason may name plugins, principals and files.
    fn of(raised: &Raised, is_named: bool) -> Self {
        let subject = raised.condition.subject().filter(|_| is_named);
        Self {
            condition: raised.condition.kind(),
            subject: subject.map(str::to_owned),
            unready: raised.condition.is_unready(),
            reason: is_named.then(|| raised.why.clone()),
        }
    }
}

fn shown(conditions: &[Raised], is_named: bool) -> Vec<ShownCondition> {
    let conditions = conditions.iter();
    conditions
        .map(|raised| ShownCondition::of(raised, is_named))
        .collect()
}

fn store_fault(conditions: &[Raised], is_named: bool) -> Option<String> {
    let mut conditions = conditions.iter();
    let failed = conditions.find(|raised| raised.condition == Condition::StoreFailed)?;
    Some(match is_named {
        true => failed.why.clone(),
        false => "the store refuses writes".to_owned(),
    })
}

// What is wrong, to who asks: everybody is told what, and those who may read all metrics also why and with what.
fn health_for(
    app: &Context,
    who: &Principal,
    health: &BrokerHealth,
    status: &'static str,
) -> Health {
    let is_named = authorize::reads_all_metrics(&app.policy, who);
    Health {
        status,
        store_fault: store_fault(&health.conditions, is_named),
        conditions: shown(&health.conditions, is_named),
    }
}

pub(super) async fn whoami(Extension(principal): Extension<Principal>) -> Json<WhoAmI> {
    Json(WhoAmI { principal })
}

pub(super) async fn status(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
) -> Result<Json<Status>, ErrorResponse> {
    authorize::look_at_everything(&app.policy, &who)?;
    let (health, counts) = (app.broker.health(), app.broker.counts());
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: u64::try_from(app.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        ready: health.ready,
        store_fault: store_fault(&health.conditions, true),
        conditions: shown(&health.conditions, true),
        topics: counts.topics,
        subscriptions: counts.subscriptions,
        routes: counts.routes,
        plugins: counts.plugins,
    }))
}

/// 200 while the process serves, and says so when something is wrong: a restart would not mend a disk, so this is
/// what a supervisor that restarts should ask.
pub(super) async fn healthz(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
) -> Json<Health> {
    let health = app.broker.health();
    let status = match health.conditions.is_empty() {
        true => "ok",
        false => "degraded",
    };
    Json(health_for(&app, &who, &health, status))
}

/// 200 when publishes are taken and everything runs, with notes on what is degraded, else 503 with the reasons: what a load
/// balancer should ask.
pub(super) async fn readyz(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
) -> Response {
    let health = app.broker.health();
    let (code, status) = match (health.ready, health.stopping) {
        (true, _) if health.conditions.is_empty() => (StatusCode::OK, "ready"),
        (true, _) => (StatusCode::OK, "degraded"),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "unready"),
    };
    let body = health_for(&app, &who, &health, status);
    (code, Json(body)).into_response()
}

/// Needs no grant, but without one it has only what is about no one in particular, and what the caller may see anyway. In the
/// OpenMetrics format for who asks for it.
pub(super) async fn metrics(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Response, ErrorResponse> {
    let lookups = app.lookups.clone();
    let page = move || app.metrics.page(app.broker.metrics_of_state(&who));
    let page = lookups.look_for_metrics(page).await?;
    let accepted = headers.get(header::ACCEPT);
    let accepted = accepted.and_then(|accepted| accepted.to_str().ok());
    let answer = match accepted.is_some_and(|kinds| kinds.contains("application/openmetrics-text"))
    {
        true => (
            [(header::CONTENT_TYPE, metrics_registry::OPEN_METRICS)],
            page,
        ),
        false => (
            [(header::CONTENT_TYPE, metrics_registry::PLAIN_TEXT)],
            metrics_registry::plain(&page),
        ),
    };
    Ok(answer.into_response())
}

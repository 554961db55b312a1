//! `/v1/subscriptions`, and `/v1/routes` for those of them that have outputs.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::App;
use super::problem::Problem;
use super::request::{detached, json, looked_up};
use crate::auth::{Action, check_subscription};
use crate::domain::{Millis, Principal, SubscriptionInfo, SubscriptionPatch, SubscriptionSpec};

pub(super) async fn list(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
) -> Result<Json<Vec<SubscriptionInfo>>, Problem> {
    app.policy.check(&who, &Action::AdminRead)?;
    Ok(Json(all(&app).await?))
}

pub(super) async fn list_routes(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
) -> Result<Json<Vec<SubscriptionInfo>>, Problem> {
    app.policy.check(&who, &Action::AdminRead)?;
    let mut all = all(&app).await?;
    all.retain(|info| info.spec.is_route());
    Ok(Json(all))
}

pub(super) async fn show(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<Json<SubscriptionInfo>, Problem> {
    app.policy.check(&who, &Action::AdminRead)?;
    Ok(Json(one(&app, name).await?))
}

pub(super) async fn create(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<SubscriptionInfo>), Problem> {
    let spec = as_asked(json(&headers, body)?);
    check_subscription(&app.policy, &who, &spec)?;
    let info = detached(app.broker.spawner().clone(), async move {
        app.broker.create_subscription(spec).await
    })
    .await?;
    tracing::info!(principal = %who, subscription = %info.spec.name, "subscription created");
    Ok((StatusCode::CREATED, Json(info)))
}

pub(super) async fn update(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<SubscriptionInfo>, Problem> {
    let patch = patch(json(&headers, body)?)?;
    // What deleting it and creating it as it will be takes.
    check_manage(&app, &who, &name)?;
    let before = one(&app, name.clone()).await?;
    let spec = patch.apply(before.spec.clone());
    check_subscription(&app.policy, &who, &spec)?;
    let info = detached(app.broker.spawner().clone(), async move {
        app.broker.update_subscription(&before, spec).await
    })
    .await?;
    tracing::info!(principal = %who, subscription = name, revision = info.revision, "subscription updated");
    Ok(Json(info))
}

/// All subscriptions and routes. How old their oldest events are may be known to the disk alone.
pub(super) async fn all(app: &App) -> Result<Vec<SubscriptionInfo>, Problem> {
    let broker = app.broker.clone();
    looked_up(move || broker.subscriptions()).await
}

async fn one(app: &App, name: String) -> Result<SubscriptionInfo, Problem> {
    let broker = app.broker.clone();
    Ok(looked_up(move || broker.subscription(&name)).await??)
}

// What the body asks for. What nobody can change is refused with the reason, rather than as an unknown key.
fn patch(body: Value) -> Result<SubscriptionPatch, Problem> {
    for fixed in ["name", "topics", "start", "created"] {
        if body.get(fixed).is_some() {
            return Err(Problem::new(
                422,
                "invalid",
                format!(
                    "`{fixed}` of a subscription or route cannot be changed; create another one"
                ),
            ));
        }
    }
    serde_json::from_value(body)
        .map_err(|error| Problem::malformed(format!("the body is not as it should be: {error}")))
}

pub(super) async fn delete(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    check_manage(&app, &who, &name)?;
    let target = name.clone();
    detached(app.broker.spawner().clone(), async move {
        app.broker.delete_subscription(&target).await
    })
    .await?;
    tracing::info!(principal = %who, subscription = name, "subscription deleted");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn resume(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    check_manage(&app, &who, &name)?;
    let target = name.clone();
    app.broker.resume_subscription(&target)?;
    tracing::info!(principal = %who, subscription = name, "subscription resumed");
    Ok(StatusCode::NO_CONTENT)
}

// Who manages every topic a subscription may read may end it. Who may not even look learns nothing of what
// exists.
fn check_manage(app: &App, who: &Principal, name: &str) -> Result<(), Problem> {
    app.policy.check(who, &Action::AdminRead)?;
    let info = app.broker.subscription(name)?;
    for pattern in &info.spec.topics {
        app.policy.check(who, &Action::AdminTopic(pattern))?;
    }
    Ok(())
}

// What the broker fills in is not for callers to say.
fn as_asked(mut spec: SubscriptionSpec) -> SubscriptionSpec {
    spec.created = Millis(0);
    for plugin in spec.filters.iter_mut().chain(&mut spec.transforms) {
        plugin.digest = None;
    }
    spec
}

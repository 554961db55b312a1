//! `/v1/subscriptions`, and `/v1/routes` for those of them that have outputs.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::context::Context;
use super::error_response::ErrorResponse;
use super::pagination::{Page, Wanted};
use super::request::{JsonBody, Segment, detached};
use crate::auth::authorize;
use crate::broker::{FoundSubscription, NotFound};
use crate::domain::{
    LogLine, Millis, Owner, Principal, SubscriptionInfo, SubscriptionPatch, SubscriptionSpec,
    plain_text,
};

pub(super) async fn list(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    authorize::look_for_subscriptions(&app.policy, &who)?;
    let (page, broker) = (Page::wanted(query)?, app.broker.clone());
    let fetch = move |after: Option<&str>, count| broker.subscriptions(&who, after, count);
    let filled = app
        .lookups
        .look(move || page.fill(fetch, name_of))
        .await??;
    Ok(filled.answer("/v1/subscriptions"))
}

pub(super) async fn list_routes(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    authorize::look_for_subscriptions(&app.policy, &who)?;
    let (page, broker) = (Page::wanted(query)?, app.broker.clone());
    let fetch = move |after: Option<&str>, count| broker.routes(&who, after, count);
    let filled = app
        .lookups
        .look(move || page.fill(fetch, name_of))
        .await??;
    Ok(filled.answer("/v1/routes"))
}

fn name_of(info: &SubscriptionInfo) -> String {
    info.spec.name.to_string()
}

pub(super) async fn show(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(name): Segment,
) -> Result<Json<SubscriptionInfo>, ErrorResponse> {
    let (_, info) = one_seen(&app, &who, &name).await?;
    Ok(Json(info))
}

pub(super) async fn create(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    body: JsonBody,
) -> Result<(StatusCode, Json<SubscriptionInfo>), ErrorResponse> {
    let spec = as_asked(body.parse(app.broker.spawner()).await?)?;
    let by = who.clone();
    let info = detached(app.broker.spawner().clone(), async move {
        app.broker.create_subscription(&by, spec).await
    })
    .await?;
    tracing::info!(principal = %who, subscription = %info.spec.name, owner = info.spec.owner.as_ref().map(tracing::field::display), "subscription created");
    Ok((StatusCode::CREATED, Json(info)))
}

pub(super) async fn update(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(name): Segment,
    body: JsonBody,
) -> Result<Json<SubscriptionInfo>, ErrorResponse> {
    let patch = patch(body.parse(app.broker.spawner()).await?)?;
    let (found, before) = one_seen(&app, &who, &name).await?;
    let name_of = |plugin: &str| app.broker.plugin_name(&who, plugin);
    let spec = patch.apply(before.spec.clone(), name_of);
    let by = who.clone();
    let info = detached(app.broker.spawner().clone(), async move {
        let broker = &app.broker;
        broker.update_subscription(&by, &found, &before, spec).await
    })
    .await?;
    tracing::info!(principal = %who, subscription = %name, revision = info.revision, "subscription updated");
    Ok(Json(info))
}

/// The body of a request to give something away.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewOwner {
    // Whose it is from now on; null: nobody's.
    owner: Option<Owner>,
}

impl NewOwner {
    /// The owner, for what has to have one.
    pub(super) fn named(self) -> Result<Owner, ErrorResponse> {
        let owner = self.owner;
        owner.ok_or_else(|| {
            ErrorResponse::malformed("`owner` must name a principal or a group of them")
        })
    }
}

pub(super) async fn chown(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(name): Segment,
    body: JsonBody,
) -> Result<Json<SubscriptionInfo>, ErrorResponse> {
    let NewOwner { owner } = body.parse(app.broker.spawner()).await?;
    let (found, before) = one_seen(&app, &who, &name).await?;
    let by = who.clone();
    let info = detached(app.broker.spawner().clone(), async move {
        let broker = &app.broker;
        broker.give_subscription(&by, &found, &before, owner).await
    })
    .await?;
    tracing::info!(principal = %who, subscription = %name, owner = info.spec.owner.as_ref().map(tracing::field::display), "subscription given to another owner");
    Ok(Json(info))
}

pub(super) async fn log(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(name): Segment,
) -> Result<Json<Vec<LogLine>>, ErrorResponse> {
    one_seen(&app, &who, &name).await?;
    Ok(Json(app.broker.subscription_log(&who, &name)?))
}

// What `who` may not see is answered like what does not exist.
async fn one_seen(
    app: &Context,
    who: &Principal,
    name: &str,
) -> Result<(FoundSubscription, SubscriptionInfo), ErrorResponse> {
    let found = seen(app, who, name)?;
    let (broker, one) = (app.broker.clone(), found.clone());
    // How old its oldest event is may be known to the disk alone.
    let info = app.lookups.look(move || broker.info_of(&one)).await??;
    // It may be somebody else's by now.
    match authorize::sees_subscription(&app.policy, who, &info.spec) {
        true => Ok((found, info)),
        false => Err(NotFound::Subscription(name.to_owned()).into()),
    }
}

// What the body asks for. What nobody can change is refused with the reason, rather than as an unknown key.
fn patch(body: Value) -> Result<SubscriptionPatch, ErrorResponse> {
    if body.get("owner").is_some() {
        return Err(ErrorResponse::new(
            422,
            "invalid",
            "an owner is changed by POST …/chown",
        ));
    }
    for fixed in [
        "name",
        "topics",
        "start",
        "delete_after_idle_ms",
        "created",
        "created_by",
    ] {
        if body.get(fixed).is_some() {
            return Err(ErrorResponse::new(
                422,
                "invalid",
                format!(
                    "`{fixed}` of a subscription or route cannot be changed; create another one"
                ),
            ));
        }
    }
    parsed(body)
}

pub(super) async fn delete(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(name): Segment,
) -> Result<StatusCode, ErrorResponse> {
    let found = managed(&app, &who, &name)?;
    detached(app.broker.spawner().clone(), async move {
        app.broker.delete_subscription(&found).await
    })
    .await?;
    tracing::info!(principal = %who, subscription = %name, "subscription deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// The body of a request to pause one; may be `{}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    // Why, for whoever looks at it.
    reason: Option<String>,
}

pub(super) async fn pause(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(name): Segment,
    body: JsonBody,
) -> Result<Json<SubscriptionInfo>, ErrorResponse> {
    let found = managed(&app, &who, &name)?;
    let Pause { reason } = body.parse(app.broker.spawner()).await?;
    let why = match reason.as_deref().map(str::trim) {
        None | Some("") => format!("by {who}"),
        // It is shown on terminals.
        Some(reason) => format!("by {who}: {}", plain_text(reason)),
    };
    app.broker.pause_subscription(&found, &why).await?;
    tracing::info!(principal = %who, subscription = %name, reason = why, "subscription paused");
    let broker = app.broker.clone();
    let info = app.lookups.look(move || broker.info_of(&found)).await??;
    Ok(Json(info))
}

pub(super) async fn resume(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(name): Segment,
) -> Result<StatusCode, ErrorResponse> {
    let found = managed(&app, &who, &name)?;
    app.broker.resume_subscription(&found).await?;
    tracing::info!(principal = %who, subscription = %name, "subscription resumed");
    Ok(StatusCode::NO_CONTENT)
}

// The one of that name, which `who` may delete, pause and resume.
fn managed(app: &Context, who: &Principal, name: &str) -> Result<FoundSubscription, ErrorResponse> {
    let found = seen(app, who, name)?;
    authorize::manage_subscription(&app.policy, who, &found.spec)?;
    Ok(found)
}

// The one of that name, if `who` may see it. Who may not is answered as if there were none.
fn seen(app: &Context, who: &Principal, name: &str) -> Result<FoundSubscription, ErrorResponse> {
    let found = app.broker.find(name);
    let spec = found.as_ref().ok().map(|found| &*found.spec);
    authorize::look_for_subscription(&app.policy, who, spec)?;
    let found = found?;
    match authorize::sees_subscription(&app.policy, who, &found.spec) {
        true => Ok(found),
        false => Err(NotFound::Subscription(name.to_owned()).into()),
    }
}

// What the broker fills in is not for callers to say. And they get others' dead letters only if they say so, whatever
// a specification means that was kept before that could be said.
fn as_asked(body: Value) -> Result<SubscriptionSpec, ErrorResponse> {
    let includes_letters = body.get("include_dead_letters").is_some();
    let mut spec: SubscriptionSpec = parsed(body)?;
    spec.include_dead_letters &= includes_letters;
    spec.created = Millis(0);
    spec.created_by = None;
    for plugin in spec.filters.iter_mut().chain(&mut spec.transforms) {
        plugin.digest = None;
    }
    Ok(spec)
}

fn parsed<T: serde::de::DeserializeOwned>(body: Value) -> Result<T, ErrorResponse> {
    serde_json::from_value(body).map_err(|error| {
        ErrorResponse::malformed(format!("the body is not as it should be: {error}"))
    })
}

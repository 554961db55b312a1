//! `/v1/topics`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::context::Context;
use super::error_response::ErrorResponse;
use super::pagination::{Page, Wanted};
use super::request::{JsonBody, Segment, detached, name};
use crate::auth::authorize;
use crate::domain::{DeletedTopicInfo, NewTopic, Principal, TopicInfo, TopicName};

pub(super) async fn list(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    authorize::look_at_everything(&app.policy, &who)?;
    let page = Page::wanted(query)?;
    if let Some(after) = &page.after {
        name::<TopicName>(after)?;
    }
    let broker = app.broker.clone();
    let fill = move || {
        let fetch = |after: Option<&str>, count| {
            let after = after.and_then(|after| after.parse().ok());
            broker.topics(after.as_ref(), count)
        };
        page.fill(fetch, |info| info.spec.name.to_string())
    };
    Ok(app.lookups.look(fill).await??.answer("/v1/topics"))
}

pub(super) async fn show(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(text): Segment,
) -> Result<Json<TopicInfo>, ErrorResponse> {
    authorize::look_at_everything(&app.policy, &who)?;
    let topic: TopicName = name(&text)?;
    let broker = app.broker.clone();
    let info = app.lookups.look(move || broker.topic(&topic)).await?;
    Ok(Json(info?))
}

pub(super) async fn create(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    body: JsonBody,
) -> Result<(StatusCode, Json<TopicInfo>), ErrorResponse> {
    let new = NewTopic {
        // Not for callers to say.
        created_by: Some(who.clone()),
        ..body.parse(app.broker.spawner()).await?
    };
    authorize::manage_topic(&app.policy, &who, &new.name)?;
    let info = detached(app.broker.spawner().clone(), async move {
        app.broker.create_topic(new).await
    })
    .await?;
    tracing::info!(principal = %who, topic = %info.spec.name, "topic created");
    Ok((StatusCode::CREATED, Json(info)))
}

pub(super) async fn delete(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(text): Segment,
) -> Result<Json<DeletedTopicInfo>, ErrorResponse> {
    let topic: TopicName = name(&text)?;
    authorize::manage_topic(&app.policy, &who, &topic)?;
    let caller = who.clone();
    let info = detached(app.broker.spawner().clone(), async move {
        app.broker.delete_topic(&caller, &topic).await
    })
    .await?;
    tracing::info!(principal = %who, topic = %text, "topic deleted");
    Ok(Json(info))
}

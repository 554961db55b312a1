//! `/v1/topics`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};

use super::App;
use super::problem::Problem;
use super::request::{detached, json, name};
use crate::auth::Action;
use crate::domain::{Principal, TopicInfo, TopicName, TopicPattern, TopicSpec};
use crate::tasks::BrokerError;

pub(super) async fn list(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
) -> Result<Json<Vec<TopicInfo>>, Problem> {
    app.policy.check(&who, &Action::AdminRead)?;
    Ok(Json(app.broker.topics()))
}

pub(super) async fn show(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
) -> Result<Json<TopicInfo>, Problem> {
    app.policy.check(&who, &Action::AdminRead)?;
    let topic: TopicName = name(&text)?;
    let found = app
        .broker
        .topics()
        .into_iter()
        .find(|info| info.spec.name == topic);
    found
        .map(Json)
        .ok_or_else(|| BrokerError::NoTopic(topic).into())
}

pub(super) async fn create(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<TopicInfo>), Problem> {
    let spec: TopicSpec = json(&headers, body)?;
    app.policy
        .check(&who, &Action::AdminTopic(&TopicPattern::from(&spec.name)))?;
    let info = detached(app.broker.spawner().clone(), async move {
        app.broker.create_topic(spec).await
    })
    .await?;
    tracing::info!(principal = %who, topic = %info.spec.name, "topic created");
    Ok((StatusCode::CREATED, Json(info)))
}

pub(super) async fn delete(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
) -> Result<StatusCode, Problem> {
    let topic: TopicName = name(&text)?;
    app.policy
        .check(&who, &Action::AdminTopic(&TopicPattern::from(&topic)))?;
    detached(app.broker.spawner().clone(), async move {
        app.broker.delete_topic(&topic).await
    })
    .await?;
    tracing::info!(principal = %who, topic = text, "topic deleted");
    Ok(StatusCode::NO_CONTENT)
}

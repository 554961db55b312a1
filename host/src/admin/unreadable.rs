//! `/v1/unreadable`: what of the store cannot be read, and the operator's word that its damage is accepted.

use axum::Json;
use axum::extract::{Extension, State};
use serde::Deserialize;

use super::context::Context;
use super::error_response::ErrorResponse;
use super::request::{JsonBody, detached};
use crate::auth::authorize;
use crate::domain::{Principal, UnreadableInfo};

/// What giving up asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GiveUp {
    /// Subscriptions that wait for it get a dead letter for each event, with what is known.
    #[serde(default)]
    dead_letters: bool,
}

pub(super) async fn list(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
) -> Result<Json<Vec<UnreadableInfo>>, ErrorResponse> {
    authorize::look_at_everything(&app.policy, &who)?;
    Ok(Json(app.broker.unreadable()))
}

pub(super) async fn give_up(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    body: JsonBody,
) -> Result<Json<Vec<UnreadableInfo>>, ErrorResponse> {
    authorize::give_up_damage(&app.policy, &who)?;
    let GiveUp { dead_letters } = body.parse(app.broker.spawner()).await?;
    let given_up = detached(app.broker.spawner().clone(), async move {
        app.broker.give_up_unreadable(dead_letters).await
    })
    .await?;
    tracing::warn!(principal = %who, stretches = given_up.len(), dead_letters, "damage was given up");
    Ok(Json(given_up))
}

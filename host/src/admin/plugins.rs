//! `/v1/plugins`. An upload's body is the component itself.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;

use super::App;
use super::problem::Problem;
use super::request::{bytes, detached, name};
use crate::auth::Action;
use crate::domain::{Name, PluginInfo, Principal};

pub(super) async fn list(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
) -> Result<Json<Vec<PluginInfo>>, Problem> {
    app.policy.check(&who, &Action::AdminRead)?;
    Ok(Json(app.broker.plugins()))
}

pub(super) async fn show(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<Json<PluginInfo>, Problem> {
    app.policy.check(&who, &Action::AdminRead)?;
    Ok(Json(app.broker.plugin(&name)?))
}

pub(super) async fn upload(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<PluginInfo>), Problem> {
    app.policy.check(&who, &Action::AdminPlugins)?;
    let plugin: Name = name(&text)?;
    let component = bytes(body)?;
    let info = detached(app.broker.spawner().clone(), async move {
        app.broker.upload_plugin(plugin.as_str(), component).await
    })
    .await?;
    tracing::info!(
        principal = %who, plugin = info.name, version = info.version, digest = %info.digest, "plugin uploaded"
    );
    Ok((StatusCode::CREATED, Json(info)))
}

pub(super) async fn delete(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    app.policy.check(&who, &Action::AdminPlugins)?;
    let target = name.clone();
    detached(app.broker.spawner().clone(), async move {
        app.broker.delete_plugin(&target).await
    })
    .await?;
    tracing::info!(principal = %who, plugin = name, "plugin deleted");
    Ok(StatusCode::NO_CONTENT)
}

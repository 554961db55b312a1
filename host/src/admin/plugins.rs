//! `/v1/plugins`. An upload's body is the component itself.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode};

use super::App;
use super::problem::Problem;
use super::request::{bytes, detached, json, name};
use super::subscriptions::NewOwner;
use crate::auth::{Action, rights};
use crate::domain::{Name, PluginDetails, PluginInfo, Principal};

pub(super) async fn list(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
) -> Result<Json<Vec<PluginInfo>>, Problem> {
    app.policy.check(&who, &Action::SeePlugins)?;
    let mut plugins = app.broker.plugins();
    plugins.retain(|plugin| rights::sees_plugin(&app.policy, &who, plugin));
    Ok(Json(plugins))
}

pub(super) async fn show(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<Json<PluginDetails>, Problem> {
    app.policy.check(&who, &Action::SeePlugins)?;
    Ok(Json(app.broker.plugin_details(&who, &name)?))
}

pub(super) async fn upload(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<PluginInfo>), Problem> {
    let plugin: Name = name(&text)?;
    // Before megabytes are read from somebody who may not.
    app.broker.check_upload(&who, &plugin)?;
    let component = bytes(Bytes::from_request(request, &app).await)?;
    let by = who.clone();
    let info = detached(app.broker.spawner().clone(), async move {
        app.broker.upload_plugin(&by, &plugin, component).await
    })
    .await?;
    tracing::info!(
        principal = %who, plugin = info.name, version = info.version, digest = %info.digest, "plugin uploaded"
    );
    Ok((StatusCode::CREATED, Json(info)))
}

pub(super) async fn chown(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<PluginInfo>, Problem> {
    app.policy.check(&who, &Action::AdminPlugins)?;
    let owner = json::<NewOwner>(&headers, body).await?.named()?;
    let (by, to) = (who.clone(), owner.clone());
    let info = detached(app.broker.spawner().clone(), async move {
        app.broker.give_plugin(&by, &name, to).await
    })
    .await?;
    tracing::info!(principal = %who, plugin = info.name, %owner, "plugin given to another owner");
    Ok(Json(info))
}

pub(super) async fn delete(
    State(app): State<App>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    app.policy.check(&who, &Action::SeePlugins)?;
    let (by, target) = (who.clone(), name.clone());
    detached(app.broker.spawner().clone(), async move {
        app.broker.delete_plugin(&by, &target).await
    })
    .await?;
    tracing::info!(principal = %who, plugin = name, "plugin deleted");
    Ok(StatusCode::NO_CONTENT)
}

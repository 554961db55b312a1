//! `/v1/plugins`. An upload's body is the component itself.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, FromRequest, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::context::Context;
use super::error_response::ErrorResponse;
use super::pagination::{Page, Wanted};
use super::request::{JsonBody, LengthMax, Segment, bytes, check_length, detached, name};
use super::subscriptions::NewOwner;
use crate::auth::authorize;
use crate::domain::{Name, PluginDetails, PluginInfo, PluginName, Principal};

pub(super) async fn list(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    authorize::look_for_plugins(&app.policy, &who)?;
    let (page, broker) = (Page::wanted(query)?, app.broker.clone());
    let fetch = move |after: Option<&str>, count| broker.plugins(&who, after, count);
    let of = |info: &PluginInfo| format!("{}@{}", info.name, info.version);
    let filled = app.lookups.look(move || page.fill(fetch, of)).await??;
    Ok(filled.answer("/v1/plugins"))
}

pub(super) async fn list_names(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    authorize::look_for_plugins(&app.policy, &who)?;
    let (page, broker) = (Page::wanted(query)?, app.broker.clone());
    let fetch = move |after: Option<&str>, count| broker.plugin_names(&who, after, count);
    let of = |known: &PluginName| known.name.clone();
    let filled = app.lookups.look(move || page.fill(fetch, of)).await??;
    Ok(filled.answer("/v1/plugin-names"))
}

pub(super) async fn show(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(name): Segment,
) -> Result<Json<PluginDetails>, ErrorResponse> {
    authorize::look_for_plugins(&app.policy, &who)?;
    Ok(Json(app.broker.plugin_details(&who, &name)?))
}

pub(super) async fn upload(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(text): Segment,
    request: Request,
) -> Result<(StatusCode, Json<PluginInfo>), ErrorResponse> {
    let plugin: Name = name(&text)?;
    // Before megabytes are read from somebody who may not.
    app.broker.check_upload(&who, &plugin)?;
    // Or who would send more than this plugin may have.
    let bytes_max = app.broker.module_bytes_max(&plugin);
    check_length(request.headers(), LengthMax::of_component(bytes_max))?;
    // Nor from somebody who is sending others already.
    let place = app.broker.upload_place(&who).await?;
    let component = bytes(Bytes::from_request(request, &app).await)?;
    let by = who.clone();
    let info = detached(app.broker.spawner().clone(), async move {
        let upload = app.broker.upload_plugin(&by, place, &plugin, component);
        upload.await
    })
    .await?;
    tracing::info!(
        principal = %who, plugin = %info.name, version = info.version, digest = %info.digest, "plugin uploaded"
    );
    Ok((StatusCode::CREATED, Json(info)))
}

pub(super) async fn chown(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(name): Segment,
    body: JsonBody,
) -> Result<Json<PluginName>, ErrorResponse> {
    authorize::manage_plugins(&app.policy, &who)?;
    let owner = body
        .parse::<NewOwner>(app.broker.spawner())
        .await?
        .named()?;
    let (by, to) = (who.clone(), owner.clone());
    let info = detached(app.broker.spawner().clone(), async move {
        app.broker.give_plugin(&by, &name, to).await
    })
    .await?;
    tracing::info!(principal = %who, plugin = %info.name, %owner, "plugin given to another owner");
    Ok(Json(info))
}

/// What a request to delete a plugin says beside its name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deleting {
    // The name goes as well, and may be anybody's then.
    #[serde(default)]
    free_name: bool,
}

pub(super) async fn delete(
    State(app): State<Context>,
    Extension(who): Extension<Principal>,
    Segment(name): Segment,
    query: Result<Query<Deleting>, QueryRejection>,
) -> Result<StatusCode, ErrorResponse> {
    authorize::look_for_plugins(&app.policy, &who)?;
    let Query(Deleting { free_name }) = query.map_err(|rejection| {
        ErrorResponse::malformed(format!(
            "deleting a plugin takes `free_name`: {}",
            rejection.body_text()
        ))
    })?;
    let (by, target) = (who.clone(), name.clone());
    detached(app.broker.spawner().clone(), async move {
        app.broker.delete_plugin(&by, &target, free_name).await
    })
    .await?;
    tracing::info!(principal = %who, plugin = %name, free_name, "plugin deleted");
    Ok(StatusCode::NO_CONTENT)
}

//! What every request passes through: a deadline, a line in the log when it is refused, and the parsing of
//! names and bodies into checked types.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::metrics::AdminMetrics;
use super::problem::Problem;
use crate::domain::Principal;
use crate::tasks::{BrokerError, Spawner};

/// Time for a request, its body included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(pub(super) Duration);

/// Answers with a timeout when the deadline passes. The operation itself may go on, see [`detached`].
pub(super) async fn within_deadline(
    State(deadline): State<Deadline>,
    request: Request,
    next: Next,
) -> Response {
    match tokio::time::timeout(deadline.0, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::timeout().into_response(),
    }
}

/// Counts the request, and logs it when it was refused.
pub(super) async fn observe(
    State(metrics): State<Arc<AdminMetrics>>,
    request: Request,
    next: Next,
) -> Response {
    let who = request.extensions().get::<Principal>().cloned();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    metrics.count_request(status);
    if let Some(problem) = response.extensions().get::<Problem>() {
        let principal = who.as_ref().map_or("unknown", Principal::as_str);
        let Problem {
            code,
            message: reason,
            ..
        } = problem;
        // Looking for what is not there is how callers find out, not a fault.
        if status == 404 && method == Method::GET {
            tracing::debug!(principal, %method, path, status, code, reason, "not found");
        } else {
            tracing::info!(principal, %method, path, status, code, reason, "admin request refused");
        }
    }
    response
}

/// A body as JSON.
pub(super) fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Problem> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = content_type
        .and_then(|text| text.split(';').next())
        .map(str::trim);
    if !media_type.is_some_and(|text| text.eq_ignore_ascii_case("application/json")) {
        let message = "the body must be JSON, with `Content-Type: application/json`";
        return Err(Problem::new(415, "unsupported-media-type", message));
    }
    serde_json::from_slice(&bytes(body)?)
        .map_err(|error| Problem::malformed(format!("the body is not as it should be: {error}")))
}

/// A body as bytes.
pub(super) fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|rejection| match rejection.status().as_u16() {
        413 => Problem::new(
            413,
            "too-large",
            "the body is larger than this broker accepts",
        ),
        _ => Problem::malformed(format!(
            "the body cannot be read: {}",
            rejection.body_text()
        )),
    })
}

/// A name from the address.
pub(super) fn name<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Problem> {
    text.parse()
        .map_err(|error: T::Err| Problem::malformed(error.to_string()))
}

/// Looks at something that may have to read the disk, away from the threads that serve connections.
pub(super) async fn looked_up<T: Send + 'static>(
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(look)
        .await
        .map_err(|_| failed())
}

/// Runs a change to its end even when the caller goes away meanwhile, so that none is left half done.
pub(super) async fn detached<T: Send + 'static>(
    spawner: Spawner,
    change: impl Future<Output = Result<T, BrokerError>> + Send + 'static,
) -> Result<T, Problem> {
    match spawner.serving("admin change", change).await {
        Some(result) => result.map_err(Problem::from),
        None => Err(failed()),
    }
}

fn failed() -> Problem {
    Problem::new(
        500,
        "internal",
        "the broker failed at this; its log says more",
    )
}

//! What every request passes through: a deadline, a line in the log when it is refused, and the parsing of
//! names and bodies into checked types.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::connection_pool::{Place, Scope};
use super::counters::AdminCounters;
use super::error_response::ErrorResponse;
use crate::domain::Principal;
use crate::runtime::spawn::Spawner;

/// What may be asked however many others are connected.
const HEALTH: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// Bodies up to this are parsed at once: some tens of microseconds.
const INLINE_JSON_BYTES_MAX: usize = 16 * 1024;
/// Looks at the broker that run at a time, and those for metrics beside them. Each has a thread for itself, and there are
/// others who need one to read events.
const LOOKUPS_MAX: usize = 4;
const METRICS_LOOKUPS_MAX: usize = 1;

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
        Err(_) => ErrorResponse::timeout().into_response(),
    }
}

/// Keeps the connection's place while the request is answered, and refuses what a connection beyond the limit may not ask.
pub(super) async fn seated(request: Request, next: Next) -> Response {
    let Some(place) = request.extensions().get::<Arc<Place>>().cloned() else {
        return next.run(request).await;
    };
    let (scope, _at_work) = place.begin();
    if scope == Scope::HealthOnly && !HEALTH.contains(&request.uri().path()) {
        let mut response = ErrorResponse::overloaded(
            "all admin connections are at work; this one may only ask for health and metrics; try again in a moment",
        )
        .into_response();
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        return response;
    }
    next.run(request).await
}

/// Counts the request, and logs it when it was refused.
pub(super) async fn observe(
    State(metrics): State<Arc<AdminCounters>>,
    request: Request,
    next: Next,
) -> Response {
    let who = request.extensions().get::<Principal>().cloned();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    metrics.count_request(status);
    if let Some(problem) = response.extensions().get::<ErrorResponse>() {
        let principal = who.as_ref().map_or("unknown", Principal::as_str);
        let ErrorResponse {
            code,
            message: reason,
            ..
        } = problem;
        // Looking for what is not there is how callers find out, not a fault.
        if status == 404 && method == Method::GET {
            tracing::debug!(%principal, %method, uri = path, status, code, reason, "not found");
        } else {
            tracing::info!(%principal, %method, uri = path, status, code, reason, "admin request refused");
        }
    }
    response
}

/// A body as JSON, which is an object for every request there is.
pub(super) async fn json<T: DeserializeOwned + Send + 'static>(
    spawner: &Spawner,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, ErrorResponse> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = content_type
        .and_then(|text| text.split(';').next())
        .map(str::trim);
    if !media_type.is_some_and(|text| text.eq_ignore_ascii_case("application/json")) {
        let message = "the body must be JSON, with `Content-Type: application/json`";
        return Err(ErrorResponse::new(415, "unsupported-media-type", message));
    }
    let body = bytes(body)?;
    // Otherwise an array would be taken for the fields in the order in which they happen to be declared.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ErrorResponse::malformed(
            "the body must be a JSON object, with fields by name".to_owned(),
        ));
    }
    let parsed = match body.len() {
        ..=INLINE_JSON_BYTES_MAX => serde_json::from_slice(&body),
        _ => away(spawner, move || serde_json::from_slice(&body)).await?,
    };
    parsed.map_err(|error| {
        ErrorResponse::malformed(format!("the body is not as it should be: {error}"))
    })
}

/// A body as bytes.
pub(super) fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, ErrorResponse> {
    body.map_err(|rejection| match rejection.status().as_u16() {
        413 => ErrorResponse::new(
            413,
            "too-large",
            "the body is larger than this broker accepts",
        ),
        _ => ErrorResponse::malformed(format!(
            "the body cannot be read: {}",
            rejection.body_text()
        )),
    })
}

/// A name from the address.
pub(super) fn name<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, ErrorResponse> {
    text.parse()
        .map_err(|error: T::Err| ErrorResponse::malformed(error.to_string()))
}

/// How many look at the broker at the same time.
#[derive(Clone, Debug)]
pub(super) struct Lookups {
    lists: Arc<Semaphore>,
    metrics: Arc<Semaphore>,
    spawner: Spawner,
}

impl Lookups {
    pub(super) fn new(spawner: Spawner) -> Self {
        Self {
            lists: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            metrics: Arc::new(Semaphore::new(METRICS_LOOKUPS_MAX)),
            spawner,
        }
    }

    /// Looks at something that may take a while or have to read the disk, away from the threads that serve everybody.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ErrorResponse> {
        self.one_of(&self.lists, look).await
    }

    /// The same for the page of metrics, which waits for other such pages only.
    pub(super) async fn look_for_metrics<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ErrorResponse> {
        self.one_of(&self.metrics, look).await
    }

    // The permit goes with the work, which goes on when its caller goes away.
    async fn one_of<T: Send + 'static>(
        &self,
        permits: &Arc<Semaphore>,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ErrorResponse> {
        let permit = Arc::clone(permits).acquire_owned().await;
        away(&self.spawner, move || {
            let _permit = permit;
            look()
        })
        .await
    }
}

async fn away<T: Send + 'static>(
    spawner: &Spawner,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ErrorResponse> {
    let done = spawner.blocking("admin request", work).await;
    done.map_err(|_| failed())
}

/// Runs a change to its end even when the caller goes away meanwhile, so that none is left half done.
pub(super) async fn detached<T: Send + 'static, E: Into<ErrorResponse> + Send + 'static>(
    spawner: Spawner,
    change: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, ErrorResponse> {
    match spawner.serving("admin change", change).await {
        Some(result) => result.map_err(E::into),
        None => Err(failed()),
    }
}

fn failed() -> ErrorResponse {
    ErrorResponse::new(
        500,
        "internal",
        "the broker failed at this; its log says more",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;

    use crate::telemetry::conditions::Conditions;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Body {
        #[serde(default)]
        text: String,
    }

    #[tokio::test]
    async fn only_an_object_is_a_body() {
        let spawner = Spawner::new(Conditions::default(), CancellationToken::new());
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_static("application/json; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, media_type);
        let parsed = async |body: &str| {
            let body = Bytes::copy_from_slice(body.as_bytes());
            json::<Body>(&spawner, &headers, Ok(body)).await
        };
        for body in ["[]", "[\"x\"]", " \n[\"x\"]", "null", "\"x\"", "1", ""] {
            let refused = parsed(body).await.expect_err(body);
            assert_eq!(refused.status, 400, "{body}");
            assert!(refused.message.contains("object"), "{body}");
        }
        let text = "x".to_owned();
        let body = parsed(" {\"text\":\"x\"}").await.expect("an object");
        assert_eq!(body, Body { text });
    }
}

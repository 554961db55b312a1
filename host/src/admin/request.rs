//! What every request passes through: a deadline, a line in the log when it is refused, and the parsing of names and bodies into checked
//! types; and how what takes long is done for it. How many look at the broker at a time is in `lookups`.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::connection_pool::{Place, Scope};
use super::counters::AdminCounters;
use super::error_response::ErrorResponse;
use crate::domain::{Principal, UniqueKeys};
use crate::runtime::spawn::Spawner;

/// What may be asked however many others are connected.
const HEALTH: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// Bodies up to this are parsed at once: some tens of microseconds.
const INLINE_JSON_BYTES_MAX: usize = 16 * 1024;

/// Time for a request, its body included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(pub(super) Duration);

/// How long a request goes on once the broker stops: what does not wait for anything is done by then.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Answers with a timeout when the deadline passes, and soon after the broker begins to stop with that. The operation itself may go
/// on, see [`detached`].
pub(super) async fn within_deadline(
    State((deadline, shutdown)): State<(Deadline, CancellationToken)>,
    request: Request,
    next: Next,
) -> Response {
    let stopping = async {
        shutdown.cancelled().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    tokio::select! {
        biased;
        response = tokio::time::timeout(deadline.0, next.run(request)) => match response {
            Ok(response) => response,
            Err(_) => ErrorResponse::timeout().into_response(),
        },
        () = stopping => ErrorResponse::stopping().into_response(),
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

/// A body that has to be JSON. Read when its handler is called, but only looked at when that asks for it, so that who may not ask is told
/// that and nothing else.
pub(super) struct JsonBody {
    content_type: Option<HeaderValue>,
    bytes: Result<Bytes, BytesRejection>,
}

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Infallible;

    async fn from_request(request: Request, state: &S) -> Result<Self, Infallible> {
        let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
        let bytes = Bytes::from_request(request, state).await;
        Ok(Self {
            content_type,
            bytes,
        })
    }
}

impl JsonBody {
    /// What it says. It is an object for every request there is.
    pub(super) async fn parse<T: DeserializeOwned + Send + 'static>(
        self,
        spawner: &Spawner,
    ) -> Result<T, ErrorResponse> {
        let Self {
            content_type,
            bytes: body,
        } = self;
        let content_type = content_type.as_ref();
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let media_type = content_type
            .and_then(|text| text.split(';').next())
            .map(str::trim);
        if !media_type.is_some_and(|text| text.eq_ignore_ascii_case("application/json")) {
            let message = "the body must be JSON, with `Content-Type: application/json`";
            return Err(ErrorResponse::new(415, "unsupported-media-type", message));
        }
        let body = bytes(body)?;
        let length = body.len();
        // Otherwise an array would be taken for the fields in the order in which they happen to be declared.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(ErrorResponse::malformed(
                "the body must be a JSON object, with fields by name".to_owned(),
            ));
        }
        let parse = move || {
            UniqueKeys::check(&body)?;
            serde_json::from_slice(&body)
        };
        let parsed = match length {
            ..=INLINE_JSON_BYTES_MAX => parse(),
            _ => away(spawner, parse).await?,
        };
        parsed.map_err(|error| {
            ErrorResponse::malformed(format!("the body is not as it should be: {error}"))
        })
    }
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

/// How long a body may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct LengthMax {
    pub(super) bytes: usize,
    /// What says so.
    pub(super) by: &'static str,
}

impl LengthMax {
    /// That of a component, which has a setting.
    pub(super) fn of_component(bytes: usize) -> Self {
        let by =
            " (plugins.module_bytes_max; plugins.override.NAME.module_bytes_max for one plugin)";
        Self { bytes, by }
    }
}

/// Refuses a body by the length that its request announces, before any of it is sent or waited for.
pub(super) async fn within_length(
    State(max): State<LengthMax>,
    request: Request,
    next: Next,
) -> Response {
    match check_length(request.headers(), max) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// The same for who knows the limit only then.
pub(super) fn check_length(headers: &HeaderMap, max: LengthMax) -> Result<(), ErrorResponse> {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if usize::try_from(length).is_ok_and(|length| length <= max.bytes) => Ok(()),
        Some(length) => Err(ErrorResponse::new(
            413,
            "too-large",
            format!(
                "the body has {length} bytes, and at most {} are accepted{}",
                max.bytes, max.by
            ),
        )),
        None => Ok(()),
    }
}

/// Refuses a query where nobody would look at it: what it asks for would be thrown away without a word.
pub(super) async fn without_query(request: Request, next: Next) -> Response {
    if request.uri().query().is_some_and(|query| !query.is_empty()) {
        let message = "this resource takes no parameters in its address";
        return ErrorResponse::malformed(message).into_response();
    }
    next.run(request).await
}

/// A name in the address, as its author wrote it.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorResponse> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(rejection) => Err(ErrorResponse::malformed(format!(
                "the address is not as it should be: {}",
                rejection.body_text()
            ))),
        }
    }
}

/// A name from the address.
pub(super) fn name<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, ErrorResponse> {
    text.parse()
        .map_err(|error: T::Err| ErrorResponse::malformed(error.to_string()))
}

/// Does what may take a while on a thread that serves nobody else.
pub(super) async fn away<T: Send + 'static>(
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
    use crate::telemetry::conditions::Conditions;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Body {
        #[serde(default)]
        text: String,
    }

    #[tokio::test]
    async fn only_an_object_is_a_body() {
        let spawner = Spawner::new(Conditions::default(), CancellationToken::new());
        let parsed = async |body: &str| {
            let body = Bytes::copy_from_slice(body.as_bytes());
            let media_type = HeaderValue::from_static("application/json; charset=utf-8");
            let body = JsonBody {
                content_type: Some(media_type),
                bytes: Ok(body),
            };
            body.parse::<Body>(&spawner).await
        };
        for body in ["[]", "[\"x\"]", " \n[\"x\"]", "null", "\"x\"", "1", ""] {
            let refused = parsed(body).await.expect_err(body);
            assert_eq!(refused.status, 400, "{body}");
            assert!(refused.message.contains("object"), "{body}");
        }
        let twice = parsed(" {\"text\":\"x\",\"more\":{\"a\":1,\"a\":2}}").await;
        let twice = twice.expect_err("a name stands twice");
        assert_eq!(twice.status, 400);
        assert!(
            twice.message.contains("`a` stands twice"),
            "{}",
            twice.message
        );
        let text = "x".to_owned();
        let body = parsed(" {\"text\":\"x\"}").await.expect("an object");
        assert_eq!(body, Body { text });
    }
}

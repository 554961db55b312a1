//! What a refused request is answered with: a status, and a body a program can branch on and a person act on.
//! The one place that maps the broker's errors to HTTP.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::auth::Denied;
use crate::broker::{ChangeError, NotFound, Refusal, RefusalKind, ShowError, Unavailable};

/// Seconds a client is asked to wait before it repeats a retryable request.
const RETRY_AFTER_S: u16 = 1;

/// The body of every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// The HTTP status; in the response's first line, not in its body.
    #[serde(skip)]
    pub status: u16,
    /// A stable word to branch on, such as `not-found`.
    pub code: String,
    /// What is wrong and what to do, for a person.
    pub message: String,
    /// The same request may succeed later.
    pub retryable: bool,
}

impl ErrorResponse {
    /// A refusal that repeating does not change.
    #[must_use]
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            retryable: false,
        }
    }

    // A refusal by the broker.
    fn of(error: &impl Refusal) -> Self {
        let (status, code) = match error.kind() {
            RefusalKind::NotFound => (404, "not-found"),
            RefusalKind::PermissionDenied => (403, "permission-denied"),
            RefusalKind::AlreadyExists => (409, "already-exists"),
            RefusalKind::InUse => (409, "in-use"),
            RefusalKind::Fenced | RefusalKind::OutOfOrder => (409, "conflict"),
            RefusalKind::Gone => (410, "gone"),
            RefusalKind::Invalid => (422, "invalid"),
            RefusalKind::LimitReached => (403, "limit-reached"),
            RefusalKind::Conflict | RefusalKind::Overloaded => (503, "overloaded"),
            RefusalKind::StoreUnavailable => (503, "store-unavailable"),
            RefusalKind::ShuttingDown => (503, "shutting-down"),
            RefusalKind::Internal => (500, "internal"),
        };
        Self {
            retryable: error.is_retryable(),
            ..Self::new(status, code, error.to_string())
        }
    }

    /// The body or a part of the address is not what it should be.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(400, "malformed", message)
    }

    /// The broker has too much to do just now.
    pub(super) fn overloaded(message: impl Into<String>) -> Self {
        Self {
            retryable: true,
            ..Self::new(503, "overloaded", message)
        }
    }

    /// The broker stops before the request is done.
    pub(super) fn stopping() -> Self {
        let message = "the broker is shutting down; the request may still be carried out, so look before you repeat it";
        Self {
            retryable: true,
            ..Self::new(503, "shutting-down", message)
        }
    }

    /// The request took too long.
    pub(super) fn timeout() -> Self {
        let message =
            "the request took too long; it may still be carried out, so look before you repeat it";
        Self {
            retryable: true,
            ..Self::new(504, "timeout", message)
        }
    }
}

impl From<serde_json::Error> for ErrorResponse {
    // Of an answer; what callers send is refused where it is read.
    fn from(error: serde_json::Error) -> Self {
        Self::new(
            500,
            "internal",
            format!("the answer cannot be written as JSON: {error}"),
        )
    }
}

impl From<Denied> for ErrorResponse {
    fn from(denied: Denied) -> Self {
        Self::new(403, "permission-denied", denied.to_string())
    }
}

impl From<NotFound> for ErrorResponse {
    fn from(error: NotFound) -> Self {
        Self::of(&error)
    }
}

impl From<ShowError> for ErrorResponse {
    fn from(error: ShowError) -> Self {
        Self::of(&error)
    }
}

impl From<ChangeError> for ErrorResponse {
    fn from(error: ChangeError) -> Self {
        Self::of(&error)
    }
}

impl From<Unavailable> for ErrorResponse {
    fn from(error: Unavailable) -> Self {
        Self::of(&error)
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retryable = self.retryable;
        // Read again by the observer, which writes the one log line of a refusal.
        let for_log = self.clone();
        let mut response = (status, Json(self)).into_response();
        response.extensions_mut().insert(for_log);
        if retryable {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response
    }
}

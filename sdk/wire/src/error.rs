//! Refusals: how an `Error` message is made, and what its codes mean in words. One place decides which codes are
//! worth a retry, so that broker and client agree.

use std::fmt;
use std::time::Duration;

use crate::pb::{self, ErrorCode};

impl pb::Error {
    /// A refusal with `code`; `message` says what is wrong and what to do. It is retryable when
    /// [`ErrorCode::is_retryable`] says so, and leaves the time to wait to the client.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: code.is_retryable(),
            retry_after_ms: 0,
        }
    }

    /// The same refusal, marked as worth a retry after a time of the client's choice.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// The same refusal, marked as not worth a retry.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.retryable = false;
        self.retry_after_ms = 0;
        self
    }

    /// The same refusal, marked as worth a retry after `wait` (rounded up to a millisecond).
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.retryable = true;
        self.retry_after_ms = wait_ms.max(1);
        self
    }

    /// How long to wait before a retry: `None` when there is no point in one, or the broker leaves it open.
    #[must_use]
    pub fn retry_wait(&self) -> Option<Duration> {
        (self.retryable && self.retry_after_ms > 0)
            .then(|| Duration::from_millis(self.retry_after_ms))
    }
}

impl fmt::Display for pb::Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code(), self.message.as_str()) {
            (code, "") => write!(formatter, "{code}"),
            (code, message) => write!(formatter, "{code}: {message}"),
        }
    }
}

impl std::error::Error for pb::Error {}

impl ErrorCode {
    /// Whether the same request may succeed later although nobody changed it: conditions of the broker, not of the
    /// request.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::StoreUnavailable | Self::Overloaded | Self::ShuttingDown | Self::Internal
        )
    }

    /// The code in words, for a person.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified error",
            Self::Malformed => "malformed message",
            Self::UnsupportedVersion => "unsupported protocol version",
            Self::TooLarge => "too large",
            Self::PermissionDenied => "permission denied",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::InvalidArgument => "invalid argument",
            Self::StoreUnavailable => "store unavailable",
            Self::Overloaded => "overloaded",
            Self::ShuttingDown => "shutting down",
            Self::ProducerFenced => "producer fenced",
            Self::ProducerOutOfOrder => "producer out of order",
            Self::SubscriptionGone => "subscription gone",
            Self::FlowControl => "credit exceeded",
            Self::Internal => "internal fault",
            Self::LimitReached => "limit reached",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_decides_whether_a_retry_helps() {
        assert!(pb::Error::new(ErrorCode::Overloaded, "").retryable);
        assert!(!pb::Error::new(ErrorCode::PermissionDenied, "").retryable);
        assert!(
            pb::Error::new(ErrorCode::NotFound, "")
                .retryable()
                .retryable
        );
        assert!(
            !pb::Error::new(ErrorCode::Internal, "")
                .permanent()
                .retryable
        );
    }

    #[test]
    fn the_wait_is_never_lost_to_rounding() {
        let error = pb::Error::new(ErrorCode::Overloaded, "").retry_after(Duration::from_micros(3));
        assert_eq!(error.retry_wait(), Some(Duration::from_millis(1)));
        assert_eq!(pb::Error::new(ErrorCode::Overloaded, "").retry_wait(), None);
    }

    #[test]
    fn a_refusal_reads_as_a_sentence() {
        let error = pb::Error::new(ErrorCode::NotFound, "there is no topic `a`");
        assert_eq!(error.to_string(), "not found: there is no topic `a`");
        let unknown = pb::Error {
            code: 4711,
            ..Default::default()
        };
        assert_eq!(unknown.to_string(), "unspecified error");
    }
}

//! Refusals: the one mapping from what the broker and the policy refuse to the wire's codes, and why a stream or a connection ends
//! because of it. Who is told, and what the log says, is not decided here.

use std::time::Duration;

use tidegate_wire::compact::CompactError;
use tidegate_wire::event::EventCheckError;
use tidegate_wire::frame::FrameError;
use tidegate_wire::pb::{self, ErrorCode};
use tidegate_wire::positions::PositionsError;
use tidegate_wire::stream::Connection;

use crate::auth::Denied;
use crate::broker::{ConsumeError, PublishError, Refusal, RefusalKind, Unavailable};

/// Why a stream ends before its time.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StreamEnd {
    /// The client reset the stream or the connection is gone: nobody is left to be told.
    Lost,
    /// This stream is refused or ended; the connection goes on.
    Refused(pb::Error),
    /// The client broke the protocol: the stream is told, then the connection is closed.
    Violation(pb::Error),
}

impl StreamEnd {
    /// What the client is told, if there is anything to tell.
    pub(super) fn error(&self) -> Option<&pb::Error> {
        match self {
            Self::Lost => None,
            Self::Refused(error) | Self::Violation(error) => Some(error),
        }
    }

    /// Bytes that are no message allowed here.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::Violation(pb::Error::new(ErrorCode::Malformed, message))
    }
}

impl From<FrameError> for StreamEnd {
    fn from(error: FrameError) -> Self {
        Self::Violation((&error).into())
    }
}

impl From<CompactError> for StreamEnd {
    fn from(error: CompactError) -> Self {
        Self::Violation((&error).into())
    }
}

impl From<PositionsError> for StreamEnd {
    fn from(error: PositionsError) -> Self {
        Self::Violation((&error).into())
    }
}

impl From<PublishError> for StreamEnd {
    fn from(error: PublishError) -> Self {
        Self::Refused(from_broker(&error))
    }
}

impl From<ConsumeError> for StreamEnd {
    fn from(error: ConsumeError) -> Self {
        Self::Refused(from_broker(&error))
    }
}

impl From<Unavailable> for StreamEnd {
    fn from(error: Unavailable) -> Self {
        Self::Refused(from_broker(&error))
    }
}

impl From<Denied> for StreamEnd {
    fn from(denied: Denied) -> Self {
        Self::Refused(from_denied(&denied))
    }
}

/// The wire's form of a refusal by the broker.
pub(super) fn from_broker(error: &impl Refusal) -> pb::Error {
    let code = match error.kind() {
        RefusalKind::NotFound => ErrorCode::NotFound,
        RefusalKind::PermissionDenied => ErrorCode::PermissionDenied,
        RefusalKind::AlreadyExists => ErrorCode::AlreadyExists,
        RefusalKind::Invalid | RefusalKind::InUse => ErrorCode::InvalidArgument,
        RefusalKind::Fenced => ErrorCode::ProducerFenced,
        RefusalKind::OutOfOrder => ErrorCode::ProducerOutOfOrder,
        RefusalKind::Gone => ErrorCode::SubscriptionGone,
        RefusalKind::LimitReached => ErrorCode::LimitReached,
        RefusalKind::Conflict | RefusalKind::Overloaded => ErrorCode::Overloaded,
        RefusalKind::StoreUnavailable => ErrorCode::StoreUnavailable,
        RefusalKind::ShuttingDown => ErrorCode::ShuttingDown,
        RefusalKind::Internal => ErrorCode::Internal,
    };
    pb::Error {
        retryable: error.is_retryable(),
        ..pb::Error::new(code, error.to_string())
    }
}

/// The wire's form of a refusal by the policy.
pub(super) fn from_denied(denied: &Denied) -> pb::Error {
    pb::Error::new(ErrorCode::PermissionDenied, denied.to_string())
}

/// The wire's form of what is wrong with event `index` of a batch.
pub(super) fn from_event(index: usize, error: &EventCheckError) -> pb::Error {
    let refusal = pb::Error::from(error);
    pb::Error {
        message: format!("event {index} of the batch: {}", refusal.message),
        ..refusal
    }
}

/// A name, pattern or number that is not valid.
pub(super) fn invalid(message: impl Into<String>) -> pb::Error {
    pb::Error::new(ErrorCode::InvalidArgument, message)
}

/// A limit of the broker itself, or of the time that something may take; the same may succeed later.
pub(in crate::net) fn overloaded(message: impl Into<String>) -> pb::Error {
    pb::Error::new(ErrorCode::Overloaded, message)
}

/// `what` did not come within its time. Whoever sent it cannot tell whether it was late itself, or the path, or a broker that had no time to
/// look; so the same is worth a try later.
pub(super) fn late(what: &str, within: Duration) -> pb::Error {
    overloaded(format!(
        "no {what} within {within:?}; send it at once, or try again when there is less to do"
    ))
}

/// Ends a connection. Its close code is the code of the refusal that closes it.
pub(in crate::net) fn close<C: Connection>(connection: &C, error: &pb::Error) {
    connection.close(close_code(error), &error.message);
}

/// The code with which a connection is closed because of `error`.
pub(in crate::net) fn close_code(error: &pb::Error) -> u32 {
    u32::try_from(error.code).unwrap_or_default()
}

/// The broker is stopping.
pub(in crate::net) fn shutting_down() -> pb::Error {
    from_broker(&Unavailable::ShuttingDown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{ChangeError, NotFound};

    #[test]
    fn a_refusal_keeps_its_meaning_on_the_wire() {
        fn check(error: impl Refusal, code: ErrorCode, retryable: bool) {
            let found = from_broker(&error);
            assert_eq!(
                (found.code(), found.retryable),
                (code, retryable),
                "{error}"
            );
            assert_eq!(found.message, error.to_string());
        }
        check(
            NotFound::Subscription("s".into()),
            ErrorCode::NotFound,
            false,
        );
        check(PublishError::Fenced, ErrorCode::ProducerFenced, false);
        let out_of_order = PublishError::OutOfOrder {
            first: 1,
            last: 2,
            committed: 2,
        };
        check(out_of_order, ErrorCode::ProducerOutOfOrder, false);
        check(
            Unavailable::Overloaded("full".into()),
            ErrorCode::Overloaded,
            true,
        );
        check(
            Unavailable::Store("EIO".into()),
            ErrorCode::StoreUnavailable,
            true,
        );
        check(Unavailable::ShuttingDown, ErrorCode::ShuttingDown, true);
        check(
            ChangeError::Invalid("x".into()),
            ErrorCode::InvalidArgument,
            false,
        );
    }
}

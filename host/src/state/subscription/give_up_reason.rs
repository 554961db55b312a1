//! Why an event is given up, as it is kept and told.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest reason that is kept with a given-up event, in bytes.
pub(super) const REASON_BYTES_MAX: usize = 1_024;

/// Why an event goes to the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GiveUpReason {
    /// It was tried as often as the policy allows.
    AttemptsExhausted,
    /// A consumer said that it can never be processed.
    Terminated(Arc<str>),
    /// A filter failed on it.
    FilterFailed(Arc<str>),
    /// A transform refused it.
    TransformRejected(Arc<str>),
    /// A transform failed on it.
    TransformFailed(Arc<str>),
    /// It went through more routes than allowed.
    HopLimit,
    /// It could not be read any more, and an operator gave it up.
    Unreadable(Arc<str>),
    /// It was tried as often as the policy allows, the last time by a consumer that lost its connection with nothing else
    /// in hand.
    ConsumersLost,
    /// It was tried as often as the policy allows, and the last time no answer came within the ack deadline.
    DeadlineMissed,
    /// It was tried as often as the policy allows, the last time with a consumer that takes no frames of its size.
    TooLarge(Arc<str>),
}

impl GiveUpReason {
    // The same, with no more said than is kept.
    pub(super) fn bounded(&self) -> Self {
        match self.said() {
            text if text.len() > REASON_BYTES_MAX => self.of_its_kind(&bounded(text)),
            _ => self.clone(),
        }
    }

    /// What was said of it, if anything was.
    #[must_use]
    pub fn said(&self) -> &str {
        match self {
            Self::Terminated(text)
            | Self::FilterFailed(text)
            | Self::TransformRejected(text)
            | Self::TransformFailed(text)
            | Self::Unreadable(text)
            | Self::TooLarge(text) => text,
            Self::AttemptsExhausted
            | Self::HopLimit
            | Self::ConsumersLost
            | Self::DeadlineMissed => "",
        }
    }

    // The same with `text` in place of what was said.
    pub(super) fn of_its_kind(&self, text: &str) -> Self {
        match self {
            Self::Terminated(_) => Self::Terminated(text.into()),
            Self::FilterFailed(_) => Self::FilterFailed(text.into()),
            Self::TransformRejected(_) => Self::TransformRejected(text.into()),
            Self::TransformFailed(_) => Self::TransformFailed(text.into()),
            Self::Unreadable(_) => Self::Unreadable(text.into()),
            Self::TooLarge(_) => Self::TooLarge(text.into()),
            Self::AttemptsExhausted
            | Self::HopLimit
            | Self::ConsumersLost
            | Self::DeadlineMissed => self.clone(),
        }
    }
}

impl fmt::Display for GiveUpReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttemptsExhausted => {
                f.write_str("handed out as often as the subscription allows")
            }
            Self::Terminated(reason) => write!(f, "refused by the consumer: {reason}"),
            Self::FilterFailed(reason) => write!(f, "filter failed: {reason}"),
            Self::TransformRejected(reason) => write!(f, "refused by the transform: {reason}"),
            Self::TransformFailed(reason) => write!(f, "transform failed: {reason}"),
            Self::Unreadable(reason) => write!(f, "cannot be read: {reason}"),
            Self::TooLarge(reason) => write!(f, "too large for its consumers: {reason}"),
            Self::DeadlineMissed => f.write_str(
                "handed out as often as the subscription allows; the last time no answer came within the ack deadline",
            ),
            Self::HopLimit => {
                f.write_str("went through more routes than allowed; look for a cycle")
            }
            Self::ConsumersLost => f.write_str(
                "tried as often as the subscription allows; the last consumer lost its connection with nothing else in hand",
            ),
        }
    }
}

// A reason comes from a peer or a guest; what is kept of it is bounded.
pub(super) fn bounded(reason: &str) -> Arc<str> {
    reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].into()
}

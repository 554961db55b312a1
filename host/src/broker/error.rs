//! Why the broker refuses a request. One enum for all operations: every caller maps it to a wire code or an
//! HTTP status in one place, and the variants are what a caller can act on.

use crate::auth::Denied;
use crate::domain::{Name, NameError, TopicName};
use crate::state::QuotaReached;

/// A refusal by the broker.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// No such topic.
    #[error("there is no topic `{0}`")]
    NoTopic(TopicName),
    /// No such subscription or route.
    #[error("there is no subscription or route `{0}`")]
    NoSubscription(String),
    /// No such plugin, or none that the caller may use.
    #[error("there is no plugin `{0}` that you may use")]
    NoPlugin(String),
    /// A right is lacking.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It is somebody else's.
    #[error("{0}")]
    NotYours(String),
    /// The name is taken.
    #[error("{kind} `{name}` exists already")]
    Exists {
        /// Topic, subscription or route.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The specification cannot be carried out as written.
    #[error("{0}")]
    Invalid(String),
    /// Something still uses it.
    #[error("{what} is in use by {by}; delete that first")]
    InUse {
        /// What was to be deleted.
        what: String,
        /// Who uses it: a name, or that it is somebody else's.
        by: String,
    },
    /// A newer stream of the same producer took over.
    #[error("a newer publish stream of this producer took over; this one is closed")]
    Fenced,
    /// Event numbers went backwards, but this is no resend.
    #[error(
        "event numbers {first}..={last} overlap what is committed through {committed}, but are no resend of it; a producer's numbers must rise"
    )]
    OutOfOrder {
        /// First number of the batch.
        first: u64,
        /// Last number of the batch.
        last: u64,
        /// Highest committed number.
        committed: u64,
    },
    /// The subscription ended under its consumer.
    #[error("subscription `{0}` was deleted")]
    SubscriptionGone(Name),
    /// There are as many as the configuration allows, until some are deleted.
    #[error("{0}")]
    LimitReached(String),
    /// A limit of the broker itself.
    #[error("{0}")]
    Overloaded(String),
    /// A write or sync failed; the store takes no more writes until a restart.
    #[error(
        "the store refuses writes since a fault: {0}; reading goes on; restart the broker when the disk is well"
    )]
    StoreUnavailable(String),
    /// The broker is stopping.
    #[error("the broker is shutting down; try again in a moment")]
    ShuttingDown,
    /// A fault of the broker itself.
    #[error("{0}")]
    Internal(String),
}

impl From<NameError> for BrokerError {
    fn from(error: NameError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<QuotaReached> for BrokerError {
    fn from(reached: QuotaReached) -> Self {
        Self::LimitReached(reached.to_string())
    }
}

impl BrokerError {
    /// The committer is gone, and with it whatever waited for it.
    pub(crate) fn committer_died() -> Self {
        Self::StoreUnavailable("the committer ended by a fault of its own".to_owned())
    }

    /// The name of a plugin belongs to somebody else.
    pub(crate) fn name_taken(name: &str) -> Self {
        Self::NotYours(format!(
            "the plugin name `{name}` is not yours; take another one, or have it given to you"
        ))
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Overloaded(_)
                | Self::StoreUnavailable(_)
                | Self::ShuttingDown
                | Self::Internal(_)
        )
    }
}

//! Why the broker refuses a request: one enum for each kind of operation, with what may go wrong there and nothing else. What they
//! have in common is that each is of a [`RefusalKind`], by which whoever serves clients tells them; nothing here knows the wire's
//! codes, HTTP or the command line.

use std::fmt;

use crate::auth::Denied;
use crate::domain::{Name, NameError, TopicName};
use crate::state::QuotaReached;

/// What kind of refusal it is: what a client can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// There is no such thing.
    NotFound,
    /// A right is lacking, or it is somebody else's.
    PermissionDenied,
    /// The name is taken.
    AlreadyExists,
    /// Something still uses it.
    InUse,
    /// It cannot be carried out as it was asked for.
    Invalid,
    /// There are as many as may be.
    LimitReached,
    /// A newer stream of the producer took over.
    Fenced,
    /// Numbers of a producer went backwards.
    OutOfOrder,
    /// It was deleted meanwhile.
    Gone,
    /// It stands against what was done just before. Who looks at what there is now may try again, or in a moment.
    Conflict,
    /// A limit of the broker itself.
    Overloaded,
    /// The store takes no writes.
    StoreUnavailable,
    /// The broker is stopping.
    ShuttingDown,
    /// A fault of the broker itself.
    Internal,
}

impl RefusalKind {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Conflict
                | Self::Overloaded
                | Self::StoreUnavailable
                | Self::ShuttingDown
                | Self::Internal
        )
    }
}

/// A refusal by the broker, whatever was asked of it.
pub trait Refusal: std::error::Error {
    /// What kind of refusal it is.
    fn kind(&self) -> RefusalKind;

    /// Whether the same request may succeed later.
    fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}

/// Why nothing of the kind can be done now. The same request may succeed later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    /// A limit of the broker itself.
    #[error("{0}")]
    Overloaded(String),
    /// A write or sync failed; the store takes no more writes until a restart.
    #[error(
        "the store refuses writes since a fault: {0}; reading goes on; restart the broker when the disk is well"
    )]
    Store(String),
    /// The broker is stopping.
    #[error("the broker is shutting down; try again in a moment")]
    ShuttingDown,
    /// A fault of the broker itself.
    #[error("{0}")]
    Internal(String),
}

impl Unavailable {
    /// The committer is gone, and with it whatever waited for it.
    pub(crate) fn committer_died() -> Self {
        Self::Store("the committer ended by a fault of its own".to_owned())
    }
}

impl Refusal for Unavailable {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Overloaded(_) => RefusalKind::Overloaded,
            Self::Store(_) => RefusalKind::StoreUnavailable,
            Self::ShuttingDown => RefusalKind::ShuttingDown,
            Self::Internal(_) => RefusalKind::Internal,
        }
    }
}

/// What was meant does not exist.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotFound {
    /// No such topic.
    #[error("there is no topic `{0}`")]
    Topic(TopicName),
    /// No such topic, though there was one lately.
    #[error(
        "topic `{name}` was deleted {seconds} s ago, so a publish does not make it again; create it explicitly, publish to another, or wait {left} s (`topics.recreate_after_ms`)"
    )]
    DeletedTopic {
        /// Its name.
        name: TopicName,
        /// How long ago it was deleted.
        seconds: u64,
        /// After how many seconds a publish makes it again.
        left: u64,
    },
    /// No such subscription or route.
    #[error("there is no subscription or route `{0}`")]
    Subscription(String),
    /// No such plugin, or none that the caller may use.
    #[error("there is no plugin `{0}` that you may use")]
    Plugin(String),
}

impl Refusal for NotFound {
    fn kind(&self) -> RefusalKind {
        RefusalKind::NotFound
    }
}

/// Why something is not shown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ShowError {
    /// There is no such thing.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// A right is lacking.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a publish stream does not open, or a batch is not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// There is no such topic, and publishing makes none.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The producer is somebody else's.
    #[error("this producer id is another principal's; take a new one, of random bytes")]
    NotYours,
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
    /// The batch cannot be appended as it is.
    #[error("{0}")]
    Invalid(String),
    /// The topic would be one too many.
    #[error(transparent)]
    LimitReached(#[from] QuotaReached),
    /// Not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Refusal for PublishError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound(error) => error.kind(),
            Self::NotYours => RefusalKind::PermissionDenied,
            Self::Fenced => RefusalKind::Fenced,
            Self::OutOfOrder { .. } => RefusalKind::OutOfOrder,
            Self::Invalid(_) => RefusalKind::Invalid,
            Self::LimitReached(_) => RefusalKind::LimitReached,
            Self::Unavailable(error) => error.kind(),
        }
    }
}

/// Why outputs of a subscription are not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// They are more than fits into a group.
    #[error("{0}")]
    TooLong(String),
    /// An event that they are made of is done with already.
    #[error("an event of this batch was done with meanwhile; the others are tried again")]
    Conflict,
    /// Not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a subscription is not, or no longer, consumed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConsumeError {
    /// There is no such subscription.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// A right is lacking.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It is a route, or its transforms cannot be set up.
    #[error("{0}")]
    Invalid(String),
    /// It was deleted under its consumer.
    #[error("subscription `{0}` was deleted")]
    Gone(Name),
    /// Not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Refusal for ConsumeError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound(error) => error.kind(),
            Self::Denied(_) => RefusalKind::PermissionDenied,
            Self::Invalid(_) => RefusalKind::Invalid,
            Self::Gone(_) => RefusalKind::Gone,
            Self::Unavailable(error) => error.kind(),
        }
    }
}

/// Why a topic, subscription, route or plugin is not created, changed or deleted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// It, or something that it names, does not exist.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// A right is lacking.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It is somebody else's.
    #[error("{0}")]
    NotYours(String),
    /// The name is taken.
    #[error("{kind} `{name}` exists already")]
    Exists {
        /// Topic, subscription, route or bundled plugin.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It cannot be carried out as it was asked for.
    #[error("{0}")]
    Invalid(String),
    /// Something still uses it.
    #[error("{what} is in use by {by}; delete {0} first, or change {0}", by.pronoun())]
    InUse {
        /// What was to be deleted.
        what: String,
        /// Who uses it.
        by: Users,
    },
    /// There are as many as the configuration allows, until some are deleted.
    #[error("{0}")]
    LimitReached(String),
    /// It stands against what was done just before.
    #[error("{0}")]
    Conflict(String),
    /// Not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The subscriptions and routes that use something: at least one.
#[derive(Clone, Debug, Default)]
pub struct Users {
    /// Their names, as far as they may be told.
    names: Vec<String>,
    /// How many more there are, whose names may not.
    others: usize,
}

impl Users {
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self { names, others: 0 }
    }

    /// The same without the names that somebody may not see.
    pub(crate) fn told(self, sees: impl Fn(&str) -> bool) -> Self {
        let (names, hidden): (Vec<String>, Vec<String>) =
            self.names.into_iter().partition(|name| sees(name));
        let others = self.others + hidden.len();
        Self { names, others }
    }

    fn pronoun(&self) -> &'static str {
        match self.names.len() + self.others {
            1 => "it",
            _ => "them",
        }
    }
}

impl fmt::Display for Users {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES_MAX: usize = 20;
        let shown = self.names.len().min(NAMES_MAX);
        let left = self.names.len() - shown;
        let names = self.names[..shown].join(", ");
        let others = match self.others {
            0 => None,
            1 => Some("somebody else's subscription".to_owned()),
            others => Some(format!("{others} subscriptions of others")),
        };
        let more = (left > 0).then(|| format!("{left} more"));
        let parts = [Some(names).filter(|names| !names.is_empty()), more, others];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        formatter.write_str(&parts.join(" and "))
    }
}

impl ChangeError {
    /// The name of a plugin belongs to somebody else.
    pub(crate) fn name_taken(name: &str) -> Self {
        Self::NotYours(format!(
            "the plugin name `{name}` is not yours; take another one, or have it given to you by whoever runs the broker"
        ))
    }
}

impl From<ShowError> for ChangeError {
    fn from(error: ShowError) -> Self {
        match error {
            ShowError::NotFound(error) => error.into(),
            ShowError::Denied(error) => error.into(),
            ShowError::Unavailable(error) => error.into(),
        }
    }
}

impl From<NameError> for ChangeError {
    fn from(error: NameError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<QuotaReached> for ChangeError {
    fn from(reached: QuotaReached) -> Self {
        Self::LimitReached(reached.to_string())
    }
}

impl From<NameError> for PublishError {
    fn from(error: NameError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl Refusal for ChangeError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound(error) => error.kind(),
            Self::Denied(_) | Self::NotYours(_) => RefusalKind::PermissionDenied,
            Self::Exists { .. } => RefusalKind::AlreadyExists,
            Self::Invalid(_) => RefusalKind::Invalid,
            Self::InUse { .. } => RefusalKind::InUse,
            Self::LimitReached(_) => RefusalKind::LimitReached,
            Self::Conflict(_) => RefusalKind::Conflict,
            Self::Unavailable(error) => error.kind(),
        }
    }
}

impl Refusal for ShowError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound(error) => error.kind(),
            Self::Denied(_) => RefusalKind::PermissionDenied,
            Self::Unavailable(error) => error.kind(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_users_are_named_up_to_a_limit_and_those_that_may_not_be_are_counted() {
        let users = |count: usize| Users::new((0..count).map(|n| format!("s{n}")).collect());
        let said = |by: Users| {
            let what = "topic `t`".to_owned();
            ChangeError::InUse { what, by }.to_string()
        };
        let in_use = "topic `t` is in use by";
        assert_eq!(
            said(users(1)),
            format!("{in_use} s0; delete it first, or change it")
        );
        assert_eq!(
            said(users(3)),
            format!("{in_use} s0, s1, s2; delete them first, or change them")
        );
        let many = said(users(25));
        assert!(
            many.contains(", s19 and 5 more; ") && !many.contains("s20"),
            "{many}"
        );
        let one_of_three = users(3).told(|name| name == "s1");
        assert!(said(one_of_three).contains("by s1 and 2 subscriptions of others;"));
        let hidden = said(users(1).told(|_| false));
        assert!(
            hidden.contains("by somebody else's subscription; delete it"),
            "{hidden}"
        );
    }
}

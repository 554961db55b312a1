//! What an operator does in a run, one thing after the other and over all lives of the broker: topics and subscriptions come, go, and come
//! again under the same names; subscriptions stand still, go on, and hand out their events in another manner.

use serde::{Deserialize, Serialize};

use super::filter::Filter;

/// What an operator does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Creates a topic of the plan again.
    CreateTopic {
        /// Which.
        topic: String,
    },
    /// Deletes one.
    DeleteTopic {
        /// Which.
        topic: String,
    },
    /// Creates a subscription of the plan again.
    CreateSubscription {
        /// Which.
        subscription: String,
        /// Whether it begins with all that is there.
        is_earliest: bool,
    },
    /// Deletes one.
    DeleteSubscription {
        /// Which.
        subscription: String,
    },
    /// Lets one stand still.
    Pause {
        /// Which.
        subscription: String,
    },
    /// Lets one go on.
    Resume {
        /// Which.
        subscription: String,
    },
    /// Changes how one hands out events.
    Change {
        /// Which.
        subscription: String,
        /// How long a consumer may take.
        ack_deadline_ms: u64,
        /// How many events may be in hand.
        in_flight_max: u32,
    },
    /// Changes what its events have to pass.
    ChangeFilters {
        /// Which.
        subscription: String,
        /// All filters.
        filters: Vec<Filter>,
    },
}

impl Operation {
    /// The topic that it is about.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match self {
            Self::CreateTopic { topic } | Self::DeleteTopic { topic } => Some(topic),
            _ => None,
        }
    }

    /// The subscription that it is about.
    #[must_use]
    pub fn subscription(&self) -> Option<&str> {
        match self {
            Self::CreateTopic { .. } | Self::DeleteTopic { .. } => None,
            Self::CreateSubscription { subscription, .. }
            | Self::DeleteSubscription { subscription }
            | Self::Pause { subscription }
            | Self::Resume { subscription }
            | Self::Change { subscription, .. }
            | Self::ChangeFilters { subscription, .. } => Some(subscription),
        }
    }

    /// The filters that it names.
    #[must_use]
    pub fn filters(&self) -> &[Filter] {
        match self {
            Self::ChangeFilters { filters, .. } => filters,
            _ => &[],
        }
    }
}

//! What the broker's log was told of one subscription lately, so that it is told each thing once a second at most. Nothing is
//! decided by it.

use std::sync::atomic::AtomicBool;

use super::subscription_log::SubscriptionLog;
use crate::domain::Name;
use crate::state::Strain;
use crate::telemetry::log_limit::LogLimit;

/// The limits of one subscription.
#[derive(Debug, Default)]
pub(crate) struct LogLimits {
    pub(crate) filter_failed: LogLimit,
    pub(crate) transform_failed: LogLimit,
    pub(crate) given_up: LogLimit,
    pub(crate) letters_dropped: LogLimit,
    pub(crate) unreadable: LogLimit,
    pub(crate) missing: LogLimit,
    stalled: LogLimit,
    /// That its dead letters wait for a right of its owner.
    pub(crate) letters_wait: AtomicBool,
    /// The same, for whoever the subscription belongs to.
    pub(crate) told: SubscriptionLog,
}

impl LogLimits {
    /// The limits that the subscription has reached are these now, and were others.
    pub(super) fn strained(&self, subscription: &Name, strain: Strain) {
        let limits: Vec<&str> = strain.names().collect();
        match limits.is_empty() {
            true => {
                tracing::info!(%subscription, "the subscription is below its limits again");
            }
            false => {
                tracing::warn!(%subscription, limits = limits.join(" "), "the subscription has reached a limit and goes on less exactly; see `Limits` in the book");
            }
        }
    }

    /// So many consumers stand still, and did not before.
    pub(super) fn stalled(&self, subscription: &Name, consumers: u64) {
        if let Some(consumers) = self.stalled.admit(consumers) {
            tracing::warn!(%subscription, consumers, "consumers' applications take nothing of what they were sent; it goes to others without an attempt, and they get nothing more until they go on");
        }
    }
}

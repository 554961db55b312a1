//! What the configuration says to a broker that starts, in the units in which its tasks think.

use std::path::PathBuf;
use std::sync::Arc;

use crate::auth::Policy;
use crate::broker::commit::checkpoint_due::CheckpointDue;
use crate::disk::FileSystem;
use crate::runtime::clock::Clock;
use crate::state::quotas::{PluginQuotas, Quota};
use crate::telemetry::metrics_registry::Metrics;

/// What the configuration says to the broker's tasks.
#[derive(Clone)]
pub struct BrokerOptions {
    /// What time it is.
    pub clock: Clock,
    /// Where it is shown what is counted.
    pub metrics: Metrics,
    /// The disk that plugins are kept on. Whoever opens the store says which that is on.
    pub file_system: Arc<dyn FileSystem>,
    /// Where plugins are kept.
    pub plugins_dir: PathBuf,
    /// A publish to a topic that does not exist creates it.
    pub auto_create_topics: bool,
    /// Milliseconds after a topic was deleted in which a publish does not create it.
    pub recreate_after_ms: u64,
    /// Milliseconds that an event of a topic with `interval` durability may stay unsynced.
    pub interval_ms: u64,
    /// Bytes of recent blocks kept in memory.
    pub tail_bytes: usize,
    /// When a checkpoint starts. Below the journal's limit, so that it is done before publishers have to wait.
    pub checkpoint_at: CheckpointDue,
    /// Journal bytes at which even routes wait.
    pub journal_bytes_max: u64,
    /// Producers whose resends are recognised. Beyond it, those that were idle longest are forgotten.
    pub producers_max: usize,
    /// Topics there may be, those of routes and dead letters among them.
    pub topics: Quota,
    /// Subscriptions and routes there may be.
    pub subscriptions: Quota,
    /// Bytes that their specifications may have.
    pub specification_bytes: Quota,
    /// Plugins there may be, and their bytes.
    pub plugins: PluginQuotas,
    /// Topic patterns of one subscription or route.
    pub subscription_patterns_max: usize,
    /// Bytes of the largest event that is taken from a publisher, and so of what a transform may make for a topic.
    pub event_bytes_max: usize,
    /// Bytes of what transforms may make of one event for a consumer, to whom it travels as one.
    pub delivery_bytes_max: usize,
    /// Who may do what.
    pub policy: Arc<Policy>,
}

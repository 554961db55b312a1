//! What the handlers of the admin API share, and its bounds. What a request does is not known here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::counters;
use super::lookups::Lookups;
use crate::auth::Policy;
use crate::broker::Broker;
use crate::telemetry::Metrics;

/// Bounds of the admin API.
#[derive(Clone, Debug)]
pub struct AdminOptions {
    /// Open connections of each listener. Beyond them, who has said nothing for longest makes room.
    pub connections_max: usize,
    /// Of these, from one address over TLS.
    pub address_connections_max: usize,
    /// Of these, by one principal over TLS.
    pub principal_connections_max: usize,
    /// Time for a request, body included.
    pub request_timeout: Duration,
    /// The same for uploading a plugin, which is compiled meanwhile.
    pub upload_timeout: Duration,
    /// Bytes of an uploaded plugin, of the one that may be largest. The plugin service knows each one's own limit.
    pub module_bytes_max: usize,
}

/// What handlers share.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) broker: Broker,
    pub(super) policy: Arc<Policy>,
    pub(super) metrics: Metrics,
    pub(super) counted: Arc<counters::AdminCounters>,
    pub(super) lookups: Lookups,
    pub(super) options: Arc<AdminOptions>,
    pub(super) started: Instant,
}

//! What the handlers of the admin API share, and its bounds. What a request does is not known here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{counters, request};
use crate::auth::Policy;
use crate::broker::Broker;
use crate::config::Config;
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

impl AdminOptions {
    /// What `config` says.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let plugins = &config.plugins;
        let own = plugins.overrides.values();
        let module_bytes_max = own
            .filter_map(|own| own.module_bytes_max)
            .fold(plugins.module_bytes_max, u64::max);
        let request_timeout = Duration::from_millis(config.limits.admin_request_timeout_ms);
        Self {
            connections_max: config.limits.admin_connections_max as usize,
            address_connections_max: config.limits.admin_address_connections_max as usize,
            principal_connections_max: config.limits.admin_principal_connections_max as usize,
            request_timeout,
            upload_timeout: request_timeout
                + Duration::from_millis(config.plugins.compile_timeout_ms),
            module_bytes_max: usize::try_from(module_bytes_max).unwrap_or(usize::MAX),
        }
    }
}

/// What handlers share.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) broker: Broker,
    pub(super) policy: Arc<Policy>,
    pub(super) metrics: Metrics,
    pub(super) counted: Arc<counters::AdminCounters>,
    pub(super) lookups: request::Lookups,
    pub(super) options: Arc<AdminOptions>,
    pub(super) started: Instant,
}

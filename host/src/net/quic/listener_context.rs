//! The context of QUIC's listeners: what all of them and their connections share. It counts and logs who is turned away before there
//! is a session.

use std::net::SocketAddr;
use std::sync::Arc;

use tidegate_wire::stream::quic::send_window::SendBudget;
use tracing::{debug, warn};

use super::handshakes::Handshakes;
use super::options::QuicOptions;
use crate::net::session::service::Service;
use crate::telemetry::log_limit::LogLimit;

/// What listeners and connections share.
pub(super) struct ListenerContext {
    pub(super) service: Arc<Service>,
    pub(super) options: QuicOptions,
    pub(super) handshakes: Arc<Handshakes>,
    pub(super) send_budget: Arc<SendBudget>,
    failed_handshakes: LogLimit,
    refused: LogLimit,
}

impl ListenerContext {
    /// That of `service`.
    pub(super) fn new(service: Arc<Service>, options: QuicOptions) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            service,
            handshakes: Handshakes::new(options.handshakes_max(), cores),
            send_budget: SendBudget::new(options.send_window_total_bytes),
            options,
            failed_handshakes: LogLimit::default(),
            refused: LogLimit::default(),
        })
    }

    /// Counts and logs a connection that is turned away by a limit. Such come in floods; the log gets a line a second.
    pub(super) fn log_refused(&self, peer: SocketAddr, reason: &str) {
        self.service.stats.connection_refused();
        if let Some(connections) = self.refused.admit(1) {
            warn!(%peer, reason, connections, "connection refused");
        }
    }

    /// The same of a handshake that came to nothing, because it `gave_way` to others or otherwise.
    pub(super) fn log_failed(&self, peer: SocketAddr, reason: &str, gave_way: bool) {
        self.service.stats.handshake_failed(gave_way);
        if let Some(connections) = self.failed_handshakes.admit(1) {
            warn!(%peer, reason, connections, "client refused before its hello");
        }
    }

    /// Counts and logs a handshake that its client has ended: clients make several attempts at a time, and need one.
    pub(super) fn log_withdrawn(&self, peer: SocketAddr, reason: &str) {
        self.service.stats.attempt_withdrawn();
        debug!(%peer, reason, "an attempt to connect is over");
    }
}

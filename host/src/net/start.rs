//! The start of the network: what all its sessions share is made, and a door is opened to them for each transport. QUIC is the only one
//! that listens; connections of any other kind are brought to a [`Door`](super::Door). How all that ends is said where it is opened
//! (`quic/listeners.rs`).

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::quic::listeners::{NetHandle, listen};
use super::quic::options::QuicOptions;
use super::quic::socket::ServeError;
use super::session::options::SessionOptions;
use super::session::service::{Backend, Service};
use crate::auth::Policy;
use crate::broker::Broker;
use crate::tls::TlsIdentity;

/// Everything that can be set about the network.
#[derive(Clone, Debug, Default)]
pub struct NetOptions {
    /// What holds for a session, whatever carries it.
    pub sessions: SessionOptions,
    /// Where and how QUIC carries them.
    pub quic: QuicOptions,
}

/// Starts to listen and serves connections until `shutdown` is cancelled. Then nothing new is accepted,
/// clients are told to go away, deliveries stop, publishes under way are answered, and what is left after
/// the grace period is closed.
///
/// # Errors
///
/// An address, certificate or setting cannot be used. Nothing is served then.
pub async fn serve(
    options: NetOptions,
    tls: TlsIdentity,
    policy: Arc<Policy>,
    broker: Broker,
    shutdown: CancellationToken,
) -> Result<NetHandle, ServeError> {
    let NetOptions { sessions, quic } = options;
    let service = Service::new(sessions, policy, Backend::Broker(broker), shutdown);
    listen(quic, &tls, service)
}

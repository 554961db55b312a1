//! Sessions under test: clients that speak in bare frames, over a pair in memory, with no time but the one that a test lets pass. What
//! comes before the broker is asked is tested without one; where there is one, it is whole, on a real directory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_wire::compact::Compression;
use tidegate_wire::stream::memory::{MemoryConnection, MemoryOptions, pair};
use tokio_util::sync::CancellationToken;

use self::client::Client;
use super::known_client::KnownClient;
use super::lifecycle;
use super::options::SessionOptions;
use super::service::{Backend, Service};
use crate::auth::{Grant, Policy};
use crate::domain::{Millis, Principal};

pub(in crate::net) mod client;
mod compact;
mod consuming;
mod ending;
mod measuring;
mod opening;
mod publishing;
pub(in crate::net) mod served;
mod silence;

/// Far longer than anything takes that does not hang.
pub(in crate::net) const HANG: Duration = Duration::from_secs(30);

/// Whom the clients of most tests are.
const CLIENT: &str = "dns:client.example";

/// The sessions of a service.
pub(in crate::net) struct Sessions {
    pub(in crate::net) service: Arc<Service>,
    pub(in crate::net) shutdown: CancellationToken,
}

impl Sessions {
    /// Of a service in which everybody may publish and subscribe, but there is no broker behind it.
    fn start(change: impl FnOnce(&mut SessionOptions)) -> Self {
        Self::start_with(everything(), Backend::Absent, change)
    }

    pub(in crate::net) fn start_with(
        policy: impl Into<Arc<Policy>>,
        backend: Backend,
        change: impl FnOnce(&mut SessionOptions),
    ) -> Self {
        let mut options = SessionOptions::default();
        change(&mut options);
        let shutdown = CancellationToken::new();
        let service = Service::new(options, policy.into(), backend, shutdown.clone());
        Self { service, shutdown }
    }

    /// A client that is connected and has said nothing.
    fn connect(&self) -> Client<MemoryConnection> {
        self.connect_by(MemoryOptions {
            stream_bytes_max: 16 << 20,
            ..MemoryOptions::default()
        })
    }

    fn connect_by(&self, options: MemoryOptions) -> Client<MemoryConnection> {
        self.connect_until(options, None)
    }

    /// By a certificate that ends at `lapses`.
    fn connect_until(
        &self,
        options: MemoryOptions,
        lapses: Option<Millis>,
    ) -> Client<MemoryConnection> {
        self.connect_as(CLIENT, options, lapses)
    }

    fn connect_as(
        &self,
        who: &str,
        options: MemoryOptions,
        lapses: Option<Millis>,
    ) -> Client<MemoryConnection> {
        let (theirs, ours) = pair(options);
        let principal: Principal = who.parse().expect("a principal");
        let remote = SocketAddr::from(([192, 0, 2, 1], 4_096));
        let slot = self.service.admit(&principal, remote.ip().into());
        let slot = slot.expect("a place");
        let client = KnownClient {
            principal,
            lapses,
            remote,
            compression: Compression::Auto,
        };
        let session = lifecycle::serve(self.service.clone(), ours, client, slot);
        tokio::spawn(session);
        Client::new(theirs)
    }

    /// A client that was welcomed.
    async fn welcomed(&self) -> Client<MemoryConnection> {
        self.connect().welcomed().await
    }

    /// One of whose streams so many bytes are on their way at most.
    async fn welcomed_narrow(&self, stream_bytes_max: usize) -> Client<MemoryConnection> {
        let options = MemoryOptions {
            stream_bytes_max,
            ..MemoryOptions::default()
        };
        self.connect_by(options).welcomed().await
    }

    fn bytes_in(&self) -> u64 {
        self.service.stats.counts().bytes_in
    }
}

/// A policy by which everybody may publish and subscribe.
pub(in crate::net) fn everything() -> Policy {
    let topics = || vec![">".parse().expect("valid")];
    Policy::new(vec![Grant {
        principals: vec!["*".parse().expect("valid")],
        publish: topics(),
        subscribe: topics(),
        ..Grant::default()
    }])
}

/// Waits for what threads of the broker bring about, which nothing tells a test of.
pub(in crate::net) async fn until(mut holds: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < HANG, "waited for in vain");
        tokio::task::yield_now().await;
    }
}

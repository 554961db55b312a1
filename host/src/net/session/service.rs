//! The service: what all sessions of the broker share, whichever transport carries them. It is the rights, a handle to the broker,
//! the limits, the places for connections, the counters and the sign to shut down. It knows no session by name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::connection_slots::{ConnectionSlot, ConnectionSlots, Full};
use super::link_tests::LinkTests;
use super::options::SessionOptions;
use super::subscribe::successors::Successors;
use crate::auth::{Policy, authorize};
use crate::broker::{Broker, Unavailable};
use crate::domain::{ConnectionId, Network, Principal};
use crate::net::counters::NetCounters;
use crate::runtime::Clock;
use crate::runtime::spawn::Spawner;
#[cfg(test)]
use crate::telemetry::conditions::Conditions;

/// What all sessions share.
pub(in crate::net) struct Service {
    pub(in crate::net) options: SessionOptions,
    pub(in crate::net) policy: Arc<Policy>,
    pub(in crate::net) stats: Arc<NetCounters>,
    /// Sessions say goodbye once it is cancelled.
    pub(in crate::net) shutdown: CancellationToken,
    pub(super) clock: Clock,
    pub(super) link_tests: LinkTests,
    pub(super) successors: Successors,
    backend: Backend,
    slots: Arc<ConnectionSlots>,
    connections: AtomicU64,
}

/// Where requests go.
pub(in crate::net) enum Backend {
    /// The broker.
    Broker(Broker),
    /// Nowhere. For tests of everything that comes before the broker is asked.
    #[cfg(test)]
    Absent,
}

impl Service {
    pub(in crate::net) fn new(
        options: SessionOptions,
        policy: Arc<Policy>,
        backend: Backend,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            slots: ConnectionSlots::new(options.slot_limits(), options.memory_share()),
            options,
            policy,
            stats: Arc::default(),
            link_tests: LinkTests::default(),
            successors: Successors::default(),
            shutdown,
            clock: match &backend {
                Backend::Broker(broker) => broker.clock().clone(),
                #[cfg(test)]
                Backend::Absent => Clock::start(),
            },
            backend,
            connections: AtomicU64::new(0),
        })
    }

    /// Whether there is no place for another connection, whoever asks.
    pub(in crate::net) fn is_full(&self) -> bool {
        self.slots.are_full()
    }

    /// A place for a connection of `who` from `network`.
    ///
    /// # Errors
    ///
    /// A limit is reached.
    pub(in crate::net) fn admit(
        &self,
        who: &Principal,
        network: Network,
    ) -> Result<ConnectionSlot, Full> {
        let administers = authorize::administers_anything(&self.policy, who);
        self.slots.take(who, network, administers)
    }

    /// The broker.
    ///
    /// # Errors
    ///
    /// A test has none.
    pub(super) fn broker(&self) -> Result<&Broker, Unavailable> {
        match &self.backend {
            Backend::Broker(broker) => Ok(broker),
            #[cfg(test)]
            Backend::Absent => Err(Unavailable::Internal("no broker in this test".to_owned())),
        }
    }

    /// Starts tasks of the network, which may end once it shuts down.
    pub(in crate::net) fn spawner(&self) -> Spawner {
        match &self.backend {
            Backend::Broker(broker) => broker.spawner().apart(self.shutdown.clone()),
            #[cfg(test)]
            Backend::Absent => Spawner::new(Conditions::default(), self.shutdown.clone()),
        }
    }

    /// The next number of a connection, from 1 on.
    pub(super) fn next_id(&self) -> ConnectionId {
        ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

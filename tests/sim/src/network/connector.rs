//! Connections as a client makes them: how long that takes, who answers, and what hinders it.

use std::future::pending;

use tidegate_client::{Answered, ConnectError, Connector};
use tidegate_wire::stream::{Connection, ConnectionEnd};
use tokio::time::{Instant, sleep, sleep_until};

use super::connection::{SimConnection, pair};
use super::stream::Opening;
use super::way::LinkShape;
use super::{BROKER, CLIENT, Incoming, SimNetwork};

/// Makes connections for a client, over its link.
#[derive(Clone)]
pub struct SimConnector {
    pub(super) network: SimNetwork,
    pub(super) client: String,
    pub(super) principal: String,
    pub(super) addresses: Vec<u8>,
    pub(super) opening: Option<Opening>,
}

impl Connector for SimConnector {
    type Address = u8;
    type Connection = SimConnection;

    async fn resolve(&self) -> Result<Vec<u8>, ConnectError> {
        Ok(self.addresses.clone())
    }

    async fn dial(
        &self,
        address: &u8,
        answered: &Answered,
        _: bool,
    ) -> Result<SimConnection, ConnectError> {
        // The first message and what answers it.
        self.there_and_back(*address).await;
        answered.note();
        if self.is_refused() {
            return Err(ConnectError::Lost(ConnectionEnd::Busy));
        }
        self.make(*address)
            .ok_or(ConnectError::Lost(ConnectionEnd::TimedOut))
    }

    async fn heard_of_close(&self, connection: &SimConnection) {
        if self.blocked().is_some() {
            return pending().await;
        }
        sleep(connection.round_trip()).await;
    }
}

impl SimConnector {
    /// The same, and each time when the client opens a stream, `tells` is given the first bytes that it sends on it.
    #[must_use]
    pub fn telling(self, tells: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        let opening = Some(Opening::new(tells));
        Self { opening, ..self }
    }

    // A round trip to whoever listens at an address, once somebody does and nothing is in the way. What got lost is sent again.
    async fn there_and_back(&self, address: u8) {
        loop {
            let changed = self.network.0.changed.notified();
            if let Some(until) = self.blocked() {
                tokio::select! {
                    biased;
                    () = changed => {}
                    () = sleep_until(until) => {}
                }
            } else if self.is_there(address) {
                let (shape, slow) = self.link();
                sleep(slow * shape.round_trip()).await;
                if self.blocked().is_none() && self.is_there(address) {
                    return;
                }
            } else {
                changed.await;
            }
        }
    }

    // Until when nothing goes there, or comes back.
    fn blocked(&self) -> Option<Instant> {
        let (state, now) = (self.network.state(), Instant::now());
        let outages = state.links.get(&self.client)?.outages.into_iter();
        let now_on = outages.flatten().filter(|outage| outage.is_at(now));
        now_on.map(|outage| outage.until).max()
    }

    fn is_there(&self, address: u8) -> bool {
        let state = self.network.state();
        state.listeners.get(&address).is_some_and(|of| of.is_there)
    }

    fn link(&self) -> (LinkShape, u32) {
        let state = self.network.state();
        let link = state.links.get(&self.client);
        link.map_or((LinkShape::NONE, 1), |link| (link.shape, link.slow))
    }

    fn is_refused(&self) -> bool {
        let mut state = self.network.state();
        let link = state.links.get_mut(&self.client);
        link.is_some_and(|link| {
            let is_refused = link.refused > 0;
            link.refused = link.refused.saturating_sub(1);
            is_refused
        })
    }

    // Both ends; the broker has its own when the client's last message of the handshake has arrived.
    fn make(&self, address: u8) -> Option<SimConnection> {
        let mut state = self.network.state();
        let number = state.connections;
        state.connections += 1;
        let link = state.links.get_mut(&self.client)?;
        let (shape, slow, outages) = (link.shape, link.slow, link.outages);
        let cut_after = link.cut_after.take();
        let seed = self.network.seed_of(&self.client, number);
        let (ours, theirs, shared) = pair(shape, seed, self.opening.clone());
        link.forget_ended();
        link.connections.push((address, shared.clone()));
        let made = Incoming {
            connection: theirs,
            client: self.client.clone(),
            principal: self.principal.clone(),
        };
        let at = Instant::now() + slow * shape.delay;
        let listening = state.listeners.entry(address).or_default();
        listening.made.push_back((at, made));
        drop(state);
        shared.slow(slow);
        for side in [CLIENT, BROKER] {
            if let Some(outage) = outages[side].filter(|outage| outage.until > Instant::now()) {
                shared.begin_outage(side, outage);
            }
        }
        if let Some((direction, bytes)) = cut_after {
            shared.cut_after(direction, bytes);
        }
        self.network.0.changed.notify_waiters();
        Some(ours)
    }
}

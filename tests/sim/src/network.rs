//! A simulated network: the ways between clients and brokers, on virtual time. Each client has a link of its own, over which all of its
//! connections run; when something arrives follows from the link's shape, its seed and what was sent before, and from nothing else. Links
//! fail as a test wants them to, and forget nothing by themselves: what was sent arrives, unless the connection ends before.
//!
//! Streams of a connection overtake each other, and one stream never itself. Whatever was not read when a connection ends is lost.

mod connection;
mod connector;
mod state;
mod stream;
mod way;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::scheduler::{mix, text};
use connection::Shared;

pub use connection::SimConnection;
pub use connector::SimConnector;
pub use stream::{SimReceive, SimSend};
pub use way::{Direction, LinkShape};

/// All links, and who listens. Clones are one.
#[derive(Clone)]
pub struct SimNetwork(Arc<Network>);

struct Network {
    seed: u64,
    state: Mutex<State>,
    // Somebody listens, or a link is no longer as it was.
    changed: Notify,
}

#[derive(Default)]
struct State {
    links: BTreeMap<String, Link>,
    listeners: BTreeMap<u8, Listening>,
    /// Connections so far.
    connections: u64,
}

/// The way of one client.
struct Link {
    shape: LinkShape,
    /// Nothing arrives in a direction.
    outages: [Option<Outage>; 2],
    /// So many times as slow as its shape says.
    slow: u32,
    /// How many attempts to connect are turned away.
    refused: u32,
    /// Bytes after which the next connection is cut.
    cut_after: Option<(Direction, u64)>,
    connections: Vec<(u8, Arc<Shared>)>,
}

/// When nothing arrives.
#[derive(Clone, Copy, Debug)]
struct Outage {
    from: Instant,
    until: Instant,
}

impl Outage {
    fn is_at(&self, moment: Instant) -> bool {
        (self.from..self.until).contains(&moment)
    }
}

/// A place where a broker listens.
#[derive(Default)]
struct Listening {
    /// Which of those who listened here it is.
    life: u64,
    is_there: bool,
    /// Connections that were made, and when their last message arrives.
    made: VecDeque<(Instant, Incoming)>,
}

/// A connection that a client has made.
pub struct Incoming {
    /// The broker's end.
    pub connection: SimConnection,
    /// Whose link it runs over.
    pub client: String,
    /// Who the client is.
    pub principal: String,
}

impl SimNetwork {
    /// One without links. What happens on a link follows from the seed and the name of its client.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Network {
            seed,
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// What makes connections for a client, over a link of this shape, to whoever listens at these addresses.
    #[must_use]
    pub fn connector(
        &self,
        client: &str,
        principal: &str,
        shape: LinkShape,
        addresses: &[u8],
    ) -> SimConnector {
        let link = Link {
            shape,
            outages: [None, None],
            slow: 1,
            refused: 0,
            cut_after: None,
            connections: Vec::new(),
        };
        // One who comes again, as after the end of its process, finds its link as it was.
        let mut state = self.state();
        let known = state.links.entry(client.to_owned()).or_insert(link);
        known.shape = shape;
        SimConnector {
            network: self.clone(),
            client: client.to_owned(),
            principal: principal.to_owned(),
            addresses: addresses.to_vec(),
            opening: None,
        }
    }

    /// Listens at an address, instead of whoever did. Connections to who has crashed there are reset soon.
    #[must_use]
    pub fn listen(&self, address: u8) -> SimListener {
        let life = {
            let mut state = self.state();
            let listening = state.listeners.entry(address).or_default();
            listening.life += 1;
            listening.is_there = true;
            listening.made.clear();
            listening.life
        };
        for connection in self.connections_at(address) {
            connection.reset_if_vanished();
        }
        self.0.changed.notify_waiters();
        SimListener {
            network: self.clone(),
            address,
            life,
        }
    }

    /// Whoever listens at an address is gone at once, as a process is that was killed: its connections hear nothing of it.
    pub fn crash(&self, address: u8) {
        let made = {
            let mut state = self.state();
            let listening = state.listeners.entry(address).or_default();
            listening.is_there = false;
            std::mem::take(&mut listening.made)
        };
        for connection in self.connections_at(address) {
            connection.vanish(BROKER);
        }
        drop(made);
    }

    /// A client is gone at once, as a process is that was killed: nothing that it does from now on arrives, not even a goodbye.
    pub fn die(&self, client: &str) {
        self.each_connection(client, |connection| connection.vanish(CLIENT));
    }

    /// Ends the connections of a client as if the cable were cut: both ends find that they have timed out.
    pub fn cut(&self, client: &str) {
        self.each_connection(client, Shared::cut);
    }

    /// Cuts the newest connection of a client, or else its next one, once so many more bytes were sent in a direction. What follows them
    /// never arrives.
    pub fn cut_after(&self, client: &str, direction: Direction, bytes: u64) {
        let mut state = self.state();
        let Some(link) = state.links.get_mut(client) else {
            return;
        };
        let alive = link.alive().next_back().cloned();
        match alive {
            None => link.cut_after = Some((direction, bytes)),
            Some(connection) => {
                drop(state);
                connection.cut_after(direction, bytes);
            }
        }
    }

    /// Whether a connection of a client is still to be [cut after](Self::cut_after) something.
    #[must_use]
    pub fn is_to_be_cut(&self, client: &str) -> bool {
        let mut state = self.state();
        let link = state.links.get_mut(client);
        link.is_some_and(|link| {
            link.cut_after.is_some() || link.alive().any(|connection| connection.is_to_be_cut())
        })
    }

    /// For so long nothing arrives in a direction, or in both, and nobody is told. What is sent arrives afterwards, on connections that
    /// have not timed out meanwhile.
    pub fn outage(&self, client: &str, direction: Option<Direction>, time: Duration) {
        let from = Instant::now();
        let outage = Outage {
            from,
            until: from + time,
        };
        for side in sides_of(direction) {
            if let Some(link) = self.state().links.get_mut(client) {
                link.outages[side] = Some(outage);
            }
            self.each_connection(client, |connection| connection.begin_outage(side, outage));
        }
    }

    /// From now on everything takes so many times as long on a client's link.
    pub fn slow(&self, client: &str, factor: u32) {
        let factor = factor.max(1);
        if let Some(link) = self.state().links.get_mut(client) {
            link.slow = factor;
        }
        self.each_connection(client, |connection| connection.slow(factor));
    }

    /// The broker turns the next attempts of a client to connect away.
    pub fn refuse(&self, client: &str, times: u32) {
        if let Some(link) = self.state().links.get_mut(client) {
            link.refused = times;
        }
    }

    /// The broker closes the connections of a client without a word.
    pub fn close(&self, client: &str) {
        self.each_connection(client, |connection| connection.close(BROKER, 0, ""));
    }

    /// Ends all that is wrong with the links. Connections that have ended stay so.
    pub fn heal(&self) {
        let connections: Vec<_> = {
            let mut state = self.state();
            let links = state.links.values_mut();
            let healed = links.flat_map(|link| {
                (link.outages, link.slow, link.refused) = ([None, None], 1, 0);
                link.cut_after = None;
                link.alive().cloned().collect::<Vec<_>>()
            });
            healed.collect()
        };
        connections.iter().for_each(|connection| connection.heal());
        self.0.changed.notify_waiters();
    }

    fn each_connection(&self, client: &str, change: impl Fn(&Shared)) {
        let connections: Vec<_> = {
            let mut state = self.state();
            let link = state.links.get_mut(client);
            link.map(|link| link.alive().cloned().collect())
                .unwrap_or_default()
        };
        connections.iter().for_each(|connection| change(connection));
        self.0.changed.notify_waiters();
    }

    fn connections_at(&self, address: u8) -> Vec<Arc<Shared>> {
        let state = self.state();
        let links = state.links.values();
        let connections = links.flat_map(|link| &link.connections);
        let here = connections.filter(|(at, _)| *at == address);
        here.map(|(_, connection)| Arc::clone(connection)).collect()
    }

    fn seed_of(&self, client: &str, connection: u64) -> u64 {
        mix(&[self.0.seed, text("link"), text(client), connection])
    }

    // Never held across a suspension, nor while a connection is changed: that wakes somebody.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side that dialled.
const CLIENT: usize = 0;
/// The side that listened.
const BROKER: usize = 1;

fn sides_of(direction: Option<Direction>) -> Vec<usize> {
    match direction {
        Some(direction) => vec![direction.from()],
        None => vec![CLIENT, BROKER],
    }
}

impl Link {
    /// Connections that have ended at both sides are of no use.
    fn forget_ended(&mut self) {
        self.connections
            .retain(|(_, connection)| !connection.is_over());
    }

    /// All others.
    fn alive(&mut self) -> impl DoubleEndedIterator<Item = &Arc<Shared>> {
        self.forget_ended();
        self.connections.iter().map(|(_, connection)| connection)
    }
}

/// Who listens at an address. Dropped, nobody does.
pub struct SimListener {
    network: SimNetwork,
    address: u8,
    life: u64,
}

impl SimListener {
    /// The next connection that was made. Waits for one, for ever if somebody else listens here by now.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: no connection is lost.
    pub async fn accept(&self) -> Incoming {
        loop {
            let changed = self.network.0.changed.notified();
            match self.next() {
                Ok(incoming) => return incoming,
                Err(None) => changed.await,
                Err(Some(at)) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }

    // When there is none yet: when one is known to come.
    fn next(&self) -> Result<Incoming, Option<Instant>> {
        let mut state = self.network.state();
        let listening = state.listeners.get_mut(&self.address);
        let Some(listening) = listening.filter(|listening| listening.life == self.life) else {
            return Err(None);
        };
        match listening.made.front() {
            Some((at, _)) if *at > Instant::now() => Err(Some(*at)),
            _ => listening
                .made
                .pop_front()
                .map(|(_, incoming)| incoming)
                .ok_or(None),
        }
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut made = VecDeque::new();
        if let Some(listening) = self.network.state().listeners.get_mut(&self.address)
            && listening.life == self.life
        {
            listening.is_there = false;
            made = std::mem::take(&mut listening.made);
        }
        // Which ends them, and may wake somebody.
        drop(made);
    }
}

//! Handshakes under way: how many there may be, over all and from one network, and which gives way to a new one. An address
//! costs an attacker nothing and a half-open connection costs the broker tens of KiB, so whoever stalls longest goes first.
//! Whether somebody has to prove an address is decided in `listener`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::Network;
use crate::locks::lock;

/// A handshake that is younger than this gives way to nobody: it may be about to succeed. At a limit of 1,024 that lets four
/// thousand begin in a second; who comes beyond that is refused and tries again.
const SPARED: Duration = Duration::from_millis(250);

/// The handshakes under way on all listeners.
#[derive(Debug)]
pub(super) struct Handshakes {
    max: usize,
    of_network_max: usize,
    open: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    // In the order in which they began.
    all: BTreeMap<u64, Entry>,
    by_network: HashMap<Network, VecDeque<u64>>,
}

#[derive(Debug)]
struct Entry {
    network: Network,
    since: Instant,
    given_up: CancellationToken,
}

/// One handshake. Counts until it is dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    handshakes: Arc<Handshakes>,
    number: u64,
    /// Cancelled when it has to give way.
    pub(super) given_up: CancellationToken,
}

/// There are too many, and none of them is old enough to give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Handshakes {
    /// At most `max` at a time, of which a quarter may be from one network, and eight at least.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            of_network_max: (max / 4).max(8),
            open: Mutex::default(),
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().all.len()
    }

    /// Begins one. At a limit, the oldest that counts for that limit gives way.
    ///
    /// # Errors
    ///
    /// The oldest is too young for that.
    pub(super) fn begin(self: &Arc<Self>, network: Network) -> Result<Handshake, TooMany> {
        let now = Instant::now();
        let mut open = self.lock();
        let of_network = open.by_network.get(&network);
        let oldest_of_network = of_network
            .filter(|numbers| numbers.len() >= self.of_network_max)
            .and_then(VecDeque::front);
        let oldest = match (oldest_of_network, open.all.len() >= self.max) {
            (Some(number), _) => Some(*number),
            (None, true) => open.all.keys().next().copied(),
            (None, false) => None,
        };
        if let Some(number) = oldest {
            let spared = |entry: &Entry| now.duration_since(entry.since) < SPARED;
            if open.all.get(&number).is_none_or(spared) {
                return Err(TooMany);
            }
            if let Some(entry) = open.remove(number) {
                entry.given_up.cancel();
            }
        }
        let number = open.next;
        open.next += 1;
        let given_up = CancellationToken::new();
        let entry = Entry {
            network,
            since: now,
            given_up: given_up.clone(),
        };
        open.all.insert(number, entry);
        open.by_network
            .entry(network)
            .or_default()
            .push_back(number);
        drop(open);
        Ok(Handshake {
            handshakes: self.clone(),
            number,
            given_up,
        })
    }

    // Each handshake is in two lists. Should a panic leave one in only one of them, it goes from that one when it ends.
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        lock(&self.open)
    }
}

impl UnderWay {
    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.all.remove(&number)?;
        if let Some(numbers) = self.by_network.get_mut(&entry.network) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_network.remove(&entry.network);
            }
        }
        Some(entry)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.handshakes.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_a_network_gives_way_and_others_do_not_notice() {
        let handshakes = Handshakes::new(40);
        let other = handshakes.begin(network("192.0.2.1")).expect("room");
        let stalled: Vec<Handshake> = (0..10)
            .map(|_| handshakes.begin(network("192.0.2.9")).expect("room"))
            .collect();
        assert_eq!(handshakes.begin(network("192.0.2.9")).err(), Some(TooMany));
        tokio::time::advance(SPARED).await;
        let newest = handshakes.begin(network("192.0.2.9")).expect("room");
        assert!(stalled[0].given_up.is_cancelled());
        assert!(!stalled[1].given_up.is_cancelled());
        assert!(!other.given_up.is_cancelled());
        assert_eq!(handshakes.len(), 11);
        drop((stalled, newest, other));
        assert_eq!(handshakes.len(), 0);
        assert!(handshakes.lock().by_network.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_all_gives_way_when_there_are_too_many() {
        let handshakes = Handshakes::new(8);
        let begin = |host: usize| handshakes.begin(network(&format!("192.0.2.{host}")));
        let stalled: Vec<Handshake> = (0..8).map(|host| begin(host).expect("room")).collect();
        assert_eq!(begin(100).err(), Some(TooMany));
        tokio::time::advance(SPARED).await;
        let _newest = begin(100).expect("room");
        let given_up = stalled
            .iter()
            .map(|stalled| stalled.given_up.is_cancelled());
        assert_eq!(given_up.filter(|given_up| *given_up).count(), 1);
        assert!(stalled[0].given_up.is_cancelled());
        assert_eq!(handshakes.len(), 8);
    }
}

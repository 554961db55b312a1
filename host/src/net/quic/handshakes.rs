//! Handshakes under way: how many there may be, over all and from one network, which gives way to a new one, and whether there is a
//! place for one more. An address costs an attacker nothing and a half-open connection costs the broker tens of KiB, so whoever stalls
//! longest goes first. Places are fewer, and for those that are young: what they wait for is the broker itself, while older ones wait
//! for somebody far away, or for nobody. Whether somebody has to prove an address or to wait is decided in `admission`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::Network;
use crate::locks::lock;

/// A handshake that is younger than this always has a place: on most paths it may be about to succeed.
const YOUNG_MIN: Duration = Duration::from_millis(250);
/// And one that is older than this never has, however long others took.
const YOUNG_MAX: Duration = Duration::from_secs(2);
/// In between, it has a place for so many times as long as a handshake takes at present: where path or machine are slow, those that
/// were begun are not to be joined by more than can be finished.
const YOUNG_TIMES: u32 = 4;
/// How many handshakes "at present" are.
const PRESENT: u32 = 16;

/// Places for each core. With a millisecond of work for a handshake that is 32 ms of work that waits; clients at a distance of 100 ms
/// get in at 320 a second for each core.
const PLACES_OF_CORE: usize = 32;

/// The handshakes under way on all listeners.
#[derive(Debug)]
pub(super) struct Handshakes {
    max: usize,
    of_network_max: usize,
    places: usize,
    open: Mutex<UnderWay>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    // In the order in which they began.
    all: BTreeMap<u64, Entry>,
    by_network: HashMap<Network, VecDeque<u64>>,
    // How long those took that succeeded lately, on average.
    lately: Duration,
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

impl Handshakes {
    /// At most `max` at a time, of which a quarter may be from one network, and eight at least; with places for what so many `cores`
    /// can do, and no more of them than one network may have: so whoever has a place never has to give way.
    pub(super) fn new(max: usize, cores: usize) -> Arc<Self> {
        let of_network_max = (max / 4).max(8);
        Arc::new(Self {
            max: max.max(of_network_max),
            of_network_max,
            places: cores
                .saturating_mul(PLACES_OF_CORE)
                .clamp(1, of_network_max),
            open: Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().all.len()
    }

    /// When there is a place for one more, as far as is known at `now`: now, or when the oldest that has one loses it. One that ends
    /// leaves its place before, see [`ended`](Self::ended).
    pub(super) fn place_at(&self, now: Instant) -> Instant {
        let open = self.lock();
        let young = open.young();
        let has_place = |entry: &&Entry| now.duration_since(entry.since) < young;
        let newest_first = open.all.values().rev();
        let mut with_place = newest_first.take_while(has_place);
        match with_place.nth(self.places - 1) {
            Some(oldest) => oldest.since + young,
            None => now,
        }
    }

    /// Waits until one has ended since this was asked last.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Begins one. At a limit, the oldest that counts for that limit gives way.
    pub(super) fn begin(self: &Arc<Self>, now: Instant, network: Network) -> Handshake {
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
        if let Some(entry) = oldest.and_then(|number| open.remove(number)) {
            entry.given_up.cancel();
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
        Handshake {
            handshakes: self.clone(),
            number,
            given_up,
        }
    }

    // Each handshake is in two lists. Should a panic leave one in only one of them, it goes from that one when it ends.
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        lock(&self.open)
    }
}

impl UnderWay {
    // Below which age a handshake has a place.
    fn young(&self) -> Duration {
        (self.lately * YOUNG_TIMES).clamp(YOUNG_MIN, YOUNG_MAX)
    }

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

impl Handshake {
    /// It has come to its end by `now`, as it should.
    pub(super) fn succeeded(self, now: Instant) {
        let mut open = self.handshakes.lock();
        if let Some(entry) = open.all.get(&self.number) {
            let took = now.duration_since(entry.since).min(YOUNG_MAX);
            open.lately = (open.lately * (PRESENT - 1) + took) / PRESENT;
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.handshakes.lock().remove(self.number);
        self.handshakes.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn network(host: usize) -> Network {
        let address: IpAddr = format!("192.0.2.{host}").parse().expect("an address");
        address.into()
    }

    fn given_up(handshakes: &[Handshake]) -> Vec<usize> {
        let given_up =
            |(index, one): (usize, &Handshake)| one.given_up.is_cancelled().then_some(index);
        handshakes.iter().enumerate().filter_map(given_up).collect()
    }

    #[test]
    fn the_oldest_of_a_network_gives_way_and_others_do_not_notice() {
        let (handshakes, now) = (Handshakes::new(40, 1), Instant::now());
        let other = handshakes.begin(now, network(1));
        let stalled: Vec<Handshake> = (0..10).map(|_| handshakes.begin(now, network(9))).collect();
        assert_eq!(given_up(&stalled), [0; 0]);
        let newest = handshakes.begin(now, network(9));
        assert_eq!(given_up(&stalled), [0]);
        assert!(!other.given_up.is_cancelled());
        assert_eq!(handshakes.len(), 11);
        drop((stalled, newest, other));
        assert_eq!(handshakes.len(), 0);
        assert!(handshakes.lock().by_network.is_empty());
    }

    #[test]
    fn the_oldest_of_all_gives_way_when_there_are_too_many() {
        let (handshakes, now) = (Handshakes::new(8, 1), Instant::now());
        let mut stalled: Vec<Handshake> = (0..8)
            .map(|host| handshakes.begin(now, network(host)))
            .collect();
        assert_eq!(given_up(&stalled), [0; 0]);
        stalled.push(handshakes.begin(now, network(100)));
        assert_eq!(given_up(&stalled), [0]);
        assert_eq!(handshakes.len(), 8);
    }

    #[test]
    fn a_place_is_free_when_a_handshake_ends_or_is_not_young_any_more() {
        let (handshakes, now) = (Handshakes::new(1_024, 1), Instant::now());
        let mut begun: Vec<Handshake> = (0..PLACES_OF_CORE)
            .map(|number| {
                assert_eq!(handshakes.place_at(now), now, "{number}");
                handshakes.begin(now, network(number))
            })
            .collect();
        assert_eq!(handshakes.place_at(now), now + YOUNG_MIN);
        begun.pop();
        assert_eq!(handshakes.place_at(now), now);
        let later = now + YOUNG_MIN / 2;
        begun.push(handshakes.begin(later, network(1)));
        assert_eq!(handshakes.place_at(later), now + YOUNG_MIN);
        assert_eq!(handshakes.place_at(now + YOUNG_MIN), now + YOUNG_MIN);
        assert_eq!(handshakes.len(), PLACES_OF_CORE, "none of them gave way");
    }

    #[test]
    fn where_handshakes_take_long_they_keep_their_places_for_longer() {
        let (handshakes, now) = (Handshakes::new(1_024, 1), Instant::now());
        let took = |milliseconds: u64| {
            let took = Duration::from_millis(milliseconds);
            for _ in 0..100 {
                handshakes.begin(now, network(1)).succeeded(now + took);
            }
            handshakes.lock().young()
        };
        assert_eq!(took(10), YOUNG_MIN);
        let young = took(200);
        assert!(young > Duration::from_millis(780), "{young:?}");
        assert_eq!(took(60_000), YOUNG_MAX);
        assert_eq!(took(1), YOUNG_MIN);
        // What fails teaches nothing.
        took(200);
        let before = handshakes.lock().lately;
        drop(handshakes.begin(now, network(1)));
        assert_eq!(handshakes.lock().lately, before);
    }

    #[test]
    fn whoever_has_a_place_never_gives_way() {
        for (max, cores) in [(8, 1), (8, 64), (1_024, 64), (16, 2)] {
            let (handshakes, now) = (Handshakes::new(max, cores), Instant::now());
            let mut begun = Vec::new();
            while handshakes.place_at(now) == now {
                begun.push(handshakes.begin(now, network(1)));
            }
            assert_eq!(given_up(&begun), [0; 0], "{max}, {cores}");
            assert!(!begun.is_empty());
        }
    }
}

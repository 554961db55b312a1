//! Who holds a connection to one listener of the admin API. Somebody new is never made to wait for others: when the pool, or
//! the share of an address or a principal, is full, whoever has said nothing for longest goes, and when everybody is at work,
//! what is left is a reserve for looking at health and metrics. Only decides; closing sockets is the connections' own work.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

use crate::domain::{Network, Principal};
use crate::locks::lock;

/// How many may be connected to one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PoolLimits {
    /// Connections that may ask for anything.
    pub(super) connections_max: usize,
    /// Of these, from one address.
    pub(super) address_connections_max: usize,
    /// Of these, by one principal.
    pub(super) principal_connections_max: usize,
    /// Connections beyond them, which may ask for health and metrics only.
    pub(super) reserve: usize,
}

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Pool {
    limits: PoolLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    // By the order of arrival.
    seats: BTreeMap<u64, Seat>,
    next: u64,
}

#[derive(Debug)]
struct Seat {
    address: Option<Network>,
    who: Option<Principal>,
    phase: Phase,
    in_reserve: bool,
    // It may ask for health and metrics only.
    restricted: bool,
    evicted: CancellationToken,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was asked yet.
    Silent,
    /// Between two requests.
    Idle,
    /// A request is being answered.
    Busy,
}

/// One connection's place. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    pool: Arc<Pool>,
    id: u64,
    evicted: CancellationToken,
}

/// What a request on a connection may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Everything,
    /// The pool is full: health and metrics only.
    HealthOnly,
}

impl Pool {
    pub(super) fn new(limits: PoolLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::default(),
        })
    }

    /// Takes a connection in. `address` is that of the peer where peers are told apart by it. `None`: everybody is at work, those
    /// in the reserve too.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Place> {
        let address = address.map(Network::from);
        let limits = self.limits;
        let mut state = self.lock();
        let regular = |seat: &Seat| !seat.in_reserve;
        let same = |seat: &Seat| regular(seat) && address.is_some() && seat.address == address;
        let has_room = state.make_room(same, limits.address_connections_max)
            && state.make_room(regular, limits.connections_max);
        if !has_room && !state.make_room(|seat| seat.in_reserve, limits.reserve) {
            return None;
        }
        let evicted = CancellationToken::new();
        let id = state.next;
        state.next += 1;
        let seat = Seat {
            address,
            who: None,
            phase: Phase::Silent,
            in_reserve: !has_room,
            restricted: !has_room,
            evicted: evicted.clone(),
        };
        state.seats.insert(id, seat);
        Some(Place {
            pool: self.clone(),
            id,
            evicted,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn count(&self, of: impl Fn(&Seat) -> bool) -> usize {
        self.seats.values().filter(|seat| of(seat)).count()
    }

    // Makes room for one more of these, of whom there may be so many. Not when all are at work.
    fn make_room(&mut self, of: impl Fn(&Seat) -> bool, max: usize) -> bool {
        self.count(&of) < max || self.evict(of)
    }

    // Ends the oldest of these that nobody would miss: one that never asked for anything before one between two requests.
    fn evict(&mut self, of: impl Fn(&Seat) -> bool) -> bool {
        for phase in [Phase::Silent, Phase::Idle] {
            let mut seats = self.seats.iter();
            let oldest = seats.find(|(_, seat)| seat.phase == phase && of(seat));
            if let Some(id) = oldest.map(|(id, _)| *id) {
                if let Some(seat) = self.seats.remove(&id) {
                    seat.evicted.cancel();
                }
                return true;
            }
        }
        false
    }
}

impl Place {
    /// Says who it is. When all the connections that this principal may have are at work, this one goes to the reserve and may
    /// only ask for health and metrics; when the reserve is full as well, it is evicted.
    pub(super) fn identify(&self, who: &Principal) {
        let limits = self.pool.limits;
        let mut state = self.pool.lock();
        let same = |seat: &Seat| seat.who.as_ref() == Some(who);
        let has_room = state.make_room(same, limits.principal_connections_max);
        if !has_room && !state.make_room(|seat| seat.in_reserve, limits.reserve) {
            if let Some(seat) = state.seats.remove(&self.id) {
                seat.evicted.cancel();
            }
            return;
        }
        if let Some(seat) = state.seats.get_mut(&self.id) {
            match has_room {
                true => seat.who = Some(who.clone()),
                false => (seat.in_reserve, seat.restricted) = (true, true),
            }
        }
    }

    /// Somebody else took the place; the connection is to end.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Whether nothing was asked on it so far.
    pub(super) fn is_silent(&self) -> bool {
        let state = self.pool.lock();
        let seat = state.seats.get(&self.id);
        seat.is_some_and(|seat| seat.phase == Phase::Silent)
    }

    /// A request begins; it ends when the answer is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> (Scope, Request) {
        let scope = self.set_phase(Phase::Busy);
        (scope, Request(self.clone()))
    }

    fn set_phase(&self, phase: Phase) -> Scope {
        let mut state = self.pool.lock();
        match state.seats.get_mut(&self.id) {
            Some(seat) => {
                seat.phase = phase;
                match seat.restricted {
                    true => Scope::HealthOnly,
                    false => Scope::Everything,
                }
            }
            // Evicted just now.
            None => Scope::HealthOnly,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.lock().seats.remove(&self.id);
    }
}

/// A request under way: its connection is not evicted.
#[derive(Debug)]
pub(super) struct Request(Arc<Place>);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.set_phase(Phase::Idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PoolLimits = PoolLimits {
        connections_max: 4,
        address_connections_max: 3,
        principal_connections_max: 2,
        reserve: 1,
    };

    fn from(pool: &Arc<Pool>, address: &str) -> Option<Arc<Place>> {
        pool.admit(Some(address.parse().expect("an address")))
            .map(Arc::new)
    }

    fn evicted(places: &[Arc<Place>]) -> Vec<bool> {
        let tokens = places.iter().map(|place| place.evicted.is_cancelled());
        tokens.collect()
    }

    #[test]
    fn whoever_is_silent_for_longest_makes_room_and_whoever_works_stays() {
        let pool = Pool::new(LIMITS);
        let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
        let places = addresses.map(|address| from(&pool, address).expect("room"));
        let (_, working) = places[0].begin();
        drop(places[1].begin());
        let first = from(&pool, "10.0.0.5").expect("a silent one makes room");
        assert_eq!(evicted(&places), [false, false, true, false]);
        drop(places[3].begin());
        drop(first.begin());
        from(&pool, "10.0.0.6").expect("one between requests makes room");
        assert_eq!(evicted(&places), [false, true, true, false]);
        drop(working);
        // The sixth is gone by itself; there is room.
        assert!(from(&pool, "10.0.0.7").is_some());
        assert_eq!(evicted(&places), [false, true, true, false]);
    }

    #[test]
    fn when_everybody_works_a_reserve_answers_for_health() {
        let pool = Pool::new(LIMITS);
        let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
        let places = addresses.map(|address| from(&pool, address).expect("room"));
        let working = places.each_ref().map(|place| place.begin());
        assert!(working.iter().all(|(scope, _)| *scope == Scope::Everything));
        let probe = from(&pool, "10.0.0.5").expect("the reserve");
        let later = from(&pool, "10.0.0.6").expect("the reserve, again");
        assert!(probe.evicted.is_cancelled(), "it had not asked yet");
        let (scope, _request) = later.begin();
        assert_eq!(scope, Scope::HealthOnly);
        assert!(from(&pool, "10.0.0.7").is_none(), "all are at work");
        assert_eq!(evicted(&places), [false; 4]);
        drop(working);
        assert!(from(&pool, "10.0.0.7").is_some());
    }

    #[test]
    fn an_address_and_a_principal_have_shares() {
        let pool = Pool::new(LIMITS);
        // The same network of 64 bits, and an IPv4 address in another dress.
        let one = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];
        let places = one.map(|address| from(&pool, address).expect("room"));
        let fourth = from(&pool, "2001:db8::4").expect("room is made");
        assert_eq!(evicted(&places), [true, false, false]);
        drop((places, fourth));

        let (who, other) = (Principal::common_name("a"), Principal::common_name("b"));
        let [a, b, c] =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|address| from(&pool, address).expect("room"));
        let places = [a, b, c];
        for place in &places {
            place.identify(&who);
        }
        assert_eq!(
            evicted(&places),
            [true, false, false],
            "the first made room"
        );
        let _working = [places[1].begin(), places[2].begin()];
        let d = from(&pool, "10.0.0.4").expect("room");
        d.identify(&who);
        assert_eq!(d.begin().0, Scope::HealthOnly);
        let e = from(&pool, "10.0.0.5").expect("room");
        e.identify(&other);
        assert_eq!(e.begin().0, Scope::Everything);
    }

    #[test]
    fn one_principal_leaves_room_for_others_at_its_address_and_for_health() {
        let pool = Pool::new(LIMITS);
        let (greedy, other) = (Principal::common_name("a"), Principal::common_name("b"));
        let mut busy = Vec::new();
        let mut come = |who: &Principal| {
            let place = from(&pool, "10.0.0.1")?;
            place.identify(who);
            let (scope, request) = place.begin();
            busy.push(request);
            (!place.evicted.is_cancelled()).then_some(scope)
        };
        assert_eq!(come(&greedy), Some(Scope::Everything));
        assert_eq!(come(&greedy), Some(Scope::Everything));
        assert_eq!(come(&greedy), Some(Scope::HealthOnly));
        assert_eq!(come(&greedy), None, "the reserve is full, too");
        assert_eq!(come(&other), Some(Scope::Everything));
    }

    #[test]
    fn a_full_address_may_ask_for_health() {
        let pool = Pool::new(LIMITS);
        let places = [0; 3].map(|_| from(&pool, "10.0.0.1").expect("room"));
        let working = places.each_ref().map(Place::begin);
        let probe = from(&pool, "10.0.0.1").expect("the reserve");
        let (scope, _request) = probe.begin();
        assert_eq!(scope, Scope::HealthOnly);
        assert!(from(&pool, "10.0.0.1").is_none(), "all are at work");
        assert!(from(&pool, "10.0.0.2").is_some());
        drop(working);
    }

    #[test]
    fn places_come_back() {
        let pool = Pool::new(LIMITS);
        for _ in 0..10 {
            let place = from(&pool, "10.0.0.1").expect("room");
            assert!(place.is_silent());
            drop(place.begin());
            assert!(!place.is_silent());
        }
        assert_eq!(pool.lock().seats.len(), 0);
    }
}

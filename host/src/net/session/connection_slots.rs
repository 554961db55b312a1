//! Slots, which are places for connections past their handshake: how many there may be, over all and for one principal, and the
//! account that each takes memory from. A few are for those only who hold a right to administer. Clients without a certificate are one principal
//! together, and beside that each of their networks counts like one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::memory_account::{MemoryAccount, Share};
use crate::domain::{Network, Principal};
use crate::locks::lock;

/// Of this many connections, one is kept for those who administer.
const RESERVE_PART: usize = 16;
/// As many as that are enough.
const RESERVE_MAX: usize = 64;

/// Part of the connections that clients without a certificate may have together, that those of one network may have.
const OF_NETWORK: usize = 4;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotLimits {
    /// Over all.
    pub(super) all: usize,
    /// Of one principal.
    pub(super) principal: usize,
    /// Publish streams on one connection.
    pub(super) streams: usize,
}

/// The connections of all listeners.
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    limits: SlotLimits,
    share: Share,
    account: Arc<MemoryAccount>,
    open: Mutex<Occupied>,
}

#[derive(Debug, Default)]
struct Occupied {
    all: usize,
    // Those that have a connection, and nobody else.
    holders: HashMap<Holder, Held>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Principal(Principal),
    // Clients without a certificate in one network.
    Network(Network),
}

#[derive(Debug)]
struct Held {
    connections: usize,
    account: Arc<MemoryAccount>,
}

/// One connection. Counts until it is dropped.
#[derive(Debug)]
pub(in crate::net) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    holders: Vec<Holder>,
    /// What it takes memory from.
    pub(super) account: Arc<MemoryAccount>,
}

/// Why there is no slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::net) enum Full {
    #[error(
        "{0} connections are open, which is all there may be (limits.connections_max); try again later"
    )]
    All(usize),
    #[error("the last {0} connections are for principals with an admin right; try again later")]
    Reserve(usize),
    #[error(
        "{0} connections of {1} are open, which is all that one principal may have (limits.principal_connections_max); close some, or try again later"
    )]
    Principal(usize, Principal),
    #[error(
        "{0} connections without a certificate are open from your network; close some, or try again later"
    )]
    Network(usize),
}

impl SlotLimits {
    // How many are for those who administer only.
    fn reserve(&self) -> usize {
        (self.all / RESERVE_PART).min(RESERVE_MAX)
    }

    fn network(&self) -> usize {
        (self.principal / OF_NETWORK).max(1)
    }
}

impl ConnectionSlots {
    /// `share` is what all connections together may hold in memory.
    pub(super) fn new(limits: SlotLimits, share: Share) -> Arc<Self> {
        Arc::new(Self {
            limits,
            share,
            account: MemoryAccount::of_all(share),
            open: Mutex::default(),
        })
    }

    /// Whether not even somebody who administers would get one.
    pub(super) fn are_full(&self) -> bool {
        self.lock().all >= self.limits.all
    }

    /// Takes one for `who`, who `administers` or not.
    ///
    /// # Errors
    ///
    /// A limit is reached.
    pub(super) fn take(
        self: &Arc<Self>,
        who: &Principal,
        network: Network,
        administers: bool,
    ) -> Result<ConnectionSlot, Full> {
        let mut open = self.lock();
        self.check(&open, who, network, administers)?;
        open.all += 1;
        let mut holders = vec![Holder::Principal(who.clone())];
        let streams = self.limits.principal.max(self.limits.streams);
        let principal = self.share.of_principal(streams);
        let mut account = open.count(&holders[0], &self.account, principal);
        if *who == Principal::anonymous() {
            let holder = Holder::Network(network);
            account = open.count(&holder, &account, principal.of_network());
            holders.push(holder);
        }
        drop(open);
        let connection = self.share.of_connection(self.limits.streams);
        Ok(ConnectionSlot {
            account: account.below(connection),
            slots: self.clone(),
            holders,
        })
    }

    fn check(
        &self,
        open: &Occupied,
        who: &Principal,
        network: Network,
        administers: bool,
    ) -> Result<(), Full> {
        let limits = &self.limits;
        if open.all >= limits.all {
            return Err(Full::All(limits.all));
        }
        if !administers && open.all + limits.reserve() >= limits.all {
            return Err(Full::Reserve(limits.reserve()));
        }
        if open.connections(&Holder::Principal(who.clone())) >= limits.principal {
            return Err(Full::Principal(limits.principal, who.clone()));
        }
        let of_network = open.connections(&Holder::Network(network));
        if *who == Principal::anonymous() && of_network >= limits.network() {
            return Err(Full::Network(limits.network()));
        }
        Ok(())
    }

    // A panic while the lock is held cannot leave a sum half done.
    fn lock(&self) -> MutexGuard<'_, Occupied> {
        lock(&self.open)
    }
}

impl Occupied {
    fn connections(&self, holder: &Holder) -> usize {
        self.holders.get(holder).map_or(0, |held| held.connections)
    }

    // Counts one more, and returns the account that all of this holder share.
    fn count(
        &mut self,
        holder: &Holder,
        above: &Arc<MemoryAccount>,
        share: Share,
    ) -> Arc<MemoryAccount> {
        let held = self.holders.entry(holder.clone());
        let held = held.or_insert_with(|| Held {
            connections: 0,
            account: above.below(share),
        });
        held.connections += 1;
        held.account.clone()
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.slots.lock();
        open.all = open.all.saturating_sub(1);
        for holder in &self.holders {
            if let Some(held) = open.holders.get_mut(holder) {
                held.connections = held.connections.saturating_sub(1);
                if held.connections == 0 {
                    open.holders.remove(holder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const SHARE: Share = Share {
        streams: 100,
        credit_bytes: 1 << 20,
        large_bytes: 1 << 20,
        sent_bytes: 0,
    };

    fn slots(all: usize, principal: usize) -> Arc<ConnectionSlots> {
        let limits = SlotLimits {
            all,
            principal,
            streams: 10,
        };
        ConnectionSlots::new(limits, SHARE)
    }

    fn network(host: u8) -> Network {
        IpAddr::from([192, 0, 2, host]).into()
    }

    fn take(slots: &Arc<ConnectionSlots>, who: &Principal, count: usize) -> Vec<ConnectionSlot> {
        let taken = (0..count).map_while(|_| slots.take(who, network(1), false).ok());
        taken.collect()
    }

    #[test]
    fn one_principal_does_not_take_the_place_of_others() {
        let slots = slots(50, 25);
        let greedy = Principal::common_name("greedy");
        let held = take(&slots, &greedy, 60);
        assert_eq!(held.len(), 25);
        let full = slots.take(&greedy, network(1), false);
        assert_eq!(full.err(), Some(Full::Principal(25, greedy.clone())));
        assert!(
            slots
                .take(&Principal::common_name("modest"), network(1), false)
                .is_ok()
        );
        drop(held);
        assert!(slots.take(&greedy, network(1), false).is_ok());
        assert!(slots.lock().holders.is_empty());
    }

    #[test]
    fn the_last_places_are_for_those_who_administer() {
        let slots = slots(50, 50);
        let crowd = take(&slots, &Principal::common_name("crowd"), 60);
        assert_eq!(crowd.len(), 47);
        let other = Principal::common_name("other");
        let full = slots.take(&other, network(1), false);
        assert_eq!(full.err(), Some(Full::Reserve(3)));
        let chief = Principal::common_name("chief");
        let chiefs: Vec<ConnectionSlot> = (0..3)
            .map(|_| slots.take(&chief, network(1), true).expect("a place"))
            .collect();
        assert!(slots.are_full());
        assert_eq!(
            slots.take(&chief, network(1), true).err(),
            Some(Full::All(50))
        );
        drop(chiefs);
        assert!(!slots.are_full());
    }

    #[test]
    fn clients_without_a_certificate_are_one_principal_and_one_for_each_network() {
        let slots = slots(100, 40);
        let anonymous = Principal::anonymous();
        let mut held = take(&slots, &anonymous, 60);
        assert_eq!(held.len(), 10, "a quarter is from one network");
        for host in 2..9 {
            let more = (0..60).map_while(|_| slots.take(&anonymous, network(host), false).ok());
            held.extend(more);
        }
        assert_eq!(held.len(), 40);
        assert!(
            slots
                .take(&Principal::common_name("p"), network(1), false)
                .is_ok()
        );
    }

    #[test]
    fn few_connections_leave_nothing_to_reserve() {
        let slots = slots(1, 1);
        assert_eq!(take(&slots, &Principal::common_name("p"), 5).len(), 1);
    }
}

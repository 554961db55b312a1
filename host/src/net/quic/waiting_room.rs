//! The waiting room: attempts to connect for which there is no time yet. Networks take turns, and of one network the oldest goes first, so
//! that whoever sends many attempts waits for them and keeps nobody else out. Pure, time is an argument. Who waits has proved its
//! address, so that nobody fills the room with addresses that are made up. What is begun of it, and when, is decided in `admission`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::Network;

/// Attempts that may wait. Each is a datagram of 1,200 bytes, its keys, and a few more datagrams when it is sent again, about 4 KiB; but
/// where the system hands over many datagrams at once, it keeps all of them, up to 64 KiB, and who attacks can see to that. So this is
/// 64 MiB at worst, before anybody has shown a certificate; and as many as two cores finish in the time that one waits.
pub(super) const WAITING_MAX: usize = 1_024;

/// How long one waits at most: less than any client's patience with an attempt that was answered, so that hardly any handshake is
/// begun for somebody who has given up.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(4);

/// Attempts that wait.
#[derive(Debug)]
pub(super) struct WaitingRoom<T> {
    max: usize,
    wait_max: Duration,
    /// By number, in the order in which they came.
    waiting: BTreeMap<u64, Waiting<T>>,
    next_number: u64,
    /// The numbers of each network, oldest first; none is empty.
    of_network: HashMap<Network, VecDeque<u64>>,
    /// The networks that have any, in the order of their turns.
    turns: VecDeque<Network>,
}

#[derive(Debug)]
struct Waiting<T> {
    attempt: T,
    network: Network,
    since: Instant,
}

impl<T> WaitingRoom<T> {
    /// One for so many, where connections end that are idle for so long: to quinn an attempt that has waited for so long has
    /// ended, too, and nobody tells its client.
    pub(super) fn new(max: usize, idle_timeout: Duration) -> Self {
        Self {
            max,
            wait_max: WAIT_MAX.min(idle_timeout / 2),
            waiting: BTreeMap::new(),
            next_number: 0,
            of_network: HashMap::new(),
            turns: VecDeque::new(),
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether there is room for one of `network`, if need be that of another one which has more than its share.
    pub(super) fn has_room(&self, network: Network) -> bool {
        self.len() < self.max || self.displaced_by(network).is_some()
    }

    /// Lets one wait, behind all others of its network. Returns whom there is no room for then: the newest of the network that has
    /// most, which may be the one that came.
    pub(super) fn push(&mut self, now: Instant, network: Network, attempt: T) -> Option<T> {
        let mut displaced = None;
        if self.len() >= self.max {
            let Some(from) = self.displaced_by(network) else {
                return Some(attempt);
            };
            let newest = self.of_network.get(&from).and_then(VecDeque::back).copied();
            displaced = newest.and_then(|number| self.remove(number));
        }
        let number = self.next_number;
        self.next_number += 1;
        let queue = self.of_network.entry(network).or_default();
        if queue.is_empty() {
            self.turns.push_back(network);
        }
        queue.push_back(number);
        self.waiting.insert(
            number,
            Waiting {
                attempt,
                network,
                since: now,
            },
        );
        displaced
    }

    /// Takes the one whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        let network = *self.turns.front()?;
        let number = *self.of_network.get(&network)?.front()?;
        let attempt = self.remove(number);
        // The others' turn; when there are no more of it, it is gone from here already.
        if self.turns.front() == Some(&network) {
            self.turns.rotate_left(1);
        }
        attempt
    }

    /// Takes one that has waited for too long, if there is any.
    pub(super) fn pop_overdue(&mut self, now: Instant) -> Option<T> {
        self.overdue_at().filter(|at| *at <= now)?;
        let number = *self.waiting.first_key_value()?.0;
        self.remove(number)
    }

    /// When the next one has waited for too long.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        let (_, oldest) = self.waiting.first_key_value()?;
        Some(oldest.since + self.wait_max)
    }

    // The network that has most, if that is more than `network` would have with one more.
    fn displaced_by(&self, network: Network) -> Option<Network> {
        let own = self.of_network.get(&network).map_or(0, VecDeque::len);
        let most = self
            .of_network
            .iter()
            .max_by_key(|(_, queue)| queue.len())?;
        (most.1.len() > own + 1).then_some(*most.0)
    }

    fn remove(&mut self, number: u64) -> Option<T> {
        let Waiting {
            attempt, network, ..
        } = self.waiting.remove(&number)?;
        if let Some(queue) = self.of_network.get_mut(&network) {
            // The oldest or the newest, so this is quick.
            if queue.front() == Some(&number) {
                queue.pop_front();
            } else {
                queue.retain(|other| *other != number);
            }
            if queue.is_empty() {
                self.of_network.remove(&network);
                self.turns.retain(|other| *other != network);
            }
        }
        Some(attempt)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn network(host: usize) -> Network {
        let address: IpAddr = format!("192.0.2.{host}").parse().expect("an address");
        address.into()
    }

    fn all(room: &mut WaitingRoom<usize>) -> Vec<usize> {
        std::iter::from_fn(|| room.pop()).collect()
    }

    #[test]
    fn networks_take_turns_and_of_one_the_oldest_goes_first() {
        let (mut room, now) = (WaitingRoom::new(8, LONG), Instant::now());
        for (host, attempt) in [(1, 0), (1, 1), (1, 2), (2, 3), (3, 4), (2, 5)] {
            assert_eq!(room.push(now, network(host), attempt), None);
        }
        assert_eq!(all(&mut room), [0, 3, 4, 1, 5, 2]);
        assert!(room.is_empty() && room.of_network.is_empty() && room.turns.is_empty());
        let greedy = (0..7).map(|attempt| room.push(now, network(1), attempt));
        assert!(greedy.eq([None; 7]));
        assert_eq!(room.pop(), Some(0));
        assert_eq!(room.push(now, network(2), 7), None);
        assert_eq!([room.pop(), room.pop()], [Some(1), Some(7)]);
    }

    #[test]
    fn who_waited_for_too_long_is_found_and_nobody_else() {
        let (mut room, now) = (WaitingRoom::new(8, LONG), Instant::now());
        assert_eq!(room.overdue_at(), None);
        let second = Duration::from_secs(1);
        assert_eq!(room.push(now, network(1), 1), None);
        assert_eq!(room.push(now + second, network(2), 2), None);
        assert_eq!(room.overdue_at(), Some(now + WAIT_MAX));
        assert_eq!(room.pop_overdue(now + WAIT_MAX - second / 2), None);
        assert_eq!(room.pop_overdue(now + WAIT_MAX), Some(1));
        assert_eq!(room.pop_overdue(now + WAIT_MAX), None);
        assert_eq!(room.pop_overdue(now + WAIT_MAX + second), Some(2));
        assert!(room.is_empty() && room.turns.is_empty());
        let mut hasty = WaitingRoom::new(8, second);
        assert_eq!(hasty.push(now, network(1), 1), None);
        assert_eq!(hasty.overdue_at(), Some(now + second / 2));
    }

    #[test]
    fn whoever_fills_the_room_gives_way_to_others() {
        let (mut room, now) = (WaitingRoom::new(4, LONG), Instant::now());
        for (host, attempt, displaced) in [
            (1, 0, None),
            (1, 1, None),
            (1, 2, None),
            (1, 3, None),
            (1, 4, Some(4)),
            (2, 5, Some(3)),
            (2, 6, Some(2)),
            (2, 7, Some(7)),
            (3, 8, Some(1)),
        ] {
            let takes = displaced != Some(attempt);
            assert_eq!(room.has_room(network(host)), takes, "{attempt}");
            let pushed = room.push(now, network(host), attempt);
            if attempt == 8 {
                // Two networks have as many: one of them gives way.
                assert!(matches!(pushed, Some(1 | 6)), "{pushed:?}");
            } else {
                assert_eq!(pushed, displaced);
            }
            assert!(room.len() <= 4);
        }
    }
}

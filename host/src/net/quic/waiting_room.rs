//! The waiting room: attempts to connect for which there is no time yet, oldest first. Pure, time is an argument. Who waits has proved
//! its address, so that nobody fills the room with addresses that are made up. What is begun of it, and when, is decided in
//! `admission`.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::Network;

/// Attempts that may wait. Each is a datagram of 1,200 bytes, its keys, and a few more datagrams when it is sent again: about 4 KiB.
pub(super) const WAITING_MAX: usize = 4_096;

/// How long one waits at most: less than any client's patience with an attempt that was answered, so that hardly any handshake is
/// begun for somebody who has given up.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(4);

/// Part of the room that those of one network may take.
const OF_NETWORK: usize = 4;

/// Attempts in the order in which they came.
#[derive(Debug)]
pub(super) struct WaitingRoom<T> {
    max: usize,
    of_network_max: usize,
    waiting: VecDeque<Waiting<T>>,
    of_network: HashMap<Network, usize>,
}

#[derive(Debug)]
struct Waiting<T> {
    attempt: T,
    network: Network,
    since: Instant,
}

impl<T> WaitingRoom<T> {
    /// One for so many.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            of_network_max: max.div_ceil(OF_NETWORK),
            waiting: VecDeque::new(),
            of_network: HashMap::new(),
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

    /// Whether there is room for one of `network`.
    pub(super) fn has_room(&self, network: Network) -> bool {
        let of_network = self.of_network.get(&network).copied().unwrap_or(0);
        self.len() < self.max && of_network < self.of_network_max
    }

    /// Lets one wait, behind all others. Gives it back when there is no room.
    pub(super) fn push(&mut self, now: Instant, network: Network, attempt: T) -> Result<(), T> {
        if !self.has_room(network) {
            return Err(attempt);
        }
        *self.of_network.entry(network).or_default() += 1;
        self.waiting.push_back(Waiting {
            attempt,
            network,
            since: now,
        });
        Ok(())
    }

    /// Takes the one that has waited longest.
    pub(super) fn pop(&mut self) -> Option<T> {
        let Waiting {
            attempt, network, ..
        } = self.waiting.pop_front()?;
        if let Some(count) = self.of_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.of_network.remove(&network);
            }
        }
        Some(attempt)
    }

    /// Takes one that has waited for too long, if there is any.
    pub(super) fn pop_overdue(&mut self, now: Instant) -> Option<T> {
        self.overdue_at().filter(|at| *at <= now)?;
        self.pop()
    }

    /// When the next one has waited for too long.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        Some(self.waiting.front()?.since + WAIT_MAX)
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

    #[test]
    fn whoever_came_first_goes_first_whatever_its_network() {
        let (mut room, now) = (WaitingRoom::new(8), Instant::now());
        for attempt in 0..4 {
            let pushed = room.push(now, network(attempt % 2), attempt);
            assert_eq!(pushed, Ok(()));
        }
        let order: Vec<usize> = std::iter::from_fn(|| room.pop()).collect();
        assert_eq!(order, [0, 1, 2, 3]);
        assert!(room.is_empty() && room.of_network.is_empty());
    }

    #[test]
    fn who_waited_for_too_long_is_found_and_nobody_else() {
        let (mut room, now) = (WaitingRoom::new(8), Instant::now());
        assert_eq!(room.overdue_at(), None);
        let second = Duration::from_secs(1);
        assert_eq!(room.push(now, network(1), "first"), Ok(()));
        assert_eq!(room.push(now + second, network(1), "second"), Ok(()));
        assert_eq!(room.overdue_at(), Some(now + WAIT_MAX));
        assert_eq!(room.pop_overdue(now + WAIT_MAX - second / 2), None);
        assert_eq!(room.pop_overdue(now + WAIT_MAX), Some("first"));
        assert_eq!(room.pop_overdue(now + WAIT_MAX), None);
        assert_eq!(room.pop_overdue(now + WAIT_MAX + second), Some("second"));
        assert!(room.is_empty());
    }

    #[test]
    fn one_network_does_not_fill_the_room_and_all_together_do_not_overfill_it() {
        let (mut room, now) = (WaitingRoom::new(8), Instant::now());
        for (host, attempt, expected) in [
            (1, 0, Ok(())),
            (1, 1, Ok(())),
            (1, 2, Err(2)),
            (2, 3, Ok(())),
            (2, 4, Ok(())),
            (3, 5, Ok(())),
            (4, 6, Ok(())),
            (5, 7, Ok(())),
            (6, 8, Ok(())),
            (7, 9, Err(9)),
        ] {
            assert_eq!(room.has_room(network(host)), expected.is_ok());
            assert_eq!(room.push(now, network(host), attempt), expected);
        }
        assert_eq!(room.pop(), Some(0));
        assert_eq!(room.push(now, network(1), 10), Ok(()));
    }
}

//! How much of what is written to a connection's streams may wait in this end, sent and not acknowledged or not even sent: as much
//! as the path carries now, and as much again; twice that while packets are lost, since what comes after a lost packet waits for it
//! here although it has arrived, and the path would be idle meanwhile. More would only lie here, and whoever wrote it would believe it to be under way: on
//! a slow link it makes everything behind it late, and credit runs ahead of what the other side has seen. Less would leave the
//! path idle. So the window follows that of congestion control. How the path is measured is not known here.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The least that may wait: what two full frames of small events take, or four seconds of 64 kbit/s.
pub const SEND_WINDOW_BYTES_MIN: u64 = 32 * 1024;

/// What any connection may have waiting, without taking of what is shared. At 1 Gbit/s it fills a path of 16 ms.
pub const SEND_WINDOW_BYTES_FREE: u64 = 4 * 1024 * 1024;

/// What one connection may have waiting at most: it fills a path of 1 Gbit/s and 100 ms, with what is lost of it.
pub const SEND_WINDOW_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// How many times what the path carries may wait.
const TIMES: u64 = 2;
const TIMES_WITH_LOSS: u64 = 4;

/// Packets count as being lost for so many looks at the path after one was: about the time in which two windows are written.
const LOOKS_WITH_LOSS: u64 = 2 * LOOKS_PER_WINDOW;
const LOOKS_PER_WINDOW: u64 = 8;

/// What all connections of a process may have waiting, beyond the [free](SEND_WINDOW_BYTES_FREE) part of each.
#[derive(Debug)]
pub struct SendBudget {
    left: AtomicU64,
}

impl SendBudget {
    /// So many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(bytes),
        })
    }

    // As much of `wanted` as there is.
    fn take(&self, wanted: u64) -> u64 {
        let taken = |left: u64| Some(left.saturating_sub(wanted));
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
        before.unwrap_or_default().min(wanted)
    }

    fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The window of one connection.
#[derive(Debug)]
pub(super) struct SendWindow {
    budget: Arc<SendBudget>,
    bytes: AtomicU64,
    /// Of them, taken of the budget.
    shared: AtomicU64,
    /// Bytes to be written before it is time to look at the path again.
    until_look: AtomicI64,
    /// Packets lost until the last look, and how many more looks count as with loss.
    lost: AtomicU64,
    looks_with_loss: AtomicU64,
}

impl SendWindow {
    /// That of a connection of which nothing is known yet.
    pub(super) fn new(budget: Arc<SendBudget>) -> Self {
        Self {
            budget,
            bytes: AtomicU64::new(SEND_WINDOW_BYTES_MIN),
            shared: AtomicU64::new(0),
            until_look: AtomicI64::new(0),
            lost: AtomicU64::new(0),
            looks_with_loss: AtomicU64::new(0),
        }
    }

    /// Bytes that may wait.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// So many bytes were written. Returns whether it is time to [follow](Self::follow) the path: a few times for each window,
    /// and for one of those who ask.
    pub(super) fn wrote(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self.until_look.fetch_sub(bytes, Ordering::AcqRel);
        before >= 0 && before < bytes
    }

    /// The path carries so many bytes at a time, and has lost so many packets in all. Returns the window if that changes it. For one
    /// caller at a time, as [`wrote`](Self::wrote) chooses them; it says when it has [looked](Self::looked).
    pub(super) fn follow(&self, congestion_window: u64, lost: u64) -> Option<u64> {
        let looks = match self.lost.swap(lost, Ordering::Relaxed) == lost {
            true => self.looks_with_loss.load(Ordering::Relaxed),
            false => LOOKS_WITH_LOSS,
        };
        self.looks_with_loss
            .store(looks.saturating_sub(1), Ordering::Relaxed);
        let times = if looks > 0 { TIMES_WITH_LOSS } else { TIMES };
        let wanted = congestion_window
            .saturating_mul(times)
            .clamp(SEND_WINDOW_BYTES_MIN, SEND_WINDOW_BYTES_MAX);
        let (had, wants) = (
            self.shared.load(Ordering::Relaxed),
            wanted.saturating_sub(SEND_WINDOW_BYTES_FREE),
        );
        let shared = if wants > had {
            had + self.budget.take(wants - had)
        } else {
            self.budget.give_back(had - wants);
            wants
        };
        self.shared.store(shared, Ordering::Relaxed);
        let bytes = wanted.min(SEND_WINDOW_BYTES_FREE + shared);
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        (bytes != before).then_some(bytes)
    }

    /// The path was looked at, and what came of it holds: the next one may look after a part of the window.
    pub(super) fn looked(&self) {
        let next = i64::try_from(self.bytes() / LOOKS_PER_WINDOW).unwrap_or(i64::MAX);
        self.until_look.store(next, Ordering::Release);
    }
}

impl Drop for SendWindow {
    fn drop(&mut self) {
        self.budget.give_back(*self.shared.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_window_is_twice_what_the_path_carries_within_bounds() {
        let window = SendWindow::new(SendBudget::new(u64::MAX >> 1));
        assert_eq!(window.bytes(), SEND_WINDOW_BYTES_MIN);
        assert_eq!(window.follow(1_000, 0), None);
        for (path, bytes) in [
            (MIB, 2 * MIB),
            (12 * MIB, 24 * MIB),
            (u64::MAX, SEND_WINDOW_BYTES_MAX),
            (0, SEND_WINDOW_BYTES_MIN),
        ] {
            assert_eq!(window.follow(path, 0), Some(bytes));
            assert_eq!(window.bytes(), bytes);
        }
    }

    #[test]
    fn while_packets_are_lost_as_much_again_waits_behind_them() {
        let window = SendWindow::new(SendBudget::new(0));
        assert_eq!(window.follow(MIB, 0), Some(2 * MIB));
        assert_eq!(window.follow(MIB, 1), Some(4 * MIB));
        let unchanged = (1..LOOKS_WITH_LOSS).all(|_| window.follow(MIB, 1).is_none());
        assert!(unchanged);
        assert_eq!(window.follow(MIB, 1), Some(2 * MIB));
        assert_eq!(window.follow(MIB, 2), Some(4 * MIB));
    }

    #[test]
    fn what_is_shared_is_given_once_and_given_back() {
        let budget = SendBudget::new(10 * MIB);
        let first = SendWindow::new(budget.clone());
        let second = SendWindow::new(budget.clone());
        assert_eq!(first.follow(6 * MIB, 0), Some(12 * MIB));
        assert_eq!(second.follow(6 * MIB, 0), Some(6 * MIB), "2 were left");
        assert_eq!(first.follow(MIB, 0), Some(2 * MIB));
        assert_eq!(second.follow(6 * MIB, 0), Some(12 * MIB));
        drop(second);
        assert_eq!(first.follow(7 * MIB, 0), Some(14 * MIB));
        drop(first);
        assert_eq!(budget.take(u64::MAX), 10 * MIB);
    }

    #[test]
    fn one_of_the_writers_looks_a_few_times_for_each_window() {
        let window = SendWindow::new(SendBudget::new(0));
        assert!(window.wrote(1), "at once, since nothing is known");
        assert!(!window.wrote(MIB as usize), "somebody else is looking");
        window.follow(MIB, 0);
        assert!(!window.wrote(1), "and still is");
        window.looked();
        let looks = (0..2 * MIB / 1_024).filter(|_| {
            let look = window.wrote(1_024);
            if look {
                window.follow(MIB, 0);
                window.looked();
            }
            look
        });
        assert_eq!(looks.count(), 7);
    }
}

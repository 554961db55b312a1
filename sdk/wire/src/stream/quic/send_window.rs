//! How much of what is written to a connection's streams may wait in this end, sent and not acknowledged or not even sent: as much
//! as the path carries now, and as much again; twice that while packets are lost, since what comes after a lost packet waits for it
//! here although it has arrived, and the path would be idle meanwhile. More would only lie here, and whoever wrote it would believe it
//! to be under way: on a slow link it makes everything behind it late, and credit runs ahead of what the other side has seen. Less
//! would leave the path idle. So the window follows that of congestion control, and who writes nothing any more gives back what it had
//! of what all share. How the path is measured is not known here.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

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
pub struct SendBudget {
    left: AtomicU64,
    /// Who has taken of it.
    takers: Mutex<Vec<Weak<dyn Taker>>>,
}

/// A connection that has taken of a budget.
pub(super) trait Taker: Send + Sync {
    /// Gives back what it has, if it writes nothing any more. Returns whether it has nothing.
    fn rest(&self) -> bool;
}

impl fmt::Debug for SendBudget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SendBudget")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl SendBudget {
    /// So many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(bytes),
            takers: Mutex::default(),
        })
    }

    /// Takes back what those have who have written nothing since this was asked last, and whose peer has been heard since. To be asked
    /// every few seconds, where many connections share a budget.
    pub fn take_back_from_idle(&self) {
        self.takers()
            .retain(|taker| taker.upgrade().is_some_and(|taker| !taker.rest()));
    }

    /// It has taken of this, and is to be asked to rest.
    pub(super) fn list(&self, taker: Weak<dyn Taker>) {
        let mut takers = self.takers();
        // Where nobody takes anything back, those that are gone go now.
        takers.retain(|taker| taker.strong_count() > 0);
        takers.push(taker);
    }

    // A panic elsewhere leaves the list usable.
    fn takers(&self) -> MutexGuard<'_, Vec<Weak<dyn Taker>>> {
        self.takers.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// It is in the budget's list.
    is_listed: AtomicBool,
    /// How it was when the budget was asked for what idle ones have.
    seen: Mutex<Seen>,
}

/// What tells whether a connection is idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    until_look: i64,
    /// Frames sent with what was written, those that were sent again among them.
    frames: u64,
    /// Datagrams that came.
    heard: u64,
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
            is_listed: AtomicBool::new(false),
            seen: Mutex::default(),
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

    /// Whether it has taken of the budget for the first time since it rested, and is to be [listed](SendBudget::list). For who follows.
    pub(super) fn is_to_be_listed(&self) -> bool {
        self.shared.load(Ordering::Relaxed) > 0 && !self.is_listed.swap(true, Ordering::Relaxed)
    }

    /// The budget that it takes of.
    pub(super) fn budget(&self) -> &SendBudget {
        &self.budget
    }

    /// Gives back what it has of the budget if nothing was written since this was asked last, no frame was sent again either, and
    /// something was heard since: so what was written has arrived, and nothing of it lies here. So many frames with data were sent and so
    /// many datagrams came until now. Returns whether it has nothing; `apply` is told the window if that changes it.
    pub(super) fn rest(&self, frames: u64, heard: u64, apply: impl FnOnce(u64)) -> bool {
        let until_look = self.until_look.load(Ordering::Acquire);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if (until_look, frames) != (seen.until_look, seen.frames) {
            *seen = Seen {
                until_look,
                frames,
                heard,
            };
            return false;
        }
        let is_idle = heard > seen.heard && until_look >= 0;
        // From here on this one looks at the path, and nobody else.
        let looks = is_idle
            && self
                .until_look
                .compare_exchange(until_look, -1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if looks {
            self.budget
                .give_back(self.shared.swap(0, Ordering::Relaxed));
            self.is_listed.store(false, Ordering::Relaxed);
            let bytes = self.bytes().min(SEND_WINDOW_BYTES_FREE);
            if self.bytes.swap(bytes, Ordering::Relaxed) != bytes {
                apply(bytes);
            }
            // Whoever writes next looks at once.
            self.until_look.store(0, Ordering::Release);
        }
        looks
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
    fn who_writes_nothing_any_more_gives_back_what_is_shared() {
        let budget = SendBudget::new(10 * MIB);
        let idle = SendWindow::new(budget.clone());
        let busy = SendWindow::new(budget);
        assert!(idle.wrote(1));
        assert!(!idle.is_to_be_listed(), "it has nothing");
        assert_eq!(idle.follow(7 * MIB, 0), Some(14 * MIB));
        assert!(idle.is_to_be_listed());
        assert!(!idle.is_to_be_listed(), "once");
        let unchanged = |bytes| panic!("{bytes}");
        assert!(!idle.rest(1, 1, unchanged), "it was not asked before");
        assert!(!idle.rest(1, 2, unchanged), "somebody looks at the path");
        idle.looked();
        assert!(!idle.rest(1, 2, unchanged));
        assert!(!idle.rest(1, 2, unchanged), "nothing was heard since");
        assert!(!idle.rest(2, 3, unchanged), "something was sent again");
        assert!(!idle.wrote(1));
        assert!(!idle.rest(2, 4, unchanged), "something was written");
        assert_eq!(busy.follow(7 * MIB, 0), Some(SEND_WINDOW_BYTES_FREE));
        let mut window = None;
        assert!(idle.rest(2, 5, |bytes| window = Some(bytes)));
        assert_eq!(window, Some(SEND_WINDOW_BYTES_FREE));
        assert_eq!(busy.follow(7 * MIB, 0), Some(14 * MIB));
        // Whoever writes next looks at once, and takes what there is.
        assert!(idle.wrote(1));
        assert_eq!(busy.follow(MIB, 0), Some(2 * MIB));
        assert_eq!(idle.follow(7 * MIB, 0), Some(14 * MIB));
        assert!(idle.is_to_be_listed());
    }

    #[test]
    fn a_budget_asks_those_that_are_there_until_they_rest() {
        struct Rests(AtomicU64);
        impl Taker for Rests {
            fn rest(&self) -> bool {
                self.0.fetch_add(1, Ordering::Relaxed) == 1
            }
        }
        let budget = SendBudget::new(1);
        let new = || Arc::new(Rests(AtomicU64::new(0)));
        let (there, gone) = (new(), new());
        let taker = |rests: &Arc<Rests>| -> Weak<dyn Taker> { Arc::downgrade(rests) as _ };
        budget.list(taker(&there));
        budget.list(taker(&gone));
        drop(gone);
        for asked in [1, 2, 2] {
            budget.take_back_from_idle();
            assert_eq!(there.0.load(Ordering::Relaxed), asked);
        }
        assert_eq!(budget.takers().len(), 0);
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

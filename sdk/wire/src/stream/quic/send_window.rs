//! How much of what is written to a connection's streams may wait in this end, sent and not acknowledged or not even sent: as much
//! as the path carries now, and as much again; twice that while packets are lost, since what comes after a lost packet waits for it
//! here although it has arrived, and the path would be idle meanwhile. More would only lie here, and whoever wrote it would believe it
//! to be under way: on a slow link it makes everything behind it late, and credit runs ahead of what the other side has seen. Less
//! would leave the path idle. So the window follows that of congestion control, and who writes nothing any more gives back what it had
//! of what all share. Whatever a peer says or does not say, nothing is given back for bytes that still lie here: while a connection has
//! a part of what is shared, each piece that it writes counts until the transport lets go of it, which it does when the
//! piece is acknowledged, or the connection is over. How the path is measured is not known here.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

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
    sharers: Mutex<Sharers>,
}

/// Who has taken of a budget.
#[derive(Default)]
struct Sharers {
    all: Vec<Weak<dyn Sharer>>,
    /// How many there may be before those that are gone are looked for, where nobody takes anything back.
    look_at: usize,
}

/// So many sharers are kept without looking whether they are gone.
const SHARERS_MIN: usize = 64;

/// A connection that has taken of a budget.
pub(super) trait Sharer: Send + Sync {
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
            sharers: Mutex::default(),
        })
    }

    /// Takes back what those have who have written nothing since this was asked last, and of whose bytes none lies here any more. To be
    /// asked every few seconds, where many connections share a budget. For one caller at a time.
    pub fn take_back_from_idle(&self) {
        // Those who come meanwhile do not wait.
        let mut busy = mem::take(&mut self.sharers().all);
        busy.retain(|sharer| sharer.upgrade().is_some_and(|sharer| !sharer.rest()));
        self.sharers().all.append(&mut busy);
    }

    /// It has taken of this, and is to be asked to rest.
    pub(super) fn list(&self, sharer: Weak<dyn Sharer>) {
        let mut sharers = self.sharers();
        if sharers.all.len() >= sharers.look_at {
            sharers.all.retain(|sharer| sharer.strong_count() > 0);
            sharers.look_at = (2 * sharers.all.len()).max(SHARERS_MIN);
        }
        sharers.all.push(sharer);
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    // A panic elsewhere leaves the list usable.
    fn sharers(&self) -> MutexGuard<'_, Sharers> {
        self.sharers.lock().unwrap_or_else(PoisonError::into_inner)
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

/// What one connection has of a budget. It is given back when nothing that was written with it lies here any more.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<SendBudget>,
    taken: AtomicU64,
    /// Bytes that were counted and still lie here.
    lying: AtomicU64,
}

/// A piece that counts for as long as the transport keeps it.
struct Counted {
    piece: Bytes,
    share: Arc<Share>,
}

impl Share {
    /// Whether what is written now is to be [counted](Self::counted). Else all that lies here is the free part.
    pub(super) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed) > 0
    }

    /// The same bytes, which count from now on until nothing has them any more.
    pub(super) fn counted(self: &Arc<Self>, piece: &Bytes) -> Bytes {
        self.lying.fetch_add(piece.len() as u64, Ordering::AcqRel);
        let (piece, share) = (piece.clone(), Arc::clone(self));
        Bytes::from_owner(Counted { piece, share })
    }

    // Has this much, or as much as there is. For one caller at a time.
    fn take(&self, bytes: u64) {
        let had = self.taken.load(Ordering::Relaxed);
        let more = self.budget.take(bytes.saturating_sub(had));
        self.taken.store(had + more, Ordering::Relaxed);
    }

    // Gives back what is beyond this much and beyond what lies here. For one caller at a time, and after the transport was told to
    // take no more.
    fn give_back(&self, beyond: u64) {
        let had = self.taken.load(Ordering::Relaxed);
        let keeps = beyond.max(self.lying.load(Ordering::Acquire)).min(had);
        self.taken.store(keeps, Ordering::Relaxed);
        self.budget.give_back(had - keeps);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(*self.taken.get_mut());
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let bytes = self.piece.len() as u64;
        self.share.lying.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// The window of one connection.
#[derive(Debug)]
pub(super) struct SendWindow {
    /// Of the bytes, what is taken of the budget.
    share: Arc<Share>,
    bytes: AtomicU64,
    /// Bytes to be written before it is time to look at the path again.
    until_look: AtomicI64,
    /// Packets lost until the last look, and how many more looks count as with loss.
    lost: AtomicU64,
    looks_with_loss: AtomicU64,
    /// It is in the budget's list.
    is_listed: AtomicBool,
    /// What was left until a look when the budget was asked for what idle ones have.
    seen: AtomicI64,
}

impl SendWindow {
    /// That of a connection of which nothing is known yet.
    pub(super) fn new(budget: Arc<SendBudget>) -> Self {
        Self {
            share: Arc::new(Share {
                budget,
                taken: AtomicU64::new(0),
                lying: AtomicU64::new(0),
            }),
            bytes: AtomicU64::new(SEND_WINDOW_BYTES_MIN),
            until_look: AtomicI64::new(0),
            lost: AtomicU64::new(0),
            looks_with_loss: AtomicU64::new(0),
            is_listed: AtomicBool::new(false),
            seen: AtomicI64::new(-1),
        }
    }

    /// Bytes that may wait.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What it has of the budget.
    pub(super) fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// So many bytes were written. Returns whether it is time to [follow](Self::follow) the path: a few times for each window,
    /// and for one of those who ask.
    pub(super) fn wrote(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self.until_look.fetch_sub(bytes, Ordering::AcqRel);
        before >= 0 && before < bytes
    }

    /// The path carries so many bytes at a time, and has lost so many packets in all; `apply` is told the window if that changes it. For
    /// one caller at a time, as [`wrote`](Self::wrote) chooses them; it says when it has [looked](Self::looked).
    pub(super) fn follow(&self, congestion_window: u64, lost: u64, apply: impl FnOnce(u64)) {
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
        let wants = wanted.saturating_sub(SEND_WINDOW_BYTES_FREE);
        self.share.take(wants);
        let taken = self.share.taken.load(Ordering::Relaxed);
        self.set(wanted.min(SEND_WINDOW_BYTES_FREE + taken), apply);
        self.share.give_back(wants);
    }

    fn set(&self, bytes: u64, apply: impl FnOnce(u64)) {
        if self.bytes.swap(bytes, Ordering::Relaxed) != bytes {
            apply(bytes);
        }
    }

    /// Whether it has taken of the budget for the first time since it rested, and is to be [listed](SendBudget::list). For who follows.
    pub(super) fn is_to_be_listed(&self) -> bool {
        self.share.is_taken() && !self.is_listed.swap(true, Ordering::Relaxed)
    }

    /// The budget that it takes of.
    pub(super) fn budget(&self) -> &SendBudget {
        &self.share.budget
    }

    /// Gives back what it has of the budget if nothing was written since this was asked last, and nothing of what was written with it lies
    /// here. Returns whether it has nothing; `apply` is told the window if that changes it.
    pub(super) fn rest(&self, apply: impl FnOnce(u64)) -> bool {
        let until_look = self.until_look.load(Ordering::Acquire);
        let is_idle = self.seen.swap(until_look, Ordering::Relaxed) == until_look
            && until_look >= 0
            && self.share.lying.load(Ordering::Acquire) == 0;
        // From here on this one looks at the path, and nobody else.
        let looks = is_idle
            && self
                .until_look
                .compare_exchange(until_look, -1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if !looks {
            return false;
        }
        self.set(self.bytes().min(SEND_WINDOW_BYTES_FREE), apply);
        self.share.give_back(0);
        // Somebody may have begun to write meanwhile.
        let has_nothing = !self.share.is_taken();
        self.is_listed.store(!has_nothing, Ordering::Relaxed);
        // Whoever writes next looks at once.
        self.until_look.store(0, Ordering::Release);
        has_nothing
    }

    /// The path was looked at, and what came of it holds: the next one may look after a part of the window.
    pub(super) fn looked(&self) {
        let next = i64::try_from(self.bytes() / LOOKS_PER_WINDOW).unwrap_or(i64::MAX);
        self.until_look.store(next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    impl SendWindow {
        // The window, if it is another one now.
        fn following(&self, congestion_window: u64, lost: u64) -> Option<u64> {
            let mut window = None;
            self.follow(congestion_window, lost, |bytes| window = Some(bytes));
            window
        }
    }

    #[test]
    fn a_window_is_twice_what_the_path_carries_within_bounds() {
        let window = SendWindow::new(SendBudget::new(u64::MAX >> 1));
        assert_eq!(window.bytes(), SEND_WINDOW_BYTES_MIN);
        assert_eq!(window.following(1_000, 0), None);
        for (path, bytes) in [
            (MIB, 2 * MIB),
            (12 * MIB, 24 * MIB),
            (u64::MAX, SEND_WINDOW_BYTES_MAX),
            (0, SEND_WINDOW_BYTES_MIN),
        ] {
            assert_eq!(window.following(path, 0), Some(bytes));
            assert_eq!(window.bytes(), bytes);
        }
    }

    #[test]
    fn while_packets_are_lost_as_much_again_waits_behind_them() {
        let window = SendWindow::new(SendBudget::new(0));
        assert_eq!(window.following(MIB, 0), Some(2 * MIB));
        assert_eq!(window.following(MIB, 1), Some(4 * MIB));
        let unchanged = (1..LOOKS_WITH_LOSS).all(|_| window.following(MIB, 1).is_none());
        assert!(unchanged);
        assert_eq!(window.following(MIB, 1), Some(2 * MIB));
        assert_eq!(window.following(MIB, 2), Some(4 * MIB));
    }

    #[test]
    fn what_is_shared_is_given_once_and_given_back() {
        let budget = SendBudget::new(10 * MIB);
        let first = SendWindow::new(budget.clone());
        let second = SendWindow::new(budget.clone());
        assert_eq!(first.following(6 * MIB, 0), Some(12 * MIB));
        assert_eq!(second.following(6 * MIB, 0), Some(6 * MIB), "2 were left");
        assert_eq!(first.following(MIB, 0), Some(2 * MIB));
        assert_eq!(second.following(6 * MIB, 0), Some(12 * MIB));
        drop(second);
        assert_eq!(first.following(7 * MIB, 0), Some(14 * MIB));
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
        assert_eq!(idle.following(7 * MIB, 0), Some(14 * MIB));
        assert!(idle.is_to_be_listed());
        assert!(!idle.is_to_be_listed(), "once");
        let unchanged = |bytes| panic!("{bytes}");
        assert!(!idle.rest(unchanged), "somebody looks at the path");
        assert!(!idle.rest(unchanged), "and still does");
        idle.looked();
        assert!(!idle.rest(unchanged), "it was not asked before");
        assert!(!idle.wrote(1));
        assert!(!idle.rest(unchanged), "something was written");
        assert_eq!(busy.following(7 * MIB, 0), Some(SEND_WINDOW_BYTES_FREE));
        let mut window = None;
        assert!(idle.rest(|bytes| window = Some(bytes)));
        assert_eq!(window, Some(SEND_WINDOW_BYTES_FREE));
        assert_eq!(busy.following(7 * MIB, 0), Some(14 * MIB));
        // Whoever writes next looks at once, and takes what there is.
        assert!(idle.wrote(1));
        assert_eq!(busy.following(MIB, 0), Some(2 * MIB));
        assert_eq!(idle.following(7 * MIB, 0), Some(14 * MIB));
        assert!(idle.is_to_be_listed());
    }

    #[test]
    fn nothing_is_given_back_for_what_still_lies_here() {
        let budget = SendBudget::new(20 * MIB);
        let left = || budget.left();
        let window = SendWindow::new(budget.clone());
        assert!(!window.share().is_taken());
        assert_eq!(window.following(10 * MIB, 0), Some(20 * MIB));
        assert!(window.share().is_taken());
        let mebibytes = |count: u64| Bytes::from(vec![7; usize::try_from(count * MIB).unwrap()]);
        let mut piece = window.share().counted(&mebibytes(6));
        let other = window.share().counted(&mebibytes(3));
        assert_eq!(piece, mebibytes(6));
        // The path is a bad one now.
        assert_eq!(window.following(MIB, 0), Some(2 * MIB));
        assert_eq!(left(), 11 * MIB);
        let part = piece.split_to(1);
        drop((piece, other));
        assert_eq!(window.following(MIB, 0), None);
        assert_eq!(
            left(),
            14 * MIB,
            "a piece lies here until all of it is gone"
        );
        // It writes nothing any more.
        window.looked();
        let unchanged = |bytes| panic!("{bytes}");
        assert!(!window.rest(unchanged));
        assert!(!window.rest(unchanged));
        assert_eq!(left(), 14 * MIB);
        drop(part);
        assert!(window.rest(unchanged));
        assert_eq!(left(), 20 * MIB);
        // It is gone, and what it wrote is not.
        assert_eq!(window.following(10 * MIB, 0), Some(20 * MIB));
        let piece = window.share().counted(&mebibytes(1));
        drop(window);
        assert_eq!(left(), 4 * MIB);
        drop(piece);
        assert_eq!(left(), 20 * MIB);
    }

    #[test]
    fn a_budget_asks_those_that_are_there_until_they_rest() {
        struct Rests(AtomicU64);
        impl Sharer for Rests {
            fn rest(&self) -> bool {
                self.0.fetch_add(1, Ordering::Relaxed) == 1
            }
        }
        let budget = SendBudget::new(1);
        let new = || Arc::new(Rests(AtomicU64::new(0)));
        let (there, gone) = (new(), new());
        let sharer = |rests: &Arc<Rests>| -> Weak<dyn Sharer> { Arc::downgrade(rests) as _ };
        budget.list(sharer(&there));
        budget.list(sharer(&gone));
        drop(gone);
        for asked in [1, 2, 2] {
            budget.take_back_from_idle();
            assert_eq!(there.0.load(Ordering::Relaxed), asked);
        }
        assert_eq!(budget.sharers().all.len(), 0);
    }

    #[test]
    fn who_is_gone_is_not_kept_where_nobody_takes_anything_back() {
        struct Never;
        impl Sharer for Never {
            fn rest(&self) -> bool {
                panic!("nobody asks");
            }
        }
        let budget = SendBudget::new(1);
        let there: Arc<dyn Sharer> = Arc::new(Never);
        budget.list(Arc::downgrade(&there));
        for _ in 0..10 * SHARERS_MIN {
            let gone: Arc<dyn Sharer> = Arc::new(Never);
            budget.list(Arc::downgrade(&gone));
        }
        let sharers = budget.sharers();
        assert!(sharers.all.len() <= SHARERS_MIN);
        let left = sharers
            .all
            .iter()
            .filter(|sharer| sharer.strong_count() > 0);
        assert_eq!(left.count(), 1);
    }

    #[test]
    fn one_of_the_writers_looks_a_few_times_for_each_window() {
        let window = SendWindow::new(SendBudget::new(0));
        assert!(window.wrote(1), "at once, since nothing is known");
        assert!(!window.wrote(MIB as usize), "somebody else is looking");
        window.following(MIB, 0);
        assert!(!window.wrote(1), "and still is");
        window.looked();
        let looks = (0..2 * MIB / 1_024).filter(|_| {
            let look = window.wrote(1_024);
            if look {
                window.following(MIB, 0);
                window.looked();
            }
            look
        });
        assert_eq!(looks.count(), 7);
    }
}

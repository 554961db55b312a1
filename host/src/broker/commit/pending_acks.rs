//! Acks on their way to the journal: collected by subscription, taken by the committer for its next group. How many may wait is
//! bounded by who hands events out, not by who acks: an ack is never refused and never waits, but while too many wait, nothing
//! new is leased, so what can still be acked is what is in flight.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::{Position, SubscriptionId};
use crate::state::ranges::push_range;

/// Ranges of acks that may wait before nothing more is handed out: 16 MiB of them. A group is written within milliseconds, so
/// this many wait only while the disk stands still.
const RANGES_MAX: usize = 1 << 20;

/// Acks by subscription. Owned by the registry.
pub(crate) struct PendingAcks {
    by_subscription: Mutex<HashMap<SubscriptionId, Vec<RangeInclusive<Position>>>>,
    // Ranges in the map, written under its lock.
    ranges: AtomicUsize,
    ranges_max: usize,
    taken: Notify,
}

impl Default for PendingAcks {
    fn default() -> Self {
        Self {
            by_subscription: Mutex::default(),
            ranges: AtomicUsize::new(0),
            ranges_max: RANGES_MAX,
            taken: Notify::new(),
        }
    }
}

impl PendingAcks {
    /// Adds acks of `id`.
    pub(crate) fn add(&self, id: SubscriptionId, acked: Vec<RangeInclusive<Position>>) {
        let mut acks = self.lock();
        let ranges = acks.entry(id).or_default();
        let before = ranges.len();
        for range in acked {
            push_range(ranges, range);
        }
        self.ranges
            .fetch_add(ranges.len() - before, Ordering::Relaxed);
    }

    /// Drops those of a subscription that was deleted.
    pub(crate) fn forget(&self, id: SubscriptionId) {
        let mut acks = self.lock();
        let forgotten = acks.remove(&id).map_or(0, |ranges| ranges.len());
        self.ranges.fetch_sub(forgotten, Ordering::Relaxed);
        drop(acks);
        self.taken.notify_waiters();
    }

    /// All since the last call.
    pub(crate) fn take(&self) -> HashMap<SubscriptionId, Vec<RangeInclusive<Position>>> {
        let taken = {
            let mut acks = self.lock();
            self.ranges.store(0, Ordering::Relaxed);
            std::mem::take(&mut *acks)
        };
        if !taken.is_empty() {
            self.taken.notify_waiters();
        }
        taken
    }

    /// Waits while too many acks wait. Cancel-safe.
    pub(crate) async fn room(&self) {
        while self.is_full() {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            // Registered before looking, so that what is taken in between is not missed.
            taken.as_mut().enable();
            if !self.is_full() {
                return;
            }
            taken.await;
        }
    }

    fn is_full(&self) -> bool {
        self.ranges.load(Ordering::Relaxed) >= self.ranges_max
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SubscriptionId, Vec<RangeInclusive<Position>>>> {
        self.by_subscription
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn acks(ranges_max: usize) -> PendingAcks {
        PendingAcks {
            ranges_max,
            ..PendingAcks::default()
        }
    }

    fn every_second(count: u64) -> Vec<RangeInclusive<Position>> {
        let single = |number| Position(2 * number)..=Position(2 * number);
        (0..count).map(single).collect()
    }

    #[test]
    fn while_too_many_wait_nothing_more_is_handed_out() {
        let acks = acks(10);
        acks.add(SubscriptionId(1), every_second(9));
        assert!(acks.room().now_or_never().is_some());
        acks.add(SubscriptionId(2), every_second(1));
        let mut room = Box::pin(acks.room());
        assert!(room.as_mut().now_or_never().is_none());
        assert_eq!(acks.take().len(), 2);
        assert!(room.now_or_never().is_some());
    }

    #[test]
    fn neighbours_count_once_and_a_deleted_subscription_not_at_all() {
        let acks = acks(2);
        for number in 0..100 {
            acks.add(SubscriptionId(1), vec![Position(number)..=Position(number)]);
        }
        assert!(acks.room().now_or_never().is_some());
        acks.add(SubscriptionId(2), every_second(5));
        assert!(acks.room().now_or_never().is_none());
        acks.forget(SubscriptionId(2));
        assert!(acks.room().now_or_never().is_some());
    }
}

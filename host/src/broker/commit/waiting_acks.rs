//! Acks on their way to the journal, collected by subscription. How many may wait is bounded by who hands events out, not by who
//! acks: an ack is never refused and never waits, but while too many wait, nothing new is leased, so what can still be acked is
//! what is in flight. Part of the inbox, which has the lock and wakes whoever waits.

use std::ops::RangeInclusive;

use rustc_hash::FxHashMap;

use crate::domain::{Position, SubscriptionId};
use crate::state::range_map::push_range;

/// Ranges of acks that may wait before nothing more is handed out: 16 MiB of them. A group is written within milliseconds, so
/// this many wait only while the disk stands still.
pub(super) const RANGES_MAX: usize = bound!(1 << 20, 64);

/// What each subscription is done with, in an order that can be repeated, since it is that in which it is written down.
pub(crate) type Acks = FxHashMap<SubscriptionId, Vec<RangeInclusive<Position>>>;

/// The acks that wait.
#[derive(Default)]
pub(super) struct WaitingAcks {
    by_subscription: Acks,
    ranges: usize,
}

impl WaitingAcks {
    /// Adds acks of `id`. Neighbours become one range.
    pub(super) fn add(&mut self, id: SubscriptionId, acked: Vec<RangeInclusive<Position>>) {
        let ranges = self.by_subscription.entry(id).or_default();
        let before = ranges.len();
        for range in acked {
            push_range(ranges, range);
        }
        self.ranges += ranges.len() - before;
    }

    /// Drops those of a subscription that was deleted.
    pub(super) fn forget(&mut self, id: SubscriptionId) {
        let forgotten = self.by_subscription.remove(&id);
        self.ranges -= forgotten.map_or(0, |ranges| ranges.len());
    }

    /// All since the last call.
    pub(super) fn take(&mut self) -> Acks {
        self.ranges = 0;
        std::mem::take(&mut self.by_subscription)
    }

    /// How many ranges wait.
    pub(super) fn ranges(&self) -> usize {
        self.ranges
    }
}

//! Consumers that only look. They are shown pending events in order of commit, each once, wherever these are: waiting, delayed
//! or in others' hands. They hold nothing, so looking takes no place of the window, has no deadline and no answer, counts
//! no attempt, and makes nobody suspect, however it ends.

use std::ops::RangeInclusive;

use super::SubscriptionState;
use super::lease_budget::{Lease, push_leases, spend};
use crate::domain::{ConsumerId, Position};

impl SubscriptionState {
    /// Attaches a consumer that only looks: what [`lease`](Self::lease) shows it, it does not hold.
    pub fn attach_to_look(&mut self, consumer: ConsumerId) {
        let consumer = self.consumers.entry(consumer).or_default();
        consumer.looks_from = Some(consumer.looks_from.unwrap_or_default());
    }

    // What is given up is not shown: nobody will get it.
    pub(super) fn show(
        &mut self,
        consumer: ConsumerId,
        from: u64,
        events_max: usize,
        out: &mut Vec<Lease>,
    ) {
        let mut budget = events_max as u64;
        let mut next = from;
        let given_up = self.given_up.all();
        let pending = self.pending.ranges(from, u64::MAX);
        for (first, last) in pending.flat_map(|(first, last)| given_up.gaps(first, last)) {
            let Some(last) = spend(&mut budget, first, last) else {
                break;
            };
            self.tries.show(first, last, |first, last, tried| {
                let attempt = tried.handed.saturating_add(1);
                push_leases(out, first..last + 1, attempt, false);
            });
            next = last + 1;
        }
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            consumer.looks_from = Some(next);
        }
    }

    // What was not sent to one that looks is shown to it again. False for any other consumer.
    pub(super) fn show_again(
        &mut self,
        consumer: ConsumerId,
        unsent: &[RangeInclusive<Position>],
    ) -> bool {
        let consumer = self.consumers.get_mut(&consumer);
        let Some(from) = consumer.and_then(|consumer| consumer.looks_from.as_mut()) else {
            return false;
        };
        let first = unsent.iter().map(|range| range.start().0).min();
        *from = first.map_or(*from, |first| first.min(*from));
        self.effects.wakes = true;
        true
    }
}

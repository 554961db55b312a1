//! What became of events that came back, and of whole subscriptions that stand still, on its way to the journal. What waits is said
//! once more when its group could not be written; of an event only what was said last counts, so while there is no room for it the
//! oldest of very much may be forgotten, of whichever subscription has most. Part of the inbox, which has the lock and wakes whoever waits.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::domain::SubscriptionId;
use crate::state::{CameBack, Next};

/// What one range of acks takes. The room for both is counted in these.
const RANGE_BYTES: usize = 16;
/// Of what could not be written, no more than this waits for the next try: 4 MiB.
const AGAIN_COST_MAX: usize = (4 << 20) / RANGE_BYTES;

/// What waits.
#[derive(Clone, Default)]
pub(crate) struct Returns {
    /// What came back, in order.
    pub(crate) came_back: FxHashMap<SubscriptionId, Vec<CameBack>>,
    /// Why each stands still since, or that it goes on.
    pub(crate) paused: FxHashMap<SubscriptionId, Option<Arc<str>>>,
    cost: usize,
}

impl Returns {
    pub(super) fn came_back(&mut self, id: SubscriptionId, mut back: Vec<CameBack>) {
        self.cost += cost_of(&back);
        self.came_back.entry(id).or_default().append(&mut back);
    }

    pub(super) fn paused(&mut self, id: SubscriptionId, why: Option<Arc<str>>) {
        self.paused.insert(id, why);
    }

    /// Drops what is said of a subscription that was deleted.
    pub(super) fn forget(&mut self, id: SubscriptionId) {
        let forgotten = self.came_back.remove(&id);
        self.cost -= forgotten.map_or(0, |entries| cost_of(&entries));
        self.paused.remove(&id);
    }

    /// Drops what is said of subscriptions that there are not.
    pub(super) fn keep_only(&mut self, is_there: impl Fn(SubscriptionId) -> bool) {
        self.came_back.retain(|id, _| is_there(*id));
        self.paused.retain(|id, _| is_there(*id));
        self.cost = self.came_back.values().map(|back| cost_of(back)).sum();
    }

    /// Takes back what was taken and not written; what was said since comes after it.
    pub(super) fn again(&mut self, earlier: Self) {
        for (id, mut back) in earlier.came_back {
            let newer = self.came_back.entry(id).or_default();
            back.append(newer);
            *newer = back;
        }
        for (id, why) in earlier.paused {
            self.paused.entry(id).or_insert(why);
        }
        self.cost += earlier.cost;
        self.forget_oldest(AGAIN_COST_MAX);
    }

    // None has more than its share afterwards, so the flood of one takes nothing from those that have little.
    fn forget_oldest(&mut self, cost_max: usize) {
        if self.cost <= cost_max {
            return;
        }
        let costs = self.came_back.values().map(|back| cost_of(back)).collect();
        let share = fair_share(costs, cost_max);
        for back in self.came_back.values_mut() {
            let mut excess = cost_of(back).saturating_sub(share);
            let mut oldest = 0;
            while excess > 0
                && let Some(back) = back.get(oldest)
            {
                excess = excess.saturating_sub(cost(back));
                oldest += 1;
            }
            back.drain(..oldest);
        }
        self.cost = self.came_back.values().map(|back| cost_of(back)).sum();
    }

    /// Takes out what came back.
    pub(super) fn take_came_back(&mut self) -> Self {
        Self {
            came_back: std::mem::take(&mut self.came_back),
            paused: FxHashMap::default(),
            cost: std::mem::take(&mut self.cost),
        }
    }

    /// What waits takes as much memory as so many ranges of acks.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.came_back.is_empty() && self.paused.is_empty()
    }
}

fn cost_of(back: &[CameBack]) -> usize {
    back.iter().map(cost).sum()
}

fn cost(back: &CameBack) -> usize {
    let reason = match &back.next {
        Next::GivenUp(reason) => reason.said().len(),
        Next::Ready | Next::At(_) => 0,
    };
    (size_of::<CameBack>() + reason).div_ceil(RANGE_BYTES)
}

// How much each may have of `all`, so that those that want less have what they want.
fn fair_share(mut wanted: Vec<usize>, all: usize) -> usize {
    wanted.sort_unstable();
    let (mut left, mut others) = (all, wanted.len());
    for wanted in wanted {
        if wanted > left / others {
            return left / others;
        }
        left -= wanted;
        others -= 1;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::GiveUpReason;

    fn back(first: u64, handed: u32) -> CameBack {
        CameBack {
            first,
            more: 0,
            failed: handed,
            handed,
            suspect: false,
            next: Next::Ready,
        }
    }

    #[test]
    fn what_was_not_written_comes_first_and_what_was_said_last_counts() {
        let (one, other) = (SubscriptionId(1), SubscriptionId(2));
        let mut earlier = Returns::default();
        earlier.came_back(one, vec![back(7, 1)]);
        earlier.paused(one, Some("so".into()));
        earlier.paused(other, Some("so".into()));
        let mut waiting = Returns::default();
        waiting.came_back(one, vec![back(7, 2)]);
        waiting.paused(one, None);
        waiting.again(earlier);
        assert_eq!(waiting.came_back[&one], [back(7, 1), back(7, 2)]);
        assert_eq!(waiting.paused[&one], None);
        assert_eq!(waiting.paused[&other].as_deref(), Some("so"));
        assert_eq!(waiting.cost(), 2 * cost(&back(7, 1)));
        waiting.forget(one);
        assert_eq!((waiting.cost(), waiting.paused.len()), (0, 1));
        waiting.came_back(one, vec![back(7, 1)]);
        waiting.keep_only(|id| id == one);
        assert_eq!((waiting.came_back.len(), waiting.paused.len()), (1, 0));
    }

    #[test]
    fn the_oldest_of_very_much_that_cannot_be_written_is_forgotten() {
        let (many, few) = (SubscriptionId(1), SubscriptionId(2));
        let each = cost(&back(7, 1));
        let entries = u32::try_from(AGAIN_COST_MAX / each).expect("it is small");
        let mut waiting = Returns::default();
        for id in (3..1_000).map(SubscriptionId) {
            waiting.came_back(id, vec![back(7, 1)]);
        }
        let mut earlier = Returns::default();
        earlier.came_back(many, (1..=entries).map(|handed| back(7, handed)).collect());
        earlier.came_back(few, vec![back(7, 1)]);
        waiting.came_back(many, vec![back(7, entries + 1)]);
        waiting.again(earlier);
        assert!(waiting.cost() <= AGAIN_COST_MAX);
        assert!(waiting.cost() > AGAIN_COST_MAX - 2 * each);
        let left = &waiting.came_back[&many];
        assert_eq!(left[left.len() - 1].handed, entries + 1);
        assert_eq!(left[0].handed as usize, 2 + entries as usize - left.len());
        waiting.came_back.remove(&many);
        assert_eq!(waiting.came_back.len(), 998);
        assert!(waiting.came_back.values().all(|back| back.len() == 1));
    }

    #[test]
    fn what_was_said_of_an_event_counts() {
        let mut given_up = back(7, 1);
        given_up.next = Next::GivenUp(GiveUpReason::Terminated("x".repeat(1_024).into()));
        assert_eq!(cost(&given_up), cost(&back(7, 1)) + 1_024 / RANGE_BYTES);
        let mut waiting = Returns::default();
        waiting.came_back(SubscriptionId(1), vec![given_up; 10_000]);
        assert!(waiting.cost() * RANGE_BYTES > 10_000 * 1_024);
    }
}

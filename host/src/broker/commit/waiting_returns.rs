//! What became of events that came back, and of whole subscriptions that stand still, on its way to the journal. What waits is said
//! once more when its group could not be written; of an event only what was said last counts, so while the disk is full the
//! oldest of very much may be forgotten. Part of the inbox, which has the lock and wakes whoever waits.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::domain::SubscriptionId;
use crate::state::CameBack;

/// Of what could not be written, no more entries than these wait for the next try: about 4 MiB of them.
const AGAIN_MAX: usize = 64 * 1024;

/// What waits.
#[derive(Clone, Default)]
pub(crate) struct Returns {
    /// What came back, in order.
    pub(crate) came_back: FxHashMap<SubscriptionId, Vec<CameBack>>,
    /// Why each stands still since, or that it goes on.
    pub(crate) paused: FxHashMap<SubscriptionId, Option<Arc<str>>>,
    entries: usize,
}

impl Returns {
    pub(super) fn came_back(&mut self, id: SubscriptionId, mut back: Vec<CameBack>) {
        self.entries += back.len();
        self.came_back.entry(id).or_default().append(&mut back);
    }

    pub(super) fn paused(&mut self, id: SubscriptionId, why: Option<Arc<str>>) {
        self.paused.insert(id, why);
    }

    /// Drops what is said of a subscription that was deleted.
    pub(super) fn forget(&mut self, id: SubscriptionId) {
        let forgotten = self.came_back.remove(&id);
        self.entries -= forgotten.map_or(0, |entries| entries.len());
        self.paused.remove(&id);
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
        self.entries += earlier.entries;
        for back in self.came_back.values_mut() {
            let excess = self.entries.saturating_sub(AGAIN_MAX).min(back.len());
            back.drain(..excess);
            self.entries -= excess;
        }
    }

    /// Takes out what came back.
    pub(super) fn take_came_back(&mut self) -> Self {
        Self {
            came_back: std::mem::take(&mut self.came_back),
            paused: FxHashMap::default(),
            entries: std::mem::take(&mut self.entries),
        }
    }

    /// How many entries wait.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.came_back.is_empty() && self.paused.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Next;

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
        assert_eq!(waiting.entries(), 2);
        waiting.forget(one);
        assert_eq!((waiting.entries(), waiting.paused.len()), (0, 1));
    }

    #[test]
    fn the_oldest_of_very_much_that_cannot_be_written_is_forgotten() {
        let id = SubscriptionId(1);
        let (mut earlier, mut waiting) = (Returns::default(), Returns::default());
        let many = u32::try_from(AGAIN_MAX).expect("it is small");
        earlier.came_back(id, (1..=many).map(|handed| back(7, handed)).collect());
        waiting.came_back(id, vec![back(7, many + 1)]);
        waiting.again(earlier);
        let left = &waiting.came_back[&id];
        assert_eq!((left.len(), waiting.entries()), (AGAIN_MAX, AGAIN_MAX));
        assert_eq!((left[0].handed, left[AGAIN_MAX - 1].handed), (2, many + 1));
    }
}

//! Whether batches wait for company. Where a thousand connections publish one event each, little waits whenever the committer comes
//! back, and a group of seven costs nearly as much processor time as one of thirty. So it lets more gather, if nobody loses by
//! that: only batches of publishers that come seldom wait, and only as long as they would for a few groups. Who waits, and who is
//! woken, is the inbox's business. Pure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest wait, from when the committer is done with the group before.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(1);
/// A publisher comes seldom when it left out so many groups in between. A closed loop of fewer than twice as many publishers never
/// waits, and no group becomes larger by waiting than this part of those who publish.
const SELDOM_GROUPS: u64 = 32;
/// Fewer batches in the group before are not many publishers, but few that happened to meet.
const SEVERAL: usize = 3;

/// When a publish stream was here last.
#[derive(Debug, Default)]
pub(crate) struct LastCame {
    // Groups until then, and one more; 0 before the first batch. Only its stream writes it.
    groups: AtomicU64,
}

/// What is known of the last groups, and of what waits now.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// Groups with publishes.
    groups: u64,
    /// Batches of the last group, and of the one before.
    batches: [usize; 2],
    /// Somebody waits who comes often, or is left over from the group before.
    is_awaited: bool,
}

impl Company {
    /// A batch came, of a stream that was here `last`.
    pub(super) fn came(&mut self, last: &LastCame) {
        let now = self.groups + 1;
        let before = last.groups.swap(now, Ordering::Relaxed);
        self.is_awaited |= before == 0 || now - before <= SELDOM_GROUPS;
    }

    /// A group has so many batches, and `left` are left over.
    pub(super) fn taken(&mut self, batches: usize, left: usize) {
        if batches > 0 {
            self.groups += 1;
            self.batches = [batches, self.batches[0]];
        }
        self.is_awaited = left > 0;
    }

    /// Whether the `batches` that wait, wait for others; or those that will come, when there are none yet. For [`WAIT_MAX`] at most,
    /// and while they are small.
    pub(super) fn waits(&self, batches: usize) -> bool {
        let [last, before] = self.batches;
        !self.is_awaited && last >= SEVERAL && batches < last + before
    }
}

//! Whether publishers that come seldom wait for each other's batches. Where a thousand connections publish one event each, little waits whenever the committer comes
//! back, and a group of seven costs nearly as much processor time as one of thirty. So it lets more gather, if nobody loses by
//! that: only batches of publishers that come seldom wait, and only as long as they would for a few groups. Who waits, and who is
//! woken, is the inbox's business; how long acks wait, the committer's (`ACK_DELAY`). Pure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest wait, from when the committer is done with the group before.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(1);
/// A publisher comes seldom when it left out so many groups in between. A closed loop of fewer than twice as many publishers never
/// waits. A group that waits becomes as large as the last two, of more groups than this in which nobody was twice; where those are
/// alike, that is two of this many parts of those who publish: a 16th.
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
pub(super) struct SeldomPublishers {
    /// Groups with publishes.
    groups: u64,
    /// Batches of the last group, and of the one before.
    batches: [usize; 2],
    /// Somebody waits who comes often, or is left over from the group before.
    is_awaited: bool,
}

impl SeldomPublishers {
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

#[cfg(test)]
mod tests {
    use super::*;

    // So many streams, each of which has been here once, in groups of `group`, which is how they come again.
    fn in_turn(streams: usize, group: usize) -> (SeldomPublishers, Vec<LastCame>) {
        let mut known = SeldomPublishers::default();
        let streams: Vec<_> = (0..streams).map(|_| LastCame::default()).collect();
        for come in streams.chunks(group) {
            come.iter().for_each(|stream| known.came(stream));
            assert!(!known.waits(come.len()), "of the new nobody waits");
            known.taken(come.len(), 0);
        }
        (known, streams)
    }

    // Whether those wait who come again in this order.
    fn ever_waits(streams: usize, group: usize) -> bool {
        let (mut known, streams) = in_turn(streams, group);
        let mut waits = false;
        for _ in 0..10 {
            for come in streams.chunks(group) {
                come.iter().for_each(|stream| known.came(stream));
                waits |= known.waits(come.len());
                known.taken(come.len(), 0);
            }
        }
        waits
    }

    #[test]
    fn who_left_out_fewer_groups_than_the_bound_waits_for_nobody() {
        for (left_out, waits) in [
            (0, false),
            (1, false),
            (31, false),
            (32, true),
            (1_000, true),
        ] {
            let (mut known, _) = in_turn(400, 4);
            let stream = LastCame::default();
            known.came(&stream);
            known.taken(4, 0);
            for _ in 0..left_out {
                known.taken(4, 0);
            }
            known.came(&stream);
            assert_eq!(known.waits(1), waits, "{left_out} left out");
            // Who was in the last one does not.
            known.taken(4, 0);
            known.came(&stream);
            assert!(!known.waits(1));
        }
    }

    #[test]
    fn no_closed_loop_of_fewer_than_twice_the_bound_waits() {
        for streams in [1, 2, 30, 31, 32, 33, 62, 63] {
            for group in 1..=streams {
                assert!(!ever_waits(streams, group), "{streams} in {group}s");
            }
        }
        // The smallest that may: groups that are several, and one more of them than the bound.
        for group in [SEVERAL, 4, 30] {
            let bound = 32 * group;
            assert!(!ever_waits(bound, group), "32 groups of {group}");
            assert!(ever_waits(bound + group, group), "33 groups of {group}");
        }
        assert!(!ever_waits(33 * 2, 2), "two are not several");
    }

    #[test]
    fn where_groups_are_alike_one_that_waits_is_a_sixteenth_of_those_who_publish() {
        let (mut known, streams) = in_turn(33 * 30, 30);
        streams[..30].iter().for_each(|stream| known.came(stream));
        assert!(known.waits(30) && known.waits(59));
        assert!(!known.waits(60), "60 of 990");
        // Whoever comes after these was in one of the last groups.
        known.taken(60, 0);
        known.came(&streams[60]);
        assert!(!known.waits(1));
    }
}

//! One consumer of a subscription: what it holds, and until when. Why it holds that is not known here.

use crate::domain::Millis;
use crate::state::range_map::RangeMap;

/// After a look at all deadlines of a consumer the next one waits a millisecond for this many ranges it holds,
/// so that many scattered deadlines cannot keep the broker looking. 65,536 of them expire up to 1 s late.
const RANGES_SCANNED_PER_MS: u64 = 64;
/// However short the ack deadline is: what a client has this long at least it had time to hand over, and to say so.
pub(super) const UNSEEN_MS_MIN: u64 = 2_000;

/// A consumer that is attached.
#[derive(Clone, Debug, Default)]
pub(super) struct Consumer {
    /// Positions it holds → deadline.
    pub(super) flights: RangeMap<Millis>,
    /// No deadline that needs looking at is before this.
    pub(super) next_scan: Option<Millis>,
    /// It only looks, and the next event it is shown is at this position or behind it. It holds nothing.
    pub(super) looks_from: Option<u64>,
    /// It says what it has handed to its application.
    pub(super) says: bool,
    /// What it holds has no deadline.
    pub(super) untimed: bool,
    /// When it said so last.
    pub(super) handed_at: Option<Millis>,
}

impl Consumer {
    /// How many events it holds.
    pub(super) fn held(&self) -> u64 {
        self.flights
            .iter()
            .map(|(first, last, _)| last - first + 1)
            .sum()
    }

    /// It holds these now.
    pub(super) fn hold(&mut self, first: u64, last: u64, deadline: Millis) {
        self.flights.insert(first, last, deadline);
        self.next_scan = Some(self.next_scan.map_or(deadline, |scan| scan.min(deadline)));
    }

    /// It holds nothing of these any more; `released` is told what it held.
    pub(super) fn release(&mut self, first: u64, last: u64, mut released: impl FnMut(u64, u64)) {
        self.flights
            .take(first, last, |first, last, _| released(first, last));
        if self.flights.is_empty() {
            self.next_scan = None;
        }
    }

    /// When something that it is leased now misses its deadline.
    pub(super) fn deadline(&self, now: Millis, ack_deadline_ms: u64) -> Millis {
        match (self.untimed, self.says) {
            (true, _) => Millis(u64::MAX),
            (_, true) => now.plus(ack_deadline_ms.max(UNSEEN_MS_MIN)),
            (_, false) => now.plus(ack_deadline_ms),
        }
    }

    /// Takes from it what has missed its deadline, which is appended to `expired`.
    pub(super) fn take_expired(&mut self, now: Millis, expired: &mut Vec<(u64, u64)>) {
        let found = expired.len();
        let mut next = None;
        for (first, last, deadline) in self.flights.iter() {
            if deadline <= now {
                expired.push((first, last));
            } else {
                next = Some(next.map_or(deadline, |next: Millis| next.min(deadline)));
            }
        }
        for (first, last) in &expired[found..] {
            self.flights.take(*first, *last, |_, _, _| {});
        }
        let pause_ms = self.flights.len() as u64 / RANGES_SCANNED_PER_MS;
        self.next_scan = next.map(|next| next.max(now.plus(pause_ms)));
    }

    /// How long what its application has not got may wait, from when that got something last.
    pub(super) fn unseen_until(&self, ack_deadline_ms: u64) -> Option<Millis> {
        let at = self.handed_at?;
        Some(at.plus(ack_deadline_ms.max(UNSEEN_MS_MIN)))
    }
}

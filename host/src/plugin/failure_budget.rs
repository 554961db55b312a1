//! What failing may cost before what fails is left alone for a while: every failed call is paid for, and who has spent what it
//! may pauses. What is not tried meanwhile is not judged. Pure but for the pause's clock.

use std::time::Duration;

use super::backoff::Backoff;
use super::guest_fault::FaultKind;

/// A trap costs an instance, some 20 µs and its rules; a call that ran out of time costs 50 ms and more.
const TRAP_COST: u32 = 1;
const TIMEOUT_COST: u32 = 128;
// After each pause twice as much may be spent as before the last one, up to this power of two, so that what only fails takes a
// small and falling share of the time, and its events are still looked at one after the other.
const GROWTH_MAX: u32 = 4;
// So many events that went well pay for one trap.
const EVENTS_PER_COST: usize = 16;

/// What failing costs, in traps.
pub(super) fn cost(kind: FaultKind) -> u32 {
    match kind {
        FaultKind::Timeout => TIMEOUT_COST,
        FaultKind::Trap | FaultKind::Nonsense => TRAP_COST,
        FaultKind::Busy => 0,
    }
}

/// What something may spend on failing, and whether it pauses.
#[derive(Debug)]
pub(super) struct FailureBudget {
    pause: Backoff,
    allowed: u32,
    spent: u32,
}

impl FailureBudget {
    /// `allowed` may be spent before the first pause.
    pub(super) fn new(pause: Backoff, allowed: u32) -> Self {
        Self {
            pause,
            allowed,
            spent: 0,
        }
    }

    /// How much longer nothing may be tried, if at all.
    pub(super) fn left(&self) -> Option<Duration> {
        self.pause.left()
    }

    /// A call failed. Answers the pause, if this was one too many.
    pub(super) fn spend(&mut self, kind: FaultKind) -> Option<Duration> {
        self.spent = self.spent.saturating_add(cost(kind));
        let growth = self.pause.strikes().saturating_sub(1).min(GROWTH_MAX);
        (self.spent >= self.allowed << growth).then(|| self.exhaust())
    }

    /// It cannot work now: nothing is tried for a while.
    pub(super) fn exhaust(&mut self) -> Duration {
        self.spent = 0;
        self.pause.strike()
    }

    /// A call on so many events went well.
    pub(super) fn went_well(&mut self, events: usize) {
        let paid = u32::try_from(events / EVENTS_PER_COST).unwrap_or(u32::MAX);
        self.spent = self.spent.saturating_sub(paid);
        self.pause.forgive();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ration() -> FailureBudget {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        FailureBudget::new(Backoff::new(second, minute), 256)
    }

    // Seconds of the pause after each of so many failures.
    fn pauses(ration: &mut FailureBudget, kind: FaultKind, failures: usize) -> Vec<(usize, u64)> {
        (1..=failures)
            .filter_map(|failure| Some((failure, ration.spend(kind)?.as_secs())))
            .collect()
    }

    #[test]
    fn what_only_fails_pauses_longer_and_is_then_tried_more_often() {
        let mut ration = ration();
        assert_eq!(ration.left(), None);
        assert_eq!(
            pauses(&mut ration, FaultKind::Timeout, 30),
            [(2, 1), (4, 2), (8, 4), (16, 8)]
        );
        assert!(ration.left().is_some());
    }

    #[test]
    fn what_goes_well_in_between_pays_for_what_does_not() {
        let mut ration = ration();
        assert_eq!(pauses(&mut ration, FaultKind::Trap, 255), []);
        ration.went_well(1600);
        assert_eq!(pauses(&mut ration, FaultKind::Trap, 101), [(101, 1)]);
        ration.went_well(1);
        assert_eq!(pauses(&mut ration, FaultKind::Trap, 256), [(256, 1)]);
        assert_eq!(pauses(&mut ration, FaultKind::Busy, 10_000), []);
    }
}

//! How often plugins may fail. Failing costs: every failed call is paid for, and who has spent what it may pauses, as do the events
//! concerned; what is not tried meanwhile is not judged. All limits of this are here, those of shards, of rules on their own and of
//! transforms. (How often a rule must fail on one event to have failed on it is no limit: once, where nothing else can be to blame, see
//! `filter_group/shard/culprits.rs` and `filter_group/quarantine.rs`.) How long a pause is comes from `backoff`. Pure but for the pause's clock.

use std::time::Duration;

use super::backoff::Backoff;
use super::guest_fault::FaultKind;

/// What a shard of a filter plugin may spend on looking for the guilty before the rules concerned pause, in traps: four events that
/// fail with each of 1,024 rules, some 0.4 s, or 32 calls that run out of time, some 1.6 s. A looping rule among 1,024 is found
/// with 13.
pub(super) const SHARD_COST_BEFORE_PAUSE: u32 = 4096;
/// The same for one look at a batch, after which others have a turn.
pub(super) const SHARD_COST_PER_TURN: u32 = 2048;

/// What a filter rule with an instance of its own may spend before it pauses, in traps: some 25 ms of them; two calls that run out
/// of time, so that with the pause after them it takes a tenth of the time of its plugin's other rules, which wait for it.
pub(super) const LONE_RULE_COST_BEFORE_PAUSE: u32 = 256;
/// The same for one look at a batch, after which others have a turn.
pub(super) const LONE_RULE_COST_PER_TURN: u32 = 256;

/// What a transform may spend before it pauses, in traps: some 25 ms of them, or two calls that run out of time.
pub(super) const TRANSFORM_COST_BEFORE_PAUSE: u32 = 256;

/// Events that a rule of a shard fails on and some other rule does not, before it leaves for an instance of its own. One is enough
/// if most others do not fail on it; one on which all fail says nothing of a rule.
pub(super) const EVENTS_FAILED_BEFORE_QUARANTINE: u32 = 3;

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

    fn budget() -> FailureBudget {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        FailureBudget::new(Backoff::new(second, minute), LONE_RULE_COST_BEFORE_PAUSE)
    }

    // Seconds of the pause after each of so many failures.
    fn pauses(budget: &mut FailureBudget, kind: FaultKind, failures: usize) -> Vec<(usize, u64)> {
        (1..=failures)
            .filter_map(|failure| Some((failure, budget.spend(kind)?.as_secs())))
            .collect()
    }

    #[test]
    fn what_only_fails_pauses_longer_and_is_then_tried_more_often() {
        let mut budget = budget();
        assert_eq!(budget.left(), None);
        assert_eq!(
            pauses(&mut budget, FaultKind::Timeout, 30),
            [(2, 1), (4, 2), (8, 4), (16, 8)]
        );
        assert!(budget.left().is_some());
    }

    #[test]
    fn what_goes_well_in_between_pays_for_what_does_not() {
        let mut budget = budget();
        assert_eq!(pauses(&mut budget, FaultKind::Trap, 255), []);
        budget.went_well(1600);
        assert_eq!(pauses(&mut budget, FaultKind::Trap, 101), [(101, 1)]);
        budget.went_well(1);
        assert_eq!(pauses(&mut budget, FaultKind::Trap, 256), [(256, 1)]);
        assert_eq!(pauses(&mut budget, FaultKind::Busy, 10_000), []);
    }
}

//! An evaluation under way: who still looks at events, what has come of it, and what was spent on calls that failed, of which only so
//! much may be spent in a row. Who is to blame for one is not known here.

use std::time::Duration;

use super::Shard;
use crate::plugin::call_input::Parsed;
use crate::plugin::evaluation::RuleKey;
use crate::plugin::failure_budget::{SHARD_COST_PER_TURN, cost};
use crate::plugin::filter_group::part_outcome::PartOutcome;
use crate::plugin::filter_group::quarantine::Quarantined;
use crate::plugin::guest_fault::Fault;
use crate::plugin::guest_setup::GuestSetup;

/// An evaluation under way.
pub(super) struct Batch<'k> {
    pub(super) setup: &'k GuestSetup,
    /// Rules that look at the events that are left.
    pub(super) keys: Vec<RuleKey>,
    pub(super) found: PartOutcome,
    /// Rules that left the shard.
    pub(super) moved_out: Vec<Quarantined>,
    /// On failed calls, so far.
    pub(super) spent: u32,
    /// A rule could not be configured beside others.
    pub(super) crowded: bool,
}

impl Batch<'_> {
    /// Nobody looks at the rest for now.
    pub(super) fn leave(&mut self, rest: &[Parsed<'_>], after: Duration) {
        if let Some(first) = rest.first() {
            self.found.leave(&self.keys, first, after);
        }
        self.keys.clear();
    }

    /// Who of them is to blame is found out elsewhere, so that those who were not asked do not wait for it.
    pub(super) fn hand_over(&mut self, rest: &[Parsed<'_>], fault: &Fault) {
        tracing::warn!(plugin = %self.setup.label, rules = self.keys.len(), reason = fault.reason, "a call of a filter plugin failed; who is to blame is found out apart from the plugin's other rules");
        let keys = std::mem::take(&mut self.keys);
        self.found.hand_over(&keys, rest);
    }

    /// There is no instance for the rest.
    pub(super) fn stop(&mut self, fault: Fault, rest: &[Parsed<'_>]) {
        self.leave(rest, Duration::ZERO);
        self.found.stopped = Some(fault);
    }
}

impl Shard {
    /// Whether the guilty may be looked for, or how long those concerned have to wait for it.
    pub(super) fn may_spend(&self, batch: &Batch<'_>) -> Result<(), Duration> {
        match self.budget.left() {
            Some(left) => Err(left),
            None if batch.spent >= SHARD_COST_PER_TURN => Err(Duration::ZERO),
            None => Ok(()),
        }
    }

    pub(super) fn spend(&mut self, batch: &mut Batch<'_>, fault: &Fault) {
        batch.spent += cost(fault.kind);
        if let Some(pause) = self.budget.spend(fault.kind) {
            tracing::warn!(
                plugin = %batch.setup.label,
                reason = fault.reason,
                pause_ms = pause.as_millis(),
                "a filter plugin keeps failing; the events that it fails on wait for a while"
            );
        }
    }
}

//! What came of an evaluation by one part of a filter group, as far as the parts know. Who goes where because of it, they decide.

use std::time::Duration;

use super::super::call_input::Parsed;
use super::super::evaluation::{FilterFailure, RuleKey, Undecided};
use super::super::filter_instance::Matches;
use super::super::guest_fault::Fault;
use super::super::guest_setup::GuestSetup;

/// What came of an evaluation by one shard or one quarantined rule.
#[derive(Default)]
pub(super) struct PartOutcome {
    pub(super) matches: Matches,
    pub(super) failures: Vec<FilterFailure>,
    /// Rules that have not been tried on all events.
    pub(super) undecided: Vec<Undecided>,
    /// The instance is too small for all rules: calls on all fail, and those on each half do not.
    pub(super) strained: bool,
    /// No instance can be made, for no fault of a rule.
    pub(super) stopped: Option<Fault>,
}

impl PartOutcome {
    /// These rules are not tried on this event, nor on any after it, for so long.
    pub(super) fn leave(&mut self, keys: &[RuleKey], event: &Parsed<'_>, after: Duration) {
        self.undecided.extend(keys.iter().map(|rule| Undecided {
            rule: *rule,
            event: event.index,
            after,
            apart: false,
        }));
    }

    /// These rules are tried on this and what follows in another group.
    pub(super) fn hand_over(&mut self, keys: &[RuleKey], rest: &[Parsed<'_>]) {
        let Some(first) = rest.first() else {
            return;
        };
        self.undecided.extend(keys.iter().map(|rule| Undecided {
            rule: *rule,
            event: first.index,
            after: Duration::ZERO,
            apart: true,
        }));
    }

    /// The rule failed on the event by itself.
    pub(super) fn fail(
        &mut self,
        setup: &GuestSetup,
        event: &Parsed<'_>,
        rule: RuleKey,
        fault: &Fault,
    ) {
        let subscription = setup.rule_names.of(rule);
        let reason = fault.told(&setup.label, subscription.as_deref(), &event.name());
        self.failures.push(FilterFailure {
            rule,
            event: event.index,
            reason,
        });
    }

    /// It is decided about the rule elsewhere.
    pub(super) fn forget(&mut self, key: RuleKey) {
        self.undecided.retain(|undecided| undecided.rule != key);
    }
}

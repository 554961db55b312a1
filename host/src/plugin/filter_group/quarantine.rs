//! A filter rule that failed, in an instance of its own, so that the others have theirs to themselves. It fails on an event only
//! if a fresh instance with this rule alone fails on this event alone. What it was not tried on waits, also while it pauses
//! because it keeps failing. It goes back among the others once it has behaved for long enough.

use std::sync::Arc;
use std::time::Duration;

use super::super::batch_size::BatchSize;
use super::super::call_input::{Parsed, next_call};
use super::super::counters::Gauge;
use super::super::evaluation::RuleKey;
use super::super::failure_budget::{
    FailureBudget, LONE_RULE_COST_BEFORE_PAUSE, LONE_RULE_COST_PER_TURN, cost,
};
use super::super::filter_instance::{FilterInstance, Trial, trial};
use super::super::guest_setup::GuestSetup;
use super::part_outcome::PartOutcome;

// Events without a failure after which a rule may go back among the others.
const CLEAN_EVENTS_MIN: usize = 4096;

/// A rule on its own.
pub(super) struct Quarantined {
    pub(super) key: RuleKey,
    pub(super) config: Arc<str>,
    // None after a fault, and while instances are few.
    host: Option<Box<FilterInstance>>,
    window: BatchSize,
    budget: FailureBudget,
    clean_events: usize,
    _counted: Gauge,
}

impl Quarantined {
    pub(super) fn new(setup: &GuestSetup, key: RuleKey, config: Arc<str>) -> Self {
        Self {
            key,
            config,
            host: None,
            window: BatchSize::of_one(),
            budget: FailureBudget::new(setup.pause(), LONE_RULE_COST_BEFORE_PAUSE),
            clean_events: 0,
            _counted: Gauge::new(&setup.plugin.counters, |counters| &counters.quarantined),
        }
    }

    /// Whether it has behaved for long enough to join the others again.
    pub(super) fn is_cured(&self) -> bool {
        self.clean_events >= CLEAN_EVENTS_MIN
    }

    /// Whether it is left alone at the moment.
    pub(super) fn pauses(&self) -> bool {
        self.budget.left().is_some()
    }

    /// Lets go of its instance, since there are none left.
    pub(super) fn give_way(&mut self) {
        self.host = None;
    }

    /// Evaluates `events` as far as it may.
    pub(super) async fn evaluate(
        &mut self,
        setup: &GuestSetup,
        events: &[Parsed<'_>],
        found: &mut PartOutcome,
    ) {
        let mut spent = 0;
        let mut rest = events;
        while let Some(first) = rest.first() {
            let pause = self.budget.left();
            let turn_is_over = || (spent >= LONE_RULE_COST_PER_TURN).then_some(Duration::ZERO);
            if let Some(after) = pause.or_else(turn_is_over) {
                found.leave(&[self.key], first, after);
                break;
            }
            let of = next_call(rest, 1);
            let (call, behind) = rest.split_at(self.window.of(of));
            match self.call(setup, call).await {
                Trial::Passed(matches, host) => {
                    self.host = Some(host);
                    found.matches.extend(matches);
                    self.window.went_well(call.len(), of);
                    self.budget.went_well(call.len());
                    self.clean_events = self.clean_events.saturating_add(call.len());
                    rest = behind;
                }
                Trial::Failed(fault) => {
                    spent += cost(fault.kind);
                    if let [event] = call {
                        found.fail(setup, event, self.key, &fault);
                        self.clean_events = 0;
                        rest = behind;
                    } else {
                        self.window.failed(call.len());
                    }
                    if let Some(pause) = self.budget.spend(fault.kind) {
                        let subscription = setup.rule_names.of(self.key);
                        tracing::warn!(plugin = %setup.label, subscription = subscription.map(display), pause_ms = pause.as_millis(), "a rule keeps failing and is left alone for a while; its events wait");
                    }
                }
                Trial::Unconfigured(_, fault) => {
                    let pause = self.budget.exhaust();
                    let subscription = setup.rule_names.of(self.key);
                    tracing::warn!(plugin = %setup.label, subscription = subscription.map(display), reason = fault.reason, pause_ms = pause.as_millis(), "a rule cannot be configured again, though it has an instance of its own; its events wait");
                    self.clean_events = 0;
                }
                Trial::NoInstance(fault) => {
                    found.leave(&[self.key], first, Duration::ZERO);
                    found.stopped = Some(fault);
                    break;
                }
            }
        }
        if !setup.account.has_to_spare() {
            self.host = None;
        }
    }

    // An instance with a past may have itself to blame, so what counts is what a fresh one does.
    async fn call(&mut self, setup: &GuestSetup, events: &[Parsed<'_>]) -> Trial {
        if let Some(mut host) = self.host.take()
            && let Ok(matches) = host.evaluate(events, &[self.key]).await
        {
            return Trial::Passed(matches, host);
        }
        trial(setup, events, &[(self.key, &self.config)]).await
    }
}

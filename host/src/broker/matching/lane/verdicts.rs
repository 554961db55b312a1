//! The events of one call of a filter, and what came of a step's calls. What that means for a subscription is not known here.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::domain::{Block, Position, TopicName};
use crate::plugin::{FilterFailure, InputEvent, RuleKey};

/// Places of a rule's matches that are kept from step to step.
const MATCHES_KEPT_MAX: usize = 128;

/// Events that go into one call: those of blocks whose topics have the same rules.
#[derive(Default)]
pub(super) struct Call {
    pub(super) rules: Arc<[RuleKey]>,
    pub(super) events: Vec<InputEvent>,
    pub(super) positions: Vec<Position>,
}

impl Call {
    pub(super) fn same_rules(&self, rules: &Arc<[RuleKey]>) -> bool {
        Arc::ptr_eq(&self.rules, rules)
    }

    pub(super) fn add(
        &mut self,
        block: &Block,
        topic: &TopicName,
        from: Position,
        stop: Position,
    ) -> Result<(), String> {
        for (index, bytes) in block.events().map_err(|error| error.to_string())? {
            let position = block.position(index);
            if position < from || position >= stop {
                continue;
            }
            self.positions.push(position);
            self.events.push(InputEvent {
                topic: topic.shared(),
                sequence: block.sequence(index),
                time: block.time,
                bytes,
            });
        }
        Ok(())
    }
}

/// What came of a step.
#[derive(Default)]
pub(super) struct Verdicts {
    pub(super) matched: FxHashMap<RuleKey, Vec<Position>>,
    pub(super) failures: Vec<RuleFailure>,
    /// How many there are of both.
    pub(super) pairs: usize,
    /// Rules that were not tried on this event and those after it, and when they are to be. A step ends with the call that
    /// left any.
    pub(super) undecided: Vec<Untried>,
}

/// A rule that failed on an event.
pub(super) struct RuleFailure {
    pub(super) rule: RuleKey,
    pub(super) position: Position,
    pub(super) topic: Arc<str>,
    pub(super) reason: String,
}

/// A rule that was not tried on an event.
pub(super) struct Untried {
    pub(super) rule: RuleKey,
    pub(super) position: Position,
    pub(super) after: Duration,
    /// It goes on in another lane.
    pub(super) apart: bool,
}

impl Verdicts {
    pub(super) fn push(&mut self, rule: RuleKey, position: Position) {
        self.matched.entry(rule).or_default().push(position);
        self.pairs += 1;
    }

    pub(super) fn push_failure(&mut self, call: &Call, failure: FilterFailure) {
        let event = failure.event as usize;
        self.failures.push(RuleFailure {
            rule: failure.rule,
            position: call.positions[event],
            topic: Arc::clone(&call.events[event].topic),
            reason: failure.reason,
        });
        self.pairs += 1;
    }

    /// Empties it, and keeps the memory for the next step, as far as it is little.
    pub(super) fn clear(&mut self) {
        for matched in self.matched.values_mut() {
            matched.clear();
            matched.shrink_to(MATCHES_KEPT_MAX);
        }
        self.failures.clear();
        self.pairs = 0;
        self.undecided.clear();
    }

    pub(super) fn forget(&mut self, rule: RuleKey) {
        self.matched.remove(&rule);
    }
}

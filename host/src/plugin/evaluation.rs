//! Rules and events as callers name them, and what evaluating them comes to. How they are evaluated is not known here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::domain::{Millis, Sequence};

/// Names a rule of a group; chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey(pub u64);

/// An event to evaluate or transform.
#[derive(Clone, Debug)]
pub struct InputEvent {
    /// Name of its topic.
    pub topic: Arc<str>,
    /// Its place in the topic.
    pub sequence: Sequence,
    /// When it was appended.
    pub time: Millis,
    /// The encoded event.
    pub bytes: Bytes,
}

/// What a batch of events and a set of rules came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// Index of an event in the batch and a rule that wants it, each pair once, in no particular order.
    pub matches: Vec<(u32, RuleKey)>,
    /// Pairs that failed: a fresh instance with this rule alone failed on this event alone. To each applies what its
    /// subscription says of failures.
    pub failures: Vec<FilterFailure>,
    /// Rules that were not tried on all events, each at most once. `matches` and `failures` have nothing of what is left.
    pub undecided: Vec<Undecided>,
}

/// A pair of event and rule that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterFailure {
    /// The rule.
    pub rule: RuleKey,
    /// Index of the event in the batch.
    pub event: u32,
    /// What happened, for a person.
    pub reason: String,
}

/// A rule that was not tried on some of the events, for no fault of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// The rule.
    pub rule: RuleKey,
    /// Index in the batch of the first event it was not tried on; nor was it on any after that.
    pub event: u32,
    /// When to try it again: the rule or the plugin keeps failing and pauses, or no instance is free. Zero: others are to have
    /// a turn before.
    pub after: Duration,
    /// A call with it failed in a group that does not look for the guilty: it is to go on in another one.
    pub apart: bool,
}

impl Evaluation {
    /// Nothing could be tried.
    pub(super) fn down(rules: &[RuleKey], after: Duration) -> Self {
        let untried = |rule: &RuleKey| Undecided {
            rule: *rule,
            event: 0,
            after,
            apart: false,
        };
        Self {
            undecided: rules.iter().map(untried).collect(),
            ..Self::default()
        }
    }

    /// Leaves each rule once, with the first event it was not tried on, and nothing of it from there on.
    pub(super) fn cut_at_undecided(&mut self) {
        if self.undecided.is_empty() {
            return;
        }
        let mut first: FxHashMap<RuleKey, Undecided> = FxHashMap::default();
        for undecided in self.undecided.drain(..) {
            let known = first.entry(undecided.rule).or_insert(undecided);
            let apart = known.apart || undecided.apart;
            if undecided.event < known.event {
                *known = undecided;
            }
            known.apart = apart;
        }
        let is_decided =
            |rule: &RuleKey, event: u32| first.get(rule).is_none_or(|at| event < at.event);
        self.matches
            .retain(|(event, rule)| is_decided(rule, *event));
        self.failures
            .retain(|failure| is_decided(&failure.rule, failure.event));
        self.undecided = first.into_values().collect();
        self.undecided
            .sort_unstable_by_key(|undecided| undecided.rule);
    }
}

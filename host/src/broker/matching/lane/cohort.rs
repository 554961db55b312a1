//! Members of a lane that share a cursor. Who is in which cohort, the lane decides.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::domain::{Position, TopicId, TopicName};
use crate::plugin::RuleKey;

/// Rules that look at events from one place on.
pub(super) struct Cohort {
    pub(super) cursor: Position,
    pub(super) rules: Vec<RuleKey>,
    // Rules by topic, for its ordinary events and for dead letters. One list is shared by all that have the same rules.
    pub(super) by_topic: FxHashMap<(TopicId, bool), Option<TopicRules>>,
    // It takes no step before this.
    pub(super) rests_until: Option<Instant>,
    // Where it last could not read the log.
    pub(super) unreadable: Option<Position>,
}

impl Cohort {
    pub(super) fn new(cursor: Position, rests_until: Option<Instant>) -> Self {
        Self {
            cursor,
            rules: Vec::new(),
            by_topic: FxHashMap::default(),
            rests_until,
            unreadable: None,
        }
    }

    pub(super) fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    pub(super) fn push(&mut self, rule: RuleKey) {
        self.rules.push(rule);
        self.by_topic.clear();
    }
}

/// A topic's name and the rules that look at it.
pub(super) type TopicRules = (TopicName, Arc<[RuleKey]>);

//! What log lines call the rules of a filter group: by the subscriptions that they are of. Looked up only by those who have something
//! to say.

use std::sync::{Arc, Mutex};

use rustc_hash::FxHashMap;

use super::evaluation::RuleKey;
use crate::locks::lock;

/// The names of the subscriptions that the rules of one group are of.
#[derive(Default)]
pub(super) struct RuleNames(Mutex<FxHashMap<RuleKey, Arc<str>>>);

impl RuleNames {
    /// The rule is of this subscription.
    pub(super) fn set(&self, key: RuleKey, subscription: &str) {
        lock(&self.0).insert(key, subscription.into());
    }

    /// There is no such rule any more.
    pub(super) fn forget(&self, key: RuleKey) {
        lock(&self.0).remove(&key);
    }

    /// Of which subscription it is.
    pub(super) fn of(&self, key: RuleKey) -> Option<Arc<str>> {
        lock(&self.0).get(&key).cloned()
    }
}

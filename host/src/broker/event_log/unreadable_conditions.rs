//! What of the store cannot be read, as those see it who have to decide about it: a condition for each file or database, and how
//! many events of a subscription wait for it. What is read, and when it is tried again, is the store's business; that an event is
//! given up is decided by an operator only.

use std::collections::BTreeMap;

use crate::domain::Position;
use crate::state::SubscriptionState;
use crate::store::{ReadError, Unreadable};
use crate::telemetry::conditions::{Condition, Conditions};
use crate::telemetry::error_line::with_causes;

/// Keeps the conditions as the store has it.
#[derive(Default)]
pub(crate) struct Watch {
    // Reasons, by file.
    raised: BTreeMap<String, String>,
}

impl Watch {
    /// Raises what is new and clears what is over. Costs next to nothing while there is nothing.
    pub(crate) fn update(&mut self, conditions: &Conditions, unreadable: &[Unreadable]) {
        if unreadable.is_empty() && self.raised.is_empty() {
            return;
        }
        let mut now: BTreeMap<String, String> = BTreeMap::new();
        for one in unreadable {
            let path = one.path.display().to_string();
            now.entry(path).or_insert_with(|| reason(one));
        }
        for path in self.raised.keys().filter(|path| !now.contains_key(*path)) {
            conditions.clear(&Condition::Unreadable(path.clone().into()));
        }
        for (path, reason) in &now {
            if self.raised.get(path) != Some(reason) {
                conditions.raise(Condition::Unreadable(path.clone().into()), reason);
            }
        }
        self.raised = now;
    }
}

fn reason(unreadable: &Unreadable) -> String {
    let Unreadable {
        first, last, why, ..
    } = unreadable;
    let advice = match why.is_damage() {
        true => {
            "what needs it waits until it is given up, by POST /v1/unreadable or by a start that accepts the loss"
        }
        false => "what needs it waits, and it is tried again",
    };
    format!(
        "events at positions {first} to {last}: {}; {advice}",
        with_causes(&**why)
    )
}

/// How many events whoever stands at `from` waits for at least, as far as that is known: the positions that share its fate.
pub(crate) fn waits_for(error: &ReadError, from: Position) -> u64 {
    match error {
        ReadError::Unreadable { first, last, .. } => {
            (last.0 + 1).saturating_sub(first.max(&from).0)
        }
        _ => 1,
    }
}

/// How many events are pending for a subscription that cannot be read.
pub(crate) fn lacks(state: &SubscriptionState, unreadable: &[Unreadable]) -> u64 {
    let pending = |one: &Unreadable| state.pending_within(one.first..=one.last);
    unreadable.iter().map(pending).sum()
}

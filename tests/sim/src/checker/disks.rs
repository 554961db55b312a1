//! Disks that fail: a full one refuses publishes and nothing else, what is wrong has a cause and is over when that is, and nobody needs a
//! restart to be told so.

use std::collections::{BTreeMap, BTreeSet};

use super::causes::Causes;
use super::facts::Facts;
use super::troubles::{is_full, is_of_disk};
use super::{Found, Group, Promise};
use crate::history::{Entry, Text, What};

pub(super) const FULL: Promise = Promise {
    id: "I18",
    page: "operate/disks.md",
    words: "| what is there | is delivered and acked as ever, and a start works |",
};
pub(super) const HAS_A_CAUSE: Promise = Promise {
    id: "I22",
    page: "operate/watching.md",
    words: "What is wrong has a name, the same in `/readyz`, the log and",
};
pub(super) const IS_OVER: Promise = Promise {
    id: "I22",
    page: "operate/disks.md",
    words: "it goes on by itself once the very folder is back",
};

#[derive(Default)]
pub(super) struct Disks {
    causes: Causes,
    /// When the life that there is began.
    begun_ms: u64,
    /// What is wrong with it.
    holds: BTreeSet<Text>,
    /// When each request was made, and with which entry.
    asked: BTreeMap<u64, (u64, usize)>,
}

impl Group for Disks {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        if let Some(op) = super::facts::asks(&entry.what) {
            self.asked.insert(op, (entry.ms, facts.at));
        }
        self.causes.see(entry);
        match &entry.what {
            What::Starts { .. } => {
                self.begun_ms = entry.ms;
                self.holds.clear();
            }
            What::IsWrong { condition, why } => self.is_wrong(entry.ms, condition, why, found),
            What::IsOver { condition } => {
                self.holds.remove(condition);
            }
            What::Over {} if facts.is_draining => {
                for condition in &self.holds {
                    let says = format!("long after all faults {} holds", &**condition);
                    found.breaks(&IS_OVER, says);
                }
            }
            What::NotConfirmed { op, code } | What::NotAttached { op, code } => {
                let refused = code.starts_with("refused") && self.was_there(*op, facts);
                if refused && self.is_only_full(*op, entry.ms, facts) {
                    let says = format!("on a full disk it is {}", &**code);
                    found.breaks(&FULL, says);
                }
            }
            _ => {}
        }
    }

    fn judges_after_a_loss(&self) -> bool {
        true
    }
}

impl Disks {
    fn is_wrong(&mut self, now_ms: u64, condition: &Text, why: &Text, found: &mut Found) {
        let kind = condition.split(' ').next().unwrap_or_default();
        let checkpoint_fails = self.holds.contains(&Text::from("checkpoint_fails"));
        if !self.causes.explain(kind, now_ms, checkpoint_fails) {
            let says = format!("{} for nothing: {}", &**condition, &**why);
            found.breaks(&HAS_A_CAUSE, says);
        }
        self.holds.insert(condition.clone());
    }

    // Whether the disk was full all the time since a request was made, and nothing else was wrong with it in all of this life.
    fn is_only_full(&self, op: u64, now_ms: u64, facts: &Facts) -> bool {
        let (asked_ms, _) = self.asked.get(&op).copied().unwrap_or_default();
        let troubles = &facts.troubles;
        let has_other =
            troubles.any_since(self.begun_ms, |fault| is_of_disk(fault) && !is_full(fault));
        let serves = facts.serves.is_some() && facts.serves_since <= asked_ms;
        serves && !has_other && !facts.losses.is_blurred() && troubles.was_full(asked_ms, now_ms)
    }
    // Whether the subscription that somebody wants to be attached to, or has answered, was there already and is, which is all that a full
    // disk keeps.
    fn was_there(&self, op: u64, facts: &Facts) -> bool {
        let (_, asked_at) = self.asked.get(&op).copied().unwrap_or_default();
        match facts.requests.get(&op).map(|request| &request.what) {
            Some(What::Attaches { subscription, .. } | What::Flushes { subscription, .. }) => {
                let of = facts.subscriptions.get(subscription);
                of.is_some_and(|of| of.is_sure && of.sure_since < asked_at)
            }
            _ => true,
        }
    }
}

//! Disks that fail: a full one refuses publishes and nothing else, what is wrong has a cause and is over when that is, and nobody needs a
//! restart to be told so.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Entry, Text, What};
use crate::plan::Fault;
use crate::plan::disk::DiskFault;

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

/// How long what a fault of the disk has caused may be told after it: a checkpoint that failed is tried again, and what could not be
/// read, too.
const AFTER_MS: u64 = 90_000;

#[derive(Default)]
pub(super) struct Disks {
    /// What is or was wrong with the disk, and until when.
    faults: Vec<(DiskFault, u64)>,
    /// What is wrong with this life.
    holds: BTreeSet<Text>,
    /// Requests that were refused while the disk was full and nothing else was wrong, by who made them.
    asked: BTreeMap<u64, u64>,
}

impl Group for Disks {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        if let Some(op) = super::facts::asks(&entry.what) {
            self.asked.insert(op, entry.ms);
        }
        match &entry.what {
            What::Troubled { what, until_ms } => {
                if let Ok(Fault::Disk(fault)) = serde_json::from_str(what) {
                    self.faults.push((fault, *until_ms));
                }
            }
            What::Starts { .. } => self.holds.clear(),
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
                let refused = code.starts_with("refused") && is_there(*op, facts);
                if refused && self.is_only_full(*op, entry.ms, facts) {
                    let says = format!("on a full disk it is {}", &**code);
                    found.breaks(&FULL, says);
                }
            }
            _ => {}
        }
    }
}

// Whether the subscription that somebody wants to be attached to is there, which is all that a full disk keeps.
fn is_there(op: u64, facts: &Facts) -> bool {
    let asked = facts.requests.get(&op).map(|request| &request.what);
    match asked {
        Some(What::Attaches { subscription, .. }) => {
            let of = facts.subscriptions.get(subscription);
            of.is_some_and(|of| of.is_sure)
        }
        _ => true,
    }
}

impl Disks {
    fn is_wrong(&mut self, now_ms: u64, condition: &Text, why: &Text, found: &mut Found) {
        self.holds.insert(condition.clone());
        let kind = condition.split(' ').next().unwrap_or_default();
        let mut faults = self.faults.iter();
        let has_cause = faults.any(|(fault, until_ms)| {
            now_ms <= until_ms.saturating_add(AFTER_MS) && fault.may_cause(kind)
        });
        if !has_cause {
            let says = format!("{} for nothing: {}", &**condition, &**why);
            found.breaks(&HAS_A_CAUSE, says);
        }
    }

    // Whether the disk was full all the time since a request was made, and nothing else was wrong in all of this life.
    fn is_only_full(&self, op: u64, now_ms: u64, facts: &Facts) -> bool {
        let asked_ms = self.asked.get(&op).copied().unwrap_or_default();
        let mut others = self.faults.iter();
        let is_full = |fault: &DiskFault| matches!(fault, DiskFault::Full { .. });
        let has_other = others.any(|(fault, _)| !is_full(fault));
        let mut full = self.faults.iter();
        let is_full = full.any(|(fault, until_ms)| is_full(fault) && *until_ms >= now_ms);
        let serves = facts.serves_since <= asked_ms;
        is_full && !has_other && serves && facts.serves.is_some()
    }
}

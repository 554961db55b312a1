//! Starts: after a kill or a power cut on an honest disk one needs nobody's leave, and one that is refused changes nothing.

use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Cause, Entry, What};
use crate::plan::Fault;
use crate::plan::disk::DiskFault;

pub(super) const NOTHING_LOST: Promise = Promise {
    id: "I20",
    page: "operate/disks.md",
    words: "| a record that the power cut in half at the end of the journal | is cut off |",
};
pub(super) const CHANGES_NOTHING: Promise = Promise {
    id: "I20",
    page: "operate/disks.md",
    words: "| a start that is refused | changes nothing |",
};

#[derive(Default)]
pub(super) struct Starts {
    image: Option<u64>,
    was_refused: bool,
    /// When the life that starts began to, and whether it still does.
    began_ms: u64,
    is_starting: bool,
    /// Whether a life has kept room for starts on a full disk. It is not synced, so a power cut may take it.
    has_room: bool,
    /// Until when the disk fails in a way for which a start may be refused.
    fails_until: u64,
    /// The same of faults that strike what a start writes, once it has found nothing to refuse it for.
    writes_fail_until: u64,
    /// The power left something that cannot be read.
    is_torn: bool,
}

impl Group for Starts {
    fn see(&mut self, entry: &Entry, _: &Facts, found: &mut Found) {
        match &entry.what {
            What::Troubled { what, until_ms } => {
                if let Ok(Fault::Disk(fault)) = serde_json::from_str(what) {
                    self.troubled(&fault, *until_ms);
                }
            }
            What::Torn { .. } => self.is_torn = true,
            What::Rescued { .. } => self.is_torn = false,
            What::Serves { .. } => (self.is_starting, self.has_room) = (false, true),
            What::Crashed { cause, .. } => {
                self.is_starting = false;
                self.has_room &= *cause != Cause::Power;
            }
            What::Refuses { .. } if self.is_torn || self.fails_until >= self.began_ms => {
                self.was_refused = self.writes_fail_until < self.began_ms;
            }
            What::Refuses { life, why } => {
                self.was_refused = true;
                let says = format!("life {life} refused to start: {}", &**why);
                found.breaks(&NOTHING_LOST, says);
            }
            What::Starts { .. } => {
                (self.was_refused, self.began_ms, self.is_starting) = (false, entry.ms, true);
            }
            What::Image { life, digest } => {
                let before = self.image.replace(*digest);
                if std::mem::take(&mut self.was_refused)
                    && before.is_some_and(|before| before != *digest)
                {
                    let says = format!("life {life} refused to start, and changed the disk");
                    found.breaks(&CHANGES_NOTHING, says);
                }
            }
            _ => {}
        }
    }
}

impl Starts {
    fn troubled(&mut self, fault: &DiskFault, until_ms: u64) {
        // On a full disk a start works by the room that was kept for it. Before the first life and after a power cut there may be none,
        // and a start begins by giving it back, so that others may take it then.
        let until_ms = match fault {
            DiskFault::Full { .. } if self.is_starting || !self.has_room => until_ms,
            fault if fault.may_refuse_a_start() => until_ms,
            _ => return,
        };
        self.fails_until = self.fails_until.max(until_ms);
        if fault.strikes_writes() {
            self.writes_fail_until = self.writes_fail_until.max(until_ms);
        }
    }
}

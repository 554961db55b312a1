//! Starts: after a kill or a power cut on an honest disk one needs nobody's leave, and one that is refused changes nothing.

use super::facts::Facts;
use super::losses::MAY_BE_ACCEPTED;
use super::{Found, Group, Promise};
use crate::disk::Operation;
use crate::history::{Blow, Entry, What};
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
pub(super) const NOT_DAMAGE: Promise = Promise {
    id: "I20",
    page: "operate/disks.md",
    words: "**A failure of the system is not damage.**",
};

/// What a start says that needs somebody's leave to give something up.
const DAMAGE: &str = "committed data is damaged";

#[derive(Default)]
pub(super) struct Starts {
    image: Option<u64>,
    was_refused: bool,
    /// Whether a life is starting now.
    is_starting: bool,
    /// Whether a life has kept room for starts on a full disk.
    has_room: bool,
    /// The disk is or was full in this start, which has given back the room that was kept, or found none.
    may_lack_room: bool,
    /// What the disk did to the start that goes on, or was the last.
    blows: Blows,
    /// It is to go on without what is lost.
    accepts: bool,
    /// The power left something that cannot be read.
    is_torn: bool,
    /// All faults of the plan are over.
    is_healed: bool,
}

/// What the disk does to a start.
#[derive(Clone, Copy, Default)]
struct Blows {
    /// Something failed for which a start may be refused.
    any: bool,
    /// A folder went away, and whatever is missing is damage.
    moved: bool,
    /// That was something that a start writes, once it has found nothing to refuse it for, or somebody else changed what is there.
    at_writes: bool,
}

impl Group for Starts {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        match &entry.what {
            What::Troubled {
                what: Fault::Disk(fault),
                ..
            } if self.is_starting => self.begins(fault),
            What::Struck { on, by, .. } if self.is_starting => self.struck(*on, *by),
            What::Torn { .. } => self.is_torn = true,
            What::Rescued { .. } => self.is_torn = false,
            What::Serves { .. } => {
                (self.is_starting, self.has_room, self.accepts) = (false, true, false);
            }
            What::Accepts { .. } => self.accepts = true,
            What::Troubled {
                what: Fault::Rot(_),
                ..
            } => self.blows.at_writes = true,
            What::Crashed { .. } => {
                // A start gives back what was kept for it before it keeps it anew.
                self.has_room &= !self.is_starting;
                self.is_starting = false;
            }
            What::Refuses { life, why } => {
                (self.is_starting, self.has_room) = (false, false);
                // One that is to go on without what is lost may have begun to.
                self.was_refused = !self.blows.at_writes && !std::mem::take(&mut self.accepts);
                let is_damaged = facts.losses.is_rotten() && why.contains(MAY_BE_ACCEPTED);
                let is_hindered = self.is_torn || self.blows.any || is_damaged;
                let says = format!("life {life} refused to start: {}", &**why);
                if !is_hindered {
                    found.breaks(&NOTHING_LOST, says);
                } else if why.starts_with(DAMAGE) && !self.blows.moved && !facts.losses.is_rotten()
                {
                    found.breaks(&NOT_DAMAGE, says);
                }
            }
            What::Starts { .. } => {
                (self.was_refused, self.is_starting) = (false, true);
                (self.may_lack_room, self.blows) = (!self.has_room, Blows::default());
            }
            What::Healed {} => self.is_healed = true,
            What::Over {} if self.is_healed && !facts.is_draining => {
                let says = "long after all faults no broker starts".to_owned();
                found.breaks(&NOTHING_LOST, says);
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

    fn judges_after_a_loss(&self) -> bool {
        true
    }
}

impl Starts {
    // A fault begins in the middle of a start.
    fn begins(&mut self, fault: &DiskFault) {
        match fault {
            // It begins by giving back the room that was kept, so that others may take it then.
            DiskFault::Full { .. } => self.may_lack_room = true,
            // What it reads is elsewhere, and so is what the disk is compared with.
            DiskFault::Moved { .. } => {
                self.blows = Blows {
                    any: true,
                    moved: true,
                    at_writes: true,
                };
            }
            DiskFault::Errors { .. } | DiskFault::NoFiles { .. } | DiskFault::SlowSyncs { .. } => {}
        }
    }

    fn struck(&mut self, on: Operation, by: Blow) {
        // On a full disk a start works by the room that was kept for it. Before the first life there is none.
        if by == Blow::NoRoom && !self.may_lack_room {
            return;
        }
        self.blows.any = true;
        self.blows.at_writes |=
            !matches!(on, Operation::Open | Operation::Read) || by == Blow::NoFiles;
    }
}

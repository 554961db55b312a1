//! Starts: after a kill or a power cut on an honest disk one needs nobody's leave, and one that is refused changes nothing.

use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Entry, What};

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
}

impl Group for Starts {
    fn see(&mut self, entry: &Entry, _: &Facts, found: &mut Found) {
        match &entry.what {
            What::Refuses { life, why } => {
                self.was_refused = true;
                let says = format!("life {life} refused to start: {}", &**why);
                found.breaks(&NOTHING_LOST, says);
            }
            What::Starts { .. } => self.was_refused = false,
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

//! Nothing panics, nothing is left when what it belonged to has ended, and nothing is at work for ever.

use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Entry, What};

pub(super) const NO_PANIC: Promise = Promise {
    id: "I24",
    page: "internals/tasks.md",
    words: "a panic is a bug, and these are its limits",
};

pub(super) const RESTS: Promise = Promise {
    id: "I17",
    page: "internals/queues.md",
    words: "the committer waits for nobody. Readers are notified and read by cursor.",
};

#[derive(Default)]
pub(super) struct Ends;

impl Group for Ends {
    fn see(&mut self, entry: &Entry, _: &Facts, found: &mut Found) {
        match &entry.what {
            What::Panicked { strand, said } => {
                found.breaks(&NO_PANIC, format!("{} panicked: {}", &**strand, &**said));
            }
            What::Left { strand, waits } => {
                found.breaks(
                    &NO_PANIC,
                    format!("{} never ended: {}", &**strand, &**waits),
                );
            }
            What::NeverRests { why } => found.breaks(&RESTS, (**why).to_owned()),
            _ => {}
        }
    }

    fn judges_after_a_loss(&self) -> bool {
        true
    }
}

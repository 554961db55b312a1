//! Bounded queues: none is ever fuller than the book says.

use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Entry, What};

pub(super) const BOUNDED: Promise = Promise {
    id: "I23",
    page: "internals/queues.md",
    words: "| queue | bound | full means |",
};

#[derive(Default)]
pub(super) struct Bounds;

impl Group for Bounds {
    fn see(&mut self, entry: &Entry, _: &Facts, found: &mut Found) {
        if let What::Fills { gauge, is, at_most } = &entry.what
            && is > at_most
        {
            let says = format!("{} is {is}, and may be {at_most} at most", &**gauge);
            found.breaks(&BOUNDED, says);
        }
    }

    fn judges_after_a_loss(&self) -> bool {
        true
    }
}

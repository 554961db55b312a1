//! What each filter of the chain that judges has said, and which chains come after that one.

use std::collections::VecDeque;

use crate::state::position_set::PositionSet;

/// What one filter has said.
#[derive(Clone, Debug, Default)]
pub(super) struct Stage {
    pub(super) through: u64,
    /// Matched by this filter, not yet decided by all.
    pub(super) candidates: PositionSet,
}

/// The chain that judges, and those that will.
#[derive(Clone, Debug, Default)]
pub(super) struct FilterChanges {
    /// Of the chain whose stages these are. Rises with every change.
    pub(super) revision: u32,
    /// In rising order of both revision and fence.
    pub(super) upcoming: VecDeque<Upcoming>,
    /// Nothing more is decided before the change with this revision.
    pub(super) frozen_for: Option<u32>,
}

/// A chain that judges later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upcoming {
    pub(super) revision: u32,
    /// Its fence: the first position it judges.
    pub(super) from: u64,
    pub(super) stages: usize,
}

impl FilterChanges {
    /// Of the last of them.
    pub(super) fn newest(&self) -> u32 {
        self.upcoming
            .back()
            .map_or(self.revision, |chain| chain.revision)
    }
}

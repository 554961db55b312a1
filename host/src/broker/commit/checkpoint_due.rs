//! When a checkpoint is due: how full the journal is then. The committer, which fills it, asks; what a checkpoint does is the business of
//! `checkpoint`.

use crate::store::{JournalSize, JournalUsage, StoreOptions};

/// How much of the journal is not in a checkpoint when the next one is due.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointDue {
    /// Bytes.
    pub bytes: u64,
    /// Blocks.
    pub blocks: usize,
}

impl CheckpointDue {
    /// When half of what publishers may fill is full, so that a checkpoint has the time in which the other half fills, and nobody has to
    /// wait.
    #[must_use]
    pub fn when_half_full(options: &StoreOptions) -> Self {
        Self {
            bytes: options.publishable_bytes_max() / 2,
            blocks: options.journal_blocks_max / 2,
        }
    }

    /// Whether that is so. What a checkpoint that is under way will release anyway does not count.
    pub(crate) fn is_reached(self, usage: &JournalUsage) -> bool {
        let JournalSize { bytes, blocks } = usage.unmarked;
        bytes > self.bytes || blocks > self.blocks || usage.is_full
    }
}

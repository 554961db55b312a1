//! What a group decides of producers before it is written, so that it can be taken back when it cannot be. Nothing here touches
//! the disk, and nothing of what is durable changes.

use std::sync::Arc;

use super::producer_streams::{ProducerStream, ProducerStreams};

/// Batches of a group that the memory for the next one has room for.
const BATCHES_KEPT: usize = 4_096;

/// What a group changes of producers before it is written.
#[derive(Default)]
pub(super) struct Rollback {
    /// Whose batches are in it, in order, each with the highest number that its producer had committed before.
    pub(super) batches: Vec<(Arc<ProducerStream>, u64)>,
    /// Streams whose owner is written down in the group.
    pub(super) told: Vec<Arc<ProducerStream>>,
}

impl Rollback {
    /// Makes producers what they were before the group, and refuses what their streams send after its batches.
    pub(super) fn take_back(&self, streams: &ProducerStreams) {
        let mut producers = streams.producers();
        for (stream, last_number) in self.batches.iter().rev() {
            producers.take_back(stream.producer, *last_number);
            stream.refuse_from_here();
        }
        drop(producers);
        for stream in &self.told {
            stream.forget_owner_told();
        }
    }

    /// Forgets everything, and keeps the memory for the next group.
    pub(super) fn clear(&mut self) {
        self.batches.clear();
        self.batches.shrink_to(BATCHES_KEPT);
        self.told.clear();
    }
}

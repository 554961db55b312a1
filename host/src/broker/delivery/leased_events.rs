//! Leased events, read: neighbours as slices of their blocks, which is how they leave when nobody changes them, and single
//! events for plugins. Who leased them, and where they go, is not known here.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::{Block, EncodedEvents, Millis, Position, Sequence, TopicName};
use crate::plugin::InputEvent;

/// Leased events that are neighbours in a block and have been handed out equally often, read. They are a slice of the block:
/// whoever keeps one while waiting for anything detaches it first, or a few events keep a whole batch in memory.
#[derive(Clone, Debug)]
pub(crate) struct LeasedSlice {
    pub(crate) topic: TopicName,
    pub(crate) first_position: Position,
    pub(crate) first_sequence: Sequence,
    pub(crate) time: Millis,
    pub(crate) attempt: u32,
    /// See [`Lease::suspect`].
    pub(crate) suspect: bool,
    pub(super) entries: EncodedEvents,
    // Bytes of the entries that these are a slice of.
    within_bytes: usize,
}

impl LeasedSlice {
    /// The events one by one, for guests, who take their time.
    pub(crate) fn into_events(mut self) -> Vec<LeasedEvent> {
        self.detach();
        let leased = |(index, event)| LeasedEvent {
            topic: self.topic.clone(),
            position: Position(self.first_position.0 + index),
            sequence: Sequence(self.first_sequence.0 + index),
            time: self.time,
            attempt: self.attempt,
            suspect: self.suspect,
            event,
        };
        (0..)
            .zip(self.entries.shared_events())
            .map(leased)
            .collect()
    }

    // Makes the events independent of their block, unless they are most of it.
    pub(super) fn detach(&mut self) {
        let bytes = self.entries.bytes().len();
        if bytes * 2 < self.within_bytes {
            self.entries = self.entries.detached();
            self.within_bytes = bytes;
        }
    }
}

/// A leased event, read.
#[derive(Clone, Debug)]
pub(crate) struct LeasedEvent {
    pub(crate) topic: TopicName,
    pub(crate) position: Position,
    pub(crate) sequence: Sequence,
    pub(crate) time: Millis,
    pub(crate) attempt: u32,
    pub(crate) suspect: bool,
    pub(crate) event: Bytes,
}

impl LeasedEvent {
    /// What plugins are shown of it.
    pub(super) fn input(&self) -> InputEvent {
        InputEvent {
            topic: self.topic.shared(),
            sequence: self.sequence,
            time: self.time,
            bytes: self.event.clone(),
        }
    }
}

// Attempt and suspicion of a lease, which all events of a slice share.
pub(super) type Tried = (u32, bool);

// A block with its entries found.
pub(super) struct OpenBlock {
    topic: TopicName,
    pub(super) block: Arc<Block>,
    present: EncodedEvents,
}

impl OpenBlock {
    pub(super) fn new(topic: TopicName, block: Arc<Block>) -> Result<Self, String> {
        let present = block.present();
        let present = present.map_err(|error| format!("a stored block is damaged: {error}"))?;
        Ok(Self {
            topic,
            block,
            present,
        })
    }

    pub(super) fn covers(&self, position: Position) -> bool {
        self.block.first_position <= position && position <= self.block.last_position()
    }

    pub(super) fn slice(&self, places: Range<usize>, (attempt, suspect): Tried) -> LeasedSlice {
        let first = self.block.index(places.start);
        let places = match planted!(NeighbourHandedOut) && places.start > 0 {
            true => places.start - 1..places.end - 1,
            false => places,
        };
        LeasedSlice {
            topic: self.topic.clone(),
            first_position: self.block.position(first),
            first_sequence: self.block.sequence(first),
            time: self.block.time,
            attempt,
            suspect,
            entries: self.present.part(places),
            within_bytes: self.present.bytes().len(),
        }
    }
}

// Slices in the making: the last one grows while events are neighbours in the open block.
#[derive(Default)]
pub(super) struct LeasedSlices {
    pub(super) done: Vec<LeasedSlice>,
    // How many of those are detached.
    detached: usize,
    // Its places among the present events of the open block.
    growing: Option<(Range<usize>, Tried)>,
    pub(super) bytes: usize,
}

impl LeasedSlices {
    pub(super) fn add(&mut self, open: &OpenBlock, place: usize, tried: Tried) {
        self.bytes += open.present.event_len(place);
        if let Some((places, of_slice)) = &mut self.growing
            && *of_slice == tried
            && places.end == place
            && open.block.index(place - 1) + 1 == open.block.index(place)
        {
            places.end = place + 1;
            return;
        }
        self.close(open);
        self.growing = Some((place..place + 1, tried));
    }

    // Before anything is waited for.
    pub(super) fn detach(&mut self) {
        let rest = self.done.get_mut(self.detached..).unwrap_or_default();
        rest.iter_mut().for_each(LeasedSlice::detach);
        self.detached = self.done.len();
    }

    pub(super) fn close(&mut self, open: &OpenBlock) {
        if let Some((places, tried)) = self.growing.take() {
            self.done.push(open.slice(places, tried));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{BlockBuilder, TopicId};

    pub(in crate::broker::delivery) fn open(lengths: &[usize]) -> OpenBlock {
        let mut builder = BlockBuilder::default();
        for length in lengths {
            builder.push(&vec![7; *length]);
        }
        let block = builder.finish(TopicId(1), Position(10), Sequence(3), Millis(0));
        OpenBlock::new("a".parse().expect("a name"), Arc::new(block)).expect("sound block")
    }

    pub(in crate::broker::delivery) fn is_slice(open: &OpenBlock, bytes: &[u8]) -> bool {
        open.block.entries.as_ptr_range().contains(&bytes.as_ptr())
    }

    #[test]
    fn neighbours_of_one_attempt_are_one_slice() {
        let open = open(&[1, 2, 3, 4]);
        let mut runs = LeasedSlices::default();
        for (place, attempt) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
            runs.add(&open, place, (attempt, false));
        }
        runs.add(&open, 1, (2, false));
        runs.close(&open);
        let found = |slice: &LeasedSlice| {
            (
                slice.first_position.0,
                slice.first_sequence.0,
                slice.entries.count(),
            )
        };
        let found: Vec<_> = runs.done.iter().map(found).collect();
        assert_eq!(found, [(10, 3, 2), (12, 5, 2), (11, 4, 1)]);
        assert_eq!(runs.bytes, 12);
    }

    #[test]
    fn what_waits_for_a_disk_or_a_guest_does_not_keep_its_block() {
        let open = open(&[1, 100]);
        let mut runs = LeasedSlices::default();
        runs.add(&open, 0, (1, false));
        runs.close(&open);
        assert!(is_slice(&open, runs.done[0].entries.bytes()));
        runs.detach();
        assert!(!is_slice(&open, runs.done[0].entries.bytes()));
        assert!(!is_slice(
            &open,
            &open.slice(0..1, (1, false)).into_events()[0].event
        ));
        assert!(is_slice(
            &open,
            &open.slice(1..2, (1, false)).into_events()[0].event
        ));
    }
}

//! A block: committed events of one topic that were appended together. It is the unit of writing, caching and
//! reading. The events lie in it as the publisher encoded them, so a block is a slice of the publisher's batch, or made of
//! several small ones with one copy, and it is read without any.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::entries::{self, Entries, EntryError, Span, spans};
use super::{Millis, Position, Sequence, TopicId};

/// A block takes no further event once its entries are this long. One larger event makes a block of its own.
pub const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// Committed events of one topic. Event `i` has position `first_position + i` and sequence
/// `first_sequence + i`; in a block thinned by a checkpoint only the events in `kept` are present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Their topic.
    pub topic: TopicId,
    /// Position of the event with index 0.
    pub first_position: Position,
    /// Sequence of the event with index 0.
    pub first_sequence: Sequence,
    /// When the broker appended them.
    pub time: Millis,
    /// How many events the block had when it was appended.
    pub count: u32,
    /// Indices of the events that are still present, rising; `None` when all are.
    pub kept: Option<Vec<u32>>,
    /// The present events, each as tag, varint length, bytes.
    pub entries: Bytes,
}

/// Why the bytes of a block cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// An entry does not start with its tag or reaches past the end.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The number of entries is not what the head says.
    #[error("the block has {found} entries, its head says {expected}")]
    Count {
        /// Entries found.
        found: usize,
        /// Entries announced.
        expected: usize,
    },
}

impl Block {
    /// A block of these entries, with its place; it shares their memory.
    #[must_use]
    pub fn of(
        entries: &Entries,
        topic: TopicId,
        first_position: Position,
        first_sequence: Sequence,
        time: Millis,
    ) -> Self {
        Self {
            topic,
            first_position,
            first_sequence,
            time,
            count: entries.count(),
            kept: None,
            entries: entries.bytes().clone(),
        }
    }

    /// Position of the last event the block had when it was appended.
    #[must_use]
    pub fn last_position(&self) -> Position {
        Position(self.first_position.0 + u64::from(self.count.max(1)) - 1)
    }

    /// Position of the event with this index.
    #[must_use]
    pub fn position(&self, index: u32) -> Position {
        Position(self.first_position.0 + u64::from(index))
    }

    /// Sequence of the event with this index.
    #[must_use]
    pub fn sequence(&self, index: u32) -> Sequence {
        Sequence(self.first_sequence.0 + u64::from(index))
    }

    /// Bytes this block occupies in memory, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.entries.len() + self.kept.as_ref().map_or(0, |kept| kept.len() * 4) + 96
    }

    /// The present events with their indices. The slices share the block's memory.
    ///
    /// # Errors
    ///
    /// The entries are damaged; nothing of a damaged block is handed out.
    pub fn events(&self) -> Result<Vec<(u32, Bytes)>, BlockError> {
        let spans = self.spans()?;
        let event =
            |(index, span): &(u32, Span)| (*index, self.entries.slice(span.event..span.end));
        Ok(spans.iter().map(event).collect())
    }

    /// Where the present events lie, with their indices.
    ///
    /// # Errors
    ///
    /// The entries are damaged.
    pub fn spans(&self) -> Result<Vec<(u32, Span)>, BlockError> {
        let expected = self.kept.as_ref().map_or(self.count as usize, Vec::len);
        let mut found = Vec::with_capacity(expected.min(self.entries.len() / 2));
        for span in spans(&self.entries) {
            let ordinal = found.len();
            let index = match &self.kept {
                Some(kept) => kept.get(ordinal).copied(),
                None => u32::try_from(ordinal).ok(),
            };
            let index = index.ok_or(BlockError::Count {
                found: ordinal + 1,
                expected,
            })?;
            found.push((index, span?));
        }
        if found.len() == expected {
            Ok(found)
        } else {
            Err(BlockError::Count {
                found: found.len(),
                expected,
            })
        }
    }

    /// A part of this block as entries: `count` events of `event_bytes` in all, which lie at `range` as
    /// [`spans`](Self::spans) says. It shares the block's memory if it is most of it; whoever keeps a few events for long must
    /// not keep the block, and what that is a slice of, with them.
    #[must_use]
    pub fn part(&self, range: Range<usize>, count: u32, event_bytes: usize) -> Entries {
        if range.len() * 2 < self.entries.len() {
            return Entries::copy_of(&self.entries, range, count, event_bytes);
        }
        Entries::slice_of(&self.entries, range, count, event_bytes)
    }

    /// A copy of this block with only the events whose position `keep` wants; `None` when none is left.
    ///
    /// # Errors
    ///
    /// The entries are damaged.
    pub fn thinned(
        &self,
        mut keep: impl FnMut(Position) -> bool,
    ) -> Result<Option<Block>, BlockError> {
        let mut entries = BytesMut::new();
        let mut kept = Vec::new();
        for (index, event) in self.events()? {
            if keep(self.position(index)) {
                entries::put(&mut entries, &event);
                kept.push(index);
            }
        }
        if kept.is_empty() {
            return Ok(None);
        }
        let whole = kept.len() == self.count as usize;
        Ok(Some(Block {
            entries: entries.freeze(),
            kept: (!whole).then_some(kept),
            ..self.clone()
        }))
    }
}

/// Collects the entries of a block.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    entries: BytesMut,
    count: u32,
}

impl BlockBuilder {
    /// Adds an encoded event.
    pub fn push(&mut self, event: &[u8]) {
        entries::put(&mut self.entries, event);
        self.count += 1;
    }

    /// Adds a copy of `entries`.
    pub fn push_all(&mut self, entries: &Entries) {
        self.entries.extend_from_slice(entries.bytes());
        self.count += entries.count();
    }

    /// Events so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether an event of this many bytes still fits. The first event always does.
    #[must_use]
    pub fn fits(&self, event_bytes: usize) -> bool {
        self.fits_entries(event_bytes + entries::HEAD_BYTES_MAX)
    }

    /// Whether entries of this many bytes, heads included, still fit. The first ones always do.
    #[must_use]
    pub fn fits_entries(&self, bytes: usize) -> bool {
        self.count == 0 || self.entries.len() + bytes <= BLOCK_BYTES_MAX
    }

    /// The block, with its place.
    #[must_use]
    pub fn finish(
        self,
        topic: TopicId,
        first_position: Position,
        first_sequence: Sequence,
        time: Millis,
    ) -> Block {
        Block {
            topic,
            first_position,
            first_sequence,
            time,
            count: self.count,
            kept: None,
            entries: self.entries.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(events: &[&[u8]]) -> Block {
        let mut builder = BlockBuilder::default();
        events.iter().for_each(|event| builder.push(event));
        builder.finish(TopicId(1), Position(10), Sequence(3), Millis(0))
    }

    #[test]
    fn events_come_back_as_they_went_in() {
        let long = vec![7; 300];
        let block = block(&[b"", b"a", &long]);
        let events = block.events().expect("sound block");
        assert_eq!(events.len(), 3);
        assert_eq!(&events[2].1[..], &long[..]);
        assert_eq!(block.last_position(), Position(12));
    }

    #[test]
    fn thinning_keeps_positions() {
        let block = block(&[b"a", b"b", b"c"]);
        let thin = block
            .thinned(|position| position != Position(11))
            .expect("sound block")
            .expect("two events left");
        let events = thin.events().expect("sound block");
        assert_eq!(events.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(thin.position(2), Position(12));
        assert_eq!(block.thinned(|_| false).expect("sound block"), None);
    }

    #[test]
    fn a_small_part_does_not_keep_the_block() {
        let block = block(&[b"abcd", b"efgh", b"ijkl", b"mnop"]);
        let spans = block.spans().expect("sound block");
        let whole = block.entries.as_ptr_range();
        let shares = |places: std::ops::Range<usize>| {
            let parts = &spans[places];
            let range = parts[0].1.start..parts[parts.len() - 1].1.end;
            let part = block.part(range, parts.len() as u32, 4 * parts.len());
            assert_eq!(Entries::parse(part.bytes().clone()).as_ref(), Ok(&part));
            whole.contains(&part.bytes().as_ptr())
        };
        assert!(shares(0..4) && shares(1..4) && shares(2..4));
        assert!(!shares(1..2));
    }

    #[test]
    fn damage_is_an_error_at_every_byte_of_every_head() {
        let whole = block(&[b"abc", b"defg"]);
        for cut in 0..whole.entries.len() {
            let cut = Block {
                entries: whole.entries.slice(..cut),
                ..whole.clone()
            };
            assert!(cut.events().is_err());
        }
    }
}

//! A block: committed events of one topic that were appended together. It is the unit of writing, caching and
//! reading. The events lie in it as the publisher encoded them, so a block is a slice of the publisher's batch, or made of
//! several small ones with one copy, and it is read without any.

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};

use super::encoded_events::{self, EncodedEvents, Ends, EntryError};
use super::{BlockOrigin, Millis, Position, Sequence, TopicId};

/// A block takes no further event once its entries are this long. One larger event makes a block of its own.
pub const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// Committed events of one topic. Event `i` has position `first_position + i` and sequence
/// `first_sequence + i`; in a block thinned by a checkpoint only the events in `kept` are present.
#[derive(Clone, Debug)]
pub struct Block {
    /// Their topic.
    pub topic: TopicId,
    /// Whether they are dead letters. All of a block are the same.
    pub mark: BlockOrigin,
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
    /// Where they end: known from the publisher's batch, or found once for everybody who shares a block from the disk.
    ends: OnceLock<Ends>,
}

/// Where the entries end follows from them.
impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        (self.topic, self.first_position, self.first_sequence)
            == (other.topic, other.first_position, other.first_sequence)
            && self.mark == other.mark
            && (self.time, self.count, &self.kept) == (other.time, other.count, &other.kept)
            && self.entries == other.entries
    }
}

impl Eq for Block {}

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
        entries: EncodedEvents,
        topic: TopicId,
        first_position: Position,
        first_sequence: Sequence,
        time: Millis,
    ) -> Self {
        let count = entries.count();
        let (bytes, ends) = entries.into_parts();
        Self {
            ends: ends.into(),
            ..Self::stored(
                topic,
                first_position,
                first_sequence,
                time,
                count,
                None,
                bytes,
            )
        }
    }

    /// A block as it was written, whose entries are looked at when somebody wants them.
    #[must_use]
    pub fn stored(
        topic: TopicId,
        first_position: Position,
        first_sequence: Sequence,
        time: Millis,
        count: u32,
        kept: Option<Vec<u32>>,
        entries: Bytes,
    ) -> Self {
        Self {
            topic,
            mark: BlockOrigin::Ordinary,
            first_position,
            first_sequence,
            time,
            count,
            kept,
            entries,
            ends: OnceLock::new(),
        }
    }

    /// The same block with this mark; without one its events are ordinary.
    #[must_use]
    pub fn marked(self, mark: BlockOrigin) -> Self {
        Self { mark, ..self }
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
        let indices = self.kept.as_ref().map_or(0, Vec::len);
        self.entries.len() + 4 * (self.present_count() + indices) + 128
    }

    /// The present events with their indices. The slices share the block's memory.
    ///
    /// # Errors
    ///
    /// The entries are damaged; nothing of a damaged block is handed out.
    pub fn events(&self) -> Result<impl Iterator<Item = (u32, Bytes)>, BlockError> {
        let present = self.present()?;
        let places = 0..present.count() as usize;
        Ok(places.map(move |place| (self.index(place), present.shared_event(place))))
    }

    /// The present events. They share the block's memory.
    ///
    /// # Errors
    ///
    /// The entries are damaged.
    pub fn present(&self) -> Result<EncodedEvents, BlockError> {
        let ends = match self.ends.get() {
            Some(ends) => ends,
            None => {
                let found = Ends::find(&self.entries)?;
                let expected = self.present_count();
                if found.len() != expected {
                    return Err(BlockError::Count {
                        found: found.len(),
                        expected,
                    });
                }
                self.ends.get_or_init(|| found)
            }
        };
        Ok(EncodedEvents::known(self.entries.clone(), ends.clone()))
    }

    /// How many events are present, as the head says.
    #[must_use]
    pub fn present_count(&self) -> usize {
        self.kept.as_ref().map_or(self.count as usize, Vec::len)
    }

    /// The index of the event at `place` among the present ones, which must be one.
    #[must_use]
    pub fn index(&self, place: usize) -> u32 {
        match &self.kept {
            Some(kept) => kept[place],
            // A block has at most `count` events, a u32.
            None => place as u32,
        }
    }

    /// The place among the present events of the one at `position`; `None` when it is not there.
    #[must_use]
    pub fn place(&self, position: Position) -> Option<usize> {
        let index = u32::try_from(position.0.checked_sub(self.first_position.0)?).ok()?;
        match &self.kept {
            Some(kept) => kept.binary_search(&index).ok(),
            None => (index < self.count).then_some(index as usize),
        }
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
                encoded_events::put(&mut entries, &event);
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
            ends: OnceLock::new(),
            ..self.clone()
        }))
    }
}

/// Collects the entries of a block.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    entries: BytesMut,
    ends: Vec<u32>,
}

impl BlockBuilder {
    /// Adds an encoded event.
    pub fn push(&mut self, event: &[u8]) {
        encoded_events::put(&mut self.entries, event);
        self.ends.push(self.entries.len() as u32);
    }

    /// Adds a copy of `entries`.
    pub fn push_all(&mut self, entries: &EncodedEvents) {
        let begin = self.entries.len();
        self.entries.extend_from_slice(entries.bytes());
        let ends = entries.ends().offsets();
        self.ends.extend(ends.map(|end| (begin + end) as u32));
    }

    /// Events so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Whether an event of this many bytes still fits. The first event always does.
    #[must_use]
    pub fn fits(&self, event_bytes: usize) -> bool {
        self.fits_entries(event_bytes + encoded_events::HEAD_BYTES_MAX)
    }

    /// Whether entries of this many bytes, heads included, still fit. The first ones always do.
    #[must_use]
    pub fn fits_entries(&self, bytes: usize) -> bool {
        self.ends.is_empty() || self.entries.len() + bytes <= BLOCK_BYTES_MAX
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
        let entries = EncodedEvents::known(self.entries.freeze(), Ends::of(self.ends));
        Block::of(entries, topic, first_position, first_sequence, time)
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
        let events: Vec<_> = block.events().expect("sound block").collect();
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
        assert_eq!(events.map(|(i, _)| i).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(thin.position(2), Position(12));
        assert_eq!(block.thinned(|_| false).expect("sound block"), None);
    }

    #[test]
    fn a_block_of_small_batches_knows_where_its_events_end() {
        let mut builder = BlockBuilder::default();
        builder.push(b"a");
        builder.push_all(&EncodedEvents::of([&b"bc"[..], b"def"]));
        builder.push_all(&EncodedEvents::of([&[7; 200][..]]));
        let block = builder.finish(TopicId(1), Position(10), Sequence(3), Millis(0));
        let found = Ends::find(&block.entries).expect("sound block");
        let known = block.ends.get().expect("they were given to it");
        assert!(known.offsets().eq(found.offsets()));
        assert_eq!((block.count, known.len()), (4, 4));
    }

    #[test]
    fn damage_is_an_error_at_every_byte_of_every_head() {
        let whole = block(&[b"abc", b"defg"]);
        for cut in 0..whole.entries.len() {
            let cut = Block {
                entries: whole.entries.slice(..cut),
                ends: OnceLock::new(),
                ..whole.clone()
            };
            assert!(cut.events().is_err());
        }
    }
}

//! The journal: what was committed, group by group, until a checkpoint has moved what is still needed elsewhere. Here is what
//! everybody else knows of it, which are its two halves: [`JournalWriter`], which the committer owns, and [`JournalReader`], by
//! which readers find blocks and a checkpoint takes them over. Whoever uses them does not know where the groups are: the file
//! journal below is one that fills both halves, and one that replicates could be another.
//!
//! Nothing here knows of sealed generations, and they know nothing of the journal; `store/reader.rs` and `store/checkpoint.rs`
//! know both.

mod aligned_buffer;
mod block_index;
mod files;
mod journal_file;
#[cfg(test)]
pub(crate) mod memory_journal;
mod new_file;
mod options;
mod record;
mod startup;
mod witness;
mod writer;
mod zero_fill;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::block_format::{BlockHead, TooLong};
use super::error::{JournalFailure, ReadError, WriteError, WriteRefusal};
use crate::domain::{Block, BlockOrigin, CommitNumber, Millis, Position, Sequence, TopicId};

pub(super) use options::FileJournalOptions;
pub use record::RECORD_BYTES_MAX;
pub use startup::replay::{Replay, Replayed, ReplayedGroup};
pub(super) use startup::{Evidence, ExaminedJournal, examine};

/// The writing half of a journal. One owner, the committer, on whose thread every call runs and may block.
///
/// A group is appended whole or not at all. It is durable once [`sync`](Self::sync) has returned, and until then nobody is to be
/// told of it who relies on that.
pub trait JournalWriter: Send {
    /// Bytes that the largest group may take.
    fn group_bytes_max(&self) -> u64 {
        RECORD_BYTES_MAX
    }

    /// Bytes that a group takes, to [make room](Self::make_room) for it.
    ///
    /// # Errors
    ///
    /// It is longer than the [largest](Self::group_bytes_max).
    fn group_bytes(&self, notes: &[u8], blocks: &[Block]) -> Result<u64, WriteRefusal> {
        let bytes_max = self.group_bytes_max();
        match record::group_bytes(notes, blocks) {
            Ok(bytes) if bytes <= bytes_max => Ok(bytes),
            Ok(_) | Err(TooLong) => Err(WriteRefusal::TooLong { bytes_max }),
        }
    }

    /// Makes sure that groups of so many bytes together can be appended, before anything is done that could not be undone.
    ///
    /// # Errors
    ///
    /// [`WriteError::Retry`] leaves everything as it was; [`WriteError::Final`].
    fn make_room(&mut self, bytes: u64) -> Result<(), WriteError>;

    /// Writes a group without making it durable, and answers its number; readers do not see its blocks yet. Blocks rise in
    /// position, from group to group as well.
    ///
    /// # Errors
    ///
    /// After [`WriteError::Refused`] and [`WriteError::Retry`] nothing of the group is there; [`WriteError::Final`].
    fn append(&mut self, notes: &[u8], blocks: &[Block]) -> Result<CommitNumber, WriteError>;

    /// Makes every appended group durable, and its blocks readable.
    ///
    /// # Errors
    ///
    /// Only [`WriteError::Final`]: a later sync that succeeds would say nothing about what this one lost.
    fn sync(&mut self) -> Result<(), WriteError>;

    /// Lets readers see the blocks appended so far although they are not durable, as topics with `interval` durability ask for.
    fn make_readable(&mut self);

    /// Makes everything durable and answers the number that the next group will have: the mark for a checkpoint of everything
    /// before.
    ///
    /// # Errors
    ///
    /// [`WriteError::Retry`] leaves everything as it was; [`WriteError::Final`].
    fn mark(&mut self) -> Result<CommitNumber, WriteError>;

    /// Number that the next group will have.
    fn next_number(&self) -> CommitNumber;

    /// Position that the next block must have at least, as far as blocks tell. The caller may know a higher one from its state.
    fn next_position(&self) -> Position;

    /// How long it is, and how much of that a checkpoint which is under way will leave.
    fn usage(&self) -> JournalUsage;

    /// Why nothing should be appended for now, when what the journal writes to is not any more where it was opened. What was
    /// appended can be synced. Costs next to nothing while all is well.
    fn displaced(&self) -> Option<String>;

    /// Whether there is no room but what is kept for acks and marks, so that nothing else should be appended.
    fn is_short(&self) -> bool;

    /// Bytes that groups may take while it is [short](Self::is_short), beside acks and marks.
    fn spare_bytes(&self) -> u64;

    /// What a helper of the journal has died of since the last call, if it has. It costs speed only.
    fn take_preparer_death(&mut self) -> Option<String> {
        None
    }

    /// Makes everything durable and writes down that nothing can be missing.
    ///
    /// # Errors
    ///
    /// It could not be written, for want of room for instance. The next start then treats the end as after a crash.
    fn close(self: Box<Self>) -> Result<(), JournalFailure>;
}

/// The reading half of a journal: shared by many threads, while its writer goes on.
pub(super) trait JournalReader: Send + Sync {
    /// The readable block that contains `from`, or else the first one after it. Reads nothing yet.
    fn at_or_after(&self, from: Position) -> Option<JournalBlock>;

    /// The blocks that a mark at `mark` releases, in order.
    fn blocks_before(&self, mark: CommitNumber) -> Vec<BlockMeta>;

    /// The first and the last position among them.
    fn positions_before(&self, mark: CommitNumber) -> Option<RangeInclusive<Position>>;

    /// What can be released piece by piece before `mark`, oldest first.
    fn segments_before(&self, mark: CommitNumber) -> Vec<JournalSegment>;

    /// Lets go of everything before `mark`, which is somewhere else by now or not needed any more. What cannot be removed now
    /// costs room and nothing else.
    fn release(&self, mark: CommitNumber);

    /// How long it is, with what readers do not see yet.
    fn size(&self) -> JournalSize;

    /// Number of the next group.
    fn next_number(&self) -> CommitNumber;

    /// Says that nobody will soon read again what is before `mark`, so that the memory it takes can serve others.
    fn forget_pages(&self, mark: CommitNumber) {
        let _ = mark;
    }

    /// A file of it that was removed, or replaced, since it was opened, if there is one. What is in it can be read as long as it
    /// stays open. Blocks on the disk.
    fn missing_file(&self) -> Option<PathBuf> {
        None
    }
}

/// A block of the journal that was found and not yet read. Can be read for as long as it lives, whatever is released meanwhile.
pub(super) struct JournalBlock {
    pub(super) head: BlockHead,
    /// Where the block lies in `source`.
    at: u64,
    source: Arc<dyn BlockSource>,
}

impl JournalBlock {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// The disk fails or what it holds is damaged.
    pub(super) fn read(&self) -> Result<Block, ReadError> {
        self.source.read(&self.head, self.at)
    }

    /// The file it is in.
    pub(super) fn path(&self) -> &Path {
        self.source.path()
    }
}

/// What blocks of the journal are read from.
trait BlockSource: Send + Sync {
    /// What to call it.
    fn path(&self) -> &Path;

    /// The block whose head and place these are.
    fn read(&self, head: &BlockHead, at: u64) -> Result<Block, ReadError>;
}

/// How long a journal is, or a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalSize {
    /// Bytes written and not released; preallocated space is not counted.
    pub bytes: u64,
    /// Blocks in it.
    pub blocks: usize,
}

/// What of the room for the journal is used. Falls when a checkpoint releases some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalUsage {
    /// All of it.
    pub all: JournalSize,
    /// Groups that came after the last [mark](JournalWriter::mark).
    pub unmarked: JournalSize,
    /// Whether publishes must wait for a checkpoint. Acks and marks may go on into the reserve.
    pub is_full: bool,
}

/// What is known of a block in the journal without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMeta {
    /// Position of its first event.
    pub first_position: Position,
    /// Position of its last event.
    pub last_position: Position,
    /// Topic of all its events.
    pub topic: TopicId,
    /// Whether they are dead letters.
    pub mark: BlockOrigin,
    /// Sequence of its first event.
    pub first_sequence: Sequence,
    /// Its events.
    pub count: u32,
    /// When it was appended.
    pub time: Millis,
}

impl From<&BlockHead> for BlockMeta {
    fn from(head: &BlockHead) -> Self {
        Self {
            first_position: head.first_position,
            last_position: head.last_position(),
            topic: head.topic,
            mark: head.mark,
            first_sequence: head.first_sequence,
            count: head.count,
            time: head.time,
        }
    }
}

/// What is released of the journal at a time: a file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSegment {
    /// First group after it.
    pub end: CommitNumber,
    /// Its length.
    pub bytes: u64,
    /// Its events.
    pub events: u64,
    /// From the first of them to the last, if there are any.
    pub positions: Option<RangeInclusive<Position>>,
}

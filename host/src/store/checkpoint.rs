//! The checkpoint: what stays moves out of the journal into a sealed generation, and generations that nobody needs are removed. One
//! owner, the checkpointer. The journal lets go of something only after the manifest names the generation that has it, and
//! readers can find it there.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::checkpoint_pace::Pace;
use super::disk_reserve::Reserve;
use super::error::{CheckpointError, CheckpointRefusal, ReadError};
use super::journal::{BlockMeta, JournalReader, JournalSegment};
use super::loss::Loss;
use super::sealed::{GenerationInfo, GenerationWriter, Sealed};
use super::unreadable_events::{Holder, UnreadableEvents};
use crate::disk::FileSystem;
use crate::domain::{Block, CommitNumber, Position};
use crate::runtime::{Clock, Threads};

/// Writes and deletes generations, and releases the journal.
pub struct Checkpoints {
    parts: CheckpointParts,
    is_over: Box<dyn Fn() -> bool + Send>,
}

/// What blocks move from and to, and what they need for that.
pub(super) struct CheckpointParts {
    pub(super) journal: Arc<dyn JournalReader>,
    pub(super) sealed: Arc<Sealed>,
    pub(super) generations: GenerationWriter,
    pub(super) troubles: Arc<UnreadableEvents>,
    pub(super) reserve: Arc<Reserve>,
    // Does nothing by path while the store is not in place.
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    pub(super) clock: Clock,
    pub(super) threads: Arc<dyn Threads>,
    /// Journal bytes beyond which publishes wait.
    pub(super) publishable_bytes_max: u64,
}

impl Checkpoints {
    pub(super) fn new(parts: CheckpointParts) -> Self {
        parts.generations.measure_state();
        Self {
            parts,
            is_over: Box::new(|| false),
        }
    }

    /// A generation that is being written when `is_over` says so is given up.
    pub fn give_up_when(&mut self, is_over: impl Fn() -> bool + Send + 'static) {
        self.is_over = Box::new(is_over);
    }

    /// The blocks of the journal that a mark at `before` releases, in order.
    #[must_use]
    pub fn journal_blocks(&self, before: CommitNumber) -> Vec<BlockMeta> {
        self.parts.journal.blocks_before(before)
    }

    /// What of the journal a mark at `before` releases, piece by piece, oldest first.
    #[must_use]
    pub fn journal_segments(&self, before: CommitNumber) -> Vec<JournalSegment> {
        self.parts.journal.segments_before(before)
    }

    /// Bytes of the disk that one more state takes for good: none while there are older ones, which it replaces.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.parts.generations.state_bytes()
    }

    /// Writes a generation with `blocks`, in rising order of position, and `state`, both as of before the
    /// group `mark` (from [`super::JournalWriter::mark`], or the [end](JournalSegment::end) of a segment before that, if the state
    /// says which groups it knows beyond); seals it, reads it back, names it in the manifest and releases the journal
    /// before the mark. Takes as long as the disk needs.
    ///
    /// # Errors
    ///
    /// The journal is untouched and the next attempt starts afresh.
    pub fn write_generation(
        &mut self,
        mark: CommitNumber,
        blocks: impl Iterator<Item = Result<Block, ReadError>>,
        state: impl Iterator<Item = (Bytes, Bytes)>,
    ) -> Result<GenerationInfo, CheckpointError> {
        self.check_mark(mark)?;
        if planted!(ReleaseBeforeManifest) {
            self.release(mark);
        }
        let mut pace = self.pace(mark);
        let CheckpointParts {
            journal,
            reserve,
            clock,
            threads,
            generations,
            ..
        } = &mut self.parts;
        let is_over = &self.is_over;
        let step = |through| {
            if is_over() {
                return Err(CheckpointError::GivenUp);
            }
            journal.forget_pages(mark);
            let rest = pace.step_done(clock.instant(), through, journal.size().bytes);
            // Without room nobody may write, so there is nobody to give way to. The reserve is this checkpoint's now.
            if !reserve.is_short() {
                threads.rest(rest);
            }
            Ok(())
        };
        let (info, states_dropped) = generations.add(mark, blocks, state, step)?;
        self.release(mark);
        self.parts.generations.remove_states(&states_dropped);
        Ok(info)
    }

    /// The complete generations, oldest first.
    #[must_use]
    pub fn generations(&self) -> Vec<GenerationInfo> {
        self.parts.sealed.infos()
    }

    /// Deletes a generation with everything in it. The newest two are kept for their state.
    ///
    /// # Errors
    ///
    /// It is one of the two newest, there is none with this number, or the disk failed.
    pub fn delete_generation(&mut self, id: u64) -> Result<(), CheckpointError> {
        self.parts.generations.delete(id)
    }

    /// Gives up what is damaged in generations, so that everybody passes over it from now on: all that there is, which means to
    /// read all of them, or else what somebody could not read lately. A copy of each damaged database is kept in `lost`. What only
    /// cannot be read now, because the system fails, is left as it is. `decided` hears of it once it is durable, and before anybody
    /// can find the events missing.
    ///
    /// # Errors
    ///
    /// The disk failed; nothing was given up, and `decided` has heard of nothing.
    pub fn give_up_damage(
        &mut self,
        all: bool,
        decided: impl FnOnce(&[Loss]),
    ) -> Result<Vec<Loss>, CheckpointError> {
        self.parts.generations.give_up_damage(all, decided)
    }

    /// Whether the disk has no room but what is kept for draining.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.parts.reserve.is_short()
    }

    /// Allocates what is missing of the disk space that is kept for draining. While the disk has no room for it, the store is
    /// [short](Self::is_short).
    ///
    /// # Errors
    ///
    /// There is no room for it, or the disk fails.
    pub fn replenish(&self) -> io::Result<()> {
        self.parts.reserve.replenish(&*self.parts.fs)
    }

    /// Bytes of the disk that may still be used; `None` where that cannot be told.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        self.parts.fs.free_bytes(&self.parts.dir).ok()
    }

    /// Gives back the disk space that is kept for a checkpoint, because there is no other. Answers whether there was any;
    /// [`replenish`](Self::replenish) takes it again.
    pub fn release_reserve(&self) -> bool {
        self.parts.reserve.release_checkpoint(&*self.parts.fs)
    }

    fn check_mark(&self, mark: CommitNumber) -> Result<(), CheckpointError> {
        let next = self.parts.journal.next_number();
        let newest = self.parts.sealed.newest_mark();
        let last = newest.unwrap_or(CommitNumber(1));
        if last <= mark && mark <= next {
            Ok(())
        } else {
            Err(CheckpointRefusal::Mark { mark, last, next }.into())
        }
    }

    fn pace(&self, mark: CommitNumber) -> Pace {
        let journal = &self.parts.journal;
        let events = match journal.positions_before(mark) {
            Some(range) => (*range.start(), *range.end()),
            None => (Position(0), Position(0)),
        };
        let bytes_max = self.parts.publishable_bytes_max;
        let now = self.parts.clock.instant();
        Pace::begin(now, events, journal.size().bytes, bytes_max)
    }

    fn release(&self, mark: CommitNumber) {
        reached!(JournalReleased);
        let journal = &self.parts.journal;
        journal.release(mark);
        // What could not be read there is not there any more.
        self.parts.troubles.forget(|holder, unreadable| {
            let is_there = || {
                let found = journal.at_or_after(unreadable.first);
                found.is_some_and(|found| found.head.first_position <= unreadable.first)
            };
            holder == Holder::Journal && !is_there()
        });
    }
}

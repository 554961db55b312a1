//! The reader: blocks by position, from the journal or from a generation, whichever has them. Many threads at once; nothing here
//! writes.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use super::block_cache::{BlockCache, CacheKey};
use super::block_format::BlockHead;
use super::error::ReadError;
use super::folders::Folders;
use super::journal::{JournalBlock, JournalReader};
use super::sealed::Sealed;
use super::unreadable_events::{Holder, Unreadable, UnreadableEvents};
use crate::domain::{Block, Millis, Position, TopicId};

/// Reads blocks. A clone shares everything, the store's lock included.
#[derive(Clone)]
pub struct StoreReader {
    parts: Arc<ReaderParts>,
}

/// What blocks are read from.
pub(super) struct ReaderParts {
    pub(super) journal: Arc<dyn JournalReader>,
    pub(super) sealed: Arc<Sealed>,
    pub(super) cache: Arc<BlockCache>,
    pub(super) troubles: Arc<UnreadableEvents>,
    pub(super) folders: Arc<Folders>,
}

/// What the store occupies on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Bytes written to the journal and not released; preallocated space is not counted.
    pub journal_bytes: u64,
    /// Blocks in the journal.
    pub journal_blocks: usize,
    /// Bytes of all generations.
    pub generation_bytes: u64,
    /// Generations.
    pub generations: usize,
}

impl StoreReader {
    pub(super) fn new(parts: ReaderParts) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// The block whose range of positions contains `position`. In a thinned block the event itself may be
    /// absent.
    ///
    /// # Errors
    ///
    /// The disk fails or what it holds is damaged.
    pub fn block_at(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        let block = self.next_block(position)?;
        Ok(block.filter(|block| block.first_position <= position))
    }

    /// When the event at `position` was appended. For what is in the journal nothing is read.
    ///
    /// # Errors
    ///
    /// The disk fails or what it holds is damaged.
    pub fn appended_at(&self, position: Position) -> Result<Option<Millis>, ReadError> {
        if let Some(found) = self.parts.journal.at_or_after(position)
            && found.head.first_position <= position
        {
            return Ok(Some(found.head.time));
        }
        Ok(self.block_at(position)?.map(|block| block.time))
    }

    /// When the first event at `from` or after it was appended, of those that are kept. For what is in the journal nothing is read,
    /// unless the one at `from` is not.
    ///
    /// # Errors
    ///
    /// The disk fails or what it holds is damaged.
    pub fn next_appended_at(&self, from: Position) -> Result<Option<Millis>, ReadError> {
        if let Some(found) = self.parts.journal.at_or_after(from)
            && found.head.first_position <= from
        {
            return Ok(Some(found.head.time));
        }
        Ok(self.next_block(from)?.map(|block| block.time))
    }

    /// Where the block lies that contains `from`, or else the first one after it, and its topic. For what is in the journal nothing
    /// is read.
    ///
    /// # Errors
    ///
    /// The disk fails or what it holds is damaged.
    pub fn block_place(
        &self,
        from: Position,
    ) -> Result<Option<(RangeInclusive<Position>, TopicId)>, ReadError> {
        let place = |head: &BlockHead| (head.first_position..=head.last_position(), head.topic);
        let in_journal = self.parts.journal.at_or_after(from);
        if let Some(found) = &in_journal
            && found.head.first_position <= from
        {
            return Ok(Some(place(&found.head)));
        }
        let sealed = self.parts.sealed.next_block(from)?;
        let sealed =
            sealed.map(|block| (block.first_position..=block.last_position(), block.topic));
        let in_journal = in_journal.map(|found| place(&found.head));
        let places = sealed.into_iter().chain(in_journal);
        Ok(places.min_by_key(|(range, _)| *range.start()))
    }

    /// The block that contains `from`, or else the first one after it.
    ///
    /// # Errors
    ///
    /// The disk fails or what it holds is damaged.
    pub fn next_block(&self, from: Position) -> Result<Option<Arc<Block>>, ReadError> {
        let since = self.parts.troubles.since();
        // The journal before the generations: a block that moves meanwhile is then in the one or the other.
        let in_journal = self.parts.journal.at_or_after(from);
        if let Some(found) = &in_journal
            && found.head.first_position <= from
        {
            return self.journal_block(found, since).map(Some);
        }
        if let Some(block) = self.parts.sealed.next_block(from)? {
            let is_first = in_journal
                .as_ref()
                .is_none_or(|found| block.first_position < found.head.first_position);
            if is_first {
                return Ok(Some(block));
            }
        }
        in_journal
            .map(|found| self.journal_block(&found, since))
            .transpose()
    }

    /// Whether the store is still where it was opened.
    #[must_use]
    pub fn folders(&self) -> Arc<Folders> {
        self.parts.folders.clone()
    }

    /// A file of the journal that was removed, or replaced, since it was opened, if there is one. What is in it can be read as long
    /// as it stays open, and is saved by a checkpoint. Blocks on the disk.
    #[must_use]
    pub fn missing_journal_file(&self) -> Option<PathBuf> {
        self.parts.journal.missing_file()
    }

    /// Which stretches could not be read when somebody last tried.
    #[must_use]
    pub fn unreadable(&self) -> Vec<Unreadable> {
        let list = self.parts.troubles.list().into_iter();
        list.map(|(_, unreadable)| unreadable).collect()
    }

    /// Reads one of those stretches again that nobody tries any more: what can be read is not among them from then on. Blocks on the disk.
    pub fn try_unneeded(&self) {
        if let Some(first) = self.parts.troubles.overdue() {
            // What comes of it is remembered.
            let _ = self.next_block(first);
        }
    }

    /// Which topics the events in generations are of, and how many of each are there. Reads all of them; what does not read is
    /// passed over.
    #[must_use]
    pub fn sealed_topics(&self) -> Vec<(TopicId, u64)> {
        self.parts.sealed.topics()
    }

    /// What the store occupies.
    #[must_use]
    pub fn usage(&self) -> StoreUsage {
        let journal = self.parts.journal.size();
        let (generation_bytes, generations) = self.parts.sealed.bytes_and_count();
        StoreUsage {
            journal_bytes: journal.bytes,
            journal_blocks: journal.blocks,
            generation_bytes,
            generations,
        }
    }

    /// Databases open now, and at most ever.
    #[cfg(test)]
    pub(super) fn databases_open_now_and_peak(&self) -> (usize, usize) {
        self.parts.sealed.open_now_and_peak()
    }

    fn journal_block(&self, found: &JournalBlock, since: u64) -> Result<Arc<Block>, ReadError> {
        let (first, last) = (found.head.first_position, found.head.last_position());
        let (cache, troubles) = (&self.parts.cache, &self.parts.troubles);
        let key = CacheKey::Journal(first);
        if let Some(block) = cache.get(&key) {
            return Ok(block);
        }
        if let Some(error) = troubles.known(Holder::Journal, first) {
            return Err(error);
        }
        match found.read() {
            Ok(block) => {
                troubles.went_well(Holder::Journal, first);
                let block = Arc::new(block);
                cache.insert(key, block.clone());
                Ok(block)
            }
            Err(why) => Err(troubles
                .failed_again(Holder::Journal, first, &why)
                .unwrap_or_else(|| {
                    troubles.found(Holder::Journal, found.path(), first..=last, why, since)
                })),
        }
    }
}

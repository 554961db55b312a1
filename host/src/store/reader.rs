//! Reading blocks by position, from the journal or from a generation, through one cache. Many threads at once;
//! nothing here writes.

use std::path::PathBuf;
use std::sync::Arc;

use super::Shared;
use super::error::ReadError;
use super::folders::Folders;
use super::generation::{Generation, PartError};
use super::index::{Entry, JournalFile};
use super::replay;
use super::sealed;
use super::trouble::{Holder, Unreadable};
use crate::domain::{Block, Millis, Position, TopicId};

/// Reads blocks. A clone shares everything, the store's lock included.
#[derive(Clone)]
pub struct StoreReader {
    shared: Arc<Shared>,
}

/// What the store occupies on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes written to the journal and not released; preallocated space is not counted.
    pub journal_bytes: u64,
    /// Blocks in the journal.
    pub journal_blocks: usize,
    /// Bytes of all generations.
    pub generation_bytes: u64,
    /// Generations.
    pub generations: usize,
}

/// Blocks that were read, by what was asked for.
pub(super) type BlockCache = quick_cache::sync::Cache<CacheKey, Arc<Block>, BlockWeight>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CacheKey {
    /// First position of a block of the journal.
    Journal(Position),
    /// What generations answer for this position, after so many of them were deleted. It stays true until the next is deleted:
    /// positions below are never added later.
    Generations { from: Position, deleted: u64 },
}

#[derive(Clone)]
pub(super) struct BlockWeight;

impl quick_cache::Weighter<CacheKey, Arc<Block>> for BlockWeight {
    fn weight(&self, _: &CacheKey, block: &Arc<Block>) -> u64 {
        block.weight() as u64
    }
}

/// A cache of this many bytes.
pub(super) fn new_cache(bytes: u64) -> BlockCache {
    let blocks = usize::try_from(bytes / (16 * 1024))
        .unwrap_or(usize::MAX)
        .clamp(16, 1 << 20);
    BlockCache::with_weighter(blocks, bytes, BlockWeight)
}

impl StoreReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
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
        if let Some((_, entry)) = self.shared.index().at_or_after(position)
            && entry.head.first_position <= position
        {
            return Ok(Some(entry.head.time));
        }
        Ok(self.block_at(position)?.map(|block| block.time))
    }

    /// The block that contains `from`, or else the first one after it.
    ///
    /// # Errors
    ///
    /// The disk fails or what it holds is damaged.
    pub fn next_block(&self, from: Position) -> Result<Option<Arc<Block>>, ReadError> {
        let since = self.shared.troubles.since();
        // The index before the generations: a block that moves meanwhile is then in the one or the other.
        let in_journal = self.shared.index().at_or_after(from);
        if let Some((file, entry)) = &in_journal
            && entry.head.first_position <= from
        {
            return self.journal_block(file, entry, since).map(Some);
        }
        if let Some(block) = self.generation_block(from)? {
            let is_first = in_journal
                .as_ref()
                .is_none_or(|(_, entry)| block.first_position < entry.head.first_position);
            if is_first {
                return Ok(Some(block));
            }
        }
        in_journal
            .map(|(file, entry)| self.journal_block(&file, &entry, since))
            .transpose()
    }

    /// Whether the store is still where it was opened.
    #[must_use]
    pub fn folders(&self) -> Arc<Folders> {
        self.shared.folders.clone()
    }

    /// A file of the journal that was removed, or replaced, since it was opened, if there is one. What is in it can be read as long
    /// as it stays open, and is saved by a checkpoint. Blocks on the disk.
    #[must_use]
    pub fn missing_journal_file(&self) -> Option<PathBuf> {
        let files = self.shared.index().files();
        // One that cannot be looked at now may be there.
        let is_missing = |file: &JournalFile| matches!(file.file.is_at(&file.path), Ok(false));
        let missing = files.iter().rev().find(|file| is_missing(file))?;
        // It may have been released meanwhile.
        let still = self.shared.index().files();
        let is_same = |file: &Arc<JournalFile>| Arc::ptr_eq(file, missing);
        still.iter().any(is_same).then(|| missing.path.clone())
    }

    /// Which stretches could not be read when somebody last tried.
    #[must_use]
    pub fn unreadable(&self) -> Vec<Unreadable> {
        let list = self.shared.troubles.list().into_iter();
        list.map(|(_, unreadable)| unreadable).collect()
    }

    /// Which topics the events in generations are of, and how many of each are there. Reads all of them; what does not read is
    /// passed over.
    #[must_use]
    pub fn sealed_topics(&self) -> Vec<(TopicId, u64)> {
        let generations = self.shared.generations();
        let described = generations.iter().map(|one| &one.described);
        sealed::topics(&self.shared.dir, described)
    }

    /// What the store occupies.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let generations = self.shared.generations();
        Usage {
            journal_bytes: self.shared.journal_bytes(),
            journal_blocks: self.shared.journal_blocks(),
            generation_bytes: generations.iter().map(|one| one.described.info.bytes).sum(),
            generations: generations.len(),
        }
    }

    #[cfg(test)]
    pub(super) fn pool(&self) -> &super::pool::Pool {
        &self.shared.pool
    }

    fn journal_block(
        &self,
        file: &JournalFile,
        entry: &Entry,
        since: u64,
    ) -> Result<Arc<Block>, ReadError> {
        let key = CacheKey::Journal(entry.head.first_position);
        if let Some(block) = self.shared.cache.get(&key) {
            return Ok(block);
        }
        let (first, last) = (entry.head.first_position, entry.head.last_position());
        let troubles = &self.shared.troubles;
        if let Some(error) = troubles.known(Holder::Journal, first) {
            return Err(error);
        }
        let damaged = || ReadError::DamagedBlock {
            path: file.path.clone(),
            offset: entry.offset,
        };
        let body = replay::read(file, entry.offset, u64::from(entry.head.body_bytes));
        let block = body.and_then(|body| entry.head.block(&body).ok_or_else(damaged));
        match block {
            Ok(block) => {
                troubles.went_well(Holder::Journal, first);
                let block = Arc::new(block);
                self.shared.cache.insert(key, block.clone());
                Ok(block)
            }
            Err(why) => Err(troubles
                .failed_again(Holder::Journal, first, &why)
                .unwrap_or_else(|| {
                    troubles.found(Holder::Journal, &file.path, first..=last, why, since)
                })),
        }
    }

    fn generation_block(&self, from: Position) -> Result<Option<Arc<Block>>, ReadError> {
        loop {
            let since = self.shared.troubles.since();
            let generations = self.shared.generations();
            let deleted = deleted_so_far(&generations);
            let key = CacheKey::Generations { from, deleted };
            if let Some(block) = self.shared.cache.get(&key) {
                return Ok(Some(block));
            }
            match self.search(&generations, from, since) {
                Ok(found) => {
                    let block = found.map(Arc::new);
                    if let Some(block) = &block {
                        self.shared.cache.insert(key, block.clone());
                    }
                    return Ok(block);
                }
                // Deleted while we looked: the next list does not have it any more.
                Err((generation, _)) if generation.is_deleted() => {}
                Err((_, error)) => return Err(error),
            }
        }
    }

    // Generations may overlap when blocks were written again; of equal ones the newest counts, and what is damaged in one may be
    // sound in another.
    fn search<'a>(
        &self,
        generations: &'a [Arc<Generation>],
        from: Position,
        since: u64,
    ) -> Result<Option<Block>, (&'a Generation, ReadError)> {
        let newest_first = generations.iter().rev();
        let mut candidates: Vec<_> = newest_first
            .filter_map(|generation| {
                let (part, lowest) = generation.part_for(from)?;
                Some((lowest, part, &**generation))
            })
            .collect();
        candidates.sort_by_key(|(lowest, _, _)| *lowest);
        let mut best: Option<Block> = None;
        let mut failed = None;
        for (lowest, part, generation) in candidates {
            if best
                .as_ref()
                .is_some_and(|best| lowest >= best.last_position().next())
            {
                break;
            }
            let found = match self.block_in_part(generation, (part, lowest), since) {
                Ok(found) => found,
                Err(error) => {
                    failed = failed.or(Some((generation, error)));
                    continue;
                }
            };
            if let Some(block) = found
                && best
                    .as_ref()
                    .is_none_or(|best| block.first_position < best.first_position)
            {
                best = Some(block);
            }
        }
        match failed {
            // Something before it may be missing.
            Some(failed) if best.as_ref().is_none_or(|best| best.first_position > from) => {
                Err(failed)
            }
            _ => Ok(best),
        }
    }

    // Of a generation that is being deleted nothing is remembered.
    fn block_in_part(
        &self,
        generation: &Generation,
        (part, from): (usize, Position),
        since: u64,
    ) -> Result<Option<Block>, ReadError> {
        let (troubles, pool) = (&self.shared.troubles, &self.shared.pool);
        let holder = Holder::Part {
            generation: generation.described.info.id,
            part,
        };
        if let Some(error) = troubles.known(holder, from) {
            return Err(error);
        }
        let failed = match generation.block_in_part(pool, part, from) {
            Ok(found) => {
                troubles.went_well(holder, from);
                return Ok(found);
            }
            Err(failed) => failed,
        };
        let (PartError::Closed(why) | PartError::At(why)) = &failed;
        if generation.is_deleted() {
            return Err(why.clone());
        }
        // What is not in place says nothing of what was stored.
        if let Err(error) = self.shared.folders.check() {
            return Err(ReadError::io(&generation.path(part))(error));
        }
        if let Some(error) = troubles.failed_again(holder, from, why) {
            return Err(error);
        }
        let about = &generation.described.parts[part];
        let path = generation.path(part);
        Err(match failed {
            PartError::Closed(why) => {
                let all = about.first_position.min(from)..=about.last_position;
                troubles.found(holder, &path, all, why, since)
            }
            PartError::At(why) => {
                let end = generation.end_of_damage(pool, part, from);
                let last = Position(end.0.saturating_sub(1)).max(from);
                troubles.found(holder, &path, from..=last, why, since)
            }
        })
    }
}

// Generations are numbered without a gap, so it follows from those that are left. It grows with each that is deleted.
fn deleted_so_far(generations: &[Arc<Generation>]) -> u64 {
    let newest = generations.last().map_or(0, |one| one.described.info.id);
    newest.saturating_sub(generations.len() as u64)
}

//! The sealed generations: what stays of the events once the journal has let them go, and the state of the broker beside them. A
//! generation is written once and then only read, until it is deleted whole; which ones are complete the manifest says. The only
//! place that knows sled.
//!
//! [`Sealed`] is what readers see of them, and [`GenerationWriter`] is the one who changes that. Nothing here knows the journal.

#[cfg_attr(feature = "simulation", path = "../../../tests/sim/seams/database.rs")]
mod database;
mod database_items;
mod generation;
mod generation_builder;
mod generation_files;
mod generation_writer;
mod give_up_damage;
mod manifest;
mod open_databases;
mod sled_repair;
mod startup;
mod state_pairs;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use super::block_cache::{BlockCache, CacheKey};
use super::error::ReadError;
use super::folders::Folders;
use super::unreadable_events::{Holder, UnreadableEvents};
use crate::disk::FileSystem;
use crate::domain::{Block, CommitNumber, Position, TopicId};
use crate::locks;

pub use database::is_panic_expected;
pub(super) use generation_writer::{GenerationWriter, reserve_bytes_min};
pub use manifest::GenerationInfo;
pub use startup::STATES_KEPT;
pub(super) use startup::{Inventory, examine};

#[cfg(test)]
pub(crate) use database::failing;
#[cfg(test)]
pub(super) use database_items::DatabaseWriter;

use generation::{Generation, PartError};
use manifest::Described;
use open_databases::OpenDatabases;

/// What the generations share with the rest of the store.
pub(super) struct SealedParts {
    // Does nothing by path while the store is not in place.
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    pub(super) folders: Arc<Folders>,
    pub(super) cache: Arc<BlockCache>,
    pub(super) troubles: Arc<UnreadableEvents>,
    /// sled databases that may be open at a time.
    pub(super) open_max: usize,
}

/// The complete generations, as readers see them.
pub(super) struct Sealed {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    folders: Arc<Folders>,
    cache: Arc<BlockCache>,
    troubles: Arc<UnreadableEvents>,
    pool: OpenDatabases,
    /// Oldest first.
    generations: RwLock<Arc<Vec<Arc<Generation>>>>,
}

impl Sealed {
    /// Those that a start has found.
    pub(super) fn new(parts: SealedParts, found: &Inventory) -> Self {
        let SealedParts {
            fs,
            dir,
            folders,
            cache,
            troubles,
            open_max,
        } = parts;
        let described = found.described.iter();
        let generation = |one: &Described| Arc::new(Generation::new(&dir, one.clone(), &folders));
        let generations = described.map(generation).collect();
        Self {
            fs,
            folders,
            cache,
            troubles,
            pool: OpenDatabases::new(open_max),
            generations: RwLock::new(Arc::new(generations)),
            dir,
        }
    }

    /// What is told of them, oldest first.
    pub(super) fn infos(&self) -> Vec<GenerationInfo> {
        let generations = self.generations();
        let infos = generations.iter().map(|one| one.described.info.clone());
        infos.collect()
    }

    /// As of before which group the newest of them is.
    pub(super) fn newest_mark(&self) -> Option<CommitNumber> {
        let generations = self.generations();
        generations.last().map(|one| one.described.info.mark)
    }

    /// Their bytes together, and how many they are.
    pub(super) fn bytes_and_count(&self) -> (u64, usize) {
        let generations = self.generations();
        let bytes = generations.iter().map(|one| one.described.info.bytes).sum();
        (bytes, generations.len())
    }

    /// Which topics their events are of, and how many of each are there. Reads all of them; what does not read is passed over.
    pub(super) fn topics(&self) -> Vec<(TopicId, u64)> {
        let generations = self.generations();
        let described = generations.iter().map(|one| &one.described);
        startup::topics(&*self.fs, &self.dir, described)
    }

    /// The block that contains `from`, or else the first one after it.
    ///
    /// # Errors
    ///
    /// The disk fails or what it holds is damaged.
    pub(super) fn next_block(&self, from: Position) -> Result<Option<Arc<Block>>, ReadError> {
        loop {
            let since = self.troubles.since();
            let generations = self.generations();
            let deleted = deleted_so_far(&generations);
            let key = CacheKey::Generations { from, deleted };
            if let Some(block) = self.cache.get(&key) {
                return Ok(Some(block));
            }
            match self.search(&generations, from, since) {
                Ok(found) => {
                    let block = found.map(Arc::new);
                    if let Some(block) = &block {
                        self.cache.insert(key, block.clone());
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
        let read = match planted!(OlderGenerationsNotRead) {
            true => generations.len().min(1),
            false => generations.len(),
        };
        let newest_first = generations.iter().rev().take(read);
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
        let (troubles, fs, pool) = (&self.troubles, &*self.fs, &self.pool);
        let holder = Holder::Part {
            generation: generation.described.info.id,
            part,
        };
        if let Some(error) = troubles.known(holder, from) {
            return Err(error);
        }
        let failed = match generation.block_in_part(fs, pool, part, from) {
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
        if let Err(error) = self.folders.check() {
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
                let end = generation.end_of_damage(fs, pool, part, from);
                let last = Position(end.0.saturating_sub(1)).max(from);
                troubles.found(holder, &path, from..=last, why, since)
            }
        })
    }

    fn generations(&self) -> Arc<Vec<Arc<Generation>>> {
        locks::read(&self.generations).clone()
    }

    fn described(&self) -> Vec<Described> {
        let generations = self.generations();
        generations
            .iter()
            .map(|one| one.described.clone())
            .collect()
    }

    // Lets readers see this list.
    fn show(&self, all: Vec<Described>) {
        let before = self.generations();
        let generations = all.into_iter().map(|described| {
            // A reader that has an old list must see the same `deleted` flag, whatever was said of the generation then.
            let id = described.info.id;
            match before.iter().find(|one| one.described.info.id == id) {
                Some(same) if same.described == described => same.clone(),
                Some(before) => Arc::new(before.described_as(described)),
                None => Arc::new(Generation::new(&self.dir, described, &self.folders)),
            }
        });
        let generations = Arc::new(generations.collect());
        *locks::write(&self.generations) = generations;
    }

    /// Databases open now, and at most ever.
    #[cfg(test)]
    pub(super) fn open_now_and_peak(&self) -> (usize, usize) {
        self.pool.open_now_and_peak()
    }
}

// Generations are numbered without a gap, so it follows from those that are left. It grows with each that is deleted.
fn deleted_so_far(generations: &[Arc<Generation>]) -> u64 {
    let newest = generations.last().map_or(0, |one| one.described.info.id);
    newest.saturating_sub(generations.len() as u64)
}

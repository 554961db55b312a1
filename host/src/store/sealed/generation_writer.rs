//! The writer of generations, the only one who changes which there are: adds one, deletes one, gives up what is damaged in some. The
//! manifest on disk says so first and readers see it after that; what the manifest does not name is removed.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::generation_builder::{self, Plan};
use super::manifest::{self, Described, GenerationInfo};
use super::{STATES_KEPT, Sealed, database, generation_files, give_up_damage};
use crate::disk::is_full;
use crate::domain::{Block, CommitNumber, Position};
use crate::store::disk_reserve::Reserve;
use crate::store::error::{CheckpointError, CheckpointFailure, CheckpointRefusal, ReadError};
use crate::store::file_names;
use crate::store::loss::Loss;
use crate::store::unreadable_events::Holder;

/// Writes and deletes generations. One owner.
pub(in crate::store) struct GenerationWriter {
    pub(super) sealed: Arc<Sealed>,
    reserve: Arc<Reserve>,
    part_bytes: u64,
    /// No generation had this number or a higher one before.
    id_min: u64,
    /// Replacing the manifest failed, so the one on disk may be the one that counts or the one that was to be. Everything that
    /// either of them names is kept until it is known again.
    is_unsure: bool,
}

/// Disk space to keep for a checkpoint at least, when parts have about so many bytes.
pub(in crate::store) fn reserve_bytes_min(part_bytes: u64) -> u64 {
    // A database takes two MiB and more, however little is in it.
    (part_bytes / 2).max(2 * database::EMPTY_BYTES)
}

impl GenerationWriter {
    /// Those it adds have numbers above `last_id`.
    pub(in crate::store) fn new(
        sealed: Arc<Sealed>,
        reserve: Arc<Reserve>,
        part_bytes: u64,
        last_id: u64,
    ) -> Self {
        Self {
            sealed,
            reserve,
            part_bytes,
            id_min: last_id + 1,
            is_unsure: false,
        }
    }

    /// Writes a generation, seals it, reads it back, and names it in the manifest. Answers what is told of it, and which
    /// generations have a state that no start would use any more, for [`remove_states`](Self::remove_states).
    ///
    /// # Errors
    ///
    /// The generations are as they were, and the next attempt starts afresh.
    pub(in crate::store) fn add(
        &mut self,
        mark: CommitNumber,
        blocks: impl Iterator<Item = Result<Block, ReadError>>,
        state: impl Iterator<Item = (Bytes, Bytes)>,
        step: impl FnMut(Position) -> Result<(), CheckpointError>,
    ) -> Result<(GenerationInfo, Vec<u64>), CheckpointError> {
        self.settle_manifest()?;
        let mut all = self.sealed.described();
        let after = all.last().map_or(1, |newest| newest.info.id + 1);
        let plan = Plan {
            id: after.max(self.id_min),
            mark,
            part_bytes: self.part_bytes,
        };
        let described = match generation_builder::build(&self.sealed, &plan, blocks, state, step) {
            Ok(described) => described,
            Err(error) => {
                self.remove_folder(&file_names::generation(&self.sealed.dir, plan.id));
                return Err(error);
            }
        };
        let info = described.info.clone();
        all.push(described);
        let states_dropped = drop_old_states(&mut all);
        self.publish(all)?;
        self.measure_state();
        Ok((info, states_dropped))
    }

    /// Removes the states of these generations from the disk.
    pub(in crate::store) fn remove_states(&self, of: &[u64]) {
        for id in of {
            let folder = file_names::generation(&self.sealed.dir, *id);
            self.remove_folder(&file_names::state(&folder));
        }
    }

    /// Deletes a generation with everything in it. The newest two are kept for their state.
    ///
    /// # Errors
    ///
    /// It is one of the two newest, there is none with this number, or the disk failed.
    pub(in crate::store) fn delete(&mut self, id: u64) -> Result<(), CheckpointError> {
        self.settle_manifest()?;
        let generations = self.sealed.generations();
        let index = generations
            .iter()
            .position(|one| one.described.info.id == id)
            .ok_or(CheckpointRefusal::Unknown(id))?;
        if index + STATES_KEPT >= generations.len() {
            return Err(CheckpointRefusal::Kept(id).into());
        }
        let others = generations.iter().filter(|one| one.described.info.id != id);
        self.publish(others.map(|one| one.described.clone()).collect())?;
        if let Some(deleted) = generations.get(index) {
            deleted.set_deleted();
        }
        self.sealed.pool.close_generation(id);
        let of_it = |holder| matches!(holder, Holder::Part { generation, .. } if generation == id);
        self.sealed.troubles.forget(|holder, _| of_it(holder));
        self.remove_folder(&file_names::generation(&self.sealed.dir, id));
        Ok(())
    }

    /// Gives up what is damaged, as [`Checkpoints::give_up_damage`](crate::store::Checkpoints::give_up_damage) says.
    ///
    /// # Errors
    ///
    /// The disk failed; nothing was given up, and `decided` has heard of nothing.
    pub(in crate::store) fn give_up_damage(
        &mut self,
        all: bool,
        decided: impl FnOnce(&[Loss]),
    ) -> Result<Vec<Loss>, CheckpointError> {
        self.settle_manifest()?;
        let mut described = self.sealed.described();
        let losses = give_up_damage::examine_all(&self.sealed, &mut described, all);
        if losses.is_empty() {
            return Ok(losses);
        }
        if let Err(error) = self.save_manifest(&described) {
            self.forget_decision(&losses);
            return Err(error);
        }
        decided(&losses);
        self.sealed.show(described);
        let is_given_up = |holder, _: &_| holder != Holder::Journal;
        self.sealed.troubles.forget(is_given_up);
        Ok(losses)
    }

    // Whatever of the new manifest has reached the disk is replaced by the one that counts, now or before anything else is done.
    // Only when that is certain, the copies are of no use.
    fn forget_decision(&mut self, losses: &[Loss]) {
        if self.settle_manifest().is_err() {
            return;
        }
        for kept in losses.iter().filter_map(|loss| loss.kept_aside.as_ref()) {
            // Several stretches may be of one file, and what stays does no harm.
            let _ = self.sealed.fs.remove(kept);
        }
    }

    /// Bytes of the disk that one more state takes for good: none while there are older ones, which it replaces.
    pub(in crate::store) fn state_bytes(&self) -> u64 {
        match self.sealed.generations().len() < STATES_KEPT {
            true => self.newest_state_bytes().max(database::EMPTY_BYTES),
            false => 0,
        }
    }

    /// Keeps disk space for twice the newest state.
    pub(in crate::store) fn measure_state(&self) {
        self.reserve.set_state_bytes(self.newest_state_bytes());
    }

    fn newest_state_bytes(&self) -> u64 {
        let (fs, dir) = (&*self.sealed.fs, &self.sealed.dir);
        let generations = self.sealed.generations();
        let newest = generations.last().map(|one| one.described.info.id);
        let bytes = newest.and_then(|id| {
            let path = file_names::state(&file_names::generation(dir, id));
            generation_files::bytes(fs, &path).ok()
        });
        bytes.unwrap_or(0)
    }

    // Makes the manifest on disk the one that counts, should that be in doubt. Nothing is done to a store that is not in place.
    fn settle_manifest(&mut self) -> Result<(), CheckpointError> {
        let checked = self.sealed.folders.check();
        checked.map_err(CheckpointError::io("use", &self.sealed.dir))?;
        if self.is_unsure {
            let all = self.sealed.described();
            self.save_manifest(&all)?;
        }
        Ok(())
    }

    // Makes this list what counts, first on disk, then for readers.
    fn publish(&mut self, all: Vec<Described>) -> Result<(), CheckpointError> {
        self.save_manifest(&all)?;
        self.sealed.show(all);
        Ok(())
    }

    fn save_manifest(&mut self, all: &[Described]) -> Result<(), CheckpointError> {
        let (fs, dir) = (&*self.sealed.fs, &self.sealed.dir);
        if planted!(ManifestNotSaved) {
            return Ok(());
        }
        self.is_unsure = true;
        let mut saved = manifest::save(fs, dir, all);
        // What makes room again must not fail for want of some.
        if saved.as_ref().is_err_and(is_full) && self.reserve.release_checkpoint(fs) {
            saved = manifest::save(fs, dir, all);
        }
        saved.map_err(CheckpointFailure::Manifest)?;
        self.is_unsure = false;
        Ok(())
    }

    fn remove_folder(&self, folder: &Path) {
        if let Err(error) = generation_files::remove(&*self.sealed.fs, folder) {
            // The next start removes what the manifest does not name.
            tracing::warn!(path = %folder.display(), %error, "cannot remove a folder");
        }
    }
}

// Forgets the states that no start would use; answers whose.
fn drop_old_states(all: &mut [Described]) -> Vec<u64> {
    let old = all.len().saturating_sub(STATES_KEPT);
    let old = all.iter_mut().take(old);
    old.filter_map(|described| described.state.take().map(|_| described.info.id))
        .collect()
}

//! Moving what stays out of the journal into a sealed generation, and removing generations that nobody needs.
//! One owner, the checkpointer. A journal file is released only after the manifest names the generation that
//! replaces it, and an entry leaves the index only after readers can find its block there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;

use super::accept;
use super::database;
use super::error::{CheckpointError, Loss, ReadError};
use super::fs::FileSystem;
use super::generation::{self, DatabaseWriter, Generation};
use super::index::{BlockMeta, JournalSegment};
use super::manifest::{self, Described, GenerationInfo, PartInfo};
use super::pace::Pace;
use super::record::StoredBlock;
use super::repair;
use super::reserve::is_full;
use super::sealed::STATES_KEPT;
use super::survey::empty_loss;
use super::tree;
use super::trouble::Holder;
use super::{Shared, generations_dir, journal_dir};
use crate::domain::{Block, CommitNumber, Position};

/// Writes and deletes generations.
pub struct Checkpoints {
    shared: Arc<Shared>,
    /// Journal files that were released but could not be removed yet.
    unremoved: Vec<PathBuf>,
    /// Replacing the manifest failed, so the one on disk may be the one that counts or the one that was to be. Everything that
    /// either of them names is kept until it is known again.
    is_unsure: bool,
}

impl Checkpoints {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            unremoved: Vec::new(),
            is_unsure: false,
        }
    }

    /// The blocks in the journal files that a mark at `before` releases, in order.
    #[must_use]
    pub fn journal_blocks(&self, before: CommitNumber) -> Vec<BlockMeta> {
        let index = self.shared.index();
        let entries = index.releasable(before);
        entries.map(|entry| (&entry.head).into()).collect()
    }

    /// The journal files that a mark at `before` releases, oldest first.
    #[must_use]
    pub fn journal_segments(&self, before: CommitNumber) -> Vec<JournalSegment> {
        self.shared.index().segments_before(before)
    }

    /// Bytes of the disk that one more state takes for good: none while there are older ones, which it replaces.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        let generations = self.shared.generations();
        match generations.len() < STATES_KEPT {
            true => self.newest_state_bytes().max(database::EMPTY_BYTES),
            false => 0,
        }
    }

    /// Writes a generation with `blocks`, in rising order of position, and `state`, both as of before the
    /// group `mark` (from [`super::JournalWriter::rotate`], or the [end](JournalSegment::end) of a file before that, if the state
    /// says which groups it knows beyond); seals it, reads it back, names it in the manifest and releases the journal files
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
        self.settle_manifest()?;
        self.check_mark(mark)?;
        let generations = self.shared.generations();
        let after = generations
            .last()
            .map_or(1, |newest| newest.described.info.id + 1);
        let id = after.max(self.shared.generation_id_min);
        let folder = generation::folder(&self.shared.dir, id);
        let described = match self.build(id, mark, &folder, blocks, state) {
            Ok(described) => described,
            Err(error) => {
                self.remove_folder(&folder);
                return Err(error);
            }
        };
        let info = described.info.clone();
        let mut all: Vec<Described> = generations
            .iter()
            .map(|one| one.described.clone())
            .chain([described])
            .collect();
        let states_dropped = drop_old_states(&mut all);
        self.publish(all)?;
        self.release(mark);
        self.measure_state();
        for id in states_dropped {
            let folder = generation::folder(&self.shared.dir, id);
            self.remove_folder(&generation::state_path(&folder));
        }
        Ok(info)
    }

    /// The complete generations, oldest first.
    #[must_use]
    pub fn generations(&self) -> Vec<GenerationInfo> {
        self.shared
            .generations()
            .iter()
            .map(|one| one.described.info.clone())
            .collect()
    }

    /// Deletes a generation with everything in it. The newest two are kept for their state.
    ///
    /// # Errors
    ///
    /// It is one of the two newest, there is none with this number, or the disk failed.
    pub fn delete_generation(&mut self, id: u64) -> Result<(), CheckpointError> {
        self.settle_manifest()?;
        let generations = self.shared.generations();
        let index = generations
            .iter()
            .position(|one| one.described.info.id == id)
            .ok_or(CheckpointError::Unknown(id))?;
        if index + STATES_KEPT >= generations.len() {
            return Err(CheckpointError::Kept(id));
        }
        let others = generations.iter().filter(|one| one.described.info.id != id);
        self.publish(others.map(|one| one.described.clone()).collect())?;
        if let Some(deleted) = generations.get(index) {
            deleted.set_deleted();
        }
        self.shared.pool.close_generation(id);
        let of_it = |holder| matches!(holder, Holder::Part { generation, .. } if generation == id);
        self.shared.troubles.forget(|holder, _| of_it(holder));
        self.remove_folder(&generation::folder(&self.shared.dir, id));
        Ok(())
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
        self.settle_manifest()?;
        let mut described: Vec<Described> = self
            .shared
            .generations()
            .iter()
            .map(|one| one.described.clone())
            .collect();
        let (mut losses, mut sound) = (Vec::new(), Vec::new());
        let known = self.shared.troubles.list();
        for one in &mut described {
            let id = one.info.id;
            let folder = generation::folder(&self.shared.dir, id);
            for (index, part) in one.parts.iter_mut().enumerate() {
                let holder = Holder::Part {
                    generation: id,
                    part: index,
                };
                if part.is_lost || !(all || known.iter().any(|(known, _)| *known == holder)) {
                    continue;
                }
                let path = generation::part_path(&folder, index);
                let found = accept::look(&self.shared, holder, &path, part);
                let Some(stretches) = found else {
                    continue;
                };
                if stretches.is_empty() {
                    sound.push(holder);
                    continue;
                }
                let database = path.join(database::DATABASE);
                let kept = repair::keep_aside(&*self.shared.fs, &self.shared.dir, &database);
                if let Err(error) = &kept {
                    tracing::error!(path = %database.display(), %error, "no copy of what is damaged could be kept in `lost`; the file stays here as long as its generation");
                }
                losses.extend(stretches.into_iter().map(|positions| Loss {
                    positions: Some(positions),
                    notes: false,
                    kept_aside: kept.as_ref().ok().cloned(),
                    ..empty_loss(&path)
                }));
            }
        }
        if !sound.is_empty() {
            // Whatever was noted of them is over.
            self.shared
                .troubles
                .forget(|holder, _| sound.contains(&holder));
        }
        if losses.is_empty() {
            return Ok(losses);
        }
        if let Err(error) = self.save_manifest(&described) {
            self.forget_decision(&losses);
            return Err(error);
        }
        decided(&losses);
        self.show(described);
        let is_given_up = |holder, _: &_| holder != Holder::Journal;
        self.shared.troubles.forget(is_given_up);
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
            let _ = self.shared.fs.remove(kept);
        }
    }

    /// Whether the disk has no room but what is kept for draining.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.shared.reserve.is_short()
    }

    /// Allocates what is missing of the disk space that is kept for draining. While the disk has no room for it, the store is
    /// [short](Self::is_short).
    ///
    /// # Errors
    ///
    /// There is no room for it, or the disk fails.
    pub fn replenish(&self) -> io::Result<()> {
        self.shared.reserve.replenish(&*self.shared.fs)
    }

    /// Bytes of the disk that may still be used; `None` where that cannot be told.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        self.shared.fs.free_bytes(&self.shared.dir).ok()
    }

    /// Gives back the disk space that is kept for a checkpoint, because there is no other. Answers whether there was any;
    /// [`replenish`](Self::replenish) takes it again.
    pub fn release_reserve(&self) -> bool {
        self.shared.reserve.release_checkpoint(&*self.shared.fs)
    }

    /// Keeps disk space for twice the newest state.
    pub(super) fn measure_state(&self) {
        self.shared
            .reserve
            .set_state_bytes(self.newest_state_bytes());
    }

    fn newest_state_bytes(&self) -> u64 {
        let generations = self.shared.generations();
        let newest = generations.last().map(|one| one.described.info.id);
        let bytes = newest.and_then(|id| {
            let path = generation::state_path(&generation::folder(&self.shared.dir, id));
            tree::bytes(&*self.shared.fs, &path).ok()
        });
        bytes.unwrap_or(0)
    }

    // Makes the manifest on disk the one that counts, should that be in doubt. Nothing is done to a store that is not in place.
    fn settle_manifest(&mut self) -> Result<(), CheckpointError> {
        self.check_folders()?;
        if self.is_unsure {
            let generations = self.shared.generations();
            let all: Vec<Described> = generations
                .iter()
                .map(|one| one.described.clone())
                .collect();
            self.save_manifest(&all)?;
        }
        Ok(())
    }

    fn check_folders(&self) -> Result<(), CheckpointError> {
        let checked = self.shared.folders.check();
        checked.map_err(CheckpointError::io("use", &self.shared.dir))
    }

    fn save_manifest(&mut self, all: &[Described]) -> Result<(), CheckpointError> {
        let (fs, dir) = (self.shared.fs.clone(), self.shared.dir.clone());
        self.is_unsure = true;
        let mut saved = manifest::save(&*fs, &dir, all);
        // What makes room again must not fail for want of some.
        if saved.as_ref().is_err_and(is_full) && self.release_reserve() {
            saved = manifest::save(&*fs, &dir, all);
        }
        saved.map_err(CheckpointError::Manifest)?;
        self.is_unsure = false;
        Ok(())
    }

    fn check_mark(&self, mark: CommitNumber) -> Result<(), CheckpointError> {
        let next = CommitNumber(self.shared.next_number.load(Ordering::Acquire));
        let generations = self.shared.generations();
        let last = generations
            .last()
            .map_or(CommitNumber(1), |one| one.described.info.mark);
        if last <= mark && mark <= next {
            Ok(())
        } else {
            Err(CheckpointError::Mark { mark, last, next })
        }
    }

    fn build(
        &self,
        id: u64,
        mark: CommitNumber,
        folder: &Path,
        blocks: impl Iterator<Item = Result<Block, ReadError>>,
        state: impl Iterator<Item = (Bytes, Bytes)>,
    ) -> Result<Described, CheckpointError> {
        let fs = &*self.shared.fs;
        tree::remove(fs, folder).map_err(CheckpointError::io("remove", folder))?;
        fs.create_dir(folder)
            .map_err(CheckpointError::io("create", folder))?;
        let permit = self.shared.pool.reserve();
        let (parts, events) = self.write_parts(folder, mark, blocks)?;
        let state = write_state(fs, folder, state)?;
        drop(permit);
        let bytes = tree::bytes(fs, folder).map_err(CheckpointError::io("measure", folder))?;
        let info = GenerationInfo {
            id,
            mark,
            first_position: parts.first().map(|part| part.first_position),
            last_position: parts.last().map(|part| part.last_position),
            events,
            bytes,
        };
        let described = Described {
            info,
            state: Some(state),
            parts,
        };
        manifest::save_about(fs, folder, &described)
            .map_err(CheckpointError::io("describe", folder))?;
        // Opening the databases for their check may have written again; and now the names are made durable as well.
        tree::sync(fs, folder).map_err(CheckpointError::io("sync", folder))?;
        let all = generations_dir(&self.shared.dir);
        fs.sync_dir(&all)
            .map_err(CheckpointError::io("sync", &all))?;
        Ok(described)
    }

    // The parts, and how many events they hold.
    fn write_parts(
        &self,
        folder: &Path,
        mark: CommitNumber,
        blocks: impl Iterator<Item = Result<Block, ReadError>>,
    ) -> Result<(Vec<PartInfo>, u64), CheckpointError> {
        let mut parts = Vec::new();
        let mut pace = self.pace(mark);
        let mut step_bytes = 0;
        let mut events = 0;
        let mut open: Option<(DatabaseWriter, Position)> = None;
        let mut last = None;
        for block in blocks {
            let block = block?;
            if last.is_some_and(|last| block.first_position <= last) || block.count == 0 {
                return Err(CheckpointError::Order(block.first_position));
            }
            if let Some((part, first)) =
                open.take_if(|(part, _)| part.bytes >= self.shared.options.generation_part_bytes)
            {
                parts.push(self.finish_part(part, first, last.unwrap_or(first))?);
            }
            // Events that compress well fill a part only after many such steps.
            if let Some(through) = last
                && step_bytes >= self.shared.options.generation_part_bytes
            {
                step_bytes = 0;
                // Not under the lock of the index: letting go of many pages takes a while.
                let read = self.shared.index().files_before(mark);
                read.iter().for_each(|file| file.file.forget());
                let bytes = self.shared.journal_bytes();
                let rest = pace.step_done(Instant::now(), through, bytes);
                // Without room nobody may write, so there is nobody to give way to. The reserve is this checkpoint's now.
                if !self.is_short() {
                    std::thread::sleep(rest);
                }
            }
            let (part, _) = match &mut open {
                Some(open) => open,
                None => {
                    // sled goes by path, and makes what is not there.
                    self.check_folders()?;
                    let path = generation::part_path(folder, parts.len());
                    let part = DatabaseWriter::create(path).map_err(CheckpointError::Database)?;
                    open.insert((part, block.first_position))
                }
            };
            let stored = StoredBlock::encode(&block).map_err(|_| CheckpointError::TooLong)?;
            part.put(block.last_position().0, &stored.pieces())
                .map_err(CheckpointError::Database)?;
            step_bytes += block.entries.len() as u64;
            events += block
                .kept
                .as_ref()
                .map_or(u64::from(block.count), |kept| kept.len() as u64);
            last = Some(block.last_position());
        }
        if let Some((part, first)) = open {
            parts.push(self.finish_part(part, first, last.unwrap_or(first))?);
        }
        Ok((parts, events))
    }

    fn pace(&self, mark: CommitNumber) -> Pace {
        let shared = &self.shared;
        let events = {
            let index = shared.index();
            let heads = || index.releasable(mark).map(|entry| entry.head);
            let first = heads().next().map(|head| head.first_position);
            let last = heads().next_back().map(|head| head.last_position());
            first.zip(last).unwrap_or((Position(0), Position(0)))
        };
        let bytes_max = shared.options.publishable_bytes_max();
        Pace::begin(Instant::now(), events, shared.journal_bytes(), bytes_max)
    }

    fn finish_part(
        &self,
        part: DatabaseWriter,
        first_position: Position,
        last_position: Position,
    ) -> Result<PartInfo, CheckpointError> {
        let (items, checksum) = seal(&*self.shared.fs, part)?;
        Ok(PartInfo {
            first_position,
            last_position,
            items,
            checksum,
            is_lost: false,
            gaps: Vec::new(),
        })
    }

    // Makes this list what counts, first on disk, then for readers.
    fn publish(&mut self, all: Vec<Described>) -> Result<(), CheckpointError> {
        self.save_manifest(&all)?;
        self.show(all);
        Ok(())
    }

    // Lets readers see this list.
    fn show(&self, all: Vec<Described>) {
        let (dir, folders) = (&self.shared.dir, &self.shared.folders);
        let before = self.shared.generations();
        let generations = all.into_iter().map(|described| {
            // A reader that has the old list must see the same `deleted` flag.
            let same = before.iter().find(|one| one.described == described);
            same.cloned()
                .unwrap_or_else(|| Arc::new(Generation::new(dir, described, folders)))
        });
        self.shared.set_generations(generations.collect());
    }

    // A file that cannot be removed costs space, not data; the next release tries again.
    fn release(&mut self, mark: CommitNumber) {
        let (released, bytes, blocks) = {
            let mut index = self.shared.index_mut();
            let (bytes, blocks) = (index.bytes(), index.blocks());
            let released = index.release(mark);
            (released, bytes - index.bytes(), blocks - index.blocks())
        };
        // What could not be read there is not there any more.
        self.shared.troubles.forget(|holder, unreadable| {
            let found = || self.shared.index().at_or_after(unreadable.first);
            let is_there = |first| first <= unreadable.first;
            holder == Holder::Journal
                && !found().is_some_and(|(_, entry)| is_there(entry.head.first_position))
        });
        self.shared
            .journal_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
        self.shared
            .journal_blocks
            .fetch_sub(blocks, Ordering::Relaxed);
        self.unremoved
            .extend(released.iter().map(|file| file.path.clone()));
        let fs = &*self.shared.fs;
        self.unremoved.retain(|path| match fs.remove(path) {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a released journal file");
                true
            }
        });
        let folder = journal_dir(&self.shared.dir);
        if let Err(error) = fs.sync_dir(&folder) {
            tracing::warn!(path = %folder.display(), %error, "cannot sync the journal's folder");
        }
    }

    fn remove_folder(&self, folder: &Path) {
        if let Err(error) = tree::remove(&*self.shared.fs, folder) {
            // The next start removes what the manifest does not name.
            tracing::warn!(path = %folder.display(), %error, "cannot remove a folder");
        }
    }
}

// Seals a database: it is closed, made durable and read back. One after the other, so that the disk never has much to do at
// once, and what is read back is still in memory.
fn seal(fs: &dyn FileSystem, writer: DatabaseWriter) -> Result<(u64, u64), CheckpointError> {
    let (items, checksum) = (writer.items, writer.checksum);
    let path = writer.path().to_owned();
    writer.finish().map_err(CheckpointError::Database)?;
    tree::sync(fs, &path).map_err(CheckpointError::io("sync", &path))?;
    generation::verify(&path, items, checksum).map_err(CheckpointError::Verify)?;
    tree::forget(fs, &path);
    Ok((items, checksum))
}

fn write_state(
    fs: &dyn FileSystem,
    folder: &Path,
    state: impl Iterator<Item = (Bytes, Bytes)>,
) -> Result<(u64, u64), CheckpointError> {
    let path = generation::state_path(folder);
    let mut writer = DatabaseWriter::create(path).map_err(CheckpointError::Database)?;
    for (index, (key, value)) in (0..).zip(state) {
        generation::put_state(&mut writer, index, &key, &value)
            .map_err(CheckpointError::Database)?;
    }
    seal(fs, writer)
}

// Forgets the states that no start would use; answers whose.
fn drop_old_states(all: &mut [Described]) -> Vec<u64> {
    let old = all.len().saturating_sub(STATES_KEPT);
    let old = all.iter_mut().take(old);
    old.filter_map(|described| described.state.take().map(|_| described.info.id))
        .collect()
}

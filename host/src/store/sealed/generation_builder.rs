//! The building of a generation. Its folder is written, database by database, and each is sealed before the next begins: closed, made
//! durable and read back. Nobody knows of the folder before its description is in it; that it counts, the manifest says.

use std::path::Path;

use bytes::Bytes;

use super::database_items::{self, DatabaseWriter};
use super::manifest::{self, Described, GenerationInfo, PartInfo};
use super::{Sealed, generation_files, state_pairs};
use crate::disk::FileSystem;
use crate::domain::{Block, CommitNumber, Position};
use crate::store::block_format::StoredBlock;
use crate::store::error::{CheckpointError, CheckpointFailure, CheckpointRefusal, ReadError};
use crate::store::file_names;

/// What a generation is to be.
pub(super) struct Plan {
    pub(super) id: u64,
    /// As of before which group it is.
    pub(super) mark: CommitNumber,
    /// A part is begun anew once it has so many bytes.
    pub(super) part_bytes: u64,
}

/// Builds it of `blocks`, in rising order of position, and `state`. Calls `step` after each so many bytes of events as a part may
/// have, with the last position that is done; what it fails with ends it.
///
/// # Errors
///
/// What is in the folder is of no use.
pub(super) fn build(
    sealed: &Sealed,
    plan: &Plan,
    blocks: impl Iterator<Item = Result<Block, ReadError>>,
    state: impl Iterator<Item = (Bytes, Bytes)>,
    step: impl FnMut(Position) -> Result<(), CheckpointError>,
) -> Result<Described, CheckpointError> {
    let fs = &*sealed.fs;
    let folder = &file_names::generation(&sealed.dir, plan.id);
    generation_files::remove(fs, folder).map_err(CheckpointError::io("remove", folder))?;
    fs.create_dir(folder)
        .map_err(CheckpointError::io("create", folder))?;
    let permit = sealed.pool.reserve();
    let mut parts = PartsWriter::new(sealed, folder, plan.part_bytes, step);
    for block in blocks {
        parts.add(&block.map_err(CheckpointFailure::Read)?)?;
    }
    let (parts, events) = parts.finish()?;
    let state = write_state(fs, folder, state)?;
    drop(permit);
    let bytes =
        generation_files::bytes(fs, folder).map_err(CheckpointError::io("measure", folder))?;
    let info = GenerationInfo {
        id: plan.id,
        mark: plan.mark,
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
    generation_files::sync(fs, folder).map_err(CheckpointError::io("sync", folder))?;
    let all = file_names::generations(&sealed.dir);
    fs.sync_dir(&all)
        .map_err(CheckpointError::io("sync", &all))?;
    Ok(described)
}

/// Writes blocks into parts, one after the other.
struct PartsWriter<'a, F> {
    sealed: &'a Sealed,
    folder: &'a Path,
    part_bytes: u64,
    step: F,
    /// Of events, since the last step. Events that compress well fill a part only after many steps.
    step_bytes: u64,
    sealed_parts: Vec<PartInfo>,
    /// With its first position.
    open: Option<(DatabaseWriter, Position)>,
    /// Of the block before.
    last: Option<Position>,
    events: u64,
}

impl<'a, F: FnMut(Position) -> Result<(), CheckpointError>> PartsWriter<'a, F> {
    fn new(sealed: &'a Sealed, folder: &'a Path, part_bytes: u64, step: F) -> Self {
        Self {
            sealed,
            folder,
            part_bytes,
            step,
            step_bytes: 0,
            sealed_parts: Vec::new(),
            open: None,
            last: None,
            events: 0,
        }
    }

    fn add(&mut self, block: &Block) -> Result<(), CheckpointError> {
        if self.last.is_some_and(|last| block.first_position <= last) || block.count == 0 {
            return Err(CheckpointRefusal::Order(block.first_position).into());
        }
        let part_bytes = self.part_bytes;
        if let Some(full) = self.open.take_if(|(part, _)| part.bytes >= part_bytes) {
            self.seal_part(full)?;
        }
        if let Some(through) = self.last.filter(|_| self.step_bytes >= part_bytes) {
            self.step_bytes = 0;
            (self.step)(through)?;
        }
        let stored = StoredBlock::encode(block).map_err(|_| CheckpointRefusal::TooLong)?;
        let part = self.part_from(block.first_position)?;
        part.put(block.last_position().0, &stored.pieces())
            .map_err(CheckpointFailure::Database)?;
        self.step_bytes += block.entries.len() as u64;
        self.events += match &block.kept {
            Some(kept) => kept.len() as u64,
            None => u64::from(block.count),
        };
        self.last = Some(block.last_position());
        Ok(())
    }

    // The part that is being written, or a new one that begins at `first`.
    fn part_from(&mut self, first: Position) -> Result<&mut DatabaseWriter, CheckpointError> {
        let (part, _) = match &mut self.open {
            Some(open) => open,
            none => {
                // sled goes by path, and makes what is not there.
                let checked = self.sealed.folders.check();
                checked.map_err(CheckpointError::io("use", &self.sealed.dir))?;
                let path = file_names::part(self.folder, self.sealed_parts.len());
                let part = DatabaseWriter::create(&*self.sealed.fs, path);
                let part = part.map_err(CheckpointFailure::Database)?;
                none.insert((part, first))
            }
        };
        Ok(part)
    }

    // The parts, and how many events they hold.
    fn finish(mut self) -> Result<(Vec<PartInfo>, u64), CheckpointError> {
        if let Some(open) = self.open.take() {
            self.seal_part(open)?;
        }
        Ok((self.sealed_parts, self.events))
    }

    fn seal_part(
        &mut self,
        (part, first): (DatabaseWriter, Position),
    ) -> Result<(), CheckpointError> {
        let (items, checksum) = seal(&*self.sealed.fs, part)?;
        self.sealed_parts.push(PartInfo {
            first_position: first,
            last_position: self.last.unwrap_or(first),
            items,
            checksum,
            is_lost: false,
            gaps: Vec::new(),
        });
        Ok(())
    }
}

// One after the other, so that the disk never has much to do at once, and what is read back is still in memory. Answers how many
// items there are, and their checksum.
fn seal(fs: &dyn FileSystem, writer: DatabaseWriter) -> Result<(u64, u64), CheckpointError> {
    let (items, checksum) = (writer.items, writer.checksum);
    let path = writer.path().to_owned();
    writer.finish().map_err(CheckpointFailure::Database)?;
    if !planted!(GenerationNotSynced) {
        generation_files::sync(fs, &path).map_err(CheckpointError::io("sync", &path))?;
    }
    database_items::verify(fs, &path, items, checksum).map_err(CheckpointFailure::Verify)?;
    generation_files::forget(fs, &path);
    Ok((items, checksum))
}

fn write_state(
    fs: &dyn FileSystem,
    folder: &Path,
    pairs: impl Iterator<Item = (Bytes, Bytes)>,
) -> Result<(u64, u64), CheckpointError> {
    let path = file_names::state(folder);
    let writer = DatabaseWriter::create(fs, path);
    let mut writer = writer.map_err(CheckpointFailure::Database)?;
    for (index, (key, value)) in (0..).zip(pairs) {
        let put = state_pairs::put(&mut writer, index, &key, &value);
        put.map_err(CheckpointFailure::Database)?;
    }
    seal(fs, writer)
}

//! The mending of a database in which only what sled makes again by itself is damaged: `snap.*` is an index of its log, `db`, and
//! `conf` holds its settings. So before anything of a database is given up, a copy of the log alone is looked at; the database
//! itself stays as it is until that has shown that it is better off without the others.

use std::io;
use std::path::{Path, PathBuf};

use super::generation::{self, Inspected};
use super::generation_files::{self, DATABASE};
use super::manifest::PartInfo;
use crate::disk::{self, FileSystem};
use crate::store::error::ReadError;
use crate::store::file_names;
use crate::store::lost_folder;

/// A copy of a database's log, in a folder that goes when this is dropped.
pub(super) struct LogCopy<'a> {
    fs: &'a dyn FileSystem,
    folder: PathBuf,
    /// Where it is.
    pub(super) path: PathBuf,
}

impl<'a> LogCopy<'a> {
    /// Copies the log of the database at `path`. One at a time in each store.
    ///
    /// # Errors
    ///
    /// There is no log, or the disk fails or has no room.
    pub(super) fn of(fs: &'a dyn FileSystem, dir: &Path, path: &Path) -> io::Result<Self> {
        let folder = file_names::look(dir);
        // One that a crash has left.
        generation_files::remove(fs, &folder)?;
        let source = fs.open(&path.join(DATABASE))?;
        let copy = Self {
            fs,
            path: file_names::part(&folder, 0),
            folder,
        };
        fs.create_dir(&copy.folder)?;
        fs.create_dir(&copy.path)?;
        let target = fs.create(&copy.path.join(DATABASE))?;
        disk::copy(&*source, 0..source.length()?, &*target, 0)?;
        Ok(copy)
    }
}

impl Drop for LogCopy<'_> {
    fn drop(&mut self) {
        if let Err(error) = generation_files::remove(self.fs, &self.folder) {
            tracing::warn!(path = %self.folder.display(), %error, "a copy that is of no use any more cannot be removed");
        }
    }
}

/// Whether more of a part can be read from its log alone than the so many blocks that were found.
///
/// # Errors
///
/// The system fails.
pub(super) fn is_better_alone(
    fs: &dyn FileSystem,
    dir: &Path,
    path: &Path,
    part: &PartInfo,
    blocks: u64,
) -> Result<bool, ReadError> {
    let copy = match LogCopy::of(fs, dir, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(ReadError::io(path))?,
    };
    match generation::inspect(fs, &copy.path, part) {
        Ok(Inspected { items, .. }) => Ok(items > blocks),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets aside all that sled keeps beside the log.
///
/// # Errors
///
/// The disk fails.
pub(super) fn leave_alone(fs: &dyn FileSystem, dir: &Path, path: &Path) -> io::Result<()> {
    for beside in generation_files::beside_log(fs, path)? {
        let kept = lost_folder::move_aside(fs, dir, &beside)?;
        tracing::warn!(path = %beside.display(), kept = %kept.display(), "damaged, and of use to nobody: the database is read without it");
    }
    Ok(())
}

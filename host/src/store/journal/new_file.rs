//! A journal file on its way into the journal: it lies aside, with its space on the disk, until it has its head and then its name.
//! Both are durable before a record is written to it, so a file that has a name has a head. Which file is taken, and when, the
//! writer decides.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::journal_file::JournalFile;
use super::record::{FILE_HEAD_BYTES, FileHead, Salt};
use crate::disk::{self, Access, DIRECT_BYTES, File, FileSystem};
use crate::domain::CommitNumber;
use crate::runtime::Random;
use crate::store::file_names;

/// A journal file that does not have its name yet.
pub(super) struct NewFile {
    pub(super) file: Arc<dyn File>,
    pub(super) aside: PathBuf,
    /// How much of the disk it has.
    pub(super) bytes: u64,
    /// All of it has been written before, so that syncing it writes only content.
    pub(super) is_prewritten: bool,
}

impl NewFile {
    /// One with so much of the disk, for groups from `first` on.
    pub(super) fn create(
        fs: &dyn FileSystem,
        dir: &Path,
        first: CommitNumber,
        bytes: u64,
    ) -> io::Result<Self> {
        let aside = file_names::journal_file_aside(dir, first);
        let file = fs.create(&aside)?;
        if let Err(error) = file.allocate(bytes) {
            // What it got of the disk is for others.
            let _ = fs.remove(&aside);
            return Err(error);
        }
        Ok(Self {
            file,
            aside,
            bytes,
            is_prewritten: false,
        })
    }

    /// The longest for which the disk has room, shorter than `bytes` and of at least `bytes_min`.
    pub(super) fn create_smaller(
        fs: &dyn FileSystem,
        dir: &Path,
        first: CommitNumber,
        bytes: u64,
        bytes_min: u64,
    ) -> Option<Self> {
        let halves = std::iter::successors(Some(bytes / 2), |bytes| Some(bytes / 2));
        let mut sizes = halves
            .take_while(|bytes| *bytes > bytes_min)
            .chain([bytes_min.min(bytes)])
            .map(|bytes| bytes.next_multiple_of(DIRECT_BYTES as u64));
        sizes.find_map(|bytes| Self::create(fs, dir, first, bytes).ok())
    }

    /// Gives it its head and its name, which is durable once the journal's folder is synced.
    ///
    /// # Errors
    ///
    /// The file does not have the name.
    pub(super) fn give_name(
        &self,
        fs: &dyn FileSystem,
        head: FileHead,
        path: &Path,
    ) -> io::Result<()> {
        self.file.write_at(&head.encode(), 0)?;
        disk::give_name(fs, &*self.file, &self.aside, path)
    }

    /// The same file, now that it has its name.
    pub(super) fn named(self, path: PathBuf, head: FileHead) -> JournalFile {
        JournalFile::new(self.file, path, head.first, head.salt, FILE_HEAD_BYTES)
    }
}

/// A head with a salt of its own.
pub(super) fn new_head(first: CommitNumber, random: &Random) -> FileHead {
    FileHead {
        first,
        salt: Salt(random.number()),
    }
}

/// Puts a journal file with this head and what `fill` adds in its place, durably, replacing one that is there.
pub(super) fn place_file(
    fs: &dyn FileSystem,
    dir: &Path,
    head: FileHead,
    fill: impl FnOnce(&dyn File) -> io::Result<()>,
) -> io::Result<()> {
    let path = file_names::journal_file(dir, head.first);
    let aside = file_names::journal_file_aside(dir, head.first);
    disk::replace(fs, &path, &aside, Access::Usual, |file| {
        fill(file)?;
        file.write_at(&head.encode(), 0)
    })?;
    Ok(())
}

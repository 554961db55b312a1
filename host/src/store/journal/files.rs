//! The files of the journal that are in it now, as its writer and its readers share them: which there are, what lies where in
//! them, and how long they are together. The writer adds to it and a checkpoint releases from it; it is what readers see of the
//! file journal. What is in a new file before it has its name is not here.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::block_index::{Entry, Index};
use super::journal_file::JournalFile;
use super::{BlockMeta, JournalBlock, JournalReader, JournalSegment, JournalSize};
use crate::disk::FileSystem;
use crate::domain::{CommitNumber, Position};
use crate::locks;
use crate::store::file_names;

/// The files of one journal.
pub(in crate::store) struct JournalFiles {
    // Does nothing by path while the store is not in place.
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    index: RwLock<Index>,
    // With what readers cannot see yet.
    bytes: AtomicU64,
    blocks: AtomicUsize,
    next_number: AtomicU64,
    // Files that were released but could not be removed yet.
    unremoved: Mutex<Vec<PathBuf>>,
}

impl JournalFiles {
    /// Those in `index`, all of whose blocks are readable, of the journal in `dir`. The next group has the number `next`.
    pub(super) fn new(
        fs: Arc<dyn FileSystem>,
        dir: PathBuf,
        index: Index,
        next: CommitNumber,
    ) -> Self {
        let JournalSize { bytes, blocks } = index.size();
        Self {
            fs,
            dir,
            index: RwLock::new(index),
            bytes: AtomicU64::new(bytes),
            blocks: AtomicUsize::new(blocks),
            next_number: AtomicU64::new(next.0),
            unremoved: Mutex::default(),
        }
    }

    /// A new file begins, of so many bytes so far.
    pub(super) fn push_file(&self, file: Arc<JournalFile>, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.index_mut().push_file(file);
    }

    /// So much was written to the newest file. Readers do not see the blocks yet.
    pub(super) fn written(&self, bytes: u64, blocks: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.blocks.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Lets readers see these blocks of the newest file.
    pub(super) fn show(&self, entries: impl IntoIterator<Item = Entry>) {
        self.index_mut().push_entries(entries);
    }

    pub(super) fn set_next_number(&self, next: CommitNumber) {
        self.next_number.store(next.0, Ordering::Release);
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        locks::read(&self.index)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        locks::write(&self.index)
    }

    // A file that cannot be removed costs space, not data; the next release tries again.
    fn remove(&self, released: &[Arc<JournalFile>]) {
        let mut unremoved = locks::lock(&self.unremoved);
        unremoved.extend(released.iter().map(|file| file.path.clone()));
        unremoved.retain(|path| match self.fs.remove(path) {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a released journal file");
                true
            }
        });
        let folder = file_names::journal(&self.dir);
        if let Err(error) = self.fs.sync_dir(&folder) {
            tracing::warn!(path = %folder.display(), %error, "cannot sync the journal's folder");
        }
    }
}

impl JournalReader for JournalFiles {
    fn at_or_after(&self, from: Position) -> Option<JournalBlock> {
        let (file, entry) = self.index().at_or_after(from)?;
        Some(JournalBlock {
            head: entry.head,
            at: entry.offset,
            source: file,
        })
    }

    fn blocks_before(&self, mark: CommitNumber) -> Vec<BlockMeta> {
        let index = self.index();
        let entries = index.releasable(mark);
        entries.map(|entry| (&entry.head).into()).collect()
    }

    fn positions_before(&self, mark: CommitNumber) -> Option<RangeInclusive<Position>> {
        let index = self.index();
        let first = index.releasable(mark).next()?;
        let last = index.releasable(mark).next_back()?;
        Some(first.head.first_position..=last.head.last_position())
    }

    fn segments_before(&self, mark: CommitNumber) -> Vec<JournalSegment> {
        self.index().segments_before(mark)
    }

    fn release(&self, mark: CommitNumber) {
        let (released, freed) = self.index_mut().release(mark);
        self.bytes.fetch_sub(freed.bytes, Ordering::Relaxed);
        self.blocks.fetch_sub(freed.blocks, Ordering::Relaxed);
        self.remove(&released);
    }

    fn size(&self) -> JournalSize {
        JournalSize {
            bytes: self.bytes.load(Ordering::Relaxed),
            blocks: self.blocks.load(Ordering::Relaxed),
        }
    }

    fn next_number(&self) -> CommitNumber {
        CommitNumber(self.next_number.load(Ordering::Acquire))
    }

    fn forget_pages(&self, mark: CommitNumber) {
        // Not under the lock of the index: letting go of many pages takes a while.
        let read = self.index().files_before(mark);
        read.iter().for_each(|file| file.file.forget());
    }

    fn missing_file(&self) -> Option<PathBuf> {
        let files = self.index().files();
        // One that cannot be looked at now may be there.
        let is_missing = |file: &JournalFile| matches!(file.file.is_at(&file.path), Ok(false));
        let missing = files.iter().rev().find(|file| is_missing(file))?;
        // It may have been released meanwhile.
        let still = self.index().files();
        let is_same = |file: &Arc<JournalFile>| Arc::ptr_eq(file, missing);
        still.iter().any(is_same).then(|| missing.path.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;
    use crate::disk::RealFileSystem;
    use crate::store::journal::record::Salt;

    #[test]
    fn what_is_released_is_counted_whatever_is_written_meanwhile() {
        const RELEASES: usize = 2_000;
        let dir = tempfile::tempdir().expect("a directory");
        let fs: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
        let file = |first: u64, bytes: u64| {
            let path = dir.path().join(first.to_string());
            let file = fs.create(&path).expect("a file");
            let file = JournalFile::new(file, path, CommitNumber(first), Salt(first), bytes);
            Arc::new(file)
        };
        let files = JournalFiles::new(
            fs.clone(),
            dir.path().to_owned(),
            Index::default(),
            CommitNumber(1),
        );
        files.push_file(file(1, 1_000), 1_000);
        let newest = file(2, 0);
        files.push_file(newest.clone(), 0);
        let is_over = AtomicBool::new(false);
        let written = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut written = 0;
                while !is_over.load(Ordering::Relaxed) {
                    written += 1;
                    newest.set_bytes(written);
                    files.written(1, 0);
                }
                written
            });
            // The first one releases a file, the others nothing.
            (0..RELEASES).for_each(|_| files.release(CommitNumber(2)));
            is_over.store(true, Ordering::Relaxed);
            writer.join().expect("no panic")
        });
        assert_eq!(files.size().bytes, written);
    }
}

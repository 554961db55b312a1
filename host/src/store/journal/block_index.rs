//! The index: where each block of the journal lies, in memory, by position. Grown by the journal's writer, shortened from the front
//! when a checkpoint releases files, read by everybody. Its files are open, but nothing here reads or writes one on its own account.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::record::Salt;
use super::{BlockSource, JournalSegment, JournalSize};
use crate::disk::File;
use crate::domain::{Block, CommitNumber, Position};
use crate::store::block_format::BlockHead;
use crate::store::error::{Damage, ReadError};

/// One file of the journal, open as long as somebody may read it.
pub(super) struct JournalFile {
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    /// Number of the first group in it, or that the first one will have.
    pub(super) first: CommitNumber,
    pub(super) salt: Salt,
    /// Bytes written so far, head included. The rest of the file is preallocated.
    bytes: AtomicU64,
}

/// A block and where its body lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) head: BlockHead,
    pub(super) offset: u64,
}

struct FileEntries {
    file: Arc<JournalFile>,
    entries: Vec<Entry>,
}

/// The journal's files, oldest first, each with its blocks in rising order of position.
#[derive(Default)]
pub(super) struct Index {
    files: VecDeque<FileEntries>,
}

impl JournalFile {
    pub(super) fn new(
        file: Arc<dyn File>,
        path: PathBuf,
        first: CommitNumber,
        salt: Salt,
        bytes: u64,
    ) -> Self {
        Self {
            file,
            path,
            first,
            salt,
            bytes: AtomicU64::new(bytes),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Exactly `count` bytes at `at`; fewer is damage.
    pub(super) fn read(&self, at: u64, count: u64) -> Result<Bytes, ReadError> {
        let mut bytes = vec![0; count as usize];
        let read = self.file.read_at(&mut bytes, at);
        let read = read.map_err(ReadError::io(&self.path))?;
        if read < bytes.len() {
            let what = format!("byte {}", at + read as u64);
            return Err(ReadError::damaged(&self.path, what));
        }
        Ok(bytes.into())
    }
}

impl BlockSource for JournalFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, head: &BlockHead, at: u64) -> Result<Block, ReadError> {
        let body = self.read(at, u64::from(head.body_bytes))?;
        let damaged = || Damage::Block {
            path: self.path.clone(),
            offset: at,
        };
        Ok(head.block(&body).ok_or_else(damaged)?)
    }
}

impl Index {
    /// Adds the newest file, with no blocks yet.
    pub(super) fn push_file(&mut self, file: Arc<JournalFile>) {
        self.files.push_back(FileEntries {
            file,
            entries: Vec::new(),
        });
    }

    /// Adds blocks of the newest file, which lie after everything in the index.
    pub(super) fn push_entries(&mut self, entries: impl IntoIterator<Item = Entry>) {
        if let Some(newest) = self.files.back_mut() {
            newest.entries.extend(entries);
        }
    }

    /// Bytes written to the files in the index, and its blocks.
    pub(super) fn size(&self) -> JournalSize {
        JournalSize {
            bytes: self.files.iter().map(|file| file.file.bytes()).sum(),
            blocks: self.files.iter().map(|file| file.entries.len()).sum(),
        }
    }

    /// The block that contains `from`, or else the first one after it.
    pub(super) fn at_or_after(&self, from: Position) -> Option<(Arc<JournalFile>, Entry)> {
        let first = self.files.partition_point(|file| file.ends_before(from));
        // A file without blocks never ends before anything, so it may stand in the way.
        self.files.iter().skip(first).find_map(|file| {
            let at = file
                .entries
                .partition_point(|entry| entry.head.last_position() < from);
            Some((file.file.clone(), *file.entries.get(at)?))
        })
    }

    /// Blocks in the files that a mark at `before` would release, in order.
    pub(super) fn releasable(
        &self,
        before: CommitNumber,
    ) -> impl DoubleEndedIterator<Item = &Entry> {
        let files = self.files.iter().take(self.releasable_files(before));
        files.flat_map(|file| file.entries.iter())
    }

    /// All files.
    pub(super) fn files(&self) -> Vec<Arc<JournalFile>> {
        self.files.iter().map(|file| file.file.clone()).collect()
    }

    /// What lies in each of the files that lie wholly before `mark`, oldest first.
    pub(super) fn segments_before(&self, mark: CommitNumber) -> Vec<JournalSegment> {
        let next = self.files.iter().skip(1);
        let files = self.files.iter().zip(next);
        let segment = |(file, next): (&FileEntries, &FileEntries)| JournalSegment {
            end: next.file.first,
            bytes: file.file.bytes(),
            events: file
                .entries
                .iter()
                .map(|entry| u64::from(entry.head.count))
                .sum(),
            positions: file
                .entries
                .first()
                .zip(file.entries.last())
                .map(|(first, last)| first.head.first_position..=last.head.last_position()),
        };
        let count = self.releasable_files(mark);
        files.take(count).map(segment).collect()
    }

    /// The files that lie wholly before `mark`.
    pub(super) fn files_before(&self, mark: CommitNumber) -> Vec<Arc<JournalFile>> {
        let files = self.files.iter().take(self.releasable_files(mark));
        files.map(|file| file.file.clone()).collect()
    }

    /// Drops the files that lie wholly before `mark`, and answers them and what was in them. Nothing is written to them any more,
    /// unlike to the newest one, so this is what they were counted with.
    pub(super) fn release(&mut self, mark: CommitNumber) -> (Vec<Arc<JournalFile>>, JournalSize) {
        let count = self.releasable_files(mark);
        let mut freed = JournalSize::default();
        let released = self.files.drain(..count).map(|file| {
            freed.bytes += file.file.bytes();
            freed.blocks += file.entries.len();
            file.file
        });
        let released = released.collect();
        (released, freed)
    }

    // A file ends where the next one begins; the newest is still being written and never released.
    fn releasable_files(&self, mark: CommitNumber) -> usize {
        let ends = self.files.iter().skip(1).map(|next| next.file.first);
        ends.take_while(|first| *first <= mark).count()
    }
}

impl FileEntries {
    fn ends_before(&self, position: Position) -> bool {
        self.entries
            .last()
            .is_some_and(|entry| entry.head.last_position() < position)
    }
}

//! The index: where each block of the journal lies, in memory, by position. Grown by the journal's writer, shortened from the front
//! when a checkpoint releases files, read by everybody. It holds the files open, but nothing here reads or writes one: who has found
//! a block reads it by `journal_file`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::journal_file::JournalFile;
use super::{JournalSegment, JournalSize};
use crate::domain::{CommitNumber, Position};
use crate::store::block_format::BlockHead;

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
        if planted!(ReleasedOneFileEarly) && count + 1 < self.files.len() {
            return self.release_oldest(count + 1);
        }
        self.release_oldest(count)
    }

    fn release_oldest(&mut self, count: usize) -> (Vec<Arc<JournalFile>>, JournalSize) {
        let mut freed = JournalSize::default();
        let released = self.files.drain(..count).map(|file| {
            freed.bytes += file.file.bytes();
            freed.blocks += file.entries.len();
            file.file
        });
        let released = released.collect();
        if planted!(FreedCountedWrong) {
            freed.bytes /= 2;
        }
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

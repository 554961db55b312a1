//! The replay: the groups of the journal handed out once more, at a start. Holds one group in memory at a time, and only reads.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::super::BlockMeta;
use super::super::journal_file::JournalFile;
use super::super::record::{FILE_HEAD_BYTES, HEADER_BYTES, Header, Kind};
use super::integrity_check::Cut;
use crate::domain::CommitNumber;
use crate::store::error::ReadError;

/// A committed group, as far as it can be told without reading its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedGroup {
    /// Its number.
    pub number: CommitNumber,
    /// What the caller gave as notes.
    pub notes: Bytes,
    /// Its blocks.
    pub blocks: Vec<BlockMeta>,
}

/// What the journal says, piece by piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// A committed group.
    Group(ReplayedGroup),
    /// Groups are lost here, for good: what they said and which numbers they gave is not known.
    Gap,
}

/// The groups after the newest generation's mark, in order. Ends after the first error.
pub type Replay = Box<dyn Iterator<Item = Result<Replayed, ReadError>> + Send>;

/// The groups of files, in order.
pub(super) struct FileReplay {
    /// Groups before the first file are lost.
    begins_with_gap: bool,
    files: VecDeque<Stretches>,
    at: u64,
    mark: CommitNumber,
}

/// A file of the journal, where it ends, and what stands for stretches of it that cannot be used.
pub(super) struct Stretches {
    pub(super) file: Arc<JournalFile>,
    pub(super) end: u64,
    pub(super) cuts: VecDeque<Cut>,
}

impl FileReplay {
    // Files oldest first; groups before `mark` are passed over.
    pub(super) fn new(
        files: VecDeque<Stretches>,
        mark: CommitNumber,
        begins_with_gap: bool,
    ) -> Self {
        Self {
            begins_with_gap,
            files,
            at: FILE_HEAD_BYTES,
            mark,
        }
    }

    fn next_piece(&mut self) -> Result<Option<Replayed>, ReadError> {
        if std::mem::take(&mut self.begins_with_gap) {
            return Ok(Some(Replayed::Gap));
        }
        while let Some(stretches) = self.files.front_mut() {
            let cut = stretches.cuts.pop_front_if(|cut| cut.from <= self.at);
            let (file, at) = (stretches.file.clone(), self.at);
            let piece = match cut {
                Some(cut) => {
                    self.at = cut.to;
                    let read = |at: u64, count: u64| Ok(slice(&cut.with, at, count));
                    match cut.with.is_empty() {
                        true => None,
                        false => self.piece(&file, 0, read)?.0,
                    }
                }
                None if at >= stretches.end => {
                    self.files.pop_front();
                    self.at = FILE_HEAD_BYTES;
                    continue;
                }
                None => {
                    let end = stretches.end;
                    let read = |at, count| file.read(at, count);
                    let (piece, length) = self.piece(&file, at, read)?;
                    if length > end - at {
                        return Err(damaged(&file, at));
                    }
                    self.at += length;
                    piece
                }
            };
            if piece.is_some() {
                return Ok(piece);
            }
        }
        Ok(None)
    }

    // What the record at `at` says, if that is wanted, and its length.
    fn piece(
        &self,
        file: &JournalFile,
        at: u64,
        read: impl Fn(u64, u64) -> Result<Bytes, ReadError>,
    ) -> Result<(Option<Replayed>, u64), ReadError> {
        let head = read(at, HEADER_BYTES as u64)?;
        let header = Header::decode(&head, file.salt).ok_or_else(|| damaged(file, at))?;
        let piece = match header.kind {
            Kind::Group if header.number >= self.mark => {
                let bytes = read(at, header.head_bytes())?;
                let table = header.table(&bytes).ok_or_else(|| damaged(file, at))?;
                Some(Replayed::Group(ReplayedGroup {
                    number: header.number,
                    notes: bytes.slice(header.notes_range()),
                    blocks: table.iter().map(|(head, _)| head.into()).collect(),
                }))
            }
            Kind::Gap if header.durable > self.mark => Some(Replayed::Gap),
            Kind::Group | Kind::Gap | Kind::Close => None,
        };
        Ok((piece, header.length))
    }
}

impl Iterator for FileReplay {
    type Item = Result<Replayed, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_piece();
        if next.is_err() {
            self.files.clear();
        }
        next.transpose()
    }
}

fn damaged(file: &JournalFile, at: u64) -> ReadError {
    ReadError::damaged(&file.path, format!("the record at byte {at}"))
}

fn slice(bytes: &Bytes, at: u64, count: u64) -> Bytes {
    let length = bytes.len() as u64;
    let (start, end) = (at.min(length), at.saturating_add(count).min(length));
    bytes.slice(start as usize..end as usize)
}

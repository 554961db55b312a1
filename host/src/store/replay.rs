//! Handing out the groups of the journal once more, at start. Holds one group in memory at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::error::ReadError;
use super::index::{BlockMeta, JournalFile};
use super::record::{FILE_HEAD_BYTES, HEADER_BYTES, Header, Kind};
use crate::domain::CommitNumber;

/// A committed group, as far as it can be told without reading its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub number: CommitNumber,
    /// What the caller gave as notes.
    pub notes: Bytes,
    /// Its blocks.
    pub blocks: Vec<BlockMeta>,
}

/// The groups after the newest generation's mark, in order. Ends after the first error.
pub struct Replay {
    files: VecDeque<(Arc<JournalFile>, u64)>,
    at: u64,
    mark: CommitNumber,
}

impl Replay {
    // Files with the offsets where they end, oldest first; groups before `mark` are passed over.
    pub(super) fn new(files: VecDeque<(Arc<JournalFile>, u64)>, mark: CommitNumber) -> Self {
        Self {
            files,
            at: FILE_HEAD_BYTES,
            mark,
        }
    }

    fn next_group(&mut self) -> Result<Option<Group>, ReadError> {
        while let Some((file, end)) = self.files.front().cloned() {
            if self.at >= end {
                self.files.pop_front();
                self.at = FILE_HEAD_BYTES;
                continue;
            }
            let head = read(&file, self.at, HEADER_BYTES as u64)?;
            let damaged =
                || ReadError::damaged(&file.path, format!("the record at byte {}", self.at));
            let header = Header::decode(&head, file.salt).ok_or_else(damaged)?;
            if header.length > end - self.at {
                return Err(damaged());
            }
            let start = self.at;
            let wanted = header.kind == Kind::Group && header.number >= self.mark;
            let group = if wanted {
                Some(group(&file, &header, start)?)
            } else {
                None
            };
            self.at += header.length;
            if group.is_some() {
                return Ok(group);
            }
        }
        Ok(None)
    }
}

impl Iterator for Replay {
    type Item = Result<Group, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_group();
        if next.is_err() {
            self.files.clear();
        }
        next.transpose()
    }
}

fn group(file: &JournalFile, header: &Header, at: u64) -> Result<Group, ReadError> {
    let damaged = || ReadError::damaged(&file.path, format!("group {}", header.number));
    let bytes = read(file, at, header.head_bytes())?;
    let table = header.table(&bytes).ok_or_else(damaged)?;
    Ok(Group {
        number: header.number,
        notes: bytes.slice(header.notes_range()),
        blocks: table.iter().map(|(head, _)| head.into()).collect(),
    })
}

/// Exactly `count` bytes at `at`; fewer is damage.
pub(super) fn read(file: &JournalFile, at: u64, count: u64) -> Result<Bytes, ReadError> {
    let mut bytes = vec![0; count as usize];
    let read = file
        .file
        .read_at(&mut bytes, at)
        .map_err(ReadError::io(&file.path))?;
    if read < bytes.len() {
        return Err(ReadError::damaged(
            &file.path,
            format!("byte {}", at + read as u64),
        ));
    }
    Ok(bytes.into())
}

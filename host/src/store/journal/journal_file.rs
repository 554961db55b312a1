//! One file of the journal as everybody holds it who reads or writes it: open, with its path, salt and length. Here bytes and blocks
//! are read from it, and what it does not give is damage. The writer appends to it by itself; where blocks lie is in `block_index`,
//! and what stands in records is in `record`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::BlockSource;
use super::record::Salt;
use crate::disk::File;
use crate::domain::{Block, CommitNumber};
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

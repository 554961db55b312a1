//! The scanner: it reads a journal file record by record through one window of memory, several files at a time where that can be.
//! Trusts no length before it is checked, and only reads. What a record means for the journal, the survey decides.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use super::super::journal_file::JournalFile;
use super::super::record::{ALIGNMENT, FILE_HEAD_BYTES, HEADER_BYTES, Header};
use crate::domain::CommitNumber;
use crate::locks::lock;
use crate::runtime::Threads;
use crate::store::block_format::BlockHead;
use crate::store::error::ReadError;

const WINDOW_BYTES: u64 = 1 << 20;
/// Enough for the head of most records, little beside the bodies that are passed over.
const HEAD_WINDOW_BYTES: u64 = 16 << 10;
/// So that a disk has several reads at a time, and checksums are computed meanwhile.
const FILES_AT_ONCE: usize = 4;

/// What becomes of the blocks' bodies, which are nearly all of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bodies {
    /// Each is read and compared with its checksum.
    Checked,
    /// They are passed over. Whoever reads a block checks it then.
    Believed,
}

/// A sequential reader of one file.
pub(super) struct Scanner<'a> {
    file: &'a JournalFile,
    bodies: Bodies,
    length: u64,
    window: Vec<u8>,
    window_at: u64,
    /// Records that were read ahead, rising.
    ahead: VecDeque<Record>,
}

/// The [`records_of`] each file. What is not among them is left to whoever looks at the file then.
pub(super) fn read_ahead(
    threads: &dyn Threads,
    files: Vec<Option<Arc<JournalFile>>>,
    bodies: Bodies,
) -> Vec<VecDeque<Record>> {
    let helpers = FILES_AT_ONCE.min(files.len()).saturating_sub(1);
    let ahead = Arc::new(Ahead {
        found: files.iter().map(|_| Mutex::default()).collect(),
        files,
        bodies,
        next: AtomicUsize::new(0),
    });
    let (at_work, ended) = mpsc::channel();
    for _ in 0..helpers {
        let (ahead, at_work) = (ahead.clone(), at_work.clone());
        let work = move || {
            ahead.work();
            drop(at_work);
        };
        // Without helpers it takes longer, that is all.
        let _ = threads.start("journal-survey", Box::new(work));
    }
    drop(at_work);
    ahead.work();
    // Until the last of them is done with its last file, or has died over it.
    let _: Result<Infallible, _> = ended.recv();
    let found = ahead.found.iter();
    found
        .map(|records| std::mem::take(&mut *lock(records)))
        .collect()
}

/// Files that are read by several threads, and what they have found.
struct Ahead {
    files: Vec<Option<Arc<JournalFile>>>,
    bodies: Bodies,
    /// Place of the next one that nobody reads yet.
    next: AtomicUsize,
    /// By place.
    found: Vec<Mutex<VecDeque<Record>>>,
}

impl Ahead {
    fn work(&self) {
        loop {
            let place = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((file, found)) = self.files.get(place).zip(self.found.get(place)) else {
                return;
            };
            if let Some(file) = file {
                *lock(found) = records_of(file, self.bodies);
            }
        }
    }
}

/// The records of a file, as far as they follow each other from its head on and can be read.
pub(super) fn records_of(file: &JournalFile, bodies: Bodies) -> VecDeque<Record> {
    let mut records = VecDeque::new();
    let Ok(mut scanner) = Scanner::new(file, bodies) else {
        return records;
    };
    let mut at = FILE_HEAD_BYTES;
    while let Ok(Some(record)) = scanner.sound_record_at(at) {
        at = record.end();
        records.push_back(record);
    }
    records
}

/// What lies at an offset.
pub(super) enum Content {
    /// A record whose header, table and notes are sound.
    Record(Record),
    /// Nothing was ever written here or after it.
    End,
    /// A sound record of a kind that this version does not know.
    Unknown(u32),
    /// Something else.
    Bad,
}

/// A record with a sound head.
pub(super) struct Record {
    pub(super) header: Header,
    pub(super) at: u64,
    /// Heads of the blocks with the offset of each body in the file.
    pub(super) blocks: Vec<(BlockHead, u64)>,
    /// Indices of the blocks whose bodies are damaged, as far as they are checked.
    pub(super) damaged: Vec<usize>,
}

impl Record {
    /// Offset after it.
    pub(super) fn end(&self) -> u64 {
        self.at + self.header.length
    }
}

impl<'a> Scanner<'a> {
    pub(super) fn new(file: &'a JournalFile, bodies: Bodies) -> Result<Self, ReadError> {
        let length = file.file.length().map_err(ReadError::io(&file.path))?;
        Ok(Self {
            file,
            bodies,
            length,
            window: Vec::new(),
            window_at: 0,
            ahead: VecDeque::new(),
        })
    }

    /// The same, when [`read_ahead`] has found these records in the file.
    pub(super) fn with_ahead(mut self, ahead: VecDeque<Record>) -> Self {
        self.ahead = ahead;
        self
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// `count` bytes at `at`, fewer where the file ends.
    pub(super) fn bytes(&mut self, at: u64, count: u64) -> Result<&[u8], ReadError> {
        let end = at.saturating_add(count).min(self.length);
        let start = at.min(end);
        let window_end = self.window_at + self.window.len() as u64;
        if start < self.window_at || end > window_end {
            let window = match self.bodies {
                Bodies::Checked => WINDOW_BYTES,
                Bodies::Believed => HEAD_WINDOW_BYTES,
            };
            let wanted = (end - start).max(window.min(self.length - start));
            self.window.resize(wanted as usize, 0);
            let read = self.file.file.read_at(&mut self.window, start);
            let read = read.map_err(ReadError::io(&self.file.path))?;
            self.window.truncate(read);
            self.window_at = start;
        }
        let from = (start - self.window_at) as usize;
        let to = ((end - self.window_at) as usize).min(self.window.len());
        Ok(self.window.get(from..to).unwrap_or_default())
    }

    /// What lies at `at`.
    pub(super) fn record_at(&mut self, at: u64) -> Result<Content, ReadError> {
        while let Some(record) = self.ahead.pop_front_if(|record| record.at <= at) {
            if record.at == at {
                return Ok(Content::Record(record));
            }
        }
        if let Some(record) = self.sound_record_at(at)? {
            return Ok(Content::Record(record));
        }
        let salt = self.file.salt;
        if let Some(kind) = Header::unknown_kind(self.bytes(at, HEADER_BYTES as u64)?, salt) {
            return Ok(Content::Unknown(kind));
        }
        Ok(if self.is_zero_from(at)? {
            Content::End
        } else {
            Content::Bad
        })
    }

    /// The first sound record after `at` with at least this number.
    pub(super) fn next_record(
        &mut self,
        at: u64,
        number_min: CommitNumber,
    ) -> Result<Option<Record>, ReadError> {
        let mut at = at + ALIGNMENT as u64;
        while at + HEADER_BYTES as u64 <= self.length {
            let Some(candidate) = self.next_start(at)? else {
                return Ok(None);
            };
            if let Some(record) = self.sound_record_at(candidate)?
                && record.header.number >= number_min
            {
                return Ok(Some(record));
            }
            at = candidate + ALIGNMENT as u64;
        }
        Ok(None)
    }

    fn sound_record_at(&mut self, at: u64) -> Result<Option<Record>, ReadError> {
        let salt = self.file.salt;
        let rest = self.length.saturating_sub(at);
        let Some(header) = Header::decode(self.bytes(at, HEADER_BYTES as u64)?, salt) else {
            return Ok(None);
        };
        if header.length > rest {
            return Ok(None);
        }
        let wanted = match self.bodies {
            Bodies::Checked => header.length,
            Bodies::Believed => header.head_bytes(),
        };
        let bodies = self.bodies;
        let bytes = self.bytes(at, wanted)?;
        let Some(table) = header.table(bytes) else {
            return Ok(None);
        };
        let damaged = table.iter().enumerate().filter(|(_, (head, offset))| {
            let start = *offset as usize;
            let body = bytes.get(start..start + head.body_bytes as usize);
            bodies == Bodies::Checked && !body.is_some_and(|body| head.covers(body))
        });
        let damaged = damaged.map(|(index, _)| index).collect();
        let blocks = table
            .into_iter()
            .map(|(head, offset)| (head, at + offset))
            .collect();
        Ok(Some(Record {
            header,
            at,
            blocks,
            damaged,
        }))
    }

    // The next aligned place at or after `at` that starts like a record of this file.
    fn next_start(&mut self, at: u64) -> Result<Option<u64>, ReadError> {
        let salt = self.file.salt;
        let mut at = at;
        while at < self.length {
            let bytes = self.bytes(at, WINDOW_BYTES)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let found = bytes.chunks(ALIGNMENT).position(|chunk| salt.starts(chunk));
            if let Some(chunks) = found {
                return Ok(Some(at + (chunks * ALIGNMENT) as u64));
            }
            at += WINDOW_BYTES;
        }
        Ok(None)
    }

    fn is_zero_from(&mut self, at: u64) -> Result<bool, ReadError> {
        let mut at = at;
        while at < self.length {
            let bytes = self.bytes(at, WINDOW_BYTES)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
        }
        Ok(true)
    }
}

//! The writer of the file journal: one write call per group, one sync for all groups before it. A failed write or sync is final:
//! what the disk holds after it is not known, so nothing is ever written again by this writer. That there is no room for a new
//! file is found out before anything is written, and passes; so does a write for which a file system had no room although it had
//! reserved it, since what arrived of it can be cut off.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::aligned_buffer::AlignedBuffer;
use super::block_index::Entry;
use super::files::JournalFiles;
use super::journal_file::JournalFile;
use super::new_file::{NewFile, new_head};
use super::options::FileJournalOptions;
use super::record::{self, FILE_HEAD_BYTES, HEADER_BYTES, Kind};
use super::witness::{Begun, End, Witness, WitnessFile};
use super::zero_fill::Preparer;
use super::{JournalReader as _, JournalSize, JournalUsage, JournalWriter};
use crate::disk::{DIRECT_BYTES, is_full, is_out_of_files};
use crate::domain::{Block, CommitNumber, Position};
use crate::store::block_format::TooLong;
use crate::store::disk_reserve::{KEPT_FOR_ACKS, Reserve};
use crate::store::error::{JournalFailure, WriteDelay, WriteError, WriteRefusal};
use crate::store::file_names;
use crate::store::folders::{Folders, is_displaced};

/// With this much a journal file can still take acks and marks, when the disk has no room for one of the usual length.
const SMALL_FILE_BYTES: u64 = 256 << 10;

/// What the writer shares with the rest of the store.
pub(in crate::store) struct FileJournalParts {
    pub(in crate::store) files: Arc<JournalFiles>,
    pub(in crate::store) folders: Arc<Folders>,
    pub(in crate::store) reserve: Arc<Reserve>,
    pub(in crate::store) options: FileJournalOptions,
}

/// The only writer of the journal.
pub(in crate::store) struct FileJournal {
    parts: FileJournalParts,
    file: Arc<JournalFile>,
    /// All of the file has been written before, so a sync has only content to write.
    is_prewritten: bool,
    preparer: Preparer,
    /// Where the next record goes.
    at: u64,
    /// Up to where the file is preallocated.
    allocated: u64,
    /// Number of the next group.
    next: CommitNumber,
    /// Groups before this are known to be durable.
    durable_before: CommitNumber,
    /// Position that the next block must reach.
    next_position: Position,
    staging: AlignedBuffer,
    /// Blocks of this file that readers cannot see yet.
    pending: Vec<Entry>,
    /// Since the last mark.
    unmarked: JournalSize,
    /// Checksum of the last group in this file.
    last_group: Option<u32>,
    /// `None` when there is none to be had: the journal goes without, and tries again with each file.
    witness: Option<WitnessFile>,
    failure: Option<(PathBuf, Arc<io::Error>)>,
}

impl FileJournal {
    /// Begins a new file after everything that recovery found, all of which is durable.
    ///
    /// # Errors
    ///
    /// The file, whose path is told, cannot be made.
    pub(super) fn start(
        parts: FileJournalParts,
        next: CommitNumber,
        next_position: Position,
        witness: io::Result<WitnessFile>,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let (fs, dir) = (&*parts.files.fs, &parts.files.dir);
        let path = file_names::journal_file(dir, next);
        let wanted = file_bytes(&parts.options, FILE_HEAD_BYTES);
        let head = new_head(next, &parts.options.random);
        let new = NewFile::create(fs, dir, next, wanted).or_else(|error| match is_full(&error) {
            // Enough to start, to drain and to ack with.
            true => NewFile::create_smaller(fs, dir, next, wanted, SMALL_FILE_BYTES).ok_or(error),
            false => Err(error),
        });
        let named = new.and_then(|new| {
            new.give_name(fs, head, &path)?;
            fs.sync_dir(&file_names::journal(dir))?;
            Ok((new.bytes, new.named(path.clone(), head)))
        });
        let (allocated, file) = named.map_err(|error| (path, error))?;
        let preparer = Preparer::new(parts.files.fs.clone(), dir, wanted, &parts.options);
        let unmarked = parts.files.size();
        let mut writer = Self {
            parts,
            file: Arc::new(file),
            is_prewritten: false,
            preparer,
            at: FILE_HEAD_BYTES,
            allocated,
            next,
            durable_before: next,
            next_position,
            staging: AlignedBuffer::default(),
            pending: Vec::new(),
            unmarked,
            last_group: None,
            witness: witness.inspect_err(warn_of_witness).ok(),
            failure: None,
        };
        writer.announce_file();
        Ok(writer)
    }
}

impl JournalWriter for FileJournal {
    // Also moves into a file whose syncs are faster, if one is ready.
    fn make_room(&mut self, bytes: u64) -> Result<(), WriteError> {
        self.check_failure()?;
        if let Some(why) = self.displaced() {
            return Err(self.later(io::Error::other(why)));
        }
        let fits = self.at + bytes <= self.allocated;
        if self.at > FILE_HEAD_BYTES {
            return match fits && !self.has_faster_file(bytes) {
                true => Ok(()),
                false => self.begin_file(bytes),
            };
        }
        if fits {
            return Ok(());
        }
        // Nothing is in it yet, so it can as well become longer.
        let allocated = file_bytes(&self.parts.options, room_in_new(bytes));
        match self.file.file.allocate(allocated) {
            Ok(()) => {
                self.allocated = allocated;
                Ok(())
            }
            Err(error) => Err(self.not_now(error)),
        }
    }

    // Begins a new file only when this one is full, which makes everything before durable and readable; never while there is
    // room for the group.
    fn append(&mut self, notes: &[u8], blocks: &[Block]) -> Result<CommitNumber, WriteError> {
        self.check_failure()?;
        let after = self.check_order(blocks)?;
        let length = self.group_bytes(notes, blocks)?;
        if self.at > FILE_HEAD_BYTES && self.at + length > self.allocated {
            self.begin_file(length)?;
        }
        let start = self.at;
        let (salt, durable) = (self.file.salt, self.last_durable());
        let bytes_max = self.group_bytes_max();
        let out = self.staging.begin(length as usize);
        let table = record::encode_group(out, salt, self.next, durable, notes, blocks)
            .map_err(|TooLong| WriteRefusal::TooLong { bytes_max })?;
        let checksum = record::crc_of(&out[out.len() - length as usize..]);
        self.write_staged(length)?;
        self.last_group = checksum;
        let entries = table.into_iter().map(|(head, at)| Entry {
            head,
            offset: start + at,
        });
        self.pending.extend(entries);
        self.parts.files.written(0, blocks.len());
        self.unmarked.bytes += length;
        self.unmarked.blocks += blocks.len();
        self.next_position = after;
        let number = self.next;
        self.set_next(CommitNumber(number.0 + 1));
        Ok(number)
    }

    fn sync(&mut self) -> Result<(), WriteError> {
        self.check_failure()?;
        if self.durable_before < self.next {
            if !planted!(SyncLeftOut) {
                self.file.file.sync().map_err(|error| self.fail(error))?;
            }
            self.durable_before = self.next;
            self.preparer.synced(self.at, self.is_prewritten);
        }
        self.make_readable();
        Ok(())
    }

    fn make_readable(&mut self) {
        if !self.pending.is_empty() {
            self.parts.files.show(self.pending.drain(..));
        }
    }

    // The mark is the beginning of a file, so that those before it can be released whole.
    fn mark(&mut self) -> Result<CommitNumber, WriteError> {
        self.check_failure()?;
        if self.at > FILE_HEAD_BYTES {
            self.begin_file(0)?;
        }
        self.unmarked = JournalSize::default();
        Ok(self.next)
    }

    fn next_number(&self) -> CommitNumber {
        self.next
    }

    fn next_position(&self) -> Position {
        self.next_position
    }

    fn usage(&self) -> JournalUsage {
        let all = self.parts.files.size();
        let options = &self.parts.options;
        JournalUsage {
            all,
            unmarked: self.unmarked,
            is_full: all.bytes > options.publishable_bytes_max || all.blocks >= options.blocks_max,
        }
    }

    fn displaced(&self) -> Option<String> {
        self.parts.folders.lost()
    }

    fn is_short(&self) -> bool {
        self.parts.reserve.is_short()
    }

    // Nothing more of the disk is used for them, and a part of a journal file stays for acks and marks.
    fn spare_bytes(&self) -> u64 {
        let left = self.allocated.saturating_sub(self.at);
        let kept = room_in_new(self.parts.options.file_bytes / KEPT_FOR_ACKS);
        let spare = left.max(self.parts.reserve.journal_part());
        spare.saturating_sub(kept)
    }

    fn take_preparer_death(&mut self) -> Option<String> {
        self.preparer.take_death()
    }

    fn close(mut self: Box<Self>) -> Result<(), JournalFailure> {
        let closed = self.write_close();
        closed.map_err(|error| JournalFailure::closing(error, &self.file.path))
    }
}

impl FileJournal {
    fn write_close(&mut self) -> Result<(), WriteError> {
        self.sync()?;
        let (salt, durable) = (self.file.salt, self.last_durable());
        let out = self.staging.begin(HEADER_BYTES);
        record::encode_mark(out, salt, Kind::Close, self.next, durable);
        self.write_staged(HEADER_BYTES as u64)?;
        self.file.file.sync().map_err(|error| self.fail(error))?;
        let end = End {
            bytes: self.at,
            next: self.next,
            last: self.last_group,
        };
        self.tell_witness(Some(end));
        Ok(())
    }

    fn check_failure(&self) -> Result<(), WriteError> {
        match &self.failure {
            None => Ok(()),
            Some((path, source)) => Err(WriteError::Final(JournalFailure::Earlier {
                path: path.clone(),
                source: source.clone(),
            })),
        }
    }

    // The index is searched by position, so blocks must rise. Answers the position after the last one.
    fn check_order(&self, blocks: &[Block]) -> Result<Position, WriteRefusal> {
        let mut next = self.next_position;
        for block in blocks {
            if block.first_position < next || block.count == 0 {
                return Err(WriteRefusal::Order(block.first_position));
            }
            next = block.last_position().next();
        }
        Ok(next)
    }

    fn last_durable(&self) -> CommitNumber {
        if planted!(DurableTooHigh) {
            return self.next;
        }
        CommitNumber(self.durable_before.0.saturating_sub(1))
    }

    // Whether the next file has been written before, which the present one has not, and is long enough.
    fn has_faster_file(&mut self, bytes: u64) -> bool {
        !self.is_prewritten
            && file_bytes(&self.parts.options, room_in_new(bytes)) == self.preparer.bytes()
            && self.preparer.is_ready()
    }

    // Writes the blocks in `staging`, of which the record takes `length` bytes.
    fn write_staged(&mut self, length: u64) -> Result<(), WriteError> {
        let (bytes, offset) = self.staging.finish(self.at);
        let written = self.file.file.write_blocks_at(bytes, offset);
        written.map_err(|error| self.cut_back(error))?;
        self.at += length;
        self.file.set_bytes(self.at);
        self.parts.files.written(length, 0);
        Ok(())
    }

    // A record was written in part, or not at all. Where the disk turned out to be full, nobody has been told of it, and what
    // arrived is cut off, durably, so that no crash brings it back. The file takes no further record then, like one that is full.
    fn cut_back(&mut self, error: io::Error) -> WriteError {
        if !is_full(&error) {
            return self.fail(error);
        }
        self.staging.take_back();
        let file = &self.file.file;
        if let Err(error) = file.set_length(self.at).and_then(|()| file.sync()) {
            return self.fail(error);
        }
        self.allocated = self.at;
        self.durable_before = self.next;
        self.not_now(error)
    }

    // The old file must be complete on disk before the new one exists: recovery takes a bad end for damage
    // if a later file follows. Room for the new one is found before, so that without any nothing has changed.
    fn begin_file(&mut self, record_bytes: u64) -> Result<(), WriteError> {
        let new = self.new_file(room_in_new(record_bytes))?;
        if !planted!(OldFileNotCut) {
            self.cut()?;
        }
        self.file.file.finished();
        let (bytes, is_prewritten) = (new.bytes, new.is_prewritten);
        self.file = Arc::new(self.name(new)?);
        self.is_prewritten = is_prewritten;
        self.at = FILE_HEAD_BYTES;
        if !planted!(TailOfOldFileKept) {
            self.staging.forget_tail();
        }
        self.allocated = bytes;
        self.last_group = None;
        self.announce_file();
        Ok(())
    }

    // Until the new file has its name, the old one, which is complete, is the newest.
    fn name(&mut self, new: NewFile) -> Result<JournalFile, WriteError> {
        let files = self.parts.files.clone();
        let (fs, dir) = (&*files.fs, &files.dir);
        let head = new_head(self.next, &self.parts.options.random);
        let path = file_names::journal_file(dir, head.first);
        if planted!(WitnessAhead)
            && let Some(witness) = &mut self.witness
        {
            let _ = witness.say(&Witness {
                newest: head.first,
                closed: None,
                begun: None,
            });
        }
        if let Err(error) = new.give_name(fs, head, &path) {
            let _ = fs.remove(&new.aside);
            return Err(match error.kind() {
                // Somebody took it away before it had its name. Nothing is in it.
                io::ErrorKind::NotFound => self.later(error),
                _ => self.not_now(error),
            });
        }
        if !planted!(NameNotSynced)
            && let Err(error) = fs.sync_dir(&file_names::journal(dir))
        {
            if self.is_displaced(&error) {
                // Nothing is in it, and the next one replaces it.
                return Err(self.later(error));
            }
            // The folder could not even be opened, so nothing was attempted, and the name can be had back.
            if is_out_of_files(&error) && fs.rename(&path, &new.aside).is_ok() {
                let _ = fs.remove(&new.aside);
                return Err(self.not_now(error));
            }
            return Err(self.fail(error));
        }
        Ok(new.named(path, head))
    }

    // A file that has no name yet, and space for that much: the prepared one, a new one, and when the disk is full what the
    // present file has left over, the reserve, or a smaller one.
    fn new_file(&mut self, room: u64) -> Result<NewFile, WriteError> {
        let wanted = file_bytes(&self.parts.options, room);
        let (files, reserve) = (self.parts.files.clone(), self.parts.reserve.clone());
        let (fs, dir) = (&*files.fs, &files.dir);
        if let Some((file, aside)) = self.preparer.take() {
            if wanted == self.preparer.bytes() {
                return Ok(NewFile {
                    file,
                    aside,
                    bytes: wanted,
                    is_prewritten: true,
                });
            }
            // Its space is for a longer one then.
            let _ = fs.remove(&aside);
        }
        let error = match NewFile::create(fs, dir, self.next, wanted) {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        if !is_full(&error) {
            return Err(self.not_now(error));
        }
        reserve.set_short();
        let had = self.allocated;
        self.cut()?;
        if let Ok(file) = NewFile::create(fs, dir, self.next, wanted) {
            return Ok(file);
        }
        let aside = file_names::journal_file_aside(dir, self.next);
        if let Some((file, bytes)) = reserve.take_journal(fs, &aside) {
            reached!(ReserveTaken);
            if bytes >= room {
                return Ok(NewFile {
                    file,
                    aside,
                    bytes,
                    is_prewritten: false,
                });
            }
            // Its space is for a longer one then.
            let _ = fs.remove(&aside);
            if let Ok(file) = NewFile::create(fs, dir, self.next, wanted) {
                return Ok(file);
            }
        }
        let least = room.max(SMALL_FILE_BYTES);
        if let Some(file) = NewFile::create_smaller(fs, dir, self.next, wanted, least) {
            return Ok(file);
        }
        self.grow_again(had);
        Err(self.not_now(error))
    }

    // What was given back in vain may still be had again, for acks.
    fn grow_again(&mut self, bytes: u64) {
        if bytes <= self.allocated {
            return;
        }
        // Durably, before anything is written there: a file that is cut off within a record was cut off by somebody.
        let grown = self.file.file.allocate(bytes);
        if grown.and_then(|()| self.file.file.sync()).is_ok() {
            self.allocated = bytes;
        }
    }

    // Makes all of the present file durable, and gives back what it does not use. It takes no further record then.
    fn cut(&mut self) -> Result<(), WriteError> {
        self.sync()?;
        if self.allocated > self.at {
            let cut = self.file.file.set_length(self.at);
            cut.map_err(|error| self.fail(error))?;
            self.allocated = self.at;
        }
        Ok(())
    }

    // Why there is no room for a record, before anything of it was written.
    fn not_now(&mut self, error: io::Error) -> WriteError {
        if is_full(&error) {
            self.parts.reserve.set_short();
        } else if !is_out_of_files(&error) && !self.is_displaced(&error) {
            return self.fail(error);
        }
        self.later(error)
    }

    fn later(&self, error: io::Error) -> WriteError {
        WriteError::Retry(WriteDelay {
            path: file_names::journal_file(&self.parts.files.dir, self.next),
            source: Arc::new(error),
        })
    }

    // Whether something failed for want of the store's folders, which may have gone when that had been looked for, and may be back by now.
    fn is_displaced(&self, error: &io::Error) -> bool {
        let now = self.parts.folders.check();
        is_displaced(error)
            || error.kind() == io::ErrorKind::NotFound
            || now.is_err_and(|now| is_displaced(&now))
    }

    // What is on disk already is told to the witness. It may lag behind, so that it cannot be told is no reason to stop.
    fn tell_witness(&mut self, closed: Option<End>) {
        let said = Witness {
            newest: self.file.first,
            closed,
            begun: closed.is_none().then_some(Begun {
                bytes: self.allocated,
                salt: self.file.salt.lower(),
            }),
        };
        let (fs, dir) = (&*self.parts.files.fs, &self.parts.files.dir);
        if !self.witness.as_ref().is_some_and(|one| one.is_there(dir)) {
            // What kept it from being opened may be over, or somebody removed it.
            self.witness = WitnessFile::reopen(fs, dir).or(self.witness.take());
        }
        let Some(witness) = &mut self.witness else {
            return;
        };
        if let Err(error) = witness.say(&said) {
            warn_of_witness(&error);
        }
    }

    fn announce_file(&mut self) {
        self.tell_witness(None);
        let file = self.file.clone();
        self.parts.files.push_file(file, FILE_HEAD_BYTES);
        self.set_next(self.next);
    }

    fn set_next(&mut self, next: CommitNumber) {
        self.next = next;
        self.parts.files.set_next_number(next);
    }

    // What was not synced is given up: it never becomes readable.
    fn fail(&mut self, error: io::Error) -> WriteError {
        self.pending.clear();
        let path = self.file.path.clone();
        let source = Arc::new(error);
        self.failure = Some((path.clone(), source.clone()));
        WriteError::Final(JournalFailure::Now { path, source })
    }
}

fn warn_of_witness(error: &io::Error) {
    tracing::warn!(%error, "the journal's witness cannot be written; were the newest journal file to get lost, the next start would not notice");
}

// What a new file needs to hold so many bytes of records, and the mark at its end.
fn room_in_new(record_bytes: u64) -> u64 {
    FILE_HEAD_BYTES + record_bytes + HEADER_BYTES as u64
}

// How much is reserved for a file that must have this much room, in whole blocks.
fn file_bytes(options: &FileJournalOptions, room: u64) -> u64 {
    let bytes = options.file_bytes.max(room);
    bytes.next_multiple_of(DIRECT_BYTES as u64)
}

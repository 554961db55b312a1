//! Appending to the journal. One owner, the committer; one write call per group, one sync for all groups
//! before it. A failed write or sync is final: what the disk holds after it is not known, so nothing is ever
//! written again by this writer. That there is no room for a new file is found out before anything is written, and passes; so does
//! a write for which a file system had no room although it had reserved it, since what arrived of it can be cut off.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::WriteError;
use super::folders::is_displaced;
use super::fs::{DIRECT_BYTES, File, FileSystem};
use super::index::{Entry, JournalFile};
use super::preparer::Preparer;
use super::record::{self, FILE_HEAD_BYTES, FileHead, HEADER_BYTES, Kind, Salt, TooLong};
use super::reserve::{is_full, is_out_of_files};
use super::staging::Staging;
use super::witness::{Begun, End, Witness, WitnessFile};
use super::{Shared, journal_dir};
use crate::domain::{Block, CommitNumber, Position};

/// With this much a journal file can still take acks and marks, when the disk has no room for one of the usual length.
const SMALL_FILE_BYTES: u64 = 256 << 10;

/// Extension of a file that does not have its name yet.
const ASIDE: &str = "new";
/// Names, before that extension, of files that lie aside without a number.
const NUMBERLESS: [&str; 2] = [PREPARED, RESERVED];
/// The one that is filled ahead of time.
pub(super) const PREPARED: &str = "prepared";
/// The one that is kept for when the disk is full.
pub(super) const RESERVED: &str = "reserve";

/// The only writer of the journal.
pub struct JournalWriter {
    shared: Arc<Shared>,
    file: Arc<JournalFile>,
    /// All of the file has been written before, so a sync has only content to write.
    prewritten: bool,
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
    staging: Staging,
    /// Blocks of this file that readers cannot see yet.
    pending: Vec<Entry>,
    /// Bytes and blocks since the last mark.
    unmarked: (u64, usize),
    /// Checksum of the last group in this file.
    last_group: Option<u32>,
    /// `None` when there is none to be had: the journal goes without, and tries again with each file.
    witness: Option<WitnessFile>,
    failure: Option<(PathBuf, Arc<io::Error>)>,
}

impl JournalWriter {
    // Begins a new file after everything that recovery found, all of which is durable.
    pub(super) fn start(
        shared: Arc<Shared>,
        next: CommitNumber,
        next_position: Position,
        witness: io::Result<WitnessFile>,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let path = file_path(&shared.dir, next);
        let wanted = file_bytes(&shared, FILE_HEAD_BYTES);
        let (fs, dir) = (&*shared.fs, &shared.dir);
        let head = new_head(next);
        let file = aside_file(fs, dir, next, wanted).or_else(|error| match is_full(&error) {
            // Enough to start, to drain and to ack with.
            true => smaller_file(fs, dir, next, wanted, SMALL_FILE_BYTES).ok_or(error),
            false => Err(error),
        });
        let named = file.and_then(
            |NewFile {
                 file, aside, bytes, ..
             }| { name_file(fs, dir, head, file, &aside).map(|file| (file, bytes)) },
        );
        let (file, allocated) = named.map_err(|error| (path.clone(), error))?;
        let preparer = Preparer::new(shared.fs.clone(), &shared.dir, wanted);
        let unmarked = (shared.journal_bytes(), shared.journal_blocks());
        let mut writer = Self {
            shared,
            file: Arc::new(file),
            prewritten: false,
            preparer,
            at: FILE_HEAD_BYTES,
            allocated,
            next,
            durable_before: next,
            next_position,
            staging: Staging::default(),
            pending: Vec::new(),
            unmarked,
            last_group: None,
            witness: witness.inspect_err(warn_of_witness).ok(),
            failure: None,
        };
        writer.announce_file();
        Ok(writer)
    }

    /// Bytes that the record of a group takes, to [make room](Self::make_room) for it.
    ///
    /// # Errors
    ///
    /// [`WriteError::TooLong`].
    pub fn group_bytes(notes: &[u8], blocks: &[Block]) -> Result<u64, WriteError> {
        record::group_bytes(notes, blocks).map_err(|TooLong| WriteError::TooLong)
    }

    /// Writes a group without making it durable. Readers see its blocks after [`Self::sync`] or
    /// [`Self::make_readable`]. Begins a new file only when this one is full, which makes everything before
    /// durable and readable; never while there is [room](Self::make_room) for it.
    ///
    /// # Errors
    ///
    /// [`WriteError::TooLong`], [`WriteError::Order`] (also for a block of no events) and [`WriteError::Later`] leave the writer
    /// usable, and nothing of the group is there; any other error is final.
    pub fn append(&mut self, notes: &[u8], blocks: &[Block]) -> Result<CommitNumber, WriteError> {
        self.check_failure()?;
        let after = self.check_order(blocks)?;
        let length = Self::group_bytes(notes, blocks)?;
        if self.at > FILE_HEAD_BYTES && self.at + length > self.allocated {
            self.begin_file(length)?;
        }
        let start = self.at;
        let (salt, durable) = (self.file.salt, self.last_durable());
        let out = self.staging.begin(length as usize);
        let table = record::encode_group(out, salt, self.next, durable, notes, blocks)
            .map_err(|TooLong| WriteError::TooLong)?;
        let checksum = record::crc_of(&out[out.len() - length as usize..]);
        self.write_staged(length)?;
        self.last_group = checksum;
        let entries = table.into_iter().map(|(head, at)| Entry {
            head,
            offset: start + at,
        });
        self.pending.extend(entries);
        self.shared
            .journal_blocks
            .fetch_add(blocks.len(), Ordering::Relaxed);
        self.unmarked.0 += length;
        self.unmarked.1 += blocks.len();
        self.next_position = after;
        let number = self.next;
        self.set_next(CommitNumber(number.0 + 1));
        Ok(number)
    }

    /// Makes sure that there is room for records of so many bytes together, beginning a new file for them if need be, before
    /// anything is done that could not be undone. Also moves into a file whose syncs are faster, if one is ready.
    ///
    /// # Errors
    ///
    /// [`WriteError::Later`] leaves the writer usable; any other error is final.
    pub fn make_room(&mut self, bytes: u64) -> Result<(), WriteError> {
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
        let allocated = file_bytes(&self.shared, room_in_new(bytes));
        match self.file.file.allocate(allocated) {
            Ok(()) => {
                self.allocated = allocated;
                Ok(())
            }
            Err(error) => Err(self.not_now(error)),
        }
    }

    /// Whether the disk has no room but what is kept for acks and marks, so that nothing else should be appended.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.shared.reserve.is_short()
    }

    /// Why nothing should be appended, when the store is not any more where it was opened. What was appended can be synced.
    #[must_use]
    pub fn displaced(&self) -> Option<String> {
        self.shared.folders.lost()
    }

    /// Bytes that records may take while the store is [short](Self::is_short), beside acks and marks: nothing more of the disk
    /// is used for them, and a quarter of a journal file stays for those.
    #[must_use]
    pub fn spare_bytes(&self) -> u64 {
        let left = self.allocated.saturating_sub(self.at);
        let kept = room_in_new(self.shared.options.journal_file_bytes / 4);
        let spare = left.max(self.shared.reserve.journal_part());
        spare.saturating_sub(kept)
    }

    /// Makes every appended group durable, and its blocks readable.
    ///
    /// # Errors
    ///
    /// Any error is final: a later sync that succeeds would say nothing about what this one lost.
    pub fn sync(&mut self) -> Result<(), WriteError> {
        self.check_failure()?;
        if self.durable_before < self.next {
            self.file.file.sync().map_err(|error| self.fail(error))?;
            self.durable_before = self.next;
            self.preparer.synced(self.at, self.prewritten);
        }
        self.make_readable();
        Ok(())
    }

    /// Lets readers see the blocks appended so far although they are not durable, as topics with `interval`
    /// durability ask for.
    pub fn make_readable(&mut self) {
        if !self.pending.is_empty() {
            self.shared.index_mut().push_entries(self.pending.drain(..));
        }
    }

    /// Makes everything durable and begins a new file. Answers the number of the first group that it will
    /// have: the mark for a checkpoint of everything before.
    ///
    /// # Errors
    ///
    /// [`WriteError::Later`] leaves the writer usable; any other error is final.
    pub fn rotate(&mut self) -> Result<CommitNumber, WriteError> {
        self.check_failure()?;
        if self.at > FILE_HEAD_BYTES {
            self.begin_file(0)?;
        }
        self.unmarked = (0, 0);
        Ok(self.next)
    }

    /// Bytes and blocks of groups that came after the last [`Self::rotate`]: what a checkpoint that is under way will leave.
    #[must_use]
    pub fn unmarked(&self) -> (u64, usize) {
        self.unmarked
    }

    /// Bytes in the journal. Falls when a checkpoint releases files.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.shared.journal_bytes()
    }

    /// Blocks in the journal. Falls when a checkpoint releases files.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.shared.journal_blocks()
    }

    /// That the thread which prepares files has panicked since the last call, if it has. It costs speed only.
    pub fn take_preparer_death(&mut self) -> Option<String> {
        self.preparer.take_death()
    }

    /// Number that the next group will have.
    #[must_use]
    pub fn next_number(&self) -> CommitNumber {
        self.next
    }

    /// Position that the next block must have at least, as far as blocks on disk tell. The caller may know a
    /// higher one from its state.
    #[must_use]
    pub fn next_position(&self) -> Position {
        self.next_position
    }

    /// Whether publishes must wait for a checkpoint. Acks and marks may go on into the reserve.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let options = &self.shared.options;
        self.used_bytes() > options.publishable_bytes_max()
            || self.blocks() >= options.journal_blocks_max
    }

    /// Makes everything durable and writes down that nothing can be missing.
    ///
    /// # Errors
    ///
    /// The disk failed, now or before. The next start then treats the end as after a crash.
    pub fn close(mut self) -> Result<(), WriteError> {
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
            Some((path, source)) => Err(WriteError::Poisoned {
                path: path.clone(),
                source: source.clone(),
            }),
        }
    }

    // The index is searched by position, so blocks must rise. Answers the position after the last one.
    fn check_order(&self, blocks: &[Block]) -> Result<Position, WriteError> {
        let mut next = self.next_position;
        for block in blocks {
            if block.first_position < next || block.count == 0 {
                return Err(WriteError::Order(block.first_position));
            }
            next = block.last_position().next();
        }
        Ok(next)
    }

    fn last_durable(&self) -> CommitNumber {
        CommitNumber(self.durable_before.0.saturating_sub(1))
    }

    // Whether the next file has been written before, which the present one has not, and is long enough.
    fn has_faster_file(&mut self, bytes: u64) -> bool {
        !self.prewritten
            && file_bytes(&self.shared, room_in_new(bytes)) == self.preparer.bytes()
            && self.preparer.is_ready()
    }

    // Writes the blocks in `staging`, of which the record takes `length` bytes.
    fn write_staged(&mut self, length: u64) -> Result<(), WriteError> {
        let (bytes, offset) = self.staging.finish(self.at);
        let written = self.file.file.write_blocks_at(bytes, offset);
        written.map_err(|error| self.cut_back(error))?;
        self.at += length;
        self.file.set_bytes(self.at);
        self.shared
            .journal_bytes
            .fetch_add(length, Ordering::Relaxed);
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
        self.cut()?;
        self.file.file.finished();
        let (bytes, prewritten) = (new.bytes, new.prewritten);
        self.file = Arc::new(self.name(new)?);
        self.prewritten = prewritten;
        self.at = FILE_HEAD_BYTES;
        self.staging.forget_tail();
        self.allocated = bytes;
        self.last_group = None;
        self.announce_file();
        Ok(())
    }

    // Until the new file has its name, the old one, which is complete, is the newest.
    fn name(&mut self, new: NewFile) -> Result<JournalFile, WriteError> {
        let (fs, dir) = (self.shared.fs.clone(), self.shared.dir.clone());
        let head = new_head(self.next);
        let path = file_path(&dir, head.first);
        if let Err(error) = rename_with_head(&*fs, head, &*new.file, &new.aside, &path) {
            let _ = fs.remove(&new.aside);
            return Err(match error.kind() {
                // Somebody took it away before it had its name. Nothing is in it.
                io::ErrorKind::NotFound => self.later(error),
                _ => self.not_now(error),
            });
        }
        if let Err(error) = fs.sync_dir(&journal_dir(&dir)) {
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
        Ok(journal_file(new.file, path, head))
    }

    // A file that has no name yet, and space for that much: the prepared one, a new one, and when the disk is full what the
    // present file has left over, the reserve, or a smaller one.
    fn new_file(&mut self, room: u64) -> Result<NewFile, WriteError> {
        let wanted = file_bytes(&self.shared, room);
        let shared = self.shared.clone();
        let (fs, dir) = (&*shared.fs, &shared.dir);
        if let Some((file, aside)) = self.preparer.take() {
            if wanted == self.preparer.bytes() {
                return Ok(NewFile {
                    file,
                    aside,
                    bytes: wanted,
                    prewritten: true,
                });
            }
            // Its space is for a longer one then.
            let _ = fs.remove(&aside);
        }
        let error = match aside_file(fs, dir, self.next, wanted) {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        if !is_full(&error) {
            return Err(self.not_now(error));
        }
        shared.reserve.set_short();
        let had = self.allocated;
        self.cut()?;
        if let Ok(file) = aside_file(fs, dir, self.next, wanted) {
            return Ok(file);
        }
        let aside = aside_name(dir, self.next);
        if let Some((file, bytes)) = shared.reserve.take_journal(fs, &aside) {
            if bytes >= room {
                return Ok(NewFile {
                    file,
                    aside,
                    bytes,
                    prewritten: false,
                });
            }
            // Its space is for a longer one then.
            let _ = fs.remove(&aside);
            if let Ok(file) = aside_file(fs, dir, self.next, wanted) {
                return Ok(file);
            }
        }
        let least = room.max(SMALL_FILE_BYTES);
        if let Some(file) = smaller_file(fs, dir, self.next, wanted, least) {
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
            self.shared.reserve.set_short();
        } else if !is_out_of_files(&error) && !self.is_displaced(&error) {
            return self.fail(error);
        }
        self.later(error)
    }

    fn later(&self, error: io::Error) -> WriteError {
        WriteError::Later {
            path: file_path(&self.shared.dir, self.next),
            source: Arc::new(error),
        }
    }

    // Whether something failed for want of the store's folders, which may have gone when that had been looked for.
    fn is_displaced(&self, error: &io::Error) -> bool {
        let now = self.shared.folders.check();
        is_displaced(error) || now.is_err_and(|now| is_displaced(&now))
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
        let (fs, dir) = (&*self.shared.fs, &self.shared.dir);
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
        self.shared
            .journal_bytes
            .fetch_add(FILE_HEAD_BYTES, Ordering::Relaxed);
        self.shared.index_mut().push_file(self.file.clone());
        self.set_next(self.next);
    }

    fn set_next(&mut self, next: CommitNumber) {
        self.next = next;
        self.shared.next_number.store(next.0, Ordering::Release);
    }

    // What was not synced is given up: it never becomes readable.
    fn fail(&mut self, error: io::Error) -> WriteError {
        self.pending.clear();
        let path = self.file.path.clone();
        let source = Arc::new(error);
        self.failure = Some((path.clone(), source.clone()));
        WriteError::Io { path, source }
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
fn file_bytes(shared: &Shared, room: u64) -> u64 {
    let bytes = shared.options.journal_file_bytes.max(room);
    bytes.next_multiple_of(DIRECT_BYTES as u64)
}

/// Path of the journal file whose first group has this number.
pub(super) fn file_path(dir: &Path, first: CommitNumber) -> PathBuf {
    journal_dir(dir).join(format!("{first:020}.log"))
}

/// Path of a file of this name that lies aside.
pub(super) fn aside_path(dir: &Path, name: &str) -> PathBuf {
    journal_dir(dir).join(name).with_extension(ASIDE)
}

/// The number of the first group of the journal file at `path`; `None` for whatever else lies there.
pub(super) fn first_of(path: &Path) -> Option<CommitNumber> {
    numbered(path, "log").filter(|_| !path.is_dir())
}

/// Whether what lies at `path` is a journal file that did not get its name.
pub(super) fn lies_aside(path: &Path) -> bool {
    let is_numberless = || {
        NUMBERLESS
            .iter()
            .any(|name| path.ends_with(format!("{name}.{ASIDE}")))
    };
    (numbered(path, ASIDE).is_some() || is_numberless()) && !path.is_dir()
}

// Only what the broker would name just so is its own.
fn numbered(path: &Path, extension: &str) -> Option<CommitNumber> {
    let name = path.file_name()?.to_str()?;
    let number: u64 = name.split('.').next()?.parse().ok()?;
    (format!("{number:020}.{extension}") == name).then_some(CommitNumber(number))
}

// A journal file that does not have its name yet.
struct NewFile {
    file: Arc<dyn File>,
    aside: PathBuf,
    /// How much of the disk it has.
    bytes: u64,
    /// All of it has been written before.
    prewritten: bool,
}

fn aside_file(
    fs: &dyn FileSystem,
    dir: &Path,
    first: CommitNumber,
    bytes: u64,
) -> io::Result<NewFile> {
    let aside = aside_name(dir, first);
    let file = fs.create(&aside)?;
    if let Err(error) = file.allocate(bytes) {
        // What it got of the disk is for others.
        let _ = fs.remove(&aside);
        return Err(error);
    }
    Ok(NewFile {
        file,
        aside,
        bytes,
        prewritten: false,
    })
}

// What a file is called until it has its head.
fn aside_name(dir: &Path, first: CommitNumber) -> PathBuf {
    file_path(dir, first).with_extension(ASIDE)
}

// The longest file for which the disk has room, of at least so many bytes.
fn smaller_file(
    fs: &dyn FileSystem,
    dir: &Path,
    first: CommitNumber,
    bytes: u64,
    bytes_min: u64,
) -> Option<NewFile> {
    let halves = std::iter::successors(Some(bytes / 2), |bytes| Some(bytes / 2));
    let mut sizes = halves
        .take_while(|bytes| *bytes > bytes_min)
        .chain([bytes_min.min(bytes)])
        .map(|bytes| bytes.next_multiple_of(DIRECT_BYTES as u64));
    sizes.find_map(|bytes| aside_file(fs, dir, first, bytes).ok())
}

/// A head with a salt of its own.
pub(super) fn new_head(first: CommitNumber) -> FileHead {
    FileHead {
        first,
        salt: Salt(rand::random()),
    }
}

/// Puts a journal file with this head and what `fill` adds in its place, replacing one that is there. It is
/// durable before it gets its name, so a file that exists has a head.
pub(super) fn place_file(
    fs: &dyn FileSystem,
    dir: &Path,
    head: FileHead,
    fill: impl FnOnce(&dyn File) -> io::Result<()>,
) -> io::Result<JournalFile> {
    let aside = file_path(dir, head.first).with_extension(ASIDE);
    let file = fs.create(&aside)?;
    fill(&*file)?;
    name_file(fs, dir, head, file, &aside)
}

// Gives a file that lies aside its head, and then its name, durably.
fn name_file(
    fs: &dyn FileSystem,
    dir: &Path,
    head: FileHead,
    file: Arc<dyn File>,
    aside: &Path,
) -> io::Result<JournalFile> {
    let path = file_path(dir, head.first);
    rename_with_head(fs, head, &*file, aside, &path)?;
    fs.sync_dir(&journal_dir(dir))?;
    Ok(journal_file(file, path, head))
}

// On an error the file does not have the name.
fn rename_with_head(
    fs: &dyn FileSystem,
    head: FileHead,
    file: &dyn File,
    aside: &Path,
    path: &Path,
) -> io::Result<()> {
    file.write_at(&head.encode(), 0)?;
    file.sync()?;
    fs.rename(aside, path)
}

fn journal_file(file: Arc<dyn File>, path: PathBuf, head: FileHead) -> JournalFile {
    JournalFile::new(file, path, head.first, head.salt, FILE_HEAD_BYTES)
}

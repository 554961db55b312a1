//! The integrity check of a whole journal at a start, its survey: which records count, where it ends, what is damaged and what that costs. Decides between
//! a torn end, which is cut off because nobody was told that it was durable, and damage to data that was. Only reads;
//! [`super::repair`] acts on what it finds.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::super::block_index::Entry;
use super::super::journal_file::JournalFile;
use super::super::record::{self, FILE_HEAD_BYTES, FileHead, FileTitle, Kind};
use super::super::witness::{Begun, End};
use super::record_scan::{Bodies, Content, Record, Scanner, read_ahead, records_of};
use crate::disk::FileSystem;
use crate::domain::{CommitNumber, Position, Sequence, TopicId};
use crate::runtime::Threads;
use crate::store::block_format::BlockHead;
use crate::store::error::{Damage, OpenError, ReadError, SystemFailure};
use crate::store::file_names;
use crate::store::loss::{Loss, LostRange};

/// What a journal consists of.
#[derive(Default)]
pub(super) struct Survey {
    /// Its files, oldest first, without those that lie wholly before the mark.
    pub(super) files: Vec<Surveyed>,
    /// Files that a finished checkpoint no longer needs.
    pub(super) stale: Vec<PathBuf>,
    /// Files without a readable head.
    pub(super) unreadable: Vec<PathBuf>,
    /// Groups from the first up to before the second number that are missing before the first file.
    pub(super) missing: Option<(CommitNumber, CommitNumber)>,
    /// Number of the next group.
    pub(super) next: CommitNumber,
    /// Position after the last block.
    pub(super) next_position: Position,
    /// Whether the last record says that the journal was closed.
    pub(super) clean: bool,
    /// Bytes of a torn end.
    pub(super) torn_bytes: u64,
    /// What is gone.
    pub(super) losses: Vec<Loss>,
}

/// One file of it.
pub(super) struct Surveyed {
    pub(super) file: Arc<JournalFile>,
    pub(super) entries: Vec<Entry>,
    pub(super) groups: u64,
    /// Offset after the last record that counts.
    pub(super) end: u64,
    /// What must be replaced before the file can be used.
    pub(super) cuts: Vec<Cut>,
}

/// A stretch of a file, and the record that takes its place, if any.
#[derive(Clone)]
pub(super) struct Cut {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) with: Bytes,
}

/// What of the journal is needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed {
    /// Groups from this one on.
    pub(super) from: CommitNumber,
    /// The position after what has been moved out of it.
    pub(super) next_position: Position,
}

/// What is known of the journal from elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Proof {
    /// A file that begins with this group, or with a later one, was there, with everything before it; 0: nothing is known.
    pub(super) newest: CommitNumber,
    /// How that very file ended, when the journal was closed.
    pub(super) closed: Option<End>,
    /// How that very file began, when the journal was not closed.
    pub(super) begun: Option<Begun>,
}

impl Proof {
    // Groups before this one were durable.
    fn durable_before(&self) -> CommitNumber {
        self.closed
            .map_or(self.newest, |end| end.next.max(self.newest))
    }
}

/// Whether the last record of the newest file says that the journal was closed. It was written when everything before it was
/// durable, so what is damaged nevertheless was damaged later.
pub(super) fn was_closed(fs: &dyn FileSystem, dir: &Path) -> Result<bool, OpenError> {
    let Some((first, path)) = journal_paths(fs, dir)?.pop() else {
        return Ok(false);
    };
    let Some(file) = open_file(fs, &path, first)? else {
        return Ok(false);
    };
    let last = records_of(&file, Bodies::Believed).pop_back();
    Ok(last.is_some_and(|record| record.header.kind == Kind::Close))
}

/// Examines what is `needed` of the journal in `dir`, which must have what `proof` says. `threads` help with reading.
pub(super) fn survey(
    fs: &dyn FileSystem,
    dir: &Path,
    threads: &dyn Threads,
    needed: Needed,
    proof: Proof,
    bodies: Bodies,
) -> Result<Survey, OpenError> {
    let mut paths = journal_paths(fs, dir)?;
    let stale = paths
        .iter()
        .skip(1)
        .take_while(|(first, _)| *first <= needed.from)
        .count();
    let stale = paths.drain(..stale).map(|(_, path)| path).collect();
    let mut surveyor = Surveyor {
        survey: Survey {
            stale,
            next: needed.from,
            next_position: needed.next_position,
            ..Survey::default()
        },
        bodies,
        proof,
        ledger: Ledger::default(),
        last_was_unreadable: false,
        last_group: None,
        cut_short: None,
        unknown: None,
    };
    let newest = paths.last().map(|(first, _)| *first);
    let last = paths.len().saturating_sub(1);
    let files = paths
        .iter()
        .map(|(first, path)| Ok(open_file(fs, path, *first)?.map(Arc::new)))
        .collect::<Result<Vec<_>, OpenError>>()?;
    let ahead = read_ahead(threads, files.clone(), bodies);
    let found = paths.into_iter().zip(files).zip(ahead).enumerate();
    for (index, (((first, path), file), ahead)) in found {
        match file {
            Some(file) => surveyor.file(file, ahead, index == 0, index == last)?,
            None => surveyor.unreadable_file(path, first),
        }
        if let Some((path, kind)) = surveyor.unknown.take() {
            let found = format!("a record of kind {kind}");
            return Err(OpenError::Format { path, found });
        }
    }
    surveyor.compare_with_proof(dir, newest);
    Ok(surveyor.survey)
}

// Files by the number in their name, rising.
fn journal_paths(
    fs: &dyn FileSystem,
    dir: &Path,
) -> Result<Vec<(CommitNumber, PathBuf)>, OpenError> {
    let folder = file_names::journal(dir);
    let paths = match fs.list(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(OpenError::io("list", &folder))?,
    };
    let mut files: Vec<_> = paths
        .into_iter()
        .filter_map(|path| Some((file_names::first_of(&path)?, path)))
        .filter(|(_, path)| !fs.is_dir(path))
        .collect();
    files.sort();
    Ok(files)
}

fn open_file(
    fs: &dyn FileSystem,
    path: &Path,
    first: CommitNumber,
) -> Result<Option<JournalFile>, OpenError> {
    let file = fs.open(path).map_err(OpenError::io("open", path))?;
    let mut bytes = vec![0; FILE_HEAD_BYTES as usize];
    let read = file
        .read_at(&mut bytes, 0)
        .map_err(OpenError::io("read", path))?;
    bytes.truncate(read);
    let head = match FileHead::read(&bytes) {
        FileTitle::Ours(head) if head.first == first => head,
        FileTitle::Ours(_) | FileTitle::Damaged => return Ok(None),
        FileTitle::Other(found) => {
            let path = path.to_owned();
            return Err(OpenError::Format { path, found });
        }
    };
    let path = path.to_owned();
    Ok(Some(JournalFile::new(
        file,
        path,
        first,
        head.salt,
        FILE_HEAD_BYTES,
    )))
}

struct Surveyor {
    survey: Survey,
    bodies: Bodies,
    proof: Proof,
    ledger: Ledger,
    last_was_unreadable: bool,
    /// Checksum of the last group, if it is in the file that was looked at last.
    last_group: Option<u32>,
    /// What the newest file should be as long as, and is.
    cut_short: Option<(u64, u64)>,
    /// A sound record that this version does not know.
    unknown: Option<(PathBuf, u32)>,
}

impl Surveyor {
    fn unreadable_file(&mut self, path: PathBuf, first: CommitNumber) {
        self.lose(Loss {
            groups: Some((first, None)),
            ..Loss::of(&path)
        });
        reached!(DamagedFileHead);
        self.survey.unreadable.push(path);
        self.survey.clean = false;
        self.last_was_unreadable = true;
    }

    fn file(
        &mut self,
        file: Arc<JournalFile>,
        ahead: VecDeque<Record>,
        is_first: bool,
        is_last: bool,
    ) -> Result<(), OpenError> {
        if is_first && file.first < self.survey.next {
            // It starts before the mark, so its own numbers count.
            self.survey.next = file.first;
        }
        if file.first < self.survey.next {
            // Numbers that an earlier file has as well: this one cannot be what it says.
            self.unreadable_file(file.path.clone(), file.first);
            return Ok(());
        }
        if file.first > self.survey.next {
            self.missing_before(&file);
        }
        self.last_was_unreadable = false;
        let scanner = Scanner::new(&file, self.bodies);
        let scanner = scanner.map_err(|error| read_failed(&file.path, error))?;
        let mut scanner = scanner.with_ahead(ahead);
        let mut scanned = Surveyed {
            file: file.clone(),
            entries: Vec::new(),
            groups: 0,
            end: FILE_HEAD_BYTES,
            cuts: Vec::new(),
        };
        // Only the end of the newest file tells how the last run ended.
        self.survey.clean = false;
        self.last_group = None;
        self.records(&mut scanner, &mut scanned, is_last)
            .map_err(|error| read_failed(&file.path, error))?;
        file.set_bytes(scanned.end);
        self.survey.files.push(scanned);
        Ok(())
    }

    // Groups between the previous file, or the mark, and this one.
    fn missing_before(&mut self, file: &JournalFile) {
        let (from, to) = (self.survey.next, file.first);
        let groups = Some((from, Some(CommitNumber(to.0 - 1))));
        match self
            .survey
            .losses
            .last_mut()
            .filter(|_| self.last_was_unreadable)
        {
            Some(loss) => loss.groups = groups,
            None => self.lose(Loss {
                groups,
                ..Loss::of(&file.path)
            }),
        }
        match self.survey.files.last_mut() {
            Some(previous) => {
                let with = gap(&previous.file, from, to);
                previous.cuts.push(Cut {
                    from: previous.end,
                    to: previous.end,
                    with,
                });
            }
            None => self.survey.missing = Some((from, to)),
        }
        self.survey.next = to;
    }

    fn records(
        &mut self,
        scanner: &mut Scanner<'_>,
        scanned: &mut Surveyed,
        is_last: bool,
    ) -> Result<(), ReadError> {
        loop {
            let at = scanned.end;
            match scanner.record_at(at)? {
                Content::End => return Ok(()),
                Content::Unknown(kind) => {
                    self.unknown = Some((scanned.file.path.clone(), kind));
                    return Ok(());
                }
                Content::Record(record) if self.follows(&record) && record.damaged.is_empty() => {
                    self.take(&record, scanned);
                }
                Content::Record(record) if self.follows(&record) => {
                    if is_last && !self.was_durable(scanner, at)? {
                        self.torn(scanner, scanned);
                        return Ok(());
                    }
                    reached!(DamagedEvents);
                    self.salvage(scanner, &record, scanned)?;
                }
                Content::Record(_) | Content::Bad => {
                    if is_last && !self.was_durable(scanner, at)? {
                        self.torn(scanner, scanned);
                        return Ok(());
                    }
                    if !self.skip(scanner, scanned)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    // The newest file ends within a record. The power leaves that, but it takes nothing of the file's length: a file is as long as
    // it will be before it gets its name, and is cut only behind records that are durable. Where it is shorter nobody knows what
    // was there.
    fn torn(&mut self, scanner: &Scanner<'_>, scanned: &Surveyed) {
        let (first, salt) = (scanned.file.first, scanned.file.salt.lower());
        let begun = self.proof.begun;
        let begun = begun.filter(|begun| (self.proof.newest, begun.salt) == (first, salt));
        match begun.filter(|begun| scanner.length() < begun.bytes) {
            Some(begun) => {
                reached!(JournalCutShort);
                self.cut_short = Some((begun.bytes, scanner.length()));
            }
            None => self.survey.torn_bytes = scanner.length() - scanned.end,
        }
    }

    // Whether the record is the one that must come here.
    fn follows(&self, record: &Record) -> bool {
        let mut position = self.survey.next_position_seen(&self.ledger);
        let rising = record.blocks.iter().all(|(head, _)| {
            let rises = head.first_position >= position && head.count > 0;
            position = head.last_position().next();
            rises
        });
        record.header.number == self.survey.next && rising
    }

    // Whether a later record proves that the next group was on disk. Without such a proof what lies at `at`
    // was being written when the power went, and nobody was told that it was durable.
    fn was_durable(&self, scanner: &mut Scanner<'_>, at: u64) -> Result<bool, ReadError> {
        if self.survey.next < self.proof.durable_before() {
            return Ok(true);
        }
        let mut at = at;
        while let Some(record) = scanner.next_record(at, self.survey.next)? {
            if record.header.durable >= self.survey.next {
                return Ok(true);
            }
            at = record.at;
        }
        Ok(false)
    }

    fn take(&mut self, record: &Record, scanned: &mut Surveyed) {
        let header = &record.header;
        scanned.end = record.end();
        self.survey.clean = header.kind == Kind::Close;
        match header.kind {
            Kind::Close => return,
            Kind::Gap => {
                self.survey.next = header.durable.max(self.survey.next);
                return;
            }
            Kind::Group => scanned.groups += 1,
        }
        self.last_group = Some(header.crc);
        for (head, offset) in &record.blocks {
            self.block(head, *offset, scanned);
        }
        self.survey.next = CommitNumber(header.number.0 + 1);
    }

    fn block(&mut self, head: &BlockHead, offset: u64, scanned: &mut Surveyed) {
        self.ledger.block(head, &mut self.survey.losses);
        let after = head.last_position().next();
        self.survey.next_position = self.survey.next_position.max(after);
        scanned.entries.push(Entry {
            head: *head,
            offset,
        });
    }

    // Keeps what is sound of a group some of whose blocks are damaged; its notes are.
    fn salvage(
        &mut self,
        scanner: &mut Scanner<'_>,
        record: &Record,
        scanned: &mut Surveyed,
    ) -> Result<(), ReadError> {
        let number = record.header.number;
        let raw = bytes::Bytes::copy_from_slice(scanner.bytes(record.at, record.header.length)?);
        // What is damaged keeps its place, so that its sequences and positions are not given again.
        let bodies = record.blocks.iter().map(|(head, offset)| {
            let start = (offset - record.at) as usize;
            let body = raw.slice(start..start + head.body_bytes as usize);
            let sound = head.block(&body).filter(|_| !planted!(SoundGivenUpToo));
            sound.unwrap_or_else(|| head.without_events())
        });
        let left: Vec<_> = bodies.collect();
        let mut with = Vec::new();
        let salt = scanned.file.salt;
        let notes = raw.slice(record.header.notes_range());
        // It is no longer than the record that it replaces.
        let written = record::encode_group(
            &mut with,
            salt,
            number,
            record.header.durable,
            &notes,
            &left,
        );
        if written.is_err() {
            return Err(ReadError::damaged(&scanned.file.path, "a record"));
        }
        let lost: Vec<&BlockHead> = record
            .damaged
            .iter()
            .filter_map(|index| Some(&record.blocks.get(*index)?.0))
            .collect();
        let loss = Loss {
            groups: Some((number, Some(number))),
            positions: lost
                .first()
                .zip(lost.last())
                .map(|(first, last)| (first.first_position, last.last_position())),
            ranges: lost
                .iter()
                .map(|head| LostRange {
                    topic: head.topic,
                    first: if planted!(LossToldShort) {
                        Sequence(head.first_sequence.0.saturating_add(1))
                    } else {
                        head.first_sequence
                    },
                    last: head.last_sequence(),
                })
                .collect(),
            notes: false,
            ..Loss::of(&scanned.file.path)
        };
        if !planted!(DamagePassedOver) {
            self.survey.losses.push(loss);
        }
        scanned.cuts.push(Cut {
            from: record.at,
            to: record.end(),
            with: with.into(),
        });
        for (head, offset) in &record.blocks {
            // Lost ones as well: the next sequence of the topic is no surprise then.
            self.block(head, *offset, scanned);
        }
        scanned.groups += 1;
        scanned.end = record.end();
        self.survey.next = CommitNumber(number.0 + 1);
        self.survey.clean = false;
        Ok(())
    }

    // Goes on with the next sound record of the file. Answers whether there is one; when there is none, the
    // next file shows what is missing.
    fn skip(
        &mut self,
        scanner: &mut Scanner<'_>,
        scanned: &mut Surveyed,
    ) -> Result<bool, ReadError> {
        reached!(DamagedRecord);
        let from = scanned.end;
        let first = self.survey.next;
        let Some(record) = scanner.next_record(from, first)? else {
            return Ok(false);
        };
        let next = record.header.number;
        let groups = (next > first).then(|| (first, Some(CommitNumber(next.0 - 1))));
        let with = if next > first {
            gap(&scanned.file, first, next)
        } else {
            Bytes::new()
        };
        self.lose(Loss {
            groups,
            notes: next > first,
            ..Loss::of(&scanned.file.path)
        });
        scanned.cuts.push(Cut {
            from,
            to: record.at,
            with,
        });
        scanned.end = record.at;
        self.survey.next = next;
        Ok(true)
    }

    // Whether everything is there that is known of from elsewhere. What is missing at the end leaves a gap there, so that the
    // numbers of what was lost are not given again.
    fn compare_with_proof(&mut self, dir: &Path, newest: Option<CommitNumber>) {
        let proof = self.proof;
        let (from, proven) = (self.survey.next, proof.durable_before());
        let has_newest = from > proof.newest || newest.is_some_and(|first| first >= proof.newest);
        let last_path = self.survey.files.last().map(|file| file.file.path.clone());
        let open_ended = self.last_was_unreadable;
        let mut after = CommitNumber(from.0 + 1).max(proven);
        if !has_newest {
            reached!(WitnessAhead);
            after = after.max(CommitNumber(proof.newest.0 + 1));
            let groups = match proof.closed {
                Some(end) if end.next > from => Some((from, Some(CommitNumber(end.next.0 - 1)))),
                _ => Some((from, None)),
            };
            self.lose(Loss {
                why: Some("missing".to_owned()),
                groups,
                ..Loss::of(&file_names::journal_file(
                    dir,
                    proof.newest.max(CommitNumber(1)),
                ))
            });
        } else if from < proven {
            let groups = Some((from, Some(CommitNumber(proven.0 - 1))));
            match self.survey.losses.last_mut().filter(|_| open_ended) {
                Some(loss) => loss.groups = groups,
                None => self.lose(Loss {
                    why: Some(ends_too_early(proof.closed)),
                    groups,
                    ..Loss::of(&last_path.unwrap_or_else(|| file_names::journal(dir)))
                }),
            }
        } else if let Some(end) = proof.closed
            && (from, newest) == (end.next, Some(proof.newest))
            && end.last.is_some_and(|last| self.last_group != Some(last))
        {
            let last = CommitNumber(from.0 - 1);
            self.lose(Loss {
                why: Some(
                    "the last group is not the one that the journal was closed with".to_owned(),
                ),
                groups: Some((last, Some(last))),
                ..Loss::of(&last_path.unwrap_or_else(|| file_names::journal(dir)))
            });
        } else if let Some((should_be, is)) = self.cut_short {
            self.lose(Loss {
                why: Some(format!(
                    "it was cut short, and not by the power: it has {is} bytes of {should_be}"
                )),
                groups: Some((from, None)),
                ..Loss::of(&last_path.unwrap_or_else(|| file_names::journal(dir)))
            });
        } else if !open_ended {
            return;
        }
        self.survey.clean = false;
        match self.survey.files.last_mut() {
            Some(last) => last.cuts.push(Cut {
                from: last.end,
                to: last.end,
                with: gap(&last.file, from, after),
            }),
            None => self.survey.missing = Some((from, after)),
        }
        self.survey.next = after;
    }

    fn lose(&mut self, loss: Loss) {
        self.survey.losses.push(loss);
        self.ledger.lost();
    }
}

impl Survey {
    fn next_position_seen(&self, ledger: &Ledger) -> Position {
        // What generations hold may still lie in the journal too, so only its own blocks count here.
        ledger.last.map_or(Position(0), Position::next)
    }
}

fn ends_too_early(closed: Option<End>) -> String {
    match closed {
        Some(end) => format!(
            "its end is missing: when the broker was stopped, the journal went on to group {} and this file to byte {}",
            end.next.0.saturating_sub(1),
            end.bytes
        ),
        None => "its end is missing".to_owned(),
    }
}

// Remembers where each topic was, to name what a loss cost it.
#[derive(Default)]
struct Ledger {
    last: Option<Position>,
    topics: HashMap<TopicId, (Sequence, u32)>,
    /// Losses so far.
    epoch: u32,
    position_before: Option<Option<Position>>,
}

impl Ledger {
    fn lost(&mut self) {
        self.epoch += 1;
        self.position_before.get_or_insert(self.last);
    }

    fn block(&mut self, head: &BlockHead, losses: &mut [Loss]) {
        let loss = losses.last_mut();
        if let (Some(before), Some(loss)) = (self.position_before.take(), loss) {
            let first = before.map_or(Position(1), Position::next);
            let last = Position(head.first_position.0.saturating_sub(1));
            if before.is_some() && first <= last {
                loss.positions = Some((first, last));
            }
        }
        let now = (head.last_sequence(), self.epoch);
        let before = self.topics.insert(head.topic, now);
        if let (Some((sequence, epoch)), Some(loss)) = (before, losses.last_mut())
            && epoch < self.epoch
            && head.first_sequence.0 > sequence.0.saturating_add(1)
        {
            loss.ranges.push(LostRange {
                topic: head.topic,
                first: Sequence(sequence.0 + 1),
                last: Sequence(head.first_sequence.0 - 1),
            });
        }
        self.last = Some(head.last_position());
    }
}

fn gap(file: &JournalFile, first: CommitNumber, next: CommitNumber) -> Bytes {
    let mut bytes = Vec::new();
    record::encode_mark(&mut bytes, file.salt, Kind::Gap, first, next);
    bytes.into()
}

fn read_failed(path: &Path, error: ReadError) -> OpenError {
    match error {
        ReadError::System(SystemFailure::File { path, source })
        | ReadError::Damaged(Damage::File { path, source }) => {
            let kind = source.kind();
            OpenError::Io {
                doing: "read",
                path,
                source: std::io::Error::new(kind, source),
            }
        }
        other => OpenError::Read {
            path: path.to_owned(),
            source: other,
        },
    }
}

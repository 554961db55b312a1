//! The file journal before it is open. [`examine`] looks at it and changes nothing; what it answers can be replayed. Once whoever
//! opens the store has found that it can use what is there, [`repair`](ExaminedJournal::repair), [`tidy`](ExaminedJournal::tidy)
//! and [`begin`](ExaminedJournal::begin) write, in this order. After each step the next start can judge what there is.

mod integrity_check;
mod record_scan;
mod repair;
pub(super) mod replay;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use self::integrity_check::{Needed, Proof, Survey, Surveyed, survey, was_closed};
use self::record_scan::Bodies;
use self::repair::repair;
use self::replay::{FileReplay, Replay, Stretches};
use super::block_index::Index;
use super::files::JournalFiles;
use super::options::FileJournalOptions;
use super::witness::{self, Testimony, Witness, WitnessError, WitnessFile};
use super::writer::{FileJournal, FileJournalParts};
use crate::disk::FileSystem;
use crate::domain::{CommitNumber, Position};
use crate::runtime::Threads;
use crate::store::disk_reserve::Reserve;
use crate::store::error::OpenError;
use crate::store::file_names;
use crate::store::folders::Folders;
use crate::store::loss::Loss;

// A repaired journal is judged again; it is sound after one repair, and this many is certainly a fault of ours.
const REPAIRS_MAX: usize = 4;

/// What the rest of the store knows of its journal.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Evidence {
    /// Groups from this one on are needed; those before it are in a state.
    pub(in crate::store) mark: CommitNumber,
    /// Groups before this one were durable once.
    pub(in crate::store) durable_before: CommitNumber,
    /// Of the last event that was moved out of the journal.
    pub(in crate::store) last_position: Option<Position>,
    /// Whether there has been a store before.
    pub(in crate::store) is_known: bool,
    /// Whether nothing is gone elsewhere in the store.
    pub(in crate::store) is_whole: bool,
}

/// A journal that was looked at.
pub(in crate::store) struct ExaminedJournal {
    options: FileJournalOptions,
    evidence: Evidence,
    testimony: Testimony,
    proof: Proof,
    survey: Survey,
}

/// Looks at the journal in `dir`. Reads all of it once to check it, but for the events after a clean end, unless `all` asks for
/// those as well.
///
/// # Errors
///
/// Something in it is of another version's format, or the disk fails. Damage is not an error: see [`ExaminedJournal::losses`].
pub(in crate::store) fn examine(
    fs: &dyn FileSystem,
    dir: &Path,
    options: FileJournalOptions,
    evidence: Evidence,
    all: bool,
) -> Result<ExaminedJournal, OpenError> {
    let testimony = witness::load(fs, dir).map_err(|error| not_read(dir, error))?;
    let proof = proof(&evidence, &testimony);
    let threads = &*options.threads;
    let survey = judge(fs, dir, threads, &evidence, proof, all)?;
    Ok(ExaminedJournal {
        options,
        evidence,
        testimony,
        proof,
        survey,
    })
}

fn not_read(dir: &Path, error: WitnessError) -> OpenError {
    let path = file_names::witness(dir);
    match error {
        WitnessError::Io(source) => OpenError::io("read", &path)(source),
        WitnessError::Format(found) => OpenError::Format { path, found },
    }
}

// What the journal must have. Without any generation, manifest or witness it is a new store's, or an older broker's before its
// first checkpoint, which left no word of it anywhere else.
fn proof(evidence: &Evidence, testimony: &Testimony) -> Proof {
    let durable = evidence.durable_before;
    match testimony.witness {
        Some(witness) => Proof {
            newest: witness.newest.max(durable),
            closed: witness.closed.filter(|_| witness.newest >= durable),
            begun: witness.begun.filter(|_| witness.newest >= durable),
        },
        None if evidence.is_known => Proof {
            newest: durable,
            ..Proof::default()
        },
        None => Proof::default(),
    }
}

fn judge(
    fs: &dyn FileSystem,
    dir: &Path,
    threads: &dyn Threads,
    evidence: &Evidence,
    proof: Proof,
    all: bool,
) -> Result<Survey, OpenError> {
    let next_position = evidence.last_position.map_or(Position(1), Position::next);
    let needed = Needed {
        from: evidence.mark,
        next_position,
    };
    let survey = |bodies| survey(fs, dir, threads, needed, proof, bodies);
    // After a clean end only the disk itself can have changed anything. To read all of it for that would make a planned restart
    // as long as the journal; a reader finds it as well. Whoever accepts losses wants to know all of them.
    if !all && evidence.is_whole && was_closed(fs, dir)? {
        let survey = survey(Bodies::Believed)?;
        if survey.clean && survey.losses.is_empty() && survey.torn_bytes == 0 {
            return Ok(survey);
        }
    }
    survey(Bodies::Checked)
}

impl ExaminedJournal {
    /// What of it is gone.
    pub(in crate::store) fn losses(&self) -> &[Loss] {
        &self.survey.losses
    }

    /// Whether it was closed.
    pub(in crate::store) fn was_closed(&self) -> bool {
        self.survey.clean
    }

    /// Whether nothing was ever written, as far as is known.
    pub(in crate::store) fn is_new(&self) -> bool {
        self.proof.newest == CommitNumber(0) && self.survey.next == CommitNumber(1)
    }

    /// Its groups from the mark on, as far as they can be read.
    pub(in crate::store) fn replay(&self, dir: &Path) -> Replay {
        let files = self.survey.files.iter();
        let files: VecDeque<Stretches> = files
            .filter(|file| !self.is_to_be_replaced(dir, file))
            .map(|file| Stretches {
                file: file.file.clone(),
                end: file.end,
                cuts: file.cuts.iter().cloned().collect(),
            })
            .collect();
        let begins_with_gap = self.survey.missing.is_some();
        Box::new(FileReplay::new(files, self.evidence.mark, begins_with_gap))
    }

    // A file without groups has the name that the next one gets, and is replaced by it.
    fn is_to_be_replaced(&self, dir: &Path, file: &Surveyed) -> bool {
        file.file.path == file_names::journal_file(dir, self.survey.next)
    }

    /// Makes a journal without damage of what is left, once that was accepted, and notes in `losses`, which are those of the whole
    /// store, where copies were kept. With `is_gone` there was a journal, of which nothing is left.
    pub(in crate::store) fn repair(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        is_gone: bool,
        losses: &mut Vec<Loss>,
    ) -> Result<(), OpenError> {
        self.forget_last_group(fs, dir)?;
        if is_gone {
            // Its numbers are not given again all the same.
            self.survey.missing = Some((CommitNumber(1), CommitNumber(2)));
        }
        let mut repairs = 0;
        while !self.survey.losses.is_empty() || self.survey.missing.is_some() {
            if repairs == REPAIRS_MAX {
                let losses = std::mem::take(losses);
                return Err(OpenError::Corrupt { losses });
            }
            repairs += 1;
            repair(fs, dir, &mut self.survey, &self.options.random)?;
            for repaired in &self.survey.losses {
                let mut same = losses.iter_mut();
                match same
                    .find(|loss| (&loss.path, loss.groups) == (&repaired.path, repaired.groups))
                {
                    Some(loss) => *loss = repaired.clone(),
                    None => losses.push(repaired.clone()),
                }
            }
            let threads = &*self.options.threads;
            self.survey = judge(fs, dir, threads, &self.evidence, self.proof, true)?;
        }
        Ok(())
    }

    // A group that is mended has another checksum than the witness knows.
    fn forget_last_group(&mut self, fs: &dyn FileSystem, dir: &Path) -> Result<(), OpenError> {
        let Some(end) = &mut self.proof.closed else {
            return Ok(());
        };
        end.last = None;
        let said = Witness {
            newest: self.proof.newest,
            closed: Some(*end),
            begun: None,
        };
        let path = file_names::witness(dir);
        let file = WitnessFile::open(fs, dir, &self.testimony);
        let mut file = file.map_err(OpenError::io("open", &path))?;
        file.say(&said).map_err(OpenError::io("write", &path))?;
        self.testimony.said(said);
        Ok(())
    }

    /// Brings the disk to what was found: a file that is not the newest must end where its records end, and everything in it must
    /// be durable, before a newer one exists. Cuts off a torn end, which was never acknowledged.
    pub(in crate::store) fn tidy(&self, fs: &dyn FileSystem, dir: &Path) -> Result<(), OpenError> {
        repair::tidy(fs, dir, &self.survey)
    }

    /// Begins a new file after what there is, and answers the halves of the journal.
    pub(in crate::store) fn begin(
        self,
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        folders: Arc<Folders>,
        reserve: Arc<Reserve>,
    ) -> Result<(FileJournal, Arc<JournalFiles>), OpenError> {
        self.warn_of_witness(dir);
        let witness = WitnessFile::open(&*fs, dir, &self.testimony);
        let mut index = Index::default();
        let (next, next_position) = (self.survey.next, self.survey.next_position);
        let replaced = file_names::journal_file(dir, next);
        let files = self.survey.files.into_iter();
        for file in files.filter(|file| file.file.path != replaced) {
            index.push_file(file.file);
            index.push_entries(file.entries);
        }
        let files = Arc::new(JournalFiles::new(fs, dir.to_owned(), index, next));
        let parts = FileJournalParts {
            files: files.clone(),
            folders,
            reserve,
            options: self.options,
        };
        let journal = FileJournal::start(parts, next, next_position, witness);
        let journal = journal.map_err(|(path, source)| OpenError::io("create", &path)(source))?;
        Ok((journal, files))
    }

    fn warn_of_witness(&self, dir: &Path) {
        let path = file_names::witness(dir);
        let path = path.display();
        if self.testimony.is_damaged {
            tracing::warn!(%path, "damaged, and made again; nothing is lost with it, but it could not tell whether the end of the journal is there");
        } else if self.testimony.witness.is_none() && self.evidence.is_known {
            tracing::warn!(%path, "not there, as after an older version, and made again; nothing is lost with it, but it could not tell whether the end of the journal is there");
        }
    }
}

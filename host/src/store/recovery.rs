//! Opening a store, in two steps. [`examine`] takes the lock and only reads: manifest, newest state, witness, journal.
//! [`Examined::begin`] is the first that writes, once whoever opens the store has found that it can use what is there.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use super::database;
use super::error::{Loss, OpenError};
use super::folders::{Folders, HeldFileSystem};
use super::fs::{FileSystem, Hold, Unmoved};
use super::generation::{self, Generation};
use super::index::Index;
use super::journal::{self, JournalWriter, file_path};
use super::manifest;
use super::marker;
use super::pool::Pool;
use super::repair;
use super::replay::Stretches;
use super::reserve::Reserve;
use super::scan::Bodies;
use super::sealed::{self, Sealed};
use super::survey::{Proof, Survey, empty_loss, survey, was_closed};
use super::tree;
use super::trouble::Troubles;
use super::witness::{self, Testimony, Witness, WitnessError, WitnessFile};
use super::{
    Checkpoints, Opened, Replay, Shared, StoreOptions, StoreReader, generations_dir, journal_dir,
    reader,
};
use crate::domain::{CommitNumber, Position, TopicId};

// A repaired journal is judged again; it is sound after one repair, and this many is certainly a fault of ours.
const REPAIRS_MAX: usize = 4;

/// A store that was looked at and locked. Nothing on its disk was changed, but for the folder and the lock of one that is new,
/// and for what sled adds to a database that it reads.
pub struct Examined {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    options: StoreOptions,
    lock: Box<dyn Hold>,
    sealed: Sealed,
    testimony: Testimony,
    survey: Survey,
    losses: Vec<Loss>,
    is_new: bool,
    has_marker: bool,
}

/// Looks at the store in `dir` and takes its lock.
pub(super) fn examine(
    dir: &Path,
    options: StoreOptions,
    fs: Arc<dyn FileSystem>,
) -> Result<Examined, OpenError> {
    let has_marker = match &options.marker {
        Some(marker) => marker::is_there(&*fs, marker)?,
        None => false,
    };
    if has_marker && !options.accept_loss && !dir.is_dir() {
        let losses = vec![gone(dir)];
        return Err(OpenError::Corrupt { losses });
    }
    fs.create_dir(dir).map_err(OpenError::io("create", dir))?;
    let lock = fs.lock(dir).map_err(OpenError::io("lock", dir))?;
    let lock = lock.ok_or_else(|| OpenError::InUse {
        dir: dir.to_owned(),
    })?;
    let sealed = sealed::examine(&*fs, dir)?;
    let testimony = witness::load(&*fs, dir).map_err(|error| not_read(dir, error))?;
    let proof = proof(&sealed, &testimony);
    let survey = examine_journal(&*fs, dir, &sealed, proof, options.accept_loss)?;
    let mut losses = sealed.losses.clone();
    losses.extend(survey.losses.iter().cloned());
    let is_new = proof.newest == CommitNumber(0) && survey.next == CommitNumber(1);
    if is_new && has_marker {
        losses.push(gone(dir));
    }
    Ok(Examined {
        fs,
        dir: dir.to_owned(),
        options,
        lock,
        sealed,
        testimony,
        survey,
        losses,
        is_new,
        has_marker,
    })
}

fn gone(dir: &Path) -> Loss {
    Loss {
        why: Some("everything is missing that a broker kept here".to_owned()),
        groups: Some((CommitNumber(1), None)),
        ..empty_loss(dir)
    }
}

fn not_read(dir: &Path, error: WitnessError) -> OpenError {
    let path = witness::path(dir);
    match error {
        WitnessError::Io(source) => OpenError::io("read", &path)(source),
        WitnessError::Format(found) => OpenError::Format { path, found },
    }
}

// What the journal must have. Without any generation, manifest or witness it is a new store's, or an older broker's before its
// first checkpoint, which left no word of it anywhere else.
fn proof(sealed: &Sealed, testimony: &Testimony) -> Proof {
    let durable = sealed.durable_before();
    let is_known = sealed.has_manifest || !sealed.described.is_empty();
    match testimony.witness {
        Some(witness) => Proof {
            newest: witness.newest.max(durable),
            closed: witness.closed.filter(|_| witness.newest >= durable),
            begun: witness.begun.filter(|_| witness.newest >= durable),
        },
        None if is_known => Proof {
            newest: durable,
            ..Proof::default()
        },
        None => Proof::default(),
    }
}

fn examine_journal(
    fs: &dyn FileSystem,
    dir: &Path,
    sealed: &Sealed,
    proof: Proof,
    accept_loss: bool,
) -> Result<Survey, OpenError> {
    let last_position = sealed
        .described
        .iter()
        .filter_map(|one| one.info.last_position)
        .max();
    let next_position = last_position.map_or(Position(1), Position::next);
    let examine = |bodies| survey(fs, dir, sealed.mark, next_position, proof, bodies);
    // After a clean end only the disk itself can have changed anything. To read all of it for that would make a planned restart
    // as long as the journal; a reader finds it as well. Whoever accepts losses wants to know all of them.
    if !accept_loss && sealed.losses.is_empty() && was_closed(fs, dir)? {
        let survey = examine(Bodies::Believed)?;
        if survey.clean && survey.losses.is_empty() && survey.torn_bytes == 0 {
            return Ok(survey);
        }
    }
    examine(Bodies::Checked)
}

impl Examined {
    /// What the newest complete generation kept as state, in the order it was given; empty at a first start.
    #[must_use]
    pub fn state(&self) -> &[(Bytes, Bytes)] {
        &self.sealed.state
    }

    /// The groups after that state, in order, as far as they can be read.
    #[must_use]
    pub fn replay(&self) -> Replay {
        replay(&self.survey, self.sealed.mark, &self.dir)
    }

    /// Whether the journal was closed before and nothing is missing, so that nothing can have been cut off.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        (self.survey.clean || self.is_new) && self.losses.is_empty()
    }

    /// What is gone.
    #[must_use]
    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }

    /// Says what the topics are called whose events are gone.
    pub fn name_topics(&mut self, name: impl Fn(TopicId) -> Option<String>) {
        self.losses
            .iter_mut()
            .for_each(|loss| loss.name_topics(&name));
    }

    /// Whether damage is to be given up.
    #[must_use]
    pub fn accepts_loss(&self) -> bool {
        self.options.accept_loss
    }

    /// Whether the store can be opened as it is, or with what is gone.
    ///
    /// # Errors
    ///
    /// Something is gone and that was not accepted.
    pub fn check(&self) -> Result<(), OpenError> {
        if self.losses.is_empty() || self.options.accept_loss {
            return Ok(());
        }
        let losses = self.losses.clone();
        Err(OpenError::Corrupt { losses })
    }

    /// Which topics the events in generations are of, and how many of each are there. Reads all of them; what does not read is
    /// passed over.
    #[must_use]
    pub fn sealed_topics(&self) -> Vec<(TopicId, u64)> {
        sealed::topics(&self.dir, &self.sealed.described)
    }

    /// Opens the store: repairs what was accepted as lost, cuts off a torn end, and begins a new journal file.
    ///
    /// # Errors
    ///
    /// Something is gone and that was not accepted, which changes nothing on disk; or the disk fails.
    pub fn begin(mut self) -> Result<Opened, OpenError> {
        self.check()?;
        let within = [journal_dir(&self.dir), generations_dir(&self.dir)];
        for folder in &within {
            self.fs
                .create_dir(folder)
                .map_err(OpenError::io("create", folder))?;
        }
        let lock = std::mem::replace(&mut self.lock, Box::new(Unmoved));
        let folders = Folders::open(self.fs.clone(), &self.dir, lock, &within);
        let folders = folders.map_err(OpenError::io("use", &self.dir))?;
        self.fs = Arc::new(HeldFileSystem(folders.clone()));
        if self.is_new && self.losses.is_empty() {
            let above = self.dir.parent().unwrap_or(&self.dir);
            for folder in [&self.dir, above] {
                self.fs
                    .sync_dir(folder)
                    .map_err(OpenError::io("sync", folder))?;
            }
        }
        let clean = self.is_clean();
        self.repair()?;
        self.tidy()?;
        for loss in &self.losses {
            tracing::error!(%loss, "committed data is gone; the start goes on without it, as asked");
        }
        self.start(clean, folders)
    }

    // Makes a store without damage of what is left, once that was accepted. Every step leaves one that the next start can judge.
    fn repair(&mut self) -> Result<(), OpenError> {
        if self.losses.is_empty() {
            return Ok(());
        }
        let (fs, dir) = (self.fs.clone(), self.dir.clone());
        let mut proof = proof(&self.sealed, &self.testimony);
        self.forget_last_group(&mut proof)?;
        if self.is_new {
            // Nothing of it is there. Its numbers are not given again all the same.
            self.survey.missing = Some((CommitNumber(1), CommitNumber(2)));
        }
        let names = self.losses.iter().flat_map(|loss| loss.topics.clone());
        let names: BTreeMap<TopicId, String> = names.collect();
        let mut repairs = 0;
        while !self.survey.losses.is_empty() || self.survey.missing.is_some() {
            if repairs == REPAIRS_MAX {
                let losses = std::mem::take(&mut self.losses);
                return Err(OpenError::Corrupt { losses });
            }
            repairs += 1;
            repair::repair(&*fs, &dir, &mut self.survey)?;
            for repaired in &self.survey.losses {
                let mut same = self.losses.iter_mut();
                match same
                    .find(|loss| (&loss.path, loss.groups) == (&repaired.path, repaired.groups))
                {
                    Some(loss) => *loss = repaired.clone(),
                    None => self.losses.push(repaired.clone()),
                }
            }
            self.survey = examine_journal(&*fs, &dir, &self.sealed, proof, true)?;
        }
        self.name_topics(|topic| names.get(&topic).cloned());
        let path = manifest::path(&dir);
        if let Some(loss) = self.losses.iter_mut().find(|loss| loss.path == path)
            && self.sealed.has_manifest
        {
            let kept = repair::keep_aside(&*fs, &dir, &path);
            loss.kept_aside = Some(kept.map_err(OpenError::io("copy to `lost`", &path))?);
        }
        for state in self.losses.iter_mut().filter(|loss| is_state(&loss.path)) {
            let path = &state.path;
            let kept = repair::move_aside(&*fs, &dir, path);
            state.kept_aside = Some(kept.map_err(OpenError::io("move to `lost`", path))?);
        }
        if !self.sealed.losses.is_empty() {
            manifest::save(&*fs, &dir, &self.sealed.described)
                .map_err(OpenError::io("replace", &path))?;
        }
        Ok(())
    }

    // A group that is mended has another checksum than the witness knows.
    fn forget_last_group(&mut self, proof: &mut Proof) -> Result<(), OpenError> {
        let Some(end) = &mut proof.closed else {
            return Ok(());
        };
        end.last = None;
        let said = Witness {
            newest: proof.newest,
            closed: Some(*end),
            begun: None,
        };
        let path = witness::path(&self.dir);
        let file = WitnessFile::open(&*self.fs, &self.dir, &self.testimony);
        let mut file = file.map_err(OpenError::io("open", &path))?;
        file.say(&said).map_err(OpenError::io("write", &path))?;
        self.testimony.said(said);
        Ok(())
    }

    // Brings the disk to what the survey found: a file that is not the newest must end where its records end,
    // and everything in it must be durable, before a newer one exists.
    fn tidy(&self) -> Result<(), OpenError> {
        let (fs, dir) = (&*self.fs, self.dir.as_path());
        let folder = journal_dir(dir);
        if let Some(newest) = self.survey.files.last() {
            let path = &newest.file.path;
            if self.survey.torn_bytes > 0 {
                tracing::warn!(path = %path.display(), at = newest.end, "cut off a torn end of the journal");
            }
            let file = &newest.file.file;
            file.set_length(newest.end)
                .map_err(OpenError::io("cut", path))?;
            file.sync().map_err(OpenError::io("sync", path))?;
        }
        for path in &self.survey.stale {
            fs.remove(path).map_err(OpenError::io("remove", path))?;
        }
        let aside = fs.list(&folder).map_err(OpenError::io("list", &folder))?;
        for path in aside.iter().filter(|path| journal::lies_aside(path)) {
            fs.remove(path).map_err(OpenError::io("remove", path))?;
        }
        fs.sync_dir(&folder)
            .map_err(OpenError::io("sync", &folder))?;
        self.clear_generations()?;
        fs.sync_dir(dir).map_err(OpenError::io("sync", dir))
    }

    // A sound manifest, and a journal that goes on from the newest generation it names, prove that what it does not name is of
    // no use: a generation that never was finished, or one that was being removed. Without that proof it is set aside.
    fn clear_generations(&self) -> Result<(), OpenError> {
        let (fs, dir) = (&*self.fs, self.dir.as_path());
        let is_proven = self.losses.is_empty() && self.sealed.has_manifest;
        for unlisted in &self.sealed.unlisted {
            let path = &unlisted.path;
            let has_files = tree::has_files(fs, path).map_err(OpenError::io("list", path))?;
            if is_proven || !has_files {
                tracing::info!(path = %path.display(), "removing an incomplete generation");
                tree::remove(fs, path).map_err(OpenError::io("remove", path))?;
                continue;
            }
            let kept = repair::move_aside(fs, dir, path);
            let kept = kept.map_err(OpenError::io("move to `lost`", path))?;
            tracing::warn!(path = %path.display(), kept = %kept.display(), "a generation that the manifest does not name is set aside");
        }
        let all = generations_dir(dir);
        fs.sync_dir(&all).map_err(OpenError::io("sync", &all))
    }

    fn start(self, clean: bool, folders: Arc<Folders>) -> Result<Opened, OpenError> {
        let replay = replay(&self.survey, self.sealed.mark, &self.dir);
        let Self {
            fs, dir, survey, ..
        } = self;
        let index = index_of(survey.files, &file_path(&dir, survey.next));
        let generations = self.sealed.described.into_iter();
        let generations = generations.map(|one| Arc::new(Generation::new(&dir, one, &folders)));
        if self.testimony.is_damaged {
            let path = witness::path(&dir);
            tracing::warn!(path = %path.display(), "damaged, and made again; nothing is lost with it, but it could not tell whether the end of the journal is there");
        } else if self.testimony.witness.is_none() && self.sealed.has_manifest {
            let path = witness::path(&dir);
            tracing::warn!(path = %path.display(), "not there, as after an older version, and made again; nothing is lost with it, but it could not tell whether the end of the journal is there");
        }
        let witness = WitnessFile::open(&*fs, &dir, &self.testimony);
        let reserve = Reserve::new(
            &*fs,
            &dir,
            self.options.journal_file_bytes,
            // A database takes two MiB and more, however little is in it.
            (self.options.generation_part_bytes / 2).max(2 * database::EMPTY_BYTES),
        );
        let shared = Arc::new(Shared {
            generations: RwLock::new(Arc::new(generations.collect())),
            pool: Pool::new(self.options.generations_open_max),
            cache: reader::new_cache(self.options.cache_bytes),
            troubles: Troubles::new(self.options.unreadable_retry_min),
            journal_bytes: AtomicU64::new(index.bytes()),
            journal_blocks: AtomicUsize::new(index.blocks()),
            next_number: AtomicU64::new(survey.next.0),
            generation_id_min: self.sealed.last_id + 1,
            reserve,
            index: RwLock::new(index),
            dir,
            options: self.options,
            fs,
            folders,
        });
        let journal =
            JournalWriter::start(shared.clone(), survey.next, survey.next_position, witness)
                .map_err(|(path, source)| OpenError::io("create", &path)(source))?;
        if !self.sealed.has_manifest && self.sealed.losses.is_empty() {
            // From now on there is a store, whatever becomes of its journal.
            manifest::save(&*shared.fs, &shared.dir, &[])
                .map_err(OpenError::io("create", &manifest::path(&shared.dir)))?;
        }
        if let Some(marker) = shared.options.marker.as_ref().filter(|_| !self.has_marker)
            && let Err(error) = marker::write(&*shared.fs, marker)
        {
            tracing::warn!(path = %marker.display(), %error, "cannot be written; were the store's folder to get lost, the next start would not notice");
        }
        let checkpoints = Checkpoints::new(shared.clone());
        checkpoints.measure_state();
        if let Err(error) = checkpoints.replenish() {
            tracing::warn!(%error, "the disk space that is kept for draining cannot be allocated");
        }
        Ok(Opened {
            journal,
            reader: StoreReader::new(shared),
            checkpoints,
            state: self.sealed.state,
            replay,
            clean,
            losses: self.losses,
        })
    }
}

// A state that is there.
fn is_state(path: &Path) -> bool {
    path.parent()
        .is_some_and(|folder| generation::state_path(folder) == path)
        && path.is_dir()
}

// A file without groups has the name that the next one gets, and is replaced by it.
fn replay(survey: &Survey, mark: CommitNumber, dir: &Path) -> Replay {
    let next = file_path(dir, survey.next);
    let files = survey.files.iter().filter(|file| file.file.path != next);
    let files: VecDeque<Stretches> = files
        .map(|file| Stretches {
            file: file.file.clone(),
            end: file.end,
            cuts: file.cuts.iter().cloned().collect(),
        })
        .collect();
    Replay::new(files, mark, survey.missing.is_some())
}

fn index_of(files: Vec<super::survey::Surveyed>, next: &Path) -> Index {
    let mut index = Index::default();
    for file in files.into_iter().filter(|file| file.file.path != next) {
        index.push_file(file.file);
        index.push_entries(file.entries);
    }
    index
}

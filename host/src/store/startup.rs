//! The start of a store, in two steps. [`examine`] takes the lock and only reads: what the generations have, and then the journal.
//! [`Examined::begin`] is the first that writes, once whoever opens the store has found that it can use what is there. It joins the
//! journal and the generations to what reads both, and to what moves blocks from the one to the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::block_cache::new_cache;
use super::checkpoint::{CheckpointParts, Checkpoints};
use super::disk_reserve::Reserve;
use super::error::OpenError;
use super::existence_marker;
use super::file_names;
use super::folders::{Folders, HeldFileSystem};
use super::journal::{
    self, Evidence, ExaminedJournal, FileJournalOptions, JournalReader, JournalWriter, Replay,
};
use super::loss::Loss;
use super::options::StoreOptions;
use super::reader::{ReaderParts, StoreReader};
use super::sealed::{self, GenerationWriter, Inventory, Sealed, SealedParts};
use super::unreadable_events::UnreadableEvents;
use crate::disk::{FileSystem, Hold, Unmoved};
use crate::domain::{CommitNumber, TopicId};

/// An open store, in its parts.
pub struct Opened {
    /// Appends groups. One owner.
    pub journal: Box<dyn JournalWriter>,
    /// Reads blocks. Clone it freely.
    pub reader: StoreReader,
    /// Writes generations. One owner.
    pub checkpoints: Checkpoints,
    /// What the newest complete generation kept as state, in the order it was given; empty at a first start.
    pub state: Vec<(Bytes, Bytes)>,
    /// The groups after that state, in order.
    pub replay: Replay,
    /// Whether the journal was closed before and nothing is missing, so that nothing can have been cut off.
    pub clean: bool,
    /// Damage that was accepted at this start.
    pub losses: Vec<Loss>,
}

/// A store that was looked at and locked. Nothing on its disk was changed, but for the folder and the lock of one that is new,
/// and for what sled adds to a database that it reads.
pub struct Examined {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    options: StoreOptions,
    lock: Box<dyn Hold>,
    sealed: Inventory,
    journal: ExaminedJournal,
    losses: Vec<Loss>,
    is_new: bool,
    has_marker: bool,
}

/// Looks at the store in `dir` and takes its lock, which lasts until the last of what comes of it is dropped. Changes
/// nothing of what a store says; [`Examined::begin`] does. See [`Examined`] for what it writes all the same.
///
/// Reads the whole journal once to check it, but for the events after a clean end.
///
/// # Errors
///
/// Somebody else has the store open, something in it is of another version's format, or the disk fails. Damage to
/// committed data is not an error yet: see [`Examined::losses`].
pub fn examine(
    dir: &Path,
    options: StoreOptions,
    fs: Arc<dyn FileSystem>,
) -> Result<Examined, OpenError> {
    let has_marker = match &options.marker {
        Some(marker) => existence_marker::is_there(&*fs, marker)?,
        None => false,
    };
    // Looked for once: one that is moved away right then is not begun anew in its place.
    if !fs.is_dir(dir) {
        if has_marker && !options.accept_loss {
            let losses = vec![gone(dir)];
            return Err(OpenError::Corrupt { losses });
        }
        fs.create_dir(dir).map_err(OpenError::io("create", dir))?;
    }
    let lock = fs.lock(dir).map_err(OpenError::io("lock", dir))?;
    let lock = lock.ok_or_else(|| OpenError::InUse {
        dir: dir.to_owned(),
    })?;
    let sealed = sealed::examine(&*fs, &*options.threads, dir)?;
    let evidence = Evidence {
        mark: sealed.mark(),
        durable_before: sealed.durable_before(),
        last_position: sealed.last_position(),
        is_known: sealed.is_known(),
        is_whole: sealed.losses().is_empty(),
    };
    let all = options.accept_loss;
    let journal = journal::examine(&*fs, dir, journal_options(&options), evidence, all)?;
    let mut losses = sealed.losses().to_vec();
    losses.extend(journal.losses().iter().cloned());
    if planted!(TidiedTooEarly) {
        journal.tidy(&*fs, dir)?;
    }
    let is_new = journal.is_new();
    if is_new && has_marker {
        losses.push(gone(dir));
    }
    Ok(Examined {
        fs,
        dir: dir.to_owned(),
        options,
        lock,
        sealed,
        journal,
        losses,
        is_new,
        has_marker,
    })
}

/// Opens the store in `dir`, creating it if need be: [`examine`] and [`Examined::begin`] in one.
///
/// A torn end, which a power cut leaves, is cut off; it was never acknowledged.
///
/// # Errors
///
/// Those of both; committed data is damaged and `accept_loss` is not set (nothing is changed on disk then).
pub fn open(
    dir: &Path,
    options: StoreOptions,
    fs: Arc<dyn FileSystem>,
) -> Result<Opened, OpenError> {
    examine(dir, options, fs)?.begin()
}

fn journal_options(options: &StoreOptions) -> FileJournalOptions {
    FileJournalOptions {
        file_bytes: options.journal_file_bytes,
        publishable_bytes_max: options.publishable_bytes_max(),
        blocks_max: options.journal_blocks_max,
        clock: options.clock.clone(),
        random: options.random.clone(),
        threads: options.threads.clone(),
    }
}

fn gone(dir: &Path) -> Loss {
    Loss {
        why: Some("everything is missing that a broker kept here".to_owned()),
        groups: Some((CommitNumber(1), None)),
        ..Loss::of(dir)
    }
}

impl Examined {
    /// What the newest complete generation kept as state, in the order it was given; empty at a first start.
    #[must_use]
    pub fn state(&self) -> &[(Bytes, Bytes)] {
        self.sealed.state()
    }

    /// The groups after that state, in order, as far as they can be read.
    #[must_use]
    pub fn replay(&self) -> Replay {
        self.journal.replay(&self.dir)
    }

    /// Whether the journal was closed before and nothing is missing, so that nothing can have been cut off.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        (self.journal.was_closed() || self.is_new) && self.losses.is_empty()
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
        reached!(StartRefusedForDamage);
        let losses = self.losses.clone();
        Err(OpenError::Corrupt { losses })
    }

    /// Which topics the events in generations are of, and how many of each are there. Reads all of them; what does not read is
    /// passed over.
    #[must_use]
    pub fn sealed_topics(&self) -> Vec<(TopicId, u64)> {
        self.sealed.topics(&*self.fs, &self.dir)
    }

    /// Opens the store: repairs what was accepted as lost, cuts off a torn end, and begins a new journal file.
    ///
    /// # Errors
    ///
    /// Something is gone and that was not accepted, which changes nothing on disk; or the disk fails.
    pub fn begin(mut self) -> Result<Opened, OpenError> {
        self.check()?;
        let folders = self.hold_folders()?;
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
            reached!(LossAccepted);
            tracing::error!(%loss, "committed data is gone; the start goes on without it, as asked");
        }
        self.start(clean, folders)
    }

    // From now on nothing is done by path unless the store is where it was locked.
    fn hold_folders(&mut self) -> Result<Arc<Folders>, OpenError> {
        let within = [
            file_names::journal(&self.dir),
            file_names::generations(&self.dir),
        ];
        for folder in &within {
            self.fs
                .create_dir(folder)
                .map_err(OpenError::io("create", folder))?;
        }
        let lock = std::mem::replace(&mut self.lock, Box::new(Unmoved));
        let folders = Folders::open(self.fs.clone(), &self.dir, lock, &within);
        let folders = folders.map_err(OpenError::io("use", &self.dir))?;
        self.fs = Arc::new(HeldFileSystem(folders.clone()));
        Ok(folders)
    }

    // Makes a store without damage of what is left, once that was accepted. Every step leaves one that the next start can judge.
    fn repair(&mut self) -> Result<(), OpenError> {
        if self.losses.is_empty() {
            return Ok(());
        }
        let (fs, dir) = (self.fs.clone(), self.dir.clone());
        let names = self.losses.iter().flat_map(|loss| loss.topics.clone());
        let names: BTreeMap<TopicId, String> = names.collect();
        self.journal
            .repair(&*fs, &dir, self.is_new, &mut self.losses)?;
        self.name_topics(|topic| names.get(&topic).cloned());
        self.sealed.repair(&*fs, &dir, &mut self.losses)
    }

    // Brings the disk to what was found.
    fn tidy(&self) -> Result<(), OpenError> {
        let (fs, dir) = (&*self.fs, self.dir.as_path());
        self.journal.tidy(fs, dir)?;
        let is_proven = self.losses.is_empty() && self.sealed.has_manifest();
        self.sealed.clear_unlisted(fs, dir, is_proven)?;
        fs.sync_dir(dir).map_err(OpenError::io("sync", dir))
    }

    fn start(self, clean: bool, folders: Arc<Folders>) -> Result<Opened, OpenError> {
        let replay = self.replay();
        let Self {
            fs,
            dir,
            options,
            sealed: inventory,
            journal,
            losses,
            has_marker,
            ..
        } = self;
        let reserve = Arc::new(Reserve::new(
            &*fs,
            &dir,
            options.journal_file_bytes,
            sealed::reserve_bytes_min(options.generation_part_bytes),
        ));
        let (journal, files) = journal.begin(fs.clone(), &dir, folders.clone(), reserve.clone())?;
        if !inventory.has_manifest() && inventory.losses().is_empty() {
            // From now on there is a store, whatever becomes of its journal.
            Inventory::begin_manifest(&*fs, &dir)?;
        }
        if let Some(marker) = options.marker.as_ref().filter(|_| !has_marker)
            && let Err(error) = existence_marker::write(&*fs, marker)
        {
            tracing::warn!(path = %marker.display(), %error, "cannot be written; were the store's folder to get lost, the next start would not notice");
        }
        let surroundings = Surroundings {
            fs,
            dir,
            folders,
            reserve,
            options,
        };
        let (reader, checkpoints) = surroundings.join(files, &inventory);
        if let Err(error) = checkpoints.replenish() {
            tracing::warn!(%error, "the disk space that is kept for draining cannot be allocated");
        }
        Ok(Opened {
            journal: Box::new(journal),
            reader,
            checkpoints,
            state: inventory.into_state(),
            replay,
            clean,
            losses,
        })
    }
}

/// What the parts of an open store have in common.
pub(super) struct Surroundings {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    pub(super) folders: Arc<Folders>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) options: StoreOptions,
}

impl Surroundings {
    /// Joins a journal and the generations that were found to what reads both, and to what moves blocks from the one to the
    /// other.
    pub(super) fn join(
        self,
        journal: Arc<dyn JournalReader>,
        found: &Inventory,
    ) -> (StoreReader, Checkpoints) {
        let Self {
            fs,
            dir,
            folders,
            reserve,
            options,
        } = self;
        let cache = Arc::new(new_cache(options.cache_bytes));
        let troubles = Arc::new(UnreadableEvents::new(
            options.unreadable_retry_min,
            options.clock.clone(),
        ));
        let parts = SealedParts {
            fs: fs.clone(),
            dir: dir.clone(),
            folders: folders.clone(),
            cache: cache.clone(),
            troubles: troubles.clone(),
            open_max: options.generations_open_max,
        };
        let sealed = Arc::new(Sealed::new(parts, found));
        let part_bytes = options.generation_part_bytes;
        let generations =
            GenerationWriter::new(sealed.clone(), reserve.clone(), part_bytes, found.last_id());
        let checkpoints = Checkpoints::new(CheckpointParts {
            journal: journal.clone(),
            sealed: sealed.clone(),
            generations,
            troubles: troubles.clone(),
            reserve,
            fs,
            dir,
            publishable_bytes_max: options.publishable_bytes_max(),
            clock: options.clock,
            threads: options.threads,
        });
        let reader = StoreReader::new(ReaderParts {
            journal,
            sealed,
            cache,
            troubles,
            folders,
        });
        (reader, checkpoints)
    }
}

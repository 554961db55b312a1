//! Opening a store: lock, manifest, newest state, journal, in that order. Nothing on disk is changed before it is
//! certain that the start goes on.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use super::error::{Loss, OpenError};
use super::fs::FileSystem;
use super::generation::{self, Generation};
use super::index::{Index, JournalFile};
use super::journal::{ASIDE, JournalWriter, file_path};
use super::manifest::{self, Described, ManifestError};
use super::pool::Pool;
use super::reserve::Reserve;
use super::scan::Bodies;
use super::survey::{Survey, Surveyed, empty_loss, survey, was_closed};
use super::trouble::Troubles;
use super::{
    Checkpoints, Opened, Replay, Shared, StoreOptions, StoreReader, generations_dir, journal_dir,
    reader, repair,
};
use crate::domain::{CommitNumber, Position};

// A repaired journal is judged again; it is sound after one repair, and this many is certainly a fault of ours.
const REPAIRS_MAX: usize = 4;

// The complete generations and what a start takes from them.
struct Sealed {
    described: Vec<Described>,
    state: Vec<(Bytes, Bytes)>,
    mark: CommitNumber,
    losses: Vec<Loss>,
}

pub(super) fn open(
    dir: &Path,
    options: StoreOptions,
    fs: Arc<dyn FileSystem>,
) -> Result<Opened, OpenError> {
    for folder in [dir, &journal_dir(dir), &generations_dir(dir)] {
        fs.create_dir(folder)
            .map_err(OpenError::io("create", folder))?;
    }
    let lock_path = dir.join("lock");
    let lock = fs
        .lock(&lock_path)
        .map_err(OpenError::io("lock", &lock_path))?;
    let lock = lock.ok_or_else(|| OpenError::InUse {
        dir: dir.to_owned(),
    })?;
    let sealed = sealed(&*fs, dir, options.accept_loss)?;
    let last_position = sealed
        .described
        .iter()
        .filter_map(|one| one.info.last_position)
        .max();
    let next_position = last_position.map_or(Position(1), Position::next);
    let (survey, losses) = sound_journal(&*fs, dir, &sealed, next_position, options.accept_loss)?;
    if !sealed.losses.is_empty() {
        manifest::save(&*fs, dir, &sealed.described)
            .map_err(OpenError::io("replace", &manifest::path(dir)))?;
    }
    tidy(&*fs, dir, &sealed.described, &survey)?;
    for loss in &losses {
        tracing::error!(%loss, kept_aside = ?loss.kept_aside, "accepted a loss");
    }
    let is_first_start = survey.files.is_empty() && sealed.described.is_empty();
    let clean = (survey.clean || is_first_start) && losses.is_empty();
    let (index, replay) = index_of(survey.files, &file_path(dir, survey.next));
    let generations = sealed
        .described
        .into_iter()
        .map(|one| Arc::new(Generation::new(dir, one)));
    let shared = Arc::new(Shared {
        generations: RwLock::new(Arc::new(generations.collect())),
        pool: Pool::new(options.generations_open_max),
        cache: reader::new_cache(options.cache_bytes),
        troubles: Troubles::new(options.unreadable_retry_min),
        journal_bytes: AtomicU64::new(index.bytes()),
        journal_blocks: AtomicUsize::new(index.blocks()),
        next_number: AtomicU64::new(survey.next.0),
        reserve: Reserve::new(
            &*fs,
            dir,
            options.journal_file_bytes,
            // A database takes two MiB and more, however little is in it.
            (options.generation_part_bytes / 2).max(2 * generation::EMPTY_BYTES),
        ),
        index: RwLock::new(index),
        dir: dir.to_owned(),
        options,
        fs,
        _lock: lock,
    });
    let journal = JournalWriter::start(shared.clone(), survey.next, survey.next_position).map_err(
        |(path, source)| OpenError::Io {
            doing: "create",
            path,
            source,
        },
    )?;
    let checkpoints = Checkpoints::new(shared.clone());
    checkpoints.measure_state();
    if let Err(error) = checkpoints.replenish() {
        tracing::warn!(%error, "the disk space that is kept for draining cannot be allocated");
    }
    Ok(Opened {
        journal,
        reader: StoreReader::new(shared),
        checkpoints,
        state: sealed.state,
        replay: Replay::new(replay, sealed.mark),
        clean,
        losses,
    })
}

// A file without groups has the name that the next one gets, and is replaced by it.
fn index_of(files: Vec<Surveyed>, next: &Path) -> (Index, VecDeque<(Arc<JournalFile>, u64)>) {
    let mut index = Index::default();
    let mut replay = VecDeque::new();
    for file in files.into_iter().filter(|file| file.file.path != next) {
        replay.push_back((file.file.clone(), file.end));
        index.push_file(file.file);
        index.push_entries(file.entries);
    }
    (index, replay)
}

fn sealed(fs: &dyn FileSystem, dir: &Path, accept_loss: bool) -> Result<Sealed, OpenError> {
    let path = manifest::path(dir);
    let mut losses = Vec::new();
    let mut described = match manifest::load(fs, dir) {
        Ok(described) => described,
        Err(ManifestError::Io(source)) => {
            return Err(OpenError::Io {
                doing: "read",
                path,
                source,
            });
        }
        Err(ManifestError::Damaged) if !accept_loss => return Err(OpenError::Manifest { path }),
        Err(ManifestError::Damaged) => {
            let kept = repair::keep_aside(fs, dir, &path);
            let kept = kept.map_err(OpenError::io("copy to `lost`", &path))?;
            losses.push(Loss {
                kept_aside: Some(kept),
                notes: false,
                ..empty_loss(&path)
            });
            rebuilt_manifest(fs, dir).map_err(OpenError::io("list", &generations_dir(dir)))?
        }
    };
    for one in &mut described {
        drop_missing_parts(dir, one, &mut losses);
    }
    let (state, mark) = newest_state(dir, &mut described, &mut losses)?;
    if !losses.is_empty() && !accept_loss {
        return Err(OpenError::Corrupt { losses });
    }
    Ok(Sealed {
        described,
        state,
        mark,
        losses,
    })
}

// The generations that describe themselves and read back as described.
fn rebuilt_manifest(fs: &dyn FileSystem, dir: &Path) -> std::io::Result<Vec<Described>> {
    let mut described = Vec::new();
    for folder in fs.list(&generations_dir(dir))? {
        let Ok(one) = manifest::load_about(fs, &folder) else {
            continue;
        };
        let parts = one.parts.iter().enumerate();
        let sound = generation::folder(dir, one.info.id) == folder
            && parts
                .map(|(index, part)| (generation::part_path(&folder, index), part))
                .all(|(path, part)| generation::verify(&path, part.items, part.checksum).is_ok());
        if sound {
            described.push(one);
        }
    }
    described.sort_by_key(|one| one.info.id);
    let old = described.len().saturating_sub(2);
    described
        .iter_mut()
        .take(old)
        .for_each(|one| one.state = None);
    Ok(described)
}

// A part without its database stays listed, as lost.
fn drop_missing_parts(dir: &Path, one: &mut Described, losses: &mut Vec<Loss>) {
    let folder = generation::folder(dir, one.info.id);
    for (index, part) in one
        .parts
        .iter_mut()
        .enumerate()
        .filter(|(_, part)| !part.is_lost)
    {
        let path = generation::part_path(&folder, index);
        if !path.join("db").is_file() {
            part.is_lost = true;
            losses.push(Loss {
                positions: Some((part.first_position, part.last_position)),
                notes: false,
                ..empty_loss(&path)
            });
        }
    }
}

// The newest state that reads, and the group it is as of before.
fn newest_state(
    dir: &Path,
    described: &mut [Described],
    losses: &mut Vec<Loss>,
) -> Result<(Vec<(Bytes, Bytes)>, CommitNumber), OpenError> {
    let had_any = !described.is_empty();
    for one in described.iter_mut().rev() {
        let Some((items, checksum)) = one.state else {
            continue;
        };
        let path = generation::state_path(&generation::folder(dir, one.info.id));
        match generation::load_state(&path, items, checksum) {
            Ok(state) => return Ok((state, one.info.mark)),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the state does not read");
                one.state = None;
                losses.push(empty_loss(&path));
            }
        }
    }
    if had_any && losses.is_empty() {
        losses.push(empty_loss(&generations_dir(dir)));
    }
    Ok((Vec::new(), CommitNumber(1)))
}

// The journal once nothing in it is damaged, and everything that this start gives up.
fn sound_journal(
    fs: &dyn FileSystem,
    dir: &Path,
    sealed: &Sealed,
    next_position: Position,
    accept_loss: bool,
) -> Result<(Survey, Vec<Loss>), OpenError> {
    let mut losses = sealed.losses.clone();
    let examine = |bodies| survey(fs, dir, sealed.mark, next_position, bodies);
    // After a clean end only the disk itself can have changed anything. To read all of it for that would make a planned restart
    // as long as the journal; a reader finds it as well. Whoever accepts losses wants to know all of them.
    if !accept_loss && losses.is_empty() && was_closed(fs, dir)? {
        let survey = examine(Bodies::Believed)?;
        if survey.clean && survey.losses.is_empty() && survey.torn_bytes == 0 {
            return Ok((survey, losses));
        }
    }
    for _ in 0..REPAIRS_MAX {
        let mut survey = examine(Bodies::Checked)?;
        let is_gone =
            survey.files.is_empty() && survey.unreadable.is_empty() && !sealed.described.is_empty();
        if is_gone
            && survey.losses.is_empty()
            && !losses.iter().any(|loss| loss.path == journal_dir(dir))
        {
            survey.losses.push(Loss {
                groups: Some((sealed.mark, None)),
                ..empty_loss(&journal_dir(dir))
            });
        }
        if survey.losses.is_empty() {
            return Ok((survey, losses));
        }
        if !accept_loss {
            losses.append(&mut survey.losses);
            return Err(OpenError::Corrupt { losses });
        }
        repair::repair(fs, dir, &mut survey)?;
        losses.append(&mut survey.losses);
    }
    Err(OpenError::Corrupt { losses })
}

// Brings the disk to what the survey found: a file that is not the newest must end where its records end,
// and everything in it must be durable, before a newer one exists.
fn tidy(
    fs: &dyn FileSystem,
    dir: &Path,
    described: &[Described],
    survey: &Survey,
) -> Result<(), OpenError> {
    let folder = journal_dir(dir);
    if let Some(newest) = survey.files.last() {
        let path = &newest.file.path;
        if survey.torn_bytes > 0 {
            tracing::warn!(path = %path.display(), at = newest.end, "cut off a torn end of the journal");
        }
        let file = &newest.file.file;
        file.set_length(newest.end)
            .map_err(OpenError::io("cut", path))?;
        file.sync().map_err(OpenError::io("sync", path))?;
    }
    for path in &survey.stale {
        fs.remove(path).map_err(OpenError::io("remove", path))?;
    }
    let aside = fs.list(&folder).map_err(OpenError::io("list", &folder))?;
    for path in aside
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == ASIDE))
    {
        fs.remove(path).map_err(OpenError::io("remove", path))?;
    }
    fs.sync_dir(&folder)
        .map_err(OpenError::io("sync", &folder))?;
    let complete: HashSet<PathBuf> = described
        .iter()
        .map(|one| generation::folder(dir, one.info.id))
        .collect();
    let all = generations_dir(dir);
    for path in fs.list(&all).map_err(OpenError::io("list", &all))? {
        if !complete.contains(&path) {
            tracing::info!(path = %path.display(), "removing an incomplete generation");
            fs.remove_dir(&path)
                .map_err(OpenError::io("remove", &path))?;
        }
    }
    fs.sync_dir(&all).map_err(OpenError::io("sync", &all))?;
    fs.sync_dir(dir).map_err(OpenError::io("sync", dir))
}

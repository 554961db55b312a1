//! The inventory: what a start takes from the generations: which of them count, and the newest state that reads. Where the
//! manifest is missing or damaged it is made again of the generations, which describe themselves. Looking changes nothing; what is
//! found wanting is a loss that an operator has to accept, and whatever has no place is set aside then.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::generation;
use super::generation_files::{self, DATABASE};
use super::manifest::{self, Described, ManifestError};
use super::state_pairs::{self, Unsound};
use crate::disk::FileSystem;
use crate::domain::{CommitNumber, Position, TopicId};
use crate::runtime::Threads;
use crate::store::error::OpenError;
use crate::store::file_names;
use crate::store::loss::Loss;
use crate::store::lost_folder;

/// As many generations are kept for their state, whatever becomes of their events: a start needs that of the newest, or if it is
/// damaged of the one before it.
pub const STATES_KEPT: usize = 2;

/// The complete generations and what a start takes from them.
pub(in crate::store) struct Inventory {
    pub(super) described: Vec<Described>,
    state: Vec<(Bytes, Bytes)>,
    mark: CommitNumber,
    losses: Vec<Loss>,
    /// Folders of generations that are not among `described`.
    unlisted: Vec<Unlisted>,
    has_manifest: bool,
    last_id: u64,
}

/// The folder of a generation that the manifest does not name: one that was being written, or being removed, when the last
/// run ended, as long as nothing else is wrong.
struct Unlisted {
    path: PathBuf,
    /// As of before which group it is, when it is complete.
    mark: Option<CommitNumber>,
}

impl Inventory {
    /// The newest state that reads, as it was given.
    pub(in crate::store) fn state(&self) -> &[(Bytes, Bytes)] {
        &self.state
    }

    /// The same, for whoever needs nothing else any more.
    pub(in crate::store) fn into_state(self) -> Vec<(Bytes, Bytes)> {
        self.state
    }

    /// The state is as of before this group.
    pub(in crate::store) fn mark(&self) -> CommitNumber {
        self.mark
    }

    /// Every group before this one was durable once: a complete generation says so.
    pub(in crate::store) fn durable_before(&self) -> CommitNumber {
        let unlisted = self.unlisted.iter().filter_map(|one| one.mark);
        let listed = self.described.iter().map(|one| one.info.mark);
        listed.chain(unlisted).max().unwrap_or(CommitNumber(1))
    }

    /// Of the last event in them.
    pub(in crate::store) fn last_position(&self) -> Option<Position> {
        let last = self.described.iter().map(|one| one.info.last_position);
        last.flatten().max()
    }

    /// Whether there is a manifest, sound or not.
    pub(in crate::store) fn has_manifest(&self) -> bool {
        self.has_manifest
    }

    /// Whether there has been a store before.
    pub(in crate::store) fn is_known(&self) -> bool {
        self.has_manifest || !self.described.is_empty()
    }

    /// What of them is gone.
    pub(in crate::store) fn losses(&self) -> &[Loss] {
        &self.losses
    }

    /// No generation had a higher number.
    pub(in crate::store) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Topics of the events in the complete generations, with how many there are of each.
    pub(in crate::store) fn topics(&self, fs: &dyn FileSystem, dir: &Path) -> Vec<(TopicId, u64)> {
        topics(fs, dir, &self.described)
    }

    /// Makes generations without damage of what is left, once that was accepted, and notes in `losses`, which are those of the
    /// whole store, where copies were kept.
    pub(in crate::store) fn repair(
        &self,
        fs: &dyn FileSystem,
        dir: &Path,
        losses: &mut [Loss],
    ) -> Result<(), OpenError> {
        let path = file_names::manifest(dir);
        if let Some(loss) = losses.iter_mut().find(|loss| loss.path == path)
            && self.has_manifest
        {
            let kept = lost_folder::keep_copy(fs, dir, &path);
            loss.kept_aside = Some(kept.map_err(OpenError::io("copy to `lost`", &path))?);
        }
        for state in losses.iter_mut().filter(|loss| is_state(fs, &loss.path)) {
            let path = &state.path;
            let kept = lost_folder::move_aside(fs, dir, path);
            state.kept_aside = Some(kept.map_err(OpenError::io("move to `lost`", path))?);
        }
        if !self.losses.is_empty() {
            manifest::save(fs, dir, &self.described).map_err(OpenError::io("replace", &path))?;
        }
        Ok(())
    }

    /// Removes folders of generations that are of no use, and sets aside what may be. A sound manifest, and a journal that goes on
    /// from the newest generation it names, prove (`is_proven`) that what it does not name is of no use: a generation that never
    /// was finished, or one that was being removed.
    pub(in crate::store) fn clear_unlisted(
        &self,
        fs: &dyn FileSystem,
        dir: &Path,
        is_proven: bool,
    ) -> Result<(), OpenError> {
        for unlisted in &self.unlisted {
            let path = &unlisted.path;
            let has_files =
                generation_files::has_files(fs, path).map_err(OpenError::io("list", path))?;
            if is_proven || !has_files {
                reached!(GenerationRejected);
                tracing::info!(path = %path.display(), "removing an incomplete generation");
                generation_files::remove(fs, path).map_err(OpenError::io("remove", path))?;
                continue;
            }
            let kept = lost_folder::move_aside(fs, dir, path);
            let kept = kept.map_err(OpenError::io("move to `lost`", path))?;
            tracing::warn!(path = %path.display(), kept = %kept.display(), "a generation that the manifest does not name is set aside");
        }
        let all = file_names::generations(dir);
        fs.sync_dir(&all).map_err(OpenError::io("sync", &all))
    }

    /// Writes the manifest of a store that has no generation yet.
    pub(in crate::store) fn begin_manifest(
        fs: &dyn FileSystem,
        dir: &Path,
    ) -> Result<(), OpenError> {
        let saved = manifest::save(fs, dir, &[]);
        saved.map_err(OpenError::io("create", &file_names::manifest(dir)))
    }
}

// A state that is there.
fn is_state(fs: &dyn FileSystem, path: &Path) -> bool {
    path.parent()
        .is_some_and(|folder| file_names::state(folder) == path)
        && fs.is_dir(path)
}

/// Reads the manifest and the newest state in `dir`.
pub(in crate::store) fn examine(
    fs: &dyn FileSystem,
    threads: &dyn Threads,
    dir: &Path,
) -> Result<Inventory, OpenError> {
    let mut folders = numbered(fs, dir)?;
    // Nor will a folder have the name that a file of somebody else has.
    let last_id = folders.iter().map(|(id, _)| *id).max();
    folders.retain(|(_, path)| fs.is_dir(path));
    let mut losses = Vec::new();
    let (has_manifest, mut described) = match manifest::load(fs, dir) {
        Ok(Some(described)) => (true, described),
        Ok(None) if folders.is_empty() => (false, Vec::new()),
        Ok(None) => (
            false,
            made_again(fs, dir, &folders, "missing", &mut losses)?,
        ),
        Err(ManifestError::Damaged) => {
            (true, made_again(fs, dir, &folders, "damaged", &mut losses)?)
        }
        Err(error) => return Err(not_read(&file_names::manifest(dir), error)),
    };
    for one in &mut described {
        drop_missing_parts(fs, dir, one, &mut losses)?;
    }
    let (state, mark) = newest_state(fs, threads, dir, &mut described, &mut losses)?;
    let listed: Vec<u64> = described.iter().map(|one| one.info.id).collect();
    let last_id = last_id.into_iter().chain(listed.iter().copied());
    let last_id = last_id.max().unwrap_or(0);
    let unlisted = folders.into_iter().filter(|(id, _)| !listed.contains(id));
    let unlisted = unlisted.map(|(_, path)| Unlisted {
        mark: manifest::load_about(fs, &path)
            .ok()
            .map(|one| one.info.mark),
        path,
    });
    Ok(Inventory {
        unlisted: unlisted.collect(),
        described,
        state,
        mark,
        losses,
        has_manifest,
        last_id,
    })
}

// What bears a generation's number, rising. Whatever else lies there is nothing of ours.
fn numbered(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let all = file_names::generations(dir);
    let paths = match fs.list(&all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(OpenError::io("list", &all))?,
    };
    let ours = paths.into_iter();
    let mut ours: Vec<_> = ours
        .filter_map(|path| Some((file_names::generation_id(&path)?, path)))
        .collect();
    ours.sort();
    Ok(ours)
}

fn not_read(path: &Path, error: ManifestError) -> OpenError {
    match error {
        ManifestError::Io(source) => OpenError::io("read", path)(source),
        ManifestError::Format(found) => OpenError::Format {
            path: path.to_owned(),
            found,
        },
        // Told before.
        ManifestError::Damaged => OpenError::Corrupt {
            losses: vec![Loss::of(path)],
        },
    }
}

// The generations that describe themselves. A description is written last, so what it tells of is there.
fn made_again(
    fs: &dyn FileSystem,
    dir: &Path,
    folders: &[(u64, PathBuf)],
    what: &str,
    losses: &mut Vec<Loss>,
) -> Result<Vec<Described>, OpenError> {
    let (mut described, mut others) = (Vec::new(), Vec::new());
    for (id, folder) in folders {
        match manifest::load_about(fs, folder) {
            Ok(one) if one.info.id == *id => described.push(one),
            Ok(_) | Err(ManifestError::Damaged) => others.push(*id),
            // It never was complete, or is no more.
            Err(ManifestError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                others.push(*id);
            }
            Err(error) => return Err(not_read(folder, error)),
        }
    }
    reached!(ManifestMadeAgain);
    let old = described.len().saturating_sub(STATES_KEPT);
    described
        .iter_mut()
        .take(old)
        .for_each(|one| one.state = None);
    let known: Vec<u64> = described.iter().map(|one| one.info.id).collect();
    let mut why = format!("{what}, and can be made again of generations {known:?}");
    if !others.is_empty() {
        why += &format!("; what is left of generations {others:?} is set aside in `lost`");
    }
    losses.push(Loss {
        why: Some(why),
        notes: false,
        ..Loss::of(&file_names::manifest(dir))
    });
    Ok(described)
}

// A part without its database stays listed, as lost.
fn drop_missing_parts(
    fs: &dyn FileSystem,
    dir: &Path,
    one: &mut Described,
    losses: &mut Vec<Loss>,
) -> Result<(), OpenError> {
    let folder = file_names::generation(dir, one.info.id);
    for (index, part) in one
        .parts
        .iter_mut()
        .enumerate()
        .filter(|(_, part)| !part.is_lost)
    {
        let path = file_names::part(&folder, index);
        let database = path.join(DATABASE);
        match fs.open(&database) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                part.is_lost = true;
                losses.push(Loss {
                    why: Some("missing".to_owned()),
                    positions: Some((part.first_position, part.last_position)),
                    notes: false,
                    ..Loss::of(&path)
                });
            }
            Err(error) => return Err(OpenError::io("open", &database)(error)),
        }
    }
    Ok(())
}

// The newest state that reads, and the group it is as of before. Where none is listed, that was accepted earlier.
fn newest_state(
    fs: &dyn FileSystem,
    threads: &dyn Threads,
    dir: &Path,
    described: &mut [Described],
    losses: &mut Vec<Loss>,
) -> Result<(Vec<(Bytes, Bytes)>, CommitNumber), OpenError> {
    for one in described.iter_mut().rev() {
        let Some((items, checksum)) = one.state else {
            continue;
        };
        let path = file_names::state(&file_names::generation(dir, one.info.id));
        match state_pairs::prove(fs, threads, dir, &path, items, checksum) {
            Ok(state) => return Ok((state, one.info.mark)),
            Err(Unsound::System(source)) => return Err(OpenError::Read { path, source }),
            Err(Unsound::Content(error)) => {
                tracing::error!(path = %path.display(), %error, "the state does not read");
                reached!(StateRejected);
                one.state = None;
                losses.push(Loss {
                    why: Some(format!("{error}, so an older state has to do")),
                    ..Loss::of(&path)
                });
            }
        }
    }
    Ok((Vec::new(), CommitNumber(1)))
}

/// Topics of the events in these generations, with how many there are of each. What does not read is passed over: whoever reads
/// it for a subscription says so.
pub(super) fn topics<'a>(
    fs: &dyn FileSystem,
    dir: &Path,
    generations: impl IntoIterator<Item = &'a Described>,
) -> Vec<(TopicId, u64)> {
    let mut topics: BTreeMap<TopicId, u64> = BTreeMap::new();
    for one in generations {
        let folder = file_names::generation(dir, one.info.id);
        for (index, part) in one
            .parts
            .iter()
            .enumerate()
            .filter(|(_, part)| !part.is_lost)
        {
            let path = file_names::part(&folder, index);
            let read = generation::topics_in_part(fs, &path, part, |topic, events| {
                *topics.entry(topic).or_default() += events;
            });
            if let Err(error) = read {
                tracing::warn!(path = %path.display(), %error, "cannot be looked through for topics");
            }
        }
    }
    topics.into_iter().collect()
}

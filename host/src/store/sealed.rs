//! What a start takes from the generations: which of them count, and the newest state that reads. Where the manifest is
//! missing or damaged it is made again of the generations, which describe themselves. Only reads; what it finds wanting is a
//! loss that an operator has to accept, and whatever it cannot place is left for [`super::recovery`] to set aside.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::database;
use super::error::{Loss, OpenError};
use super::fs::FileSystem;
use super::generation::{self, Unsound};
use super::generations_dir;
use super::manifest::{self, Described, ManifestError};
use super::survey::empty_loss;
use crate::domain::{CommitNumber, TopicId};

/// As many generations are kept for their state, whatever becomes of their events: a start needs that of the newest, or if it is
/// damaged of the one before it.
pub const STATES_KEPT: usize = 2;

/// The complete generations and what a start takes from them.
pub(super) struct Sealed {
    pub(super) described: Vec<Described>,
    pub(super) state: Vec<(Bytes, Bytes)>,
    /// The state is as of before this group.
    pub(super) mark: CommitNumber,
    pub(super) losses: Vec<Loss>,
    /// Folders of generations that are not among `described`.
    pub(super) unlisted: Vec<Unlisted>,
    /// Whether there is a manifest, sound or not.
    pub(super) has_manifest: bool,
    /// No generation had a higher number.
    pub(super) last_id: u64,
}

/// The folder of a generation that the manifest does not name: one that was being written, or being removed, when the last
/// run ended, as long as nothing else is wrong.
pub(super) struct Unlisted {
    pub(super) path: PathBuf,
    /// As of before which group it is, when it is complete.
    pub(super) mark: Option<CommitNumber>,
}

impl Sealed {
    /// Every group before this one was durable once: a complete generation says so.
    pub(super) fn durable_before(&self) -> CommitNumber {
        let unlisted = self.unlisted.iter().filter_map(|one| one.mark);
        let listed = self.described.iter().map(|one| one.info.mark);
        listed.chain(unlisted).max().unwrap_or(CommitNumber(1))
    }
}

/// Reads the manifest and the newest state in `dir`.
pub(super) fn examine(fs: &dyn FileSystem, dir: &Path) -> Result<Sealed, OpenError> {
    let mut folders = numbered(fs, dir)?;
    // Nor will a folder have the name that a file of somebody else has.
    let last_id = folders.iter().map(|(id, _)| *id).max();
    folders.retain(|(_, path)| path.is_dir());
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
        Err(error) => return Err(not_read(&manifest::path(dir), error)),
    };
    for one in &mut described {
        drop_missing_parts(fs, dir, one, &mut losses)?;
    }
    let (state, mark) = newest_state(fs, dir, &mut described, &mut losses)?;
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
    Ok(Sealed {
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
    let all = generations_dir(dir);
    let paths = match fs.list(&all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(OpenError::io("list", &all))?,
    };
    let ours = paths.into_iter();
    let mut ours: Vec<_> = ours
        .filter_map(|path| Some((generation::id_of(&path)?, path)))
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
            losses: vec![empty_loss(path)],
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
        ..empty_loss(&manifest::path(dir))
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
    let folder = generation::folder(dir, one.info.id);
    for (index, part) in one
        .parts
        .iter_mut()
        .enumerate()
        .filter(|(_, part)| !part.is_lost)
    {
        let path = generation::part_path(&folder, index);
        let database = path.join(database::DATABASE);
        match fs.open(&database) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                part.is_lost = true;
                losses.push(Loss {
                    why: Some("missing".to_owned()),
                    positions: Some((part.first_position, part.last_position)),
                    notes: false,
                    ..empty_loss(&path)
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
    dir: &Path,
    described: &mut [Described],
    losses: &mut Vec<Loss>,
) -> Result<(Vec<(Bytes, Bytes)>, CommitNumber), OpenError> {
    for one in described.iter_mut().rev() {
        let Some((items, checksum)) = one.state else {
            continue;
        };
        let path = generation::state_path(&generation::folder(dir, one.info.id));
        match generation::prove_state(fs, dir, &path, items, checksum) {
            Ok(state) => return Ok((state, one.info.mark)),
            Err(Unsound::System(source)) => return Err(OpenError::Read { path, source }),
            Err(Unsound::Content(error)) => {
                tracing::error!(path = %path.display(), %error, "the state does not read");
                one.state = None;
                losses.push(Loss {
                    why: Some(format!("{error}, so an older state has to do")),
                    ..empty_loss(&path)
                });
            }
        }
    }
    Ok((Vec::new(), CommitNumber(1)))
}

/// Topics of the events in these generations, with how many there are of each. What does not read is passed over: whoever reads
/// it for a subscription says so.
pub(super) fn topics<'a>(
    dir: &Path,
    generations: impl IntoIterator<Item = &'a Described>,
) -> Vec<(TopicId, u64)> {
    let mut topics: HashMap<TopicId, u64> = HashMap::new();
    for one in generations {
        let folder = generation::folder(dir, one.info.id);
        for (index, part) in one
            .parts
            .iter()
            .enumerate()
            .filter(|(_, part)| !part.is_lost)
        {
            let path = generation::part_path(&folder, index);
            let read = generation::topics_in_part(&path, part, |topic, events| {
                *topics.entry(topic).or_default() += events;
            });
            if let Err(error) = read {
                tracing::warn!(path = %path.display(), %error, "cannot be looked through for topics");
            }
        }
    }
    topics.into_iter().collect()
}

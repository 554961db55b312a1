//! The damage of generations that an operator gives up: it is looked for in the databases, and what the manifest is to say of it is
//! decided. Who writes that is [`super::generation_writer`].

use std::path::Path;

use super::generation::{self, Inspected};
use super::generation_files::{self, DATABASE};
use super::manifest::{Described, Gap, PartInfo};
use super::open_databases::PartKey;
use super::{Sealed, sled_repair};
use crate::disk::FileSystem;
use crate::domain::Position;
use crate::store::error::ReadError;
use crate::store::file_names;
use crate::store::loss::Loss;
use crate::store::lost_folder;
use crate::store::unreadable_events::Holder;

/// Looks at all parts of the generations in `described`, or else at those that could not be read lately, and has them say what is
/// lost. Answers that; a copy of each damaged database is kept in `lost`.
pub(super) fn examine_all(sealed: &Sealed, described: &mut [Described], all: bool) -> Vec<Loss> {
    let (mut losses, mut sound) = (Vec::new(), Vec::new());
    let known = sealed.troubles.list();
    for one in described {
        let generation = one.info.id;
        let folder = file_names::generation(&sealed.dir, generation);
        for (index, part) in one.parts.iter_mut().enumerate() {
            let key = PartKey {
                generation,
                part: index,
            };
            let holder = Holder::Part {
                generation,
                part: index,
            };
            if part.is_lost || !(all || known.iter().any(|(known, _)| *known == holder)) {
                continue;
            }
            let path = file_names::part(&folder, index);
            match look(sealed, key, &path, part) {
                None => {}
                Some(stretches) if stretches.is_empty() => sound.push(holder),
                Some(stretches) => losses.extend(losses_of(sealed, &path, stretches)),
            }
        }
    }
    if !sound.is_empty() {
        // Whatever was noted of them is over.
        sealed.troubles.forget(|holder, _| sound.contains(&holder));
    }
    losses
}

fn losses_of(
    sealed: &Sealed,
    path: &Path,
    stretches: Vec<(Position, Position)>,
) -> impl Iterator<Item = Loss> {
    let database = path.join(DATABASE);
    let kept = lost_folder::keep_copy(&*sealed.fs, &sealed.dir, &database);
    if let Err(error) = &kept {
        tracing::error!(path = %database.display(), %error, "no copy of what is damaged could be kept in `lost`; the file stays here as long as its generation");
    }
    let (kept, path) = (kept.ok(), path.to_owned());
    stretches.into_iter().map(move |positions| Loss {
        positions: Some(positions),
        notes: false,
        kept_aside: kept.clone(),
        ..Loss::of(&path)
    })
}

// Looks at all of a part and has it say what is lost. Answers the stretches that were not lost before, none when it is sound but
// for those, as it may be after it was mended; `None` when the system fails, which may pass.
fn look(
    sealed: &Sealed,
    key: PartKey,
    path: &Path,
    part: &mut PartInfo,
) -> Option<Vec<(Position, Position)>> {
    let fs = &*sealed.fs;
    // Only one can have it open, and a reader who comes now would have it look as if the system failed.
    let closed = sealed.pool.keep_closed(key);
    let found = inspect_twice(fs, path, part);
    let inspected = mended(fs, &sealed.dir, path, part, found);
    drop(closed);
    // sled tells some failures of a disk as damage.
    if let Err(error) = generation_files::read(fs, path) {
        tracing::error!(path = %path.display(), %error, "a part cannot be read now, which says nothing of its content; it is not given up");
        return None;
    }
    match inspected {
        Ok(inspected) => Some(give_up_in(part, inspected)),
        Err(error) if error.is_damage() => {
            tracing::error!(path = %path.display(), %error, "a part does not open");
            part.is_lost = true;
            Some(vec![(part.first_position, part.last_position)])
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a part cannot be read now, which says nothing of its content; it is not given up");
            None
        }
    }
}

fn give_up_in(part: &mut PartInfo, inspected: Inspected) -> Vec<(Position, Position)> {
    if is_sound(part, &inspected) || (inspected.gaps.is_empty() && !part.gaps.is_empty()) {
        return Vec::new();
    }
    let Inspected {
        items,
        checksum,
        gaps,
    } = inspected;
    let mut lost: Vec<_> = gaps
        .iter()
        .map(|gap| (gap.from, Position(gap.to.0.saturating_sub(1))))
        .collect();
    if lost.is_empty() {
        // Blocks are missing, and nothing says which.
        lost.push((part.first_position, part.last_position));
    }
    (part.items, part.checksum) = (items, checksum);
    part.is_lost = items == 0;
    part.gaps.extend(gaps);
    part.gaps.sort_by_key(|gap: &Gap| gap.from);
    lost
}

// Some failures of a disk look like damage and pass: what is to be given up is found twice, with every byte read in between.
fn inspect_twice(
    fs: &dyn FileSystem,
    path: &Path,
    part: &PartInfo,
) -> Result<Inspected, ReadError> {
    let first = generation::inspect(fs, path, part);
    if first.as_ref().is_ok_and(|found| is_sound(part, found)) {
        return first;
    }
    generation_files::read(fs, path).map_err(ReadError::io(path))?;
    generation::inspect(fs, path, part)
}

// What was found, or what is after a part was mended, if that is more.
fn mended(
    fs: &dyn FileSystem,
    dir: &Path,
    path: &Path,
    part: &PartInfo,
    found: Result<Inspected, ReadError>,
) -> Result<Inspected, ReadError> {
    let blocks = match &found {
        Ok(inspected) if is_sound(part, inspected) => return found,
        Ok(inspected) => inspected.items,
        Err(error) if error.is_damage() => 0,
        Err(_) => return found,
    };
    if !sled_repair::is_better_alone(fs, dir, path, part, blocks)? {
        return found;
    }
    sled_repair::leave_alone(fs, dir, path).map_err(ReadError::io(path))?;
    generation::inspect(fs, path, part)
}

fn is_sound(part: &PartInfo, found: &Inspected) -> bool {
    found.gaps.is_empty() && (found.items, found.checksum) == (part.items, part.checksum)
}

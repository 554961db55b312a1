//! What is given up of a part of a generation when an operator accepts its damage. Only looks at the database and changes what
//! the manifest is to say; who writes that is [`super::checkpoint`]'s business.

use std::path::Path;

use super::Shared;
use super::error::ReadError;
use super::fs::FileSystem;
use super::generation::{self, Inspected};
use super::manifest::{Gap, PartInfo};
use super::mend;
use super::pool::PartKey;
use super::tree;
use super::trouble::Holder;
use crate::domain::Position;

/// Looks at all of a part and has it say what is lost. Answers the stretches that were not lost before, none when it is sound but for
/// those, as it may be after it was mended; `None` when the system fails, which may pass.
pub(super) fn look(
    shared: &Shared,
    holder: Holder,
    path: &Path,
    part: &mut PartInfo,
) -> Option<Vec<(Position, Position)>> {
    let (fs, pool) = (&*shared.fs, &shared.pool);
    let Holder::Part {
        generation,
        part: index,
    } = holder
    else {
        return None;
    };
    // Only one can have it open, and a reader who comes now would have it look as if the system failed.
    let closed = pool.keep_closed(PartKey {
        generation,
        part: index,
    });
    let found = inspect_twice(fs, path, part);
    let inspected = mended(fs, &shared.dir, path, part, found);
    drop(closed);
    // sled tells some failures of a disk as damage.
    if let Err(error) = tree::read(fs, path) {
        tracing::error!(path = %path.display(), %error, "a part cannot be read now, which says nothing of its content; it is not given up");
        return None;
    }
    match inspected {
        Ok(Inspected {
            items,
            checksum,
            gaps,
        }) => {
            if is_sound(part, items, checksum, &gaps) || (gaps.is_empty() && !part.gaps.is_empty())
            {
                return Some(Vec::new());
            }
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
            part.gaps.sort_by_key(|gap| gap.from);
            Some(lost)
        }
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

// Some failures of a disk look like damage and pass: what is to be given up is found twice, with every byte read in between.
fn inspect_twice(
    fs: &dyn FileSystem,
    path: &Path,
    part: &PartInfo,
) -> Result<Inspected, ReadError> {
    let first = generation::inspect(path, part);
    if let Ok(Inspected {
        items,
        checksum,
        gaps,
    }) = &first
        && is_sound(part, *items, *checksum, gaps)
    {
        return first;
    }
    tree::read(fs, path).map_err(ReadError::io(path))?;
    generation::inspect(path, part)
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
        Ok(Inspected {
            items,
            checksum,
            gaps,
        }) if is_sound(part, *items, *checksum, gaps) => return found,
        Ok(Inspected { items, .. }) => *items,
        Err(error) if error.is_damage() => 0,
        Err(_) => return found,
    };
    if !mend::is_better_alone(fs, dir, path, part, blocks)? {
        return found;
    }
    mend::leave_alone(fs, dir, path).map_err(ReadError::io(path))?;
    generation::inspect(path, part)
}

fn is_sound(part: &PartInfo, items: u64, checksum: u64, gaps: &[Gap]) -> bool {
    gaps.is_empty() && (items, checksum) == (part.items, part.checksum)
}

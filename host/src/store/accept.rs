//! What is given up of a part of a generation when an operator accepts its damage. Only looks at the database and changes what
//! the manifest is to say; who writes that is [`super::checkpoint`]'s business.

use std::path::Path;

use super::fs::FileSystem;
use super::generation::{self, Inspected};
use super::manifest::PartInfo;
use super::pool::{PartKey, Pool};
use super::tree;
use super::trouble::Holder;
use crate::domain::Position;

/// Looks at all of a part and has it say what is lost. Answers the stretches that were not lost before, none when it is sound but for
/// those; `None` when the system fails, which may pass.
pub(super) fn look(
    fs: &dyn FileSystem,
    pool: &Pool,
    holder: Holder,
    path: &Path,
    part: &mut PartInfo,
) -> Option<Vec<(Position, Position)>> {
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
    let inspected = generation::inspect(path, part);
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
            let is_sound = gaps.is_empty() && (items, checksum) == (part.items, part.checksum);
            if is_sound || (gaps.is_empty() && !part.gaps.is_empty()) {
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

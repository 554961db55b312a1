//! Bytes of the store that change where they lie.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::disk::SimDisk;
use crate::life::STORE;
use crate::plan::rot::{Rot, Rotten};

/// Two of these make the witness, as `host/src/store/journal/witness.rs` says: a count at 8, and at 24 how long the newest file is, once
/// the journal is closed.
const WITNESS_SLOT_BYTES: usize = 4_096;

type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Lets a byte change now. Which file it is of; `None` if there is none of its kind.
pub(super) fn rot(disk: &SimDisk, rot: &Rot) -> Option<PathBuf> {
    let image = disk.image();
    let of_kind = image.iter().filter_map(|(path, content)| {
        let bytes = content.as_ref()?.len();
        (kind(path)? == rot.of && bytes > 0).then_some((path, bytes))
    });
    let mut files: Vec<(&PathBuf, usize)> = of_kind.collect();
    if rot.of == Rotten::Journal && !is_closed(&image) {
        files.pop();
    }
    let (path, bytes) = *files.get(thousandths(rot.file, files.len()))?;
    let path = path.clone();
    disk.rot(&path, thousandths(rot.at, bytes), rot.bits)
        .then_some(path)
}

fn thousandths(part: u64, of: usize) -> usize {
    usize::try_from(part).unwrap_or_default() * of / 1_000
}

fn kind(path: &Path) -> Option<Rotten> {
    let within = path.strip_prefix(STORE).ok()?;
    let names: Option<Vec<&str>> = within.iter().map(|name| name.to_str()).collect();
    match *names?.as_slice() {
        ["journal", file] => file.ends_with(".log").then_some(Rotten::Journal),
        ["witness"] => Some(Rotten::Witness),
        ["manifest"] => Some(Rotten::Manifest),
        ["generations", _, "about"] => Some(Rotten::About),
        ["generations", _, "state", _] => Some(Rotten::State),
        ["generations", _, part, _] => part.starts_with("part-").then_some(Rotten::Part),
        _ => None,
    }
}

// Whether the witness says how the journal ended.
fn is_closed(image: &Image) -> bool {
    let Some(Some(witness)) = image.get(&Path::new(STORE).join("witness")) else {
        return false;
    };
    let slots = witness.chunks(WITNESS_SLOT_BYTES);
    let said = slots.filter_map(|slot| Some((number(slot, 8)?, number(slot, 24)?)));
    said.max().is_some_and(|(_, bytes)| bytes > 0)
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let number = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_where_they_lie() {
        let of = |path: &str| kind(&Path::new(STORE).join(path));
        for (path, expected) in [
            ("journal/00000000000000000001.log", Some(Rotten::Journal)),
            ("journal/reserve.new", None),
            ("witness", Some(Rotten::Witness)),
            ("manifest", Some(Rotten::Manifest)),
            ("generations/00000001/about", Some(Rotten::About)),
            ("generations/00000001/state/db", Some(Rotten::State)),
            ("generations/00000001/part-0000/db", Some(Rotten::Part)),
            ("lost/part-0000.1", None),
        ] {
            assert_eq!(of(path), expected, "{path}");
        }
    }

    #[test]
    fn the_witness_says_whether_the_journal_was_closed() {
        let slot = |count: u64, bytes: u64| {
            let mut slot = vec![0; WITNESS_SLOT_BYTES];
            slot[8..16].copy_from_slice(&count.to_le_bytes());
            slot[24..32].copy_from_slice(&bytes.to_le_bytes());
            slot
        };
        let path = Path::new(STORE).join("witness");
        for (slots, expected) in [
            ([slot(4, 0), slot(3, 900)], false),
            ([slot(4, 900), slot(3, 0)], true),
        ] {
            let image = [(path.clone(), Some(slots.concat()))].into();
            assert_eq!(is_closed(&image), expected);
        }
    }
}

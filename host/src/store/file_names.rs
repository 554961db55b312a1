//! The names of the store's files and folders, all of them, and whether a name that was found is one of them. Only what the
//! broker would name just so is its own: whatever else lies in its folders is somebody else's and stays. Pure; what is in a
//! file is said where it is read. What sled keeps in the folder of a database is in `sealed/generation_files.rs`.

use std::path::{Path, PathBuf};

use crate::domain::CommitNumber;

/// Extension of a file that does not have its name yet.
const ASIDE: &str = "new";
/// Name, before that extension, of the journal file that is filled ahead of time.
const PREPARED: &str = "prepared";
/// The one that is kept for when the disk is full.
const RESERVED: &str = "reserve";
/// In which a generation describes itself.
const ABOUT: &str = "about";
/// A generation's state.
const STATE: &str = "state";

/// Folder of the journal's files.
pub(super) fn journal(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// The journal file whose first group has this number.
pub(super) fn journal_file(dir: &Path, first: CommitNumber) -> PathBuf {
    journal(dir).join(format!("{first:020}.log"))
}

/// The same file until it has its head.
pub(super) fn journal_file_aside(dir: &Path, first: CommitNumber) -> PathBuf {
    journal_file(dir, first).with_extension(ASIDE)
}

/// The journal file that is filled ahead of time.
pub(super) fn prepared_file(dir: &Path) -> PathBuf {
    journal(dir).join(PREPARED).with_extension(ASIDE)
}

/// The journal file that is kept for when the disk is full. Removed with everything else there that has no name yet, should a run
/// end without giving it back.
pub(super) fn reserved_file(dir: &Path) -> PathBuf {
    journal(dir).join(RESERVED).with_extension(ASIDE)
}

/// The number of the first group of the journal file with this path; `None` for any other path.
pub(super) fn first_of(path: &Path) -> Option<CommitNumber> {
    numbered(path, "log")
}

/// Whether this is the path of a journal file that did not get its name.
pub(super) fn lies_aside(path: &Path) -> bool {
    let numberless = [PREPARED, RESERVED];
    let is_numberless = || {
        let mut names = numberless.iter();
        names.any(|name| path.ends_with(format!("{name}.{ASIDE}")))
    };
    numbered(path, ASIDE).is_some() || is_numberless()
}

fn numbered(path: &Path, extension: &str) -> Option<CommitNumber> {
    let name = path.file_name()?.to_str()?;
    let number: u64 = name.split('.').next()?.parse().ok()?;
    (format!("{number:020}.{extension}") == name).then_some(CommitNumber(number))
}

/// What the journal must have, in a file beside it.
pub(super) fn witness(dir: &Path) -> PathBuf {
    dir.join("witness")
}

/// Disk space that is kept for a checkpoint.
pub(super) fn checkpoint_reserve(dir: &Path) -> PathBuf {
    dir.join("reserve")
}

/// Folder of what was set aside.
pub(super) fn lost(dir: &Path) -> PathBuf {
    dir.join("lost")
}

/// The list of complete generations.
pub(super) fn manifest(dir: &Path) -> PathBuf {
    dir.join("manifest")
}

/// Folder of all generations.
pub(super) fn generations(dir: &Path) -> PathBuf {
    dir.join("generations")
}

/// Folder of one generation.
pub(super) fn generation(dir: &Path, id: u64) -> PathBuf {
    generations(dir).join(format!("{id:08}"))
}

/// The number of the generation whose folder would have this name; `None` for any other name.
pub(super) fn generation_id(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let id = name.parse().ok()?;
    (format!("{id:08}") == name).then_some(id)
}

/// In which the generation in `folder` describes itself.
pub(super) fn about(folder: &Path) -> PathBuf {
    folder.join(ABOUT)
}

/// Folder of the database of a part.
pub(super) fn part(folder: &Path, part: usize) -> PathBuf {
    folder.join(format!("part-{part:04}"))
}

/// Folder of the database of the state.
pub(super) fn state(folder: &Path) -> PathBuf {
    folder.join(STATE)
}

/// Folder of a copy of a database that is looked at, in the form of a generation.
pub(super) fn look(dir: &Path) -> PathBuf {
    dir.join("look")
}

/// Whether a generation has a file or folder of this name in its folder.
pub(super) fn is_of_generation(name: &str) -> bool {
    name == ABOUT || is_database(name)
}

/// Whether a folder of this name in that of a generation is a database.
pub(super) fn is_database(name: &str) -> bool {
    let part = || name.strip_prefix("part-")?.parse::<usize>().ok();
    name == STATE || part().is_some_and(|part| format!("part-{part:04}") == name)
}

//! The files of a generation, as a tree on disk: which names in it are the broker's, and what is done with all of them. What
//! others put beside them is neither opened nor removed. Nothing here knows what is in a file.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::FileSystem;
use crate::store::file_names;

/// The file without which there is no database.
pub(super) const DATABASE: &str = "db";
const BLOBS: &str = "blobs";
const READ_BYTES: usize = 1 << 20;

// What in a folder of a generation is the broker's or sled's, in the order of its names.
fn ours(fs: &dyn FileSystem, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs.list(folder)?;
    paths.retain(|path| is_ours(folder, path).unwrap_or(false));
    paths.sort();
    Ok(paths)
}

/// Whether a file of a database is one of sled's snapshots that was never finished.
pub(super) fn is_unfinished_snapshot(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.and_then(|name| name.strip_suffix(".generating"));
    name.is_some_and(is_snapshot)
}

/// What sled keeps beside the log of a database and can make again.
///
/// # Errors
///
/// The folder cannot be listed.
pub(super) fn beside_log(fs: &dyn FileSystem, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = ours(fs, folder)?;
    paths.retain(|path| !fs.is_dir(path) && path.file_name().is_some_and(|name| name != DATABASE));
    Ok(paths)
}

/// Whether any file in it is the broker's.
///
/// # Errors
///
/// A folder cannot be listed.
pub(super) fn has_files(fs: &dyn FileSystem, folder: &Path) -> io::Result<bool> {
    for entry in ours(fs, folder)? {
        if !fs.is_dir(&entry) || has_files(fs, &entry)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes what is the broker's, and the folder itself unless others have something in it; fine if it does not exist. The
/// description goes first: what has one is complete.
///
/// # Errors
///
/// The disk fails, and some of it may be removed.
pub(super) fn remove(fs: &dyn FileSystem, folder: &Path) -> io::Result<()> {
    if fs.is_symlink(folder) {
        return fs.remove(folder);
    }
    let entries = match ours(fs, folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        match fs.is_dir(&entry) {
            true => remove(fs, &entry)?,
            false => fs.remove(&entry)?,
        }
    }
    match fs.remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::info!(path = %folder.display(), "this folder stays, for there is something in it that is not the broker's");
            Ok(())
        }
        other => other,
    }
}

/// Makes every file and folder durable.
///
/// # Errors
///
/// The disk fails.
pub(super) fn sync(fs: &dyn FileSystem, folder: &Path) -> io::Result<()> {
    for entry in ours(fs, folder)? {
        match fs.is_dir(&entry) {
            true => sync(fs, &entry)?,
            false => fs.open(&entry)?.sync()?,
        }
    }
    fs.sync_dir(folder)
}

/// Lets go of what the page cache holds of a sealed database, as far as that works. It is read again when a subscriber gets
/// to it, which may be never, and until then the memory is better used for the next one: filling memory that was free for
/// long costs several times what a copy does, where a hypervisor has to bring it back first.
pub(super) fn forget(fs: &dyn FileSystem, folder: &Path) {
    for entry in ours(fs, folder).unwrap_or_default() {
        if fs.is_dir(&entry) {
            forget(fs, &entry);
        } else if let Ok(file) = fs.open(&entry) {
            file.forget();
        }
    }
}

/// Bytes of the files.
///
/// # Errors
///
/// The disk fails.
pub(super) fn bytes(fs: &dyn FileSystem, folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in ours(fs, folder)? {
        sum += match fs.is_dir(&entry) {
            true => bytes(fs, &entry)?,
            false => fs.open(&entry)?.length()?,
        };
    }
    Ok(sum)
}

/// Reads every byte, whatever it says; a folder that is not there has none. sled tells some failures of a disk as damage, and
/// this tells them apart.
///
/// # Errors
///
/// The system does not let something be read.
pub(super) fn read(fs: &dyn FileSystem, folder: &Path) -> io::Result<()> {
    let entries = match ours(fs, folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut buffer = vec![0; READ_BYTES];
    for entry in entries {
        if fs.is_dir(&entry) {
            read(fs, &entry)?;
            continue;
        }
        let (file, mut at) = (fs.open(&entry)?, 0);
        loop {
            match file.read_at(&mut buffer, at)? {
                0 => break,
                read => at += read as u64,
            }
        }
    }
    Ok(())
}

// A generation holds its description and databases, and a database what sled puts there.
fn is_ours(folder: &Path, path: &Path) -> Option<bool> {
    let folder = folder.file_name()?.to_str()?;
    let name = path.file_name()?.to_str()?;
    Some(if file_names::is_database(folder) {
        matches!(name, DATABASE | "conf" | BLOBS)
            || is_snapshot(name)
            || is_unfinished_snapshot(path)
    } else if folder == BLOBS {
        name.parse::<i64>().is_ok_and(|id| id.to_string() == name)
    } else {
        file_names::is_of_generation(name)
    })
}

// sled names them by a number of 64 bits.
fn is_snapshot(name: &str) -> bool {
    let number = name.strip_prefix("snap.");
    number.is_some_and(|number| {
        number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_ours() {
        let check = |folder: &str, ours: &[&str], others: &[&str]| {
            let folder = Path::new(folder);
            let found = |name: &&str| is_ours(folder, &folder.join(name)).expect("a name");
            assert!(ours.iter().all(found), "{folder:?}");
            let wrong: Vec<_> = others.iter().filter(|name| found(name)).collect();
            assert!(wrong.is_empty(), "{folder:?}: {wrong:?}");
        };
        check(
            "generations/00000003",
            &["about", "state", "part-0000", "part-12345"],
            &[
                ".DS_Store",
                "about.bak",
                "state.old",
                "part-1",
                "part-0000.bak",
                "part-+001",
                "db",
            ],
        );
        check(
            "00000003/part-0001",
            &[
                "db",
                "conf",
                "blobs",
                "snap.0000000000FFFFFF",
                "snap.0000000000FFFFFF.generating",
            ],
            &[
                "db.bak",
                "snap.FF",
                "snap.0000000000FFFFFF.bak",
                "db.generating",
            ],
        );
        check(
            "state/blobs",
            &["17", "-1"],
            &["17.bak", "+17", "lost+found"],
        );
    }
}

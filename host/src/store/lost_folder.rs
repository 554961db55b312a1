//! The folder `lost`: what of the store was damaged and given up, kept for whoever may still make something of it. Nothing here
//! is ever read again by the broker, or removed.

use std::io;
use std::path::{Path, PathBuf};

use super::file_names;
use crate::disk::{FileSystem, copy};

/// Copies a file into `lost` under a name that is not taken, durably, and answers where.
pub(super) fn keep_copy(fs: &dyn FileSystem, dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let target = place_aside(fs, dir, path)?;
    let source = fs.open(path)?;
    let copy_file = fs.create(&target)?;
    copy(&*source, 0..source.length()?, &*copy_file, 0)?;
    copy_file.sync()?;
    fs.sync_dir(&file_names::lost(dir))?;
    Ok(target)
}

/// Moves a folder into `lost` under a name that is not taken, durably, and answers where.
pub(super) fn move_aside(fs: &dyn FileSystem, dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let target = place_aside(fs, dir, path)?;
    fs.rename(path, &target)?;
    fs.sync_dir(&file_names::lost(dir))?;
    if let Some(before) = path.parent() {
        fs.sync_dir(before)?;
    }
    Ok(target)
}

// A path in `lost` that is not taken.
fn place_aside(fs: &dyn FileSystem, dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let folder = file_names::lost(dir);
    fs.create_dir(&folder)?;
    fs.sync_dir(dir)?;
    // Named by where it was, so that the states of several generations are told apart.
    let within = path.strip_prefix(dir).unwrap_or(path);
    let folders = within.iter().count().saturating_sub(1).min(1);
    let names = within
        .iter()
        .skip(folders)
        .map(|name| name.to_string_lossy());
    let name = names.collect::<Vec<_>>().join("-");
    let taken = fs.list(&folder)?;
    let free = |number: &u32| !taken.contains(&folder.join(format!("{name}.{number}")));
    let number = (1..).find(free).unwrap_or(u32::MAX);
    Ok(folder.join(format!("{name}.{number}")))
}

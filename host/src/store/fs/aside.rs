//! Files that appear whole: each gets all of its content, durably, before it gets its name. So whoever opens it by that name finds
//! what was there before or all of what is there now, whatever ends the process, or the machine, in between.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{File, FileSystem};

/// Replaces the file at `path`, or makes it, by one with what `fill` writes. It lies at `aside`, in the same folder, until it is
/// complete. Durable when this returns.
///
/// # Errors
///
/// What was there before is still there, unless it was only the folder's sync that failed: then nobody knows which of the two a
/// power cut would leave.
pub fn replace(
    fs: &dyn FileSystem,
    path: &Path,
    aside: &Path,
    fill: impl FnOnce(&dyn File) -> io::Result<()>,
) -> io::Result<Arc<dyn File>> {
    let file = fs.create(aside)?;
    if let Err(error) = fill(&*file).and_then(|()| give_name(fs, &*file, aside, path)) {
        // Nobody will use it, and on a full disk its space is wanted.
        let _ = fs.remove(aside);
        return Err(error);
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => fs.sync_dir(folder)?,
        _ => fs.sync_dir(Path::new("."))?,
    }
    Ok(file)
}

/// Gives a file that has its content the name `path`, which is durable once the folder is synced.
///
/// # Errors
///
/// The file does not have the name.
pub(in crate::store) fn give_name(
    fs: &dyn FileSystem,
    file: &dyn File,
    aside: &Path,
    path: &Path,
) -> io::Result<()> {
    file.sync()?;
    fs.rename(aside, path)
}

//! Files that appear whole: each gets all of its content, durably, before it gets its name. So whoever opens it by that name finds
//! what was there before or all of what is there now, whatever ends the process, or the machine, in between.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{File, FileSystem};

/// Who may read and write a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever may as a rule.
    Usual,
    /// Only its owner, from its first byte on.
    Owner,
}

/// Replaces the file at `path`, or makes it, by one with what `fill` writes, of which nobody sees a part. It lies at `aside`, in the
/// same folder, until it is complete. Durable when this returns.
///
/// # Errors
///
/// What was there before is still there, unless it was only the folder's sync that failed: then nobody knows which of the two a
/// power cut would leave.
pub fn replace(
    fs: &dyn FileSystem,
    path: &Path,
    aside: &Path,
    access: Access,
    fill: impl FnOnce(&dyn File) -> io::Result<()>,
) -> io::Result<Arc<dyn File>> {
    let file = match access {
        Access::Usual => fs.create(aside)?,
        Access::Owner => {
            // One that was left there could be anybody's.
            match fs.remove(aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs.create_private(aside)?,
            }
        }
    };
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
pub fn give_name(
    fs: &dyn FileSystem,
    file: &dyn File,
    aside: &Path,
    path: &Path,
) -> io::Result<()> {
    file.sync()?;
    fs.rename(aside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::disk::RealFileSystem;

    #[test]
    fn a_file_appears_whole_or_stays_as_it_was_and_is_nobody_elses_if_it_should_not_be() {
        let dir = tempfile::tempdir().expect("folder");
        let (path, aside) = (dir.path().join("key"), dir.path().join("key.new"));
        std::fs::write(&aside, b"left by a crash, for all to read").expect("written");
        let write = |text: &'static [u8]| {
            replace(&RealFileSystem, &path, &aside, Access::Owner, |file| {
                file.write_at(text, 0)
            })
        };
        write(b"first").expect("replaced");
        write(b"2nd").expect("replaced");
        assert_eq!(std::fs::read(&path).expect("there"), b"2nd");
        let mode = path.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let failed = replace(&RealFileSystem, &path, &aside, Access::Owner, |file| {
            file.write_at(b"part", 0)?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(failed.is_err() && !aside.exists());
        assert_eq!(std::fs::read(&path).expect("there"), b"2nd");
    }
}

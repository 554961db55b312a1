//! Making a damaged journal usable once its losses are accepted. Every file that is changed or dropped is
//! copied to `lost` first; every step leaves a journal that the next start can judge again.

use std::io;
use std::path::{Path, PathBuf};

use super::error::OpenError;
use super::fs::{File, FileSystem};
use super::index::JournalFile;
use super::journal::{file_path, new_head, place_file};
use super::journal_dir;
use super::record::{self, FILE_HEAD_BYTES, FileHead, Kind};
use super::survey::{Survey, Surveyed};

const COPY_BYTES: usize = 1 << 20;
/// Folder of what is set aside.
const LOST: &str = "lost";

/// Applies what the survey found, and notes in its losses where copies were kept.
pub(super) fn repair(
    fs: &dyn FileSystem,
    dir: &Path,
    survey: &mut Survey,
) -> Result<(), OpenError> {
    let unreadable = std::mem::take(&mut survey.unreadable);
    let cut: Vec<PathBuf> = survey
        .files
        .iter()
        .filter(|file| !file.cuts.is_empty())
        .map(|file| file.file.path.clone())
        .collect();
    for path in unreadable.iter().chain(&cut) {
        let kept = keep_aside(fs, dir, path).map_err(OpenError::io("copy to `lost`", path))?;
        for loss in survey.losses.iter_mut().filter(|loss| loss.path == *path) {
            loss.kept_aside = Some(kept.clone());
        }
    }
    for file in survey.files.iter().filter(|file| !file.cuts.is_empty()) {
        rewrite(fs, dir, file).map_err(OpenError::io("rewrite", &file.file.path))?;
    }
    for path in &unreadable {
        fs.remove(path).map_err(OpenError::io("remove", path))?;
    }
    if let Some((first, next)) = survey.missing {
        let path = file_path(dir, first);
        let head = new_head(first);
        let mut gap = Vec::new();
        record::encode_mark(&mut gap, head.salt, Kind::Gap, first, next);
        place_file(fs, dir, head, |file| file.write_at(&gap, FILE_HEAD_BYTES))
            .map_err(OpenError::io("create", &path))?;
    }
    let folder = journal_dir(dir);
    fs.sync_dir(&folder).map_err(OpenError::io("sync", &folder))
}

// The same file with every cut replaced.
fn rewrite(fs: &dyn FileSystem, dir: &Path, surveyed: &Surveyed) -> io::Result<()> {
    let old: &JournalFile = &surveyed.file;
    let head = FileHead {
        first: old.first,
        salt: old.salt,
    };
    place_file(fs, dir, head, |new| {
        let mut read = FILE_HEAD_BYTES;
        let mut written = FILE_HEAD_BYTES;
        for cut in &surveyed.cuts {
            copy(&*old.file, read..cut.from, new, written)?;
            written += cut.from - read;
            new.write_at(&cut.with, written)?;
            written += cut.with.len() as u64;
            read = cut.to;
        }
        copy(&*old.file, read..surveyed.end.max(read), new, written)
    })?;
    Ok(())
}

/// Copies a file into `lost` under a name that is not taken, durably, and answers where.
pub(super) fn keep_aside(fs: &dyn FileSystem, dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let target = place_aside(fs, dir, path)?;
    let source = fs.open(path)?;
    let copy_file = fs.create(&target)?;
    copy(&*source, 0..source.length()?, &*copy_file, 0)?;
    copy_file.sync()?;
    fs.sync_dir(&dir.join(LOST))?;
    Ok(target)
}

/// Moves a folder into `lost` under a name that is not taken, durably, and answers where.
pub(super) fn move_aside(fs: &dyn FileSystem, dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let target = place_aside(fs, dir, path)?;
    fs.rename(path, &target)?;
    fs.sync_dir(&dir.join(LOST))?;
    if let Some(before) = path.parent() {
        fs.sync_dir(before)?;
    }
    Ok(target)
}

// A path in `lost` that is not taken.
fn place_aside(fs: &dyn FileSystem, dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let folder = dir.join(LOST);
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

/// Copies a range of a file to a place in another.
pub(super) fn copy(
    from: &dyn File,
    range: std::ops::Range<u64>,
    to: &dyn File,
    at: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = range.start;
    while done < range.end {
        let wanted = (range.end - done).min(COPY_BYTES as u64) as usize;
        let read = from.read_at(&mut buffer[..wanted], done)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_at(&buffer[..read], at + (done - range.start))?;
        done += read as u64;
    }
    Ok(())
}

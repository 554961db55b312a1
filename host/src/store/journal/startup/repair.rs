//! What a start changes of the journal's files: each is cut where its records end; and those of a damaged journal are repaired, once an
//! operator has accepted what is lost. Every file that is changed or dropped by a repair is copied to the folder `lost` first; every step
//! leaves a journal that the next start can judge again. What is torn and what is damaged, the survey has found.

use std::io;
use std::path::{Path, PathBuf};

use super::super::journal_file::JournalFile;
use super::super::new_file::{new_head, place_file};
use super::super::record::{self, FILE_HEAD_BYTES, FileHead, Kind};
use super::integrity_check::{Survey, Surveyed};
use crate::disk::{self, FileSystem};
use crate::runtime::Random;
use crate::store::error::OpenError;
use crate::store::file_names;
use crate::store::lost_folder;

/// Cuts off the torn end of the newest file, which was never acknowledged, makes all that is in it durable, and removes what lies aside.
pub(super) fn tidy(fs: &dyn FileSystem, dir: &Path, survey: &Survey) -> Result<(), OpenError> {
    let folder = file_names::journal(dir);
    if let Some(newest) = survey.files.last() {
        let path = &newest.file.path;
        if survey.torn_bytes > 0 {
            reached!(TornEndCut);
            tracing::warn!(path = %path.display(), offset = newest.end, "cut off a torn end of the journal");
        }
        let file = &newest.file.file;
        if !planted!(TornEndKept) {
            let cut = file.set_length(newest.end);
            cut.map_err(OpenError::io("cut", path))?;
        }
        file.sync().map_err(OpenError::io("sync", path))?;
    }
    for path in &survey.stale {
        reached!(StaleFileRemoved);
        fs.remove(path).map_err(OpenError::io("remove", path))?;
    }
    let aside = fs.list(&folder).map_err(OpenError::io("list", &folder))?;
    let is_ours = |path: &&PathBuf| file_names::lies_aside(path) && !fs.is_dir(path);
    for path in aside.iter().filter(is_ours) {
        fs.remove(path).map_err(OpenError::io("remove", path))?;
    }
    fs.sync_dir(&folder).map_err(OpenError::io("sync", &folder))
}

/// Applies what the survey found, and notes in its losses where copies were kept.
pub(super) fn repair(
    fs: &dyn FileSystem,
    dir: &Path,
    survey: &mut Survey,
    random: &Random,
) -> Result<(), OpenError> {
    let unreadable = std::mem::take(&mut survey.unreadable);
    let cut: Vec<PathBuf> = survey
        .files
        .iter()
        .filter(|file| !file.cuts.is_empty())
        .map(|file| file.file.path.clone())
        .collect();
    for path in unreadable.iter().chain(&cut) {
        let kept =
            lost_folder::keep_copy(fs, dir, path).map_err(OpenError::io("copy to `lost`", path))?;
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
        let path = file_names::journal_file(dir, first);
        let head = new_head(first, random);
        let mut gap = Vec::new();
        record::encode_mark(&mut gap, head.salt, Kind::Gap, first, next);
        place_file(fs, dir, head, |file| file.write_at(&gap, FILE_HEAD_BYTES))
            .map_err(OpenError::io("create", &path))?;
    }
    let folder = file_names::journal(dir);
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
            disk::copy(&*old.file, read..cut.from, new, written)?;
            written += cut.from - read;
            new.write_at(&cut.with, written)?;
            written += cut.with.len() as u64;
            read = cut.to;
        }
        disk::copy(&*old.file, read..surveyed.end.max(read), new, written)
    })?;
    Ok(())
}

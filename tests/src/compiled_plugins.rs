//! The bundled plugins in compiled form, passed on from one broker of the tests to the next: compiling them is most of the work
//! of a fresh broker, and nearly every test starts one. The folder lies beside the broker's binary and belongs to that build
//! of it. A broker checks what it finds there as always, and compiles what does not fit.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use std::{fs, io};

const PREFIX: &str = "compiled-plugins-";

/// Gives a broker that was never started what an earlier one of this build compiled, if there is something.
///
/// # Errors
/// It cannot be copied.
pub(crate) fn lend(binary: &Path, cache: &Path) -> io::Result<()> {
    let shared = folder(binary)?;
    if !shared.is_dir() {
        return Ok(());
    }
    // A broker refuses a folder that others can write to.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(cache)?;
    copy(&shared, cache)
}

/// Keeps what a broker compiled at its first start for those after it.
///
/// # Errors
/// It cannot be copied.
pub(crate) fn keep(binary: &Path, cache: &Path) -> io::Result<()> {
    let shared = folder(binary)?;
    let beside = binary.parent().unwrap_or(Path::new("."));
    if shared.is_dir() || !cache.is_dir() {
        return Ok(());
    }
    // What belongs to earlier builds.
    for entry in fs::read_dir(beside)?.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(PREFIX) && entry.path() != shared {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    let aside = tempfile::tempdir_in(beside)?;
    copy(cache, aside.path())?;
    // Key and compiled forms go together, so a folder that another test made meanwhile stays as it is.
    if fs::rename(aside.path(), &shared).is_ok() {
        let _ = aside.keep();
    }
    Ok(())
}

fn folder(binary: &Path) -> io::Result<PathBuf> {
    let built = fs::metadata(binary)?.modified()?;
    let built = built.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(binary.with_file_name(format!("{PREFIX}{}", built.as_nanos())))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)?.flatten() {
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

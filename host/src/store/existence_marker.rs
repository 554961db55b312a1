//! The marker: a word outside the store's folder that there is a store, so that a folder that is gone is not taken for one that never
//! was. Written once, when a store has begun, and never changed.

use std::io;
use std::path::Path;

use super::error::OpenError;
use crate::disk::{self, Access, FileSystem};

const TITLE: &str = "tidegate-data 1";
/// What the titles of all versions begin with; a number follows.
const TITLE_STEM: &str = "tidegate-data ";
const TEXT: &str = "The folder `store` beside this file holds the events of a Tidegate broker. Should it be missing, the broker does\n\
    not start anew without being told to.\n";
const BYTES_MAX: usize = 4096;

/// Whether there was a store when this was written.
pub(super) fn is_there(fs: &dyn FileSystem, path: &Path) -> Result<bool, OpenError> {
    let file = match fs.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(OpenError::io("open", path))?,
    };
    let mut bytes = vec![0; BYTES_MAX];
    let read = file.read_at(&mut bytes, 0);
    let read = read.map_err(OpenError::io("read", path))?;
    let text = String::from_utf8_lossy(&bytes[..read]);
    let title = text.lines().next().unwrap_or_default();
    let version = title.strip_prefix(TITLE_STEM).map(str::parse::<u32>);
    if title != TITLE && matches!(version, Some(Ok(_))) {
        return Err(OpenError::Format {
            path: path.to_owned(),
            found: title.to_owned(),
        });
    }
    // Whatever became of its content, it is there.
    Ok(true)
}

/// Says, durably, that there is a store.
pub(super) fn write(fs: &dyn FileSystem, path: &Path) -> io::Result<()> {
    // Beside it may lie a new version of the program itself, as `tidegate.new`.
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let text = format!("{TITLE}\n{TEXT}");
    disk::replace(fs, path, Path::new(&aside), Access::Usual, |file| {
        file.write_at(text.as_bytes(), 0)
    })?;
    Ok(())
}

//! The state of a generation: pairs that the caller gave, kept in a database of their own, in their order. A start needs the
//! newest that reads; what they say is the caller's business.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::database_items::{DatabaseWriter, each_item};
use super::generation_files;
use super::sled_repair::LogCopy;
use crate::disk::FileSystem;
use crate::runtime::Threads;
use crate::store::error::{DatabaseError, ReadError};
use crate::store::little_endian::u64_at;

// How often, and how far apart, a database is read before it is called damaged.
const PROOF_ATTEMPTS: u32 = 3;
const PROOF_PAUSE: Duration = Duration::from_millis(20);

/// Adds one pair of the state, the `index`th.
pub(super) fn put(
    writer: &mut DatabaseWriter,
    index: u64,
    key: &[u8],
    value: &[u8],
) -> Result<(), DatabaseError> {
    // A slice is shorter than 2^63.
    let length = (key.len() as u64).to_le_bytes();
    writer.put(index, &[&length, key, value])
}

/// The state in the order it was put; checked against its count and checksum.
pub(super) fn load(
    fs: &dyn FileSystem,
    path: &Path,
    items: u64,
    checksum: u64,
) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
    let mut state = Vec::new();
    each_item(fs, path, items, checksum, |number, item| {
        let damaged = || ReadError::damaged(path, format!("item {number} of the state"));
        let length = u64_at(&item, 0).and_then(|length| usize::try_from(length).ok());
        let end = length
            .and_then(|length| length.checked_add(8))
            .ok_or_else(damaged)?;
        if end > item.len() {
            return Err(damaged());
        }
        state.push((item.slice(8..end), item.slice(end..)));
        Ok(())
    })?;
    Ok(state)
}

/// Why what was sealed does not read.
#[derive(Debug)]
pub(super) enum Unsound {
    /// The system fails, now at least. Nothing is known of the content.
    System(ReadError),
    /// All of its files can be read, and they are not what was written.
    Content(ReadError),
}

/// The state, as [`load`] has it. sled tells some failures of a disk as damage, and a failure may pass: so damage is only
/// what is found again while every byte of the database can be read, and in its log alone as well.
pub(super) fn prove(
    fs: &dyn FileSystem,
    threads: &dyn Threads,
    dir: &Path,
    path: &Path,
    items: u64,
    checksum: u64,
) -> Result<Vec<(Bytes, Bytes)>, Unsound> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let error = match load(fs, path, items, checksum) {
            Ok(state) => return Ok(state),
            Err(error) if !error.is_damage() => return Err(Unsound::System(error)),
            Err(error) => error,
        };
        let system = |source| Unsound::System(ReadError::io(path)(source));
        generation_files::read(fs, path).map_err(system)?;
        if attempts == PROOF_ATTEMPTS {
            let copy = match LogCopy::of(fs, dir, path) {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                    return Err(Unsound::Content(error));
                }
                other => other.map_err(system)?,
            };
            let state = load(fs, &copy.path, items, checksum);
            let state = state.map_err(|_| Unsound::Content(error))?;
            tracing::warn!(path = %path.display(), "what sled keeps beside the state is damaged; the state itself is whole and was read without it");
            return Ok(state);
        }
        threads.rest(PROOF_PAUSE);
    }
}

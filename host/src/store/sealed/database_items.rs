//! The items of a database: what a generation keeps, block by block or pair by pair, cut into values that it takes, and put
//! together and checked again. What an item says is [`super::generation`]'s and [`super::state_pairs`]'s business.
//!
//! ```text
//! key    u64 number, u32 chunk, both big-endian        value   at most 64 KiB
//! item   u64 length of the rest    u32 CRC32C of the rest    the rest
//! ```
//!
//! The number of a block is its last position; that of a pair of the state is its index.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::database::{Database, Values};
use crate::disk::FileSystem;
use crate::store::error::{DatabaseError, ReadError};
use crate::store::little_endian::{u32_at, u64_at};

/// A value in a database is at most this long.
pub(super) const VALUE_BYTES_MAX: usize = 64 * 1024;
const ITEM_HEAD_BYTES: usize = 12;
const KEY_BYTES: usize = 12;
// Items are collected up to this and inserted together.
const BATCH_BYTES: usize = 16 << 20;

/// A database that is being written.
pub(in crate::store) struct DatabaseWriter {
    database: Database,
    path: PathBuf,
    batch: Vec<([u8; KEY_BYTES], Vec<u8>)>,
    batch_bytes: usize,
    /// Items so far.
    pub(in crate::store) items: u64,
    /// Sum of their CRC32C.
    pub(super) checksum: u64,
    /// Bytes so far, keys included.
    pub(super) bytes: u64,
}

impl DatabaseWriter {
    /// A new, empty database.
    pub(in crate::store) fn create(
        fs: &dyn FileSystem,
        path: PathBuf,
    ) -> Result<Self, DatabaseError> {
        let database = Database::create(fs, &path)?;
        let batch = Vec::new();
        Ok(Self {
            database,
            path,
            batch,
            batch_bytes: 0,
            items: 0,
            checksum: 0,
            bytes: 0,
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds an item. Numbers must rise.
    pub(in crate::store) fn put(
        &mut self,
        number: u64,
        rest: &[&[u8]],
    ) -> Result<(), DatabaseError> {
        let length: usize = rest.iter().map(|piece| piece.len()).sum();
        let crc = rest
            .iter()
            .fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
        let mut head = [0; ITEM_HEAD_BYTES];
        head[..8].copy_from_slice(&(length as u64).to_le_bytes());
        head[8..].copy_from_slice(&crc.to_le_bytes());
        let pieces = std::iter::once(&head[..]).chain(rest.iter().copied());
        let mut left = ITEM_HEAD_BYTES + length;
        let mut value = Vec::with_capacity(left.min(VALUE_BYTES_MAX));
        let mut chunk = 0;
        for mut piece in pieces {
            while !piece.is_empty() {
                let room = VALUE_BYTES_MAX - value.len();
                let (fits, others) = piece.split_at(piece.len().min(room));
                value.extend_from_slice(fits);
                left -= fits.len();
                piece = others;
                if value.len() == VALUE_BYTES_MAX || left == 0 {
                    let next = Vec::with_capacity(left.min(VALUE_BYTES_MAX));
                    self.push((number, chunk), std::mem::replace(&mut value, next))?;
                    chunk += 1;
                }
            }
        }
        self.items += 1;
        self.checksum = self.checksum.wrapping_add(u64::from(crc));
        Ok(())
    }

    fn push(&mut self, (number, chunk): (u64, u32), value: Vec<u8>) -> Result<(), DatabaseError> {
        let bytes = KEY_BYTES + value.len();
        self.bytes += bytes as u64;
        self.batch_bytes += bytes;
        self.batch.push((key(number, chunk), value));
        if self.batch_bytes >= BATCH_BYTES {
            self.apply()?;
        }
        Ok(())
    }

    /// Hands everything to the operating system and closes the database. Not yet durable.
    pub(in crate::store) fn finish(mut self) -> Result<(), DatabaseError> {
        self.apply()?;
        self.database.flush()?;
        // A sync that failed here would not fail again, whatever was lost by it.
        self.database.close().map_err(DatabaseError::Io)
    }

    fn apply(&mut self) -> Result<(), DatabaseError> {
        self.batch_bytes = 0;
        self.database.insert_all(std::mem::take(&mut self.batch))
    }
}

/// Reads a whole database back and compares it with what was written.
pub(super) fn verify(
    fs: &dyn FileSystem,
    path: &Path,
    items: u64,
    checksum: u64,
) -> Result<(), ReadError> {
    each_item(fs, path, items, checksum, |_, _| Ok(()))
}

fn key(number: u64, chunk: u32) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<(u64, u32)> {
    let number = u64::from_be_bytes(key.get(..8)?.try_into().ok()?);
    let chunk = u32::from_be_bytes(key.get(8..)?.try_into().ok()?);
    Some((number, chunk))
}

/// The first item whose number is at least `number_min`.
pub(super) fn first_item(
    database: &Database,
    path: &Path,
    number_min: u64,
) -> Result<Option<(u64, Bytes)>, ReadError> {
    database.read(&key(number_min, 0), |values| next_item(values, path))
}

/// Calls `each` with every item, and compares them all with what was written.
pub(super) fn each_item(
    fs: &dyn FileSystem,
    path: &Path,
    items: u64,
    checksum: u64,
    mut each: impl FnMut(u64, Bytes) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let database = Database::open(fs, path)?;
    let mut found = (0u64, 0u64);
    database.read(&[], |values| {
        while let Some((number, item)) = next_item(values, path)? {
            found.0 += 1;
            found.1 = found.1.wrapping_add(u64::from(crc32c::crc32c(&item)));
            each(number, item)?;
        }
        Ok(())
    })?;
    // Opening it may have written, and what a sync did not write no later one misses.
    database.close().map_err(ReadError::io(path))?;
    if found == (items, checksum) {
        Ok(())
    } else {
        Err(ReadError::damaged(
            path,
            format!("the content ({} of {items} items)", found.0),
        ))
    }
}

// The next item of an iterator that stands at the start of one, put together from its values and checked.
fn next_item(values: &mut Values<'_>, path: &Path) -> Result<Option<(u64, Bytes)>, ReadError> {
    let Some((first_key, first_value)) = values.next()? else {
        return Ok(None);
    };
    let (number, chunk) = parse_key(&first_key).ok_or_else(|| ReadError::damaged(path, "a key"))?;
    let damaged = || ReadError::damaged(path, format!("item {number}"));
    let length = u64_at(&first_value, 0).ok_or_else(damaged)?;
    let crc = u32_at(&first_value, 8).ok_or_else(damaged)?;
    if chunk != 0 {
        return Err(damaged());
    }
    let mut rest = BytesMut::from(first_value.get(ITEM_HEAD_BYTES..).unwrap_or_default());
    let mut expected_chunk = 1;
    while (rest.len() as u64) < length {
        let (next_key, value) = values.next()?.ok_or_else(damaged)?;
        if parse_key(&next_key) != Some((number, expected_chunk)) {
            return Err(damaged());
        }
        rest.extend_from_slice(&value);
        expected_chunk += 1;
    }
    if rest.len() as u64 != length || crc32c::crc32c(&rest) != crc {
        return Err(damaged());
    }
    Ok(Some((number, rest.freeze())))
}

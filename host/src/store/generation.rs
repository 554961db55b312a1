//! Generations: sled databases that are written once, sealed, and from then on only read until their folder is
//! removed whole. How one is opened, used and closed so that it can do no harm is [`super::database`]'s business.
//!
//! What sled 0.34.7 does and does not promise decides how it is used here (`tests/sled_facts.rs` pins it): `flush` is
//! not a sync, so every file and folder is synced after the database is closed; an open that died can leave
//! `snap.*.generating`, which blocks every later one and is removed first; closing may release the file lock a
//! moment late; damage may show as a panic, which is caught and reported.
//!
//! A generation is a folder `generations/<id>` with one database per part (`part-<n>`), one for the state
//! (`state`), and `about`, the generation's own line of the manifest. In a database every item has a number (the
//! last position of a block, the index of a pair of the state) and is cut into values:
//!
//! ```text
//! key    u64 number, u32 chunk, both big-endian        value   at most 64 KiB
//! item   u64 length of the rest    u32 CRC32C of the rest    the rest
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::database::{Database, Values};
use super::error::ReadError;
use super::folders::Folders;
use super::fs::FileSystem;
use super::generations_dir;
use super::manifest::{Described, Gap, PartInfo};
use super::mend::LogCopy;
use super::pool::{PartKey, Pool};
use super::record::{self, u32_at, u64_at};
use super::tree;
use crate::domain::{Block, Position, TopicId};

/// A value in sled is at most this long.
pub(super) const VALUE_BYTES_MAX: usize = 64 * 1024;
const ITEM_HEAD_BYTES: usize = 12;
const KEY_BYTES: usize = 12;
// Items are collected up to this and inserted in two rounds: first every key with an empty value, which splits
// the tree's pages while they are small, then the values, each of which is then written about once. Inserting
// values at once writes every one about four times, and the file becomes more than twice as long.
const BATCH_BYTES: usize = 16 << 20;
// After so many bytes of values it is waited for that they are written. sled writes several segments at the same time, and
// what the journal wants to write meanwhile stands behind all of them.
const BURST_BYTES: usize = 1 << 20;
// How often, and how far apart, a database is read before it is called damaged.
const PROOF_ATTEMPTS: u32 = 3;
const PROOF_PAUSE: Duration = Duration::from_millis(20);

/// A complete generation.
pub(super) struct Generation {
    pub(super) described: Described,
    folder: PathBuf,
    folders: Arc<Folders>,
    deleted: AtomicBool,
}

/// A database that is being written.
pub(super) struct DatabaseWriter {
    database: Database,
    path: PathBuf,
    batch: Vec<([u8; KEY_BYTES], Vec<u8>)>,
    batch_bytes: usize,
    /// Items so far.
    pub(super) items: u64,
    /// Sum of their CRC32C.
    pub(super) checksum: u64,
    /// Bytes so far, keys included.
    pub(super) bytes: u64,
}

impl Generation {
    pub(super) fn new(dir: &Path, described: Described, folders: &Arc<Folders>) -> Self {
        let folder = folder(dir, described.info.id);
        Self {
            described,
            folder,
            folders: folders.clone(),
            deleted: AtomicBool::new(false),
        }
    }

    /// From now on a read that fails means that the generation is gone, not that it is damaged.
    pub(super) fn set_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// The part with the first block that ends at or after `from`, and the lowest position it can have. Passes
    /// over parts whose loss was accepted.
    pub(super) fn part_for(&self, from: Position) -> Option<(usize, Position)> {
        let parts = &self.described.parts;
        let first = parts.partition_point(|part| part.last_position < from);
        let candidates = parts.iter().enumerate().skip(first);
        let mut sound = candidates.filter(|(_, part)| !part.is_lost);
        sound.find_map(|(index, part)| {
            let lowest = part.beyond_gaps(part.first_position.max(from));
            (lowest <= part.last_position).then_some((index, lowest))
        })
    }

    /// The first block of a part that ends at or after `from`, which is none that was given up. There is one up to the part's last
    /// position, unless that was given up.
    pub(super) fn block_in_part(
        &self,
        pool: &Pool,
        part: usize,
        from: Position,
    ) -> Result<Option<Block>, PartError> {
        let path = self.path(part);
        let about = &self.described.parts[part];
        let block = pool.with(
            self.key(part),
            || {
                // sled opens by path, whatever is there.
                let checked = self.folders.check();
                checked.map_err(ReadError::io(&path))?;
                open_part(&path, about)
            },
            |database| block_in(database, &path, from),
        );
        let block = block.map_err(PartError::Closed)?.map_err(PartError::At)?;
        let block = block.filter(|block| block.last_position() <= about.last_position);
        if block.is_none() && !about.is_given_up(about.last_position) {
            let what = format!("the end, of which nothing from position {from} on is there,");
            return Err(PartError::At(ReadError::damaged(&path, what)));
        }
        Ok(block)
    }

    /// The first position after `from`, at which a part is damaged, from which on it reads again; past the end of the part if
    /// there is none.
    pub(super) fn end_of_damage(&self, pool: &Pool, part: usize, from: Position) -> Position {
        // What sled has found once, it may go on to say of everything.
        let reads = |position| {
            pool.close_part(self.key(part));
            self.block_in_part(pool, part, position).is_ok()
        };
        let last = self.described.parts[part].last_position;
        let end = end_of_damage(from, last, reads);
        pool.close_part(self.key(part));
        end
    }

    /// Folder of one part's database.
    pub(super) fn path(&self, part: usize) -> PathBuf {
        part_path(&self.folder, part)
    }

    fn key(&self, part: usize) -> PartKey {
        PartKey {
            generation: self.described.info.id,
            part,
        }
    }
}

/// Why a block of a part does not read.
pub(super) enum PartError {
    /// Nothing in the part can be read.
    Closed(ReadError),
    /// This block cannot.
    At(ReadError),
}

// From where on it reads again, found in steps that double and then by halving: between two stretches of damage some may be lost
// that could be read, and never is anything taken for sound that does not read.
fn end_of_damage(
    from: Position,
    last: Position,
    mut reads: impl FnMut(Position) -> bool,
) -> Position {
    let end = last.0.saturating_add(1);
    let (mut bad, mut step) = (from.0, 1);
    let mut good = loop {
        let position = from.0.saturating_add(step);
        if position >= end {
            break end;
        }
        if reads(Position(position)) {
            break position;
        }
        bad = position;
        step *= 2;
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        match reads(Position(middle)) {
            true => good = middle,
            false => bad = middle,
        }
    }
    Position(good)
}

/// What a part holds that can be read, and what not.
#[derive(Default)]
pub(super) struct Inspected {
    pub(super) items: u64,
    pub(super) checksum: u64,
    pub(super) gaps: Vec<Gap>,
}

/// Reads a part from end to end, beyond what was given up before, and finds all damage in it.
///
/// # Errors
///
/// It cannot be opened, or the system fails.
pub(super) fn inspect(path: &Path, part: &PartInfo) -> Result<Inspected, ReadError> {
    let mut found = Inspected::default();
    let mut database = Some(Database::open(path)?);
    let mut at = part.beyond_gaps(part.first_position);
    while at <= part.last_position {
        let open = match database.take() {
            Some(open) => open,
            None => Database::open(path)?,
        };
        let to = match look_at(&open, path, at) {
            Ok(Some((block, checksum))) if block.last_position() <= part.last_position => {
                found.items += 1;
                found.checksum = found.checksum.wrapping_add(checksum);
                if at == part.first_position && at < block.first_position {
                    let to = block.first_position;
                    found.gaps.push(Gap { from: at, to });
                }
                database = Some(open);
                at = part.beyond_gaps(block.last_position().next());
                continue;
            }
            // Its last block is not there.
            Ok(_) if part.is_given_up(part.last_position) => break,
            Ok(_) => part.last_position.next(),
            Err(error) if !error.is_damage() => return Err(error),
            Err(_) => {
                drop(open);
                let reads = |position| {
                    let open = Database::open(path);
                    open.is_ok_and(|open| block_in(&open, path, position).is_ok())
                };
                end_of_damage(at, part.last_position, reads)
            }
        };
        found.gaps.push(Gap { from: at, to });
        at = part.beyond_gaps(to);
    }
    Ok(found)
}

// Opens a part. One that begins with another block than the manifest says is not the one it names.
fn open_part(path: &Path, part: &PartInfo) -> Result<Database, ReadError> {
    let database = Database::open(path)?;
    if part.is_given_up(part.first_position) {
        return Ok(database);
    }
    match block_in(&database, path, Position(0)) {
        Ok(Some(block)) if block.first_position != part.first_position => {
            let (found, named) = (block.first_position, part.first_position);
            let what = format!(
                "the database, which begins at position {found}, and not at {named} as the one that belongs here,"
            );
            Err(ReadError::damaged(path, what))
        }
        Ok(_) => Ok(database),
        // Whoever needs that block is told of it; the others read on. What sled has found once, it may go on to say of everything.
        Err(_) => {
            drop(database);
            Database::open(path)
        }
    }
}

fn block_in(database: &Database, path: &Path, from: Position) -> Result<Option<Block>, ReadError> {
    let found = look_at(database, path, from)?;
    Ok(found.map(|(block, _)| block))
}

// The first block that ends at or after `from`, with the checksum of its item.
fn look_at(
    database: &Database,
    path: &Path,
    from: Position,
) -> Result<Option<(Block, u64)>, ReadError> {
    let Some((number, item)) = first_item(database, path, from.0)? else {
        return Ok(None);
    };
    let block = record::decode_block(&item).filter(|block| block.last_position().0 == number);
    let damaged = || ReadError::damaged(path, format!("the block at or after position {from}"));
    let block = block.ok_or_else(damaged)?;
    Ok(Some((block, u64::from(crc32c::crc32c(&item)))))
}

impl DatabaseWriter {
    /// A new, empty database.
    pub(super) fn create(path: PathBuf) -> Result<Self, sled::Error> {
        let database = Database::create(&path)?;
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
    pub(super) fn put(&mut self, number: u64, rest: &[&[u8]]) -> Result<(), sled::Error> {
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

    fn push(&mut self, (number, chunk): (u64, u32), value: Vec<u8>) -> Result<(), sled::Error> {
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
    pub(super) fn finish(mut self) -> Result<(), sled::Error> {
        self.apply()?;
        self.database.write(|tree| tree.flush().map(|_| ()))?;
        // A sync that failed here would not fail again, whatever was lost by it.
        self.database.close().map_err(sled::Error::Io)
    }

    fn apply(&mut self) -> Result<(), sled::Error> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.database.write(|tree| {
            for (key, _) in &batch {
                tree.insert(key, &[])?;
            }
            let mut unwritten = 0;
            for (key, value) in batch {
                unwritten += value.len();
                tree.insert(key, value)?;
                if unwritten >= BURST_BYTES {
                    tree.flush()?;
                    unwritten = 0;
                }
            }
            Ok(())
        })
    }
}

/// Folder of a generation.
pub(super) fn folder(dir: &Path, id: u64) -> PathBuf {
    generations_dir(dir).join(format!("{id:08}"))
}

/// The number of the generation whose folder would have this name; `None` for any other name.
pub(super) fn id_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let id = name.parse().ok()?;
    (format!("{id:08}") == name).then_some(id)
}

/// Folder of one part's database.
pub(super) fn part_path(folder: &Path, part: usize) -> PathBuf {
    folder.join(format!("part-{part:04}"))
}

/// Folder of the state's database.
pub(super) fn state_path(folder: &Path) -> PathBuf {
    folder.join("state")
}

/// Adds one pair of the state, the `index`th.
pub(super) fn put_state(
    writer: &mut DatabaseWriter,
    index: u64,
    key: &[u8],
    value: &[u8],
) -> Result<(), sled::Error> {
    // A slice is shorter than 2^63.
    let length = (key.len() as u64).to_le_bytes();
    writer.put(index, &[&length, key, value])
}

/// The state in the order it was put; checked against its count and checksum.
pub(super) fn load_state(
    path: &Path,
    items: u64,
    checksum: u64,
) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
    let mut state = Vec::new();
    each_item(path, items, checksum, |number, item| {
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

/// The state, as [`load_state`] has it. sled tells some failures of a disk as damage, and a failure may pass: so damage is only
/// what is found again while every byte of the database can be read, and in its log alone as well.
pub(super) fn prove_state(
    fs: &dyn FileSystem,
    dir: &Path,
    path: &Path,
    items: u64,
    checksum: u64,
) -> Result<Vec<(Bytes, Bytes)>, Unsound> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let error = match load_state(path, items, checksum) {
            Ok(state) => return Ok(state),
            Err(error) if !error.is_damage() => return Err(Unsound::System(error)),
            Err(error) => error,
        };
        let system = |source| Unsound::System(ReadError::io(path)(source));
        tree::read(fs, path).map_err(system)?;
        if attempts == PROOF_ATTEMPTS {
            let copy = match LogCopy::of(fs, dir, path) {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                    return Err(Unsound::Content(error));
                }
                other => other.map_err(system)?,
            };
            let state = load_state(&copy.path, items, checksum);
            let state = state.map_err(|_| Unsound::Content(error))?;
            tracing::warn!(path = %path.display(), "what sled keeps beside the state is damaged; the state itself is whole and was read without it");
            return Ok(state);
        }
        std::thread::sleep(PROOF_PAUSE);
    }
}

/// Topics of all blocks of a part, each with its events that are present.
pub(super) fn topics_in_part(
    path: &Path,
    part: &PartInfo,
    mut each: impl FnMut(TopicId, u64),
) -> Result<(), ReadError> {
    each_item(path, part.items, part.checksum, |number, item| {
        let block = record::decode_block(&item);
        let block = block
            .ok_or_else(|| ReadError::damaged(path, format!("the block that ends at {number}")))?;
        each(block.topic, block.present_count() as u64);
        Ok(())
    })
}

/// Reads a whole database back and compares it with what was written.
pub(super) fn verify(path: &Path, items: u64, checksum: u64) -> Result<(), ReadError> {
    each_item(path, items, checksum, |_, _| Ok(()))
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

// The first item whose number is at least `number_min`.
fn first_item(
    database: &Database,
    path: &Path,
    number_min: u64,
) -> Result<Option<(u64, Bytes)>, ReadError> {
    database.read(&key(number_min, 0), |values| next_item(values, path))
}

fn each_item(
    path: &Path,
    items: u64,
    checksum: u64,
    mut each: impl FnMut(u64, Bytes) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let database = Database::open(path)?;
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

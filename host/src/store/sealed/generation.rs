//! A generation: a folder of sled databases that are written once, sealed, and from then on only read until the folder is removed
//! whole. How a database is opened, used and closed so that it can do no harm is [`super::database`]'s business.
//!
//! What sled 0.34.7 does and does not promise decides how it is used here (`sealed/tests/sled_facts.rs` pins it): `flush` is
//! not a sync, so every file and folder is synced after the database is closed; an open that died can leave
//! `snap.*.generating`, which blocks every later one and is removed first; closing may release the file lock a
//! moment late; damage may show as a panic, which is caught and reported.
//!
//! The folder `generations/<id>` has one database per part (`part-<n>`), one for the state (`state`), and `about`, the
//! generation's own line of the manifest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::database::Database;
use super::database_items::{each_item, first_item};
use super::manifest::{Described, Gap, PartInfo};
use super::open_databases::{OpenDatabases, PartKey};
use crate::disk::FileSystem;
use crate::domain::{Block, Position, TopicId};
use crate::store::block_format::decode_block;
use crate::store::error::ReadError;
use crate::store::file_names;
use crate::store::folders::Folders;

/// A complete generation.
pub(super) struct Generation {
    pub(super) described: Described,
    folder: PathBuf,
    folders: Arc<Folders>,
    deleted: Arc<AtomicBool>,
}

impl Generation {
    pub(super) fn new(dir: &Path, described: Described, folders: &Arc<Folders>) -> Self {
        let folder = file_names::generation(dir, described.info.id);
        Self {
            described,
            folder,
            folders: folders.clone(),
            deleted: Arc::default(),
        }
    }

    /// The same generation, of which something else is said now, such as that its state is not kept any more. Whoever still reads by
    /// what was said before hears of its end as well.
    pub(super) fn described_as(&self, described: Described) -> Self {
        Self {
            described,
            folder: self.folder.clone(),
            folders: self.folders.clone(),
            deleted: self.deleted.clone(),
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
        fs: &dyn FileSystem,
        pool: &OpenDatabases,
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
                open_part(fs, &path, about)
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
    pub(super) fn end_of_damage(
        &self,
        fs: &dyn FileSystem,
        pool: &OpenDatabases,
        part: usize,
        from: Position,
    ) -> Position {
        // What sled has found once, it may go on to say of everything.
        let reads = |position| {
            pool.close_part(self.key(part));
            self.block_in_part(fs, pool, part, position).is_ok()
        };
        let last = self.described.parts[part].last_position;
        let end = end_of_damage(from, last, reads);
        pool.close_part(self.key(part));
        end
    }

    /// Folder of one part's database.
    pub(super) fn path(&self, part: usize) -> PathBuf {
        file_names::part(&self.folder, part)
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
pub(super) fn inspect(
    fs: &dyn FileSystem,
    path: &Path,
    part: &PartInfo,
) -> Result<Inspected, ReadError> {
    let mut found = Inspected::default();
    let mut database = Some(Database::open(fs, path)?);
    let mut at = part.beyond_gaps(part.first_position);
    while at <= part.last_position {
        let open = match database.take() {
            Some(open) => open,
            None => Database::open(fs, path)?,
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
                    let open = Database::open(fs, path);
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
fn open_part(fs: &dyn FileSystem, path: &Path, part: &PartInfo) -> Result<Database, ReadError> {
    let database = Database::open(fs, path)?;
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
            Database::open(fs, path)
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
    let block = decode_block(&item).filter(|block| block.last_position().0 == number);
    let damaged = || ReadError::damaged(path, format!("the block at or after position {from}"));
    let block = block.ok_or_else(damaged)?;
    Ok(Some((block, u64::from(crc32c::crc32c(&item)))))
}

/// Topics of all blocks of a part, each with its events that are present.
pub(super) fn topics_in_part(
    fs: &dyn FileSystem,
    path: &Path,
    part: &PartInfo,
    mut each: impl FnMut(TopicId, u64),
) -> Result<(), ReadError> {
    each_item(fs, path, part.items, part.checksum, |number, item| {
        let block = decode_block(&item);
        let block = block
            .ok_or_else(|| ReadError::damaged(path, format!("the block that ends at {number}")))?;
        each(block.topic, block.present_count() as u64);
        Ok(())
    })
}

//! Helpers: blocks with recognisable content, and a store in a folder of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use crate::disk::RealFileSystem;
use crate::domain::{Block, BlockBuilder, CommitNumber, Millis, Position, Sequence, TopicId};
use crate::store::{OpenError, Opened, ReadError, Replayed, StoreOptions, StoreReader, open};

/// A group as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) number: CommitNumber,
    pub(super) notes: Bytes,
    pub(super) blocks: Vec<Block>,
}

pub(super) fn block(topic: u64, position: u64, sequence: u64, events: &[Vec<u8>]) -> Block {
    let mut builder = BlockBuilder::default();
    events.iter().for_each(|event| builder.push(event));
    builder.finish(
        TopicId(topic),
        Position(position),
        Sequence(sequence),
        Millis(position),
    )
}

/// A block of `count` events of `bytes` bytes, all told apart by topic and position. Those at each third position repeat
/// themselves, so that they are stored compressed, and the others do not.
pub(super) fn filled(topic: u64, position: u64, sequence: u64, count: u64, bytes: usize) -> Block {
    let event = |index: u64| {
        let position = position + index;
        let mut event = format!("{topic}/{position}:").into_bytes();
        if position.is_multiple_of(3) {
            event.resize(event.len() + bytes, position as u8);
        } else {
            let mut noise = StdRng::seed_from_u64(position);
            event.extend((0..bytes).map(|_| noise.random::<u8>()));
        }
        event
    };
    block(
        topic,
        position,
        sequence,
        &(0..count).map(event).collect::<Vec<_>>(),
    )
}

pub(super) fn small_options() -> StoreOptions {
    StoreOptions {
        journal_file_bytes: 16 * 1024,
        generation_part_bytes: 256 * 1024,
        ..StoreOptions::default()
    }
}

pub(super) fn accepting() -> StoreOptions {
    StoreOptions {
        accept_loss: true,
        ..small_options()
    }
}

pub(super) fn try_start(dir: &Path, options: StoreOptions) -> Result<Opened, OpenError> {
    open(dir, options, Arc::new(RealFileSystem))
}

pub(super) fn start(dir: &Path) -> Opened {
    try_start(dir, small_options()).expect("store opens")
}

/// A folder in memory where there is such a thing: these tests open thousands of stores, and what a sync is
/// worth is tested by simulation, not by waiting for a disk.
pub(in crate::store) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("temporary folder")
}

/// What is replayed, with the blocks as a reader finds them.
pub(super) fn replayed(opened: &mut Opened) -> Vec<Group> {
    let groups = opened.replay.by_ref().filter_map(|piece| {
        let Replayed::Group(group) = piece.expect("sound journal") else {
            return None;
        };
        let blocks = group.blocks.iter().map(|meta| {
            let block = opened.reader.block_at(meta.first_position);
            let block = block.expect("readable").expect("in the journal");
            assert_eq!(
                (block.topic, block.first_sequence, block.count, block.time),
                (meta.topic, meta.first_sequence, meta.count, meta.time)
            );
            (*block).clone()
        });
        Some(Group {
            number: group.number,
            notes: group.notes.clone(),
            blocks: blocks.collect(),
        })
    });
    groups.collect()
}

/// Every block from `from` on, through the reader.
pub(super) fn read_all(reader: &StoreReader, from: u64) -> Result<Vec<Block>, ReadError> {
    let mut blocks = Vec::new();
    let mut from = Position(from);
    while let Some(block) = reader.next_block(from)? {
        from = block.last_position().next();
        blocks.push((*block).clone());
    }
    Ok(blocks)
}

/// Moves what a mark at `mark` releases into a generation, each block as `keep` makes it.
pub(super) fn checkpoint(
    opened: &mut Opened,
    mark: CommitNumber,
    keep: impl Fn(&Block) -> Option<Block>,
    state: &[(Bytes, Bytes)],
) {
    let metas = opened.checkpoints.journal_blocks(mark);
    let reader = opened.reader.clone();
    let blocks = metas.into_iter().filter_map(|meta| {
        let block = reader
            .block_at(meta.first_position)
            .map(|block| block.expect("in the journal"));
        block.map(|block| keep(&block)).transpose()
    });
    opened
        .checkpoints
        .write_generation(mark, blocks, state.iter().cloned())
        .expect("generation written");
}

pub(super) fn journal_files(dir: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(dir.join("journal")).expect("journal folder");
    let mut files: Vec<_> = listed.map(|entry| entry.expect("entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "log"));
    files.sort();
    files
}

/// Damages what of a database lies beside its log, by the beginning of its name.
pub(super) fn damage_beside(database: &Path, name: &str) {
    let folder = database.parent().expect("a folder");
    let mut damaged = 0;
    for entry in std::fs::read_dir(folder).expect("a database") {
        let path = entry.expect("entry").path();
        let is_meant = path
            .file_name()
            .is_some_and(|file| file.to_string_lossy().starts_with(name));
        if is_meant {
            let length = std::fs::metadata(&path).expect("a file").len();
            std::fs::write(&path, vec![0xA5; length as usize]).expect("damaged");
            damaged += 1;
        }
    }
    assert!(damaged > 0, "{name}");
}

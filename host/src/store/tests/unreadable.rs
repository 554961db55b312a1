//! What is damaged while the store is in use: it is asked for at intervals, the rest is read, and who accepts its loss passes over
//! it from then on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::harness::*;
use crate::disk::RealFileSystem;
use crate::domain::{Block, Position};
use crate::store::block_format::StoredBlock;
use crate::store::sealed::DatabaseWriter;
use crate::store::tests::faulty_disk::{FaultyFileSystem, Operation};
use crate::store::{CheckpointError, CheckpointFailure, Opened, ReadError, StoreOptions, open};

fn options(unreadable_retry_min: Duration) -> StoreOptions {
    StoreOptions {
        unreadable_retry_min,
        ..small_options()
    }
}

const NEVER: Duration = Duration::from_secs(3600);

// A store with 60 blocks of 20 events in a generation of several parts.
fn sealed(dir: &Path) -> Vec<Block> {
    let mut opened = start(dir);
    let blocks: Vec<Block> = (0..60)
        .map(|at| filled(1, 1 + at * 20, 1 + at * 20, 20, 1000))
        .collect();
    for block in &blocks {
        let appended = opened.journal.append(b"", std::slice::from_ref(block));
        appended.expect("append");
    }
    let mark = opened.journal.mark().expect("rotate");
    checkpoint(&mut opened, mark, |block| Some(block.clone()), &[]);
    blocks
}

fn database(dir: &Path, part: usize) -> PathBuf {
    dir.join(format!("generations/00000001/part-{part:04}/db"))
}

fn overwrite(path: &Path, at: usize, bytes: usize) -> Vec<u8> {
    let sound = fs::read(path).expect("a database");
    let mut damaged = sound.clone();
    let end = (at + bytes).min(sound.len());
    damaged[at..end].fill(0xA5);
    fs::write(path, damaged).expect("damaged");
    sound
}

// Every block that can be read, passing over what cannot, and the stretches that cannot.
fn readable(opened: &Opened) -> (Vec<Block>, Vec<(Position, Position)>) {
    let (mut blocks, mut lost) = (Vec::new(), Vec::new());
    let mut at = Position(1);
    loop {
        match opened.reader.next_block(at) {
            Ok(None) => return (blocks, lost),
            Ok(Some(block)) => {
                at = block.last_position().next();
                blocks.push((*block).clone());
            }
            Err(ReadError::Unreadable { first, last, .. }) => {
                assert!(first <= at && at <= last);
                lost.push((first, last));
                at = last.next();
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_database_that_does_not_open_is_known_for_all_its_events_and_not_opened_for_each() {
    let dir = folder();
    let blocks = sealed(dir.path());
    let sound = overwrite(&database(dir.path(), 1), 0, usize::MAX / 2);
    let opened = try_start(dir.path(), options(NEVER)).expect("starts");
    let (read, lost) = readable(&opened);
    assert_eq!(lost.len(), 1, "all of the part at once");
    let (first, last) = lost[0];
    let in_part = |block: &Block| first <= block.first_position && block.last_position() <= last;
    assert!(blocks.iter().any(in_part));
    let others: Vec<Block> = blocks
        .iter()
        .filter(|block| !in_part(block))
        .cloned()
        .collect();
    assert_eq!(read, others);
    assert_eq!(opened.reader.unreadable().len(), 1);
    // It is sound again, but nobody looks before it is time.
    fs::write(database(dir.path(), 1), sound).expect("mended");
    assert_eq!(readable(&opened).1, lost);
    drop(opened);

    let opened = try_start(dir.path(), options(Duration::ZERO)).expect("starts");
    let sound = overwrite(&database(dir.path(), 1), 0, usize::MAX / 2);
    assert_eq!(readable(&opened).1, lost);
    fs::write(database(dir.path(), 1), sound).expect("mended");
    assert_eq!(readable(&opened), (blocks, vec![]));
    assert_eq!(opened.reader.unreadable().len(), 0, "and it is over");
}

#[test]
fn what_nobody_needs_any_more_is_tried_again_too() {
    let dir = folder();
    sealed(dir.path());
    let opened = try_start(dir.path(), options(Duration::ZERO)).expect("starts");
    let sound = overwrite(&database(dir.path(), 1), 0, usize::MAX / 2);
    assert_eq!(readable(&opened).1.len(), 1);
    opened.reader.try_unneeded();
    assert_eq!(opened.reader.unreadable().len(), 1, "as it was");
    fs::write(database(dir.path(), 1), sound).expect("mended");
    opened.reader.try_unneeded();
    assert_eq!(opened.reader.unreadable().len(), 0, "and it is over");
    opened.reader.try_unneeded();
}

#[test]
fn of_a_damaged_database_everything_else_is_read_and_only_the_damage_is_given_up() {
    let dir = folder();
    let blocks = sealed(dir.path());
    // A page of it somewhere in the middle, in each of the first two parts.
    for part in [0, 1] {
        let path = database(dir.path(), part);
        let used = fs::read(&path).expect("a database");
        let used = used.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        overwrite(&path, used / 2, 512);
    }
    let opened = try_start(dir.path(), options(NEVER)).expect("starts");
    let (read, lost) = readable(&opened);
    assert!(!lost.is_empty(), "damaged");
    let is_lost = |block: &Block| {
        lost.iter()
            .any(|(first, last)| *first <= block.last_position() && block.first_position <= *last)
    };
    let others: Vec<Block> = blocks
        .iter()
        .filter(|block| !is_lost(block))
        .cloned()
        .collect();
    assert_eq!(read, others);
    drop(opened);

    let mut opened = try_start(dir.path(), options(NEVER)).expect("starts");
    let mut told = 0;
    let losses = opened
        .checkpoints
        .give_up_damage(true, |losses| told = losses.len());
    let losses = losses.expect("given up");
    assert_eq!(told, losses.len());
    assert!(
        losses
            .iter()
            .all(|loss| loss.kept_aside.as_ref().is_some_and(|path| path.is_file()))
    );
    let (read, lost) = readable(&opened);
    assert_eq!(lost, []);
    assert!(
        read.iter().all(|block| blocks.contains(block)),
        "nothing is made up"
    );
    assert!(
        read.len() >= others.len(),
        "and nothing more is lost: {} {}",
        read.len(),
        others.len()
    );
    // Once and for all.
    let again = opened
        .checkpoints
        .give_up_damage(true, |_| {})
        .expect("looked");
    assert_eq!(again, []);
    drop(opened);
    let opened = try_start(dir.path(), options(NEVER)).expect("a plain start");
    assert_eq!(readable(&opened), (read, vec![]));
}

#[test]
fn what_was_noted_of_a_part_is_over_when_it_turns_out_to_be_sound() {
    let dir = folder();
    let blocks = sealed(dir.path());
    let sound = overwrite(&database(dir.path(), 1), 0, usize::MAX / 2);
    let mut opened = try_start(dir.path(), options(NEVER)).expect("starts");
    readable(&opened);
    assert_eq!(opened.reader.unreadable().len(), 1);
    fs::write(database(dir.path(), 1), sound).expect("mended");
    let losses = opened.checkpoints.give_up_damage(false, |_| {});
    assert_eq!(losses.expect("looked"), []);
    assert_eq!(readable(&opened), (blocks, vec![]));
}

#[test]
fn a_lost_database_is_given_up_as_a_whole() {
    let dir = folder();
    let blocks = sealed(dir.path());
    overwrite(&database(dir.path(), 0), 0, usize::MAX / 2);
    let mut opened = try_start(dir.path(), options(NEVER)).expect("starts");
    let none = opened
        .checkpoints
        .give_up_damage(false, |_| {})
        .expect("looked");
    assert_eq!(none, [], "nobody has met it");
    let (read, lost) = readable(&opened);
    assert!(read.len() < blocks.len());
    let losses = opened
        .checkpoints
        .give_up_damage(false, |_| {})
        .expect("given up");
    assert_eq!(losses.len(), 1);
    assert_eq!(losses[0].positions, Some(lost[0]));
    assert_eq!(readable(&opened), (read, vec![]));
}

// Puts a database with these blocks in the place of a part.
fn replace(path: &Path, blocks: &[Block]) {
    fs::remove_dir_all(path).expect("a part");
    let mut writer = DatabaseWriter::create(&RealFileSystem, path.to_owned()).expect("create");
    for block in blocks {
        let stored = StoredBlock::encode(block).expect("encoded");
        let number = block.last_position().0;
        writer.put(number, &stored.pieces()).expect("put");
    }
    writer.finish().expect("finish");
}

#[test]
fn a_sound_database_that_is_not_the_one_it_should_be_is_damage_and_counts_nothing_as_done() {
    // Which blocks of the part are there, and which range of them cannot be read until that is accepted, and after.
    let check = |found: fn(&[Block], &[Block]) -> Vec<Block>,
                 unread: fn(usize) -> std::ops::Range<usize>,
                 given_up: fn(usize) -> std::ops::Range<usize>| {
        let dir = folder();
        let blocks = sealed(dir.path());
        let path = database(dir.path(), 0).with_file_name("");
        let lost = {
            let dir = folder();
            sealed(dir.path());
            overwrite(&database(dir.path(), 0), 0, usize::MAX / 2);
            readable(&try_start(dir.path(), options(NEVER)).expect("starts")).1
        };
        let end = lost[0].1;
        let of_part = blocks.partition_point(|block| block.last_position() <= end);
        let (mine, others) = blocks.split_at(of_part);
        replace(&path, &found(mine, others));
        let mut opened = try_start(dir.path(), options(NEVER)).expect("starts");
        let expected = |range: std::ops::Range<usize>| {
            let missing = &mine[range];
            let first = missing[0].first_position;
            let last = missing[missing.len() - 1].last_position();
            let left =
                |block: &&Block| block.last_position() < first || last < block.first_position;
            let left: Vec<Block> = blocks.iter().filter(left).cloned().collect();
            (left, (first, last))
        };
        let (left, stretch) = expected(unread(mine.len()));
        assert_eq!(readable(&opened), (left, vec![stretch]));
        assert!(opened.reader.unreadable()[0].why.is_damage());
        let losses = opened.checkpoints.give_up_damage(false, |_| {});
        let losses = losses.expect("given up");
        let (left, stretch) = expected(given_up(mine.len()));
        assert_eq!(losses.len(), 1);
        assert_eq!(losses[0].positions, Some(stretch));
        assert_eq!(readable(&opened), (left.clone(), vec![]));
        let again = opened.checkpoints.give_up_damage(true, |_| {});
        assert_eq!(again.expect("looked"), []);
        drop(opened);
        let opened = try_start(dir.path(), options(NEVER)).expect("a plain start");
        assert_eq!(readable(&opened), (left, vec![]));
    };
    // Another part.
    check(|_, others| others[..3].to_vec(), |all| 0..all, |all| 0..all);
    // Its end is not there.
    check(|mine, _| mine[..2].to_vec(), |all| 2..all, |all| 2..all);
    // Nothing is.
    check(|_, _| vec![], |all| 0..all, |all| 0..all);
    // Its beginning is not there, which could as well be another part.
    check(|mine, _| mine[1..].to_vec(), |all| 0..all, |_| 0..1);
}

#[test]
fn what_sled_can_make_again_of_the_log_costs_no_event() {
    for name in ["snap.", "conf"] {
        let dir = folder();
        let blocks = sealed(dir.path());
        damage_beside(&database(dir.path(), 0), name);
        let mut opened = try_start(dir.path(), options(NEVER)).expect("starts");
        assert_eq!(
            readable(&opened).1.len(),
            1,
            "{name}: a whole part does not open"
        );
        let losses = opened.checkpoints.give_up_damage(false, |_| {});
        assert_eq!(losses.expect("looked"), [], "{name}");
        assert_eq!(readable(&opened), (blocks.clone(), vec![]), "{name}");
        assert!(!dir.path().join("look").exists());
        drop(opened);
        let opened = try_start(dir.path(), options(NEVER)).expect("a plain start");
        assert_eq!(readable(&opened), (blocks, vec![]), "{name}");
    }
}

#[test]
fn what_could_not_be_given_up_is_as_it_was() {
    for operation in [Operation::Write, Operation::Rename, Operation::SyncDir] {
        let dir = folder();
        sealed(dir.path());
        overwrite(&database(dir.path(), 0), 0, usize::MAX / 2);
        let fs = FaultyFileSystem::default();
        let opened = open(dir.path(), options(NEVER), std::sync::Arc::new(fs.clone()));
        let mut opened = opened.expect("starts");
        let before = readable(&opened);
        assert_eq!(before.1.len(), 1);
        let path = match operation {
            // The folder of the manifest is the store's own.
            Operation::SyncDir => super::faults::dir_name(dir.path()),
            _ => "manifest",
        };
        fs.fail(operation, path);
        for _ in 0..2 {
            let refused = opened
                .checkpoints
                .give_up_damage(false, |_| panic!("nothing was given up"));
            assert!(
                matches!(
                    refused,
                    Err(CheckpointError::Retry(CheckpointFailure::Manifest(_)))
                ),
                "{operation:?}: {refused:?}"
            );
            assert_eq!(readable(&opened), before, "{operation:?}");
        }
        fs.heal();
        let mut told = 0;
        let losses = opened
            .checkpoints
            .give_up_damage(false, |losses| told = losses.len());
        assert_eq!((losses.expect("given up").len(), told), (1, 1));
        assert_eq!(readable(&opened), (before.0, vec![]));
    }
}

#[test]
fn a_damaged_block_of_the_journal_is_known_for_all_its_events() {
    let dir = folder();
    let mut opened = try_start(dir.path(), options(NEVER)).expect("starts");
    let block = filled(1, 1, 1, 20, 100);
    let appended = opened.journal.append(b"", std::slice::from_ref(&block));
    appended.expect("append");
    opened.journal.sync().expect("sync");
    let file = &journal_files(dir.path())[0];
    let bytes = fs::read(file).expect("the journal");
    let at = bytes
        .windows(4)
        .position(|four| four == b"1/5:")
        .expect("an event of it");
    overwrite(file, at, 8);
    for position in [1, 5, 20] {
        let read = opened.reader.block_at(Position(position));
        assert!(matches!(
            read,
            Err(ReadError::Unreadable {
                first: Position(1),
                last: Position(20),
                ..
            })
        ));
    }
    let unreadable = opened.reader.unreadable();
    assert_eq!(unreadable.len(), 1);
    assert!(unreadable[0].why.is_damage());
}

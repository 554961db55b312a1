//! Generations and what moves into them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::harness::*;
use crate::domain::{Block, CommitNumber, Position};
use crate::store::{CheckpointError, CheckpointRefusal, Loss, OpenError, Opened, StoreOptions};

fn pair(key: &'static str, value: Vec<u8>) -> (Bytes, Bytes) {
    (Bytes::from_static(key.as_bytes()), value.into())
}

#[test]
fn blocks_move_from_journal_to_generation_and_read_the_same() {
    let dir = folder();
    let mut opened = start(dir.path());
    // Larger than a value, thinned, dropped, untouched.
    let blocks = [
        filled(1, 1, 1, 1, 300_000),
        filled(2, 2, 1, 10, 100),
        filled(3, 12, 1, 2, 10),
        filled(1, 14, 2, 60, 1000),
    ];
    for block in &blocks {
        opened
            .journal
            .append(b"note", std::slice::from_ref(block))
            .expect("append");
    }
    let mark = opened.journal.mark().expect("rotate");
    assert_eq!(mark, CommitNumber(5));
    let after = filled(2, 74, 11, 3, 50);
    opened
        .journal
        .append(b"after", std::slice::from_ref(&after))
        .expect("append");
    opened.journal.sync().expect("sync");
    let before = opened.journal.usage().all.bytes;
    let thin = |block: &Block| {
        let dropped = [3, 7, 12, 13].map(Position);
        block
            .thinned(|position| !dropped.contains(&position))
            .expect("sound")
    };
    let state = [
        pair("a", vec![1; 200_000]),
        pair("", vec![]),
        pair("b", b"x".to_vec()),
    ];
    checkpoint(&mut opened, mark, thin, &state);
    let expected: Vec<Block> = blocks.iter().filter_map(thin).chain([after]).collect();
    assert_eq!(expected.len(), 4);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), expected);
    assert!(opened.journal.usage().all.bytes < before / 2);
    assert_eq!(opened.journal.usage().all.blocks, 1);
    assert_eq!(journal_files(dir.path()).len(), 1);
    let info = &opened.checkpoints.generations()[0];
    assert_eq!(
        (info.first_position, info.last_position),
        (Some(Position(1)), Some(Position(73)))
    );
    assert_eq!(info.events, 1 + 8 + 60);
    assert!(info.bytes > 300_000);
    drop(opened);
    let mut opened = start(dir.path());
    assert_eq!(opened.state, state);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), expected);
    let groups = replayed(&mut opened);
    assert_eq!(
        groups
            .iter()
            .map(|group| &group.notes[..])
            .collect::<Vec<_>>(),
        [b"after"]
    );
    let at = opened
        .reader
        .block_at(Position(3))
        .expect("read")
        .expect("thinned block covers it");
    assert_eq!(at.first_position, Position(2));
    assert_eq!(opened.reader.block_at(Position(12)).expect("read"), None);
}

// Appends one block of a recognisable size, moves it into a generation of its own, and answers it.
fn seal_one(opened: &mut Opened, position: u64, bytes: usize) -> Block {
    let block = filled(1, position, position, 1, bytes);
    opened
        .journal
        .append(b"", std::slice::from_ref(&block))
        .expect("append");
    let mark = opened.journal.mark().expect("rotate");
    let state = [pair("position", position.to_string().into())];
    checkpoint(opened, mark, |block| Some(block.clone()), &state);
    block
}

// Appends the blocks and moves them into the first generation.
fn move_all(opened: &mut Opened, blocks: &[Block]) {
    for block in blocks {
        opened
            .journal
            .append(b"", std::slice::from_ref(block))
            .expect("append");
    }
    let mark = opened.journal.mark().expect("rotate");
    checkpoint(opened, mark, |block| Some(block.clone()), &[]);
}

// Parts of the first generation: what is in its folder beside its state and what says about it.
fn parts(dir: &Path) -> usize {
    let folder = fs::read_dir(dir.join("generations/00000001"));
    folder.expect("folder").count() - 2
}

#[test]
fn events_that_repeat_themselves_take_little_of_a_generation() {
    let dir = folder();
    let mut opened = start(dir.path());
    let blocks: Vec<Block> = (1..=30)
        .map(|index| filled(1, 3 * index, index, 1, 60_000))
        .collect();
    move_all(&mut opened, &blocks);
    // As they are they would be seven.
    assert_eq!(parts(dir.path()), 1);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    drop(opened);
    let opened = start(dir.path());
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
}

#[test]
fn a_generation_is_split_into_parts_and_few_are_open_at_a_time() {
    let dir = folder();
    let mut opened = start(dir.path());
    let blocks: Vec<Block> = (0..45)
        .map(|index| filled(1, 1 + index, 1 + index, 1, 50_000))
        .collect();
    move_all(&mut opened, &blocks);
    let parts = parts(dir.path());
    assert!(parts >= 5, "{parts} parts");
    drop(opened);
    let uncached = StoreOptions {
        cache_bytes: 0,
        ..small_options()
    };
    let opened = try_start(dir.path(), uncached).expect("open");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (reader, blocks) = (opened.reader.clone(), &blocks);
            scope.spawn(move || {
                let from = 1 + thread * 7;
                assert_eq!(
                    read_all(&reader, from).expect("read"),
                    blocks[from as usize - 1..]
                );
            });
        }
    });
    let (now, peak) = opened.reader.databases_open_now_and_peak();
    assert!(now <= 2 && peak <= 2, "{now} open, {peak} at most");
}

#[test]
fn old_generations_are_deleted_and_the_newest_two_kept() {
    let dir = folder();
    let mut opened = start(dir.path());
    let blocks: Vec<Block> = (1..=4).map(|at| seal_one(&mut opened, at, 100)).collect();
    let bytes = opened.reader.usage().generation_bytes;
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    let checkpoints = &mut opened.checkpoints;
    assert!(matches!(
        checkpoints.delete_generation(4),
        Err(CheckpointError::Refused(CheckpointRefusal::Kept(4)))
    ));
    assert!(matches!(
        checkpoints.delete_generation(3),
        Err(CheckpointError::Refused(CheckpointRefusal::Kept(3)))
    ));
    assert!(matches!(
        checkpoints.delete_generation(9),
        Err(CheckpointError::Refused(CheckpointRefusal::Unknown(9)))
    ));
    checkpoints.delete_generation(1).expect("delete");
    checkpoints.delete_generation(2).expect("delete");
    let usage = opened.reader.usage();
    assert!(usage.generations == 2 && usage.generation_bytes < bytes);
    let left = read_all(&opened.reader, 0).expect("read");
    assert_eq!(left, blocks[2..], "although the others were read before");
    drop(opened);
    assert_eq!(
        fs::read_dir(dir.path().join("generations"))
            .expect("folder")
            .count(),
        2
    );
    let opened = start(dir.path());
    assert_eq!(opened.state, [pair("position", b"4".to_vec())]);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks[2..]);
}

#[test]
fn a_generation_that_the_manifest_does_not_name_is_removed() {
    let dir = folder();
    let mut opened = start(dir.path());
    let first = seal_one(&mut opened, 1, 100);
    let manifest = fs::read(dir.path().join("manifest")).expect("manifest");
    let second = filled(1, 2, 2, 1, 100);
    opened
        .journal
        .append(b"", std::slice::from_ref(&second))
        .expect("append");
    opened.journal.mark().expect("rotate");
    let journal: Vec<_> = journal_files(dir.path())
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).expect("read")))
        .collect();
    checkpoint(
        &mut opened,
        CommitNumber(3),
        |block| Some(block.clone()),
        &[],
    );
    drop(opened);
    // As if the process had ended right before the manifest was replaced.
    fs::write(dir.path().join("manifest"), manifest).expect("write");
    journal
        .iter()
        .for_each(|(path, bytes)| fs::write(path, bytes).expect("write"));
    let half = dir.path().join("generations/00000003/part-0000");
    fs::create_dir_all(&half).expect("folder");
    let opened = start(dir.path());
    assert_eq!(opened.checkpoints.generations().len(), 1);
    assert_eq!(
        fs::read_dir(dir.path().join("generations"))
            .expect("folder")
            .count(),
        1
    );
    assert_eq!(read_all(&opened.reader, 0).expect("read"), [first, second]);
}

#[test]
fn journal_files_that_a_checkpoint_could_not_remove_go_at_the_next_start() {
    let dir = folder();
    let mut opened = start(dir.path());
    opened
        .journal
        .append(b"old", &[filled(1, 1, 1, 1, 9)])
        .expect("append");
    opened.journal.mark().expect("rotate");
    let old = journal_files(dir.path()).remove(0);
    let bytes = fs::read(&old).expect("read");
    checkpoint(&mut opened, CommitNumber(2), |_| None, &[]);
    drop(opened);
    fs::write(&old, bytes).expect("write");
    let mut opened = start(dir.path());
    assert_eq!(replayed(&mut opened), []);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), []);
    assert!(!old.exists());
}

fn refused(dir: &Path) -> OpenError {
    try_start(dir, small_options())
        .map(|_| ())
        .expect_err("refused")
}

#[test]
fn a_damaged_state_falls_back_to_the_one_before_once_accepted() {
    let dir = folder();
    let mut opened = start(dir.path());
    let blocks: Vec<Block> = (1..=3).map(|at| seal_one(&mut opened, at, 100)).collect();
    drop(opened);
    fs::remove_dir_all(dir.path().join("generations/00000003/state")).expect("remove");
    let error = refused(dir.path());
    assert!(matches!(&error, OpenError::Corrupt { .. }), "{error:?}");
    let mut opened = try_start(dir.path(), accepting()).expect("accepted");
    let kept = |loss: &Loss| loss.kept_aside.is_some();
    assert!(!opened.losses.iter().any(kept), "there is nothing to keep");
    assert_eq!(opened.state, [pair("position", b"2".to_vec())]);
    assert!(!opened.losses.is_empty() && !opened.clean);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    seal_one(&mut opened, 4, 100);
    drop(opened);
    let opened = start(dir.path());
    assert_eq!(opened.state, [pair("position", b"4".to_vec())]);
    assert_eq!(read_all(&opened.reader, 0).expect("read").len(), 4);
}

// sled can make the rest again.
#[test]
fn a_state_whose_log_is_whole_is_no_loss() {
    for name in ["snap.", "conf"] {
        let dir = folder();
        let mut opened = start(dir.path());
        let blocks: Vec<Block> = (1..=3).map(|at| seal_one(&mut opened, at, 100)).collect();
        drop(opened);
        let log = dir.path().join("generations/00000003/state/db");
        damage_beside(&log, name);
        let before = fs::read(&log).expect("a log");
        let opened = start(dir.path());
        assert_eq!(opened.state, [pair("position", b"3".to_vec())], "{name}");
        assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
        assert!(
            before == fs::read(&log).expect("a log"),
            "{name}: it was written"
        );
        assert!(!dir.path().join("look").exists());
    }
}

#[test]
fn a_damaged_state_is_kept_aside_once_accepted() {
    let dir = folder();
    let mut opened = start(dir.path());
    for at in 1..=3 {
        seal_one(&mut opened, at, 100);
    }
    drop(opened);
    let state = dir.path().join("generations/00000003/state");
    fs::write(state.join("db"), [0; 1000]).expect("damaged");
    assert!(
        refused(dir.path())
            .to_string()
            .contains("kept in the folder `lost`")
    );
    let opened = try_start(dir.path(), accepting()).expect("accepted");
    let kept = dir.path().join("lost/00000003-state.1");
    assert_eq!(opened.losses[0].kept_aside.as_ref(), Some(&kept));
    assert!(
        fs::read(kept.join("db"))
            .expect("kept")
            .starts_with(&[0; 100])
    );
    assert!(!state.exists());
    drop(opened);
    assert!(start(dir.path()).losses.is_empty());
}

#[test]
fn a_damaged_manifest_is_rebuilt_from_the_generations_once_accepted() {
    let dir = folder();
    let mut opened = start(dir.path());
    let blocks: Vec<Block> = (1..=3).map(|at| seal_one(&mut opened, at, 100)).collect();
    drop(opened);
    fs::write(dir.path().join("manifest"), b"nonsense").expect("write");
    let message = refused(dir.path()).to_string();
    assert!(
        message.contains("made again of generations [1, 2, 3]"),
        "{message}"
    );
    let opened = try_start(dir.path(), accepting()).expect("accepted");
    assert_eq!(opened.state, [pair("position", b"3".to_vec())]);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    drop(opened);
    assert_eq!(
        read_all(&start(dir.path()).reader, 0).expect("read"),
        blocks
    );
}

#[test]
fn a_missing_part_is_refused_and_passed_over_once_accepted() {
    let dir = folder();
    let mut opened = start(dir.path());
    let blocks: Vec<Block> = (1..=3).map(|at| seal_one(&mut opened, at, 100)).collect();
    drop(opened);
    fs::remove_dir_all(dir.path().join("generations/00000002/part-0000")).expect("remove");
    let OpenError::Corrupt { losses } = refused(dir.path()) else {
        panic!("not corrupt")
    };
    assert_eq!(losses[0].positions, Some((Position(2), Position(2))));
    let check = |opened: Opened| {
        let left = [blocks[0].clone(), blocks[2].clone()];
        assert_eq!(read_all(&opened.reader, 0).expect("read"), left);
    };
    check(try_start(dir.path(), accepting()).expect("accepted"));
    check(start(dir.path()));
}

#[test]
fn readers_see_every_block_while_blocks_move_and_generations_go() {
    let dir = folder();
    let uncached = StoreOptions {
        cache_bytes: 0,
        ..small_options()
    };
    let mut opened = try_start(dir.path(), uncached).expect("open");
    seal_one(&mut opened, 1, 10);
    let done = AtomicBool::new(false);
    // Blocks up to here may be gone.
    let deleted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (reader, done, deleted) = (opened.reader.clone(), &done, &deleted);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let found = read_all(&reader, 0).expect("read");
                    let positions = found.iter().map(|block| block.first_position.0);
                    let mut expected = 1;
                    for position in positions {
                        let gone = deleted.load(Ordering::SeqCst);
                        assert!(
                            position == expected || position - 1 <= gone,
                            "{position}, {gone} gone"
                        );
                        expected = position + 1;
                    }
                }
            });
        }
        for position in 2..12 {
            seal_one(&mut opened, position, 10);
            if position > 4 {
                let oldest = opened.checkpoints.generations()[0].id;
                deleted.store(oldest, Ordering::SeqCst);
                opened
                    .checkpoints
                    .delete_generation(oldest)
                    .expect("delete");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_generation_is_given_up_at_its_next_step_and_is_written_later() {
    let dir = folder();
    let mut opened = start(dir.path());
    let blocks: Vec<Block> = (1..=6).map(|at| filled(1, at, at, 1, 100_000)).collect();
    for block in &blocks {
        let block = std::slice::from_ref(block);
        opened.journal.append(b"", block).expect("append");
    }
    let mark = opened.journal.mark().expect("rotate");
    let is_over = Arc::new(AtomicBool::new(true));
    let said = is_over.clone();
    let checkpoints = &mut opened.checkpoints;
    checkpoints.give_up_when(move || said.load(Ordering::Relaxed));
    let mut taken = 0;
    let taking = blocks.iter().map(|block| {
        taken += 1;
        Ok(block.clone())
    });
    let given_up = checkpoints.write_generation(mark, taking, std::iter::empty());
    let given_up = given_up.expect_err("it is over");
    assert!(matches!(given_up, CheckpointError::GivenUp), "{given_up:?}");
    assert_eq!(taken, 4, "a step is what fills a part");
    let folders = fs::read_dir(dir.path().join("generations")).expect("a folder");
    assert_eq!(folders.count(), 0);
    is_over.store(false, Ordering::Relaxed);
    checkpoint(&mut opened, mark, |block| Some(block.clone()), &[]);
    assert_eq!(read_all(&opened.reader, 0).expect("readable"), blocks);
}

//! Folders that are renamed, deleted or replaced, and lock files that are removed, under an open store: nothing is written where it
//! does not belong, nothing is taken for damage, and it goes on when they are back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::harness::*;
use crate::disk::RealFileSystem;
use crate::domain::Position;
use crate::store::startup::examine;
use crate::store::{OpenError, Opened, WriteError};

// A store with a block in a generation and one in the journal.
fn filled_store(dir: &Path) -> Opened {
    let mut opened = start(dir);
    append(&mut opened, 1);
    let mark = opened.journal.mark().expect("rotate");
    checkpoint(&mut opened, mark, |block| Some(block.clone()), &[]);
    append(&mut opened, 2);
    opened
}

fn append(opened: &mut Opened, position: u64) {
    let block = filled(1, position, position, 1, 100);
    opened.journal.append(b"", &[block]).expect("append");
    opened.journal.sync().expect("sync");
}

// Paths of everything below, with lengths of files.
fn everything(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(everything(&path));
        }
        let length = path.metadata().expect("there").len();
        all.push((path, length));
    }
    all.sort();
    all
}

#[test]
fn a_lock_file_that_is_removed_lets_nobody_else_in_and_is_made_again() {
    let dir = folder();
    let opened = filled_store(dir.path());
    fs::remove_file(dir.path().join("lock")).expect("removed");
    let second = try_start(dir.path(), small_options()).map(|_| ());
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    assert_eq!(opened.reader.folders().look(), None);
    assert!(dir.path().join("lock").is_file(), "for brokers of before");
    drop(opened);
    start(dir.path());
}

#[test]
fn a_lock_that_another_broker_took_ends_writing_until_it_is_gone() {
    let dir = folder();
    let mut opened = filled_store(dir.path());
    // As a broker does that locks nothing but the file.
    let path = dir.path().join("lock");
    fs::remove_file(&path).expect("removed");
    let other = fs::File::create(&path).expect("created");
    other.lock().expect("locked");
    let why = opened.reader.folders().look().expect("noticed");
    assert!(why.contains("locked by another broker"), "{why}");
    let later = opened.journal.make_room(10);
    assert!(matches!(later, Err(WriteError::Retry(_))), "{later:?}");
    drop(other);
    assert_eq!(opened.reader.folders().look(), None);
    opened.journal.make_room(10).expect("it is ours again");
}

#[test]
fn nothing_is_written_while_the_folder_is_elsewhere_and_it_goes_on_when_it_is_back() {
    for within in ["", "journal", "generations"] {
        let above = folder();
        let dir = above.path().join("store");
        let mut opened = filled_store(&dir);
        let (here, away) = (dir.join(within), above.path().join("away"));
        fs::rename(&here, &away).expect("renamed");
        // Nobody has looked yet.
        let later = opened.journal.mark();
        assert!(matches!(later, Err(WriteError::Retry(_))), "{later:?}");
        let why = opened.reader.folders().lost().expect("noticed");
        assert!(why.contains("is not there any more"), "{why}");
        opened.journal.make_room(10).expect_err("refused");
        fs::rename(&away, &here).expect("put back");
        assert_eq!(opened.reader.folders().look(), None);
        opened.journal.make_room(10).expect("it goes on");
        append(&mut opened, 3);
        let mark = opened.journal.mark().expect("rotate");
        checkpoint(&mut opened, mark, |block| Some(block.clone()), &[]);
        append(&mut opened, 4);
        opened.journal.close().expect("closed");
        drop((opened.reader, opened.checkpoints, opened.replay));
        let opened = start(&dir);
        assert!(opened.clean && opened.losses.is_empty());
        let all = read_all(&opened.reader, 0).expect("readable");
        assert_eq!(all.len(), 4, "{within}");
    }
}

#[test]
fn a_journal_file_that_is_removed_is_noticed_and_a_checkpoint_saves_what_is_in_it() {
    let dir = folder();
    let mut opened = filled_store(dir.path());
    assert_eq!(opened.reader.missing_journal_file(), None);
    let newest = journal_files(dir.path()).pop().expect("a file");
    fs::remove_file(&newest).expect("removed");
    assert_eq!(opened.reader.missing_journal_file(), Some(newest));
    append(&mut opened, 3);
    let mark = opened.journal.mark().expect("rotate");
    checkpoint(&mut opened, mark, |block| Some(block.clone()), &[]);
    assert_eq!(opened.reader.missing_journal_file(), None);
    append(&mut opened, 4);
    // Without a word, as when it is killed.
    drop(opened);
    let opened = start(dir.path());
    assert!(opened.losses.is_empty());
    assert_eq!(read_all(&opened.reader, 0).expect("readable").len(), 4);
}

#[test]
fn another_store_in_its_place_is_neither_written_nor_read() {
    let above = folder();
    let dir = above.path().join("store");
    let mut opened = filled_store(&dir);
    let mark = opened.journal.mark().expect("rotate");
    fs::rename(&dir, above.path().join("away")).expect("renamed");
    // Its first generation has the same name, and says something else of the same position.
    let mut other = start(&dir);
    let block = filled(7, 1, 1, 1, 100);
    other.journal.append(b"", &[block]).expect("append");
    let others_mark = other.journal.mark().expect("rotate");
    checkpoint(&mut other, others_mark, |block| Some(block.clone()), &[]);
    let before = everything(&dir);

    let read = opened.reader.block_at(Position(1));
    let error = read.expect_err("not ours");
    assert!(!error.is_damage(), "{error:?}");
    assert_eq!(opened.reader.unreadable().len(), 0, "nothing to give up");
    let why = opened.reader.folders().lost().expect("noticed");
    assert!(why.contains("is another folder"), "{why}");
    opened.journal.mark().expect("nothing is in this one");
    opened.journal.append(b"", &[]).expect("the file is open");
    opened.journal.mark().expect_err("no new file");
    let none = || std::iter::empty();
    let written = opened
        .checkpoints
        .write_generation(mark, std::iter::empty(), none());
    written.expect_err("no generation");
    let given_up = opened.checkpoints.give_up_damage(true, |_| {});
    given_up.expect_err("nothing is decided");
    opened
        .checkpoints
        .delete_generation(1)
        .expect_err("nor deleted");
    opened.checkpoints.release_reserve();
    opened.checkpoints.replenish().expect_err("nor reserved");
    opened.journal.close().expect("its file is open");
    drop((opened.reader, opened.checkpoints, opened.replay));
    assert_eq!(everything(&dir), before);
}

#[test]
fn a_folder_that_is_moved_while_the_broker_starts_is_not_begun_anew_in_its_place() {
    let above = folder();
    let (dir, away) = (above.path().join("store"), above.path().join("away"));
    drop(filled_store(&dir));
    let before = everything(&dir);
    let examined = examine(&dir, small_options(), Arc::new(RealFileSystem)).expect("examined");
    fs::rename(&dir, &away).expect("renamed");
    let refused = examined.begin().map(drop).expect_err("it is not there");
    assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
    assert!(!dir.exists(), "who puts it back finds its place taken");
    fs::rename(&away, &dir).expect("put back");
    assert_eq!(everything(&dir), before);
    start(&dir);
}

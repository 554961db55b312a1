//! A disk that reports failures: nothing is written after one, what was there before stays readable, and a
//! checkpoint that fails costs nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::faulty_disk::{Fault, FaultyFileSystem, Operation};
use super::harness::*;
use crate::domain::{CommitNumber, Position};
use crate::store::{
    CheckpointError, CheckpointFailure, CheckpointRefusal, JournalFailure, Opened, StoreOptions,
    WriteError, failing, open,
};

fn start_faulty(dir: &Path) -> (Opened, FaultyFileSystem) {
    let fs = FaultyFileSystem::default();
    let opened = open(dir, small_options(), Arc::new(fs.clone())).expect("store opens");
    (opened, fs)
}

fn is_poisoned<T>(result: Result<T, WriteError>) -> bool {
    matches!(
        result,
        Err(WriteError::Final(JournalFailure::Earlier { .. }))
    )
}

#[test]
fn any_failed_write_or_sync_is_final_and_reading_goes_on() {
    let check = |operation: Operation, path: &'static str, rotate: bool| {
        let dir = folder();
        let (mut opened, fs) = start_faulty(dir.path());
        let first = filled(1, 1, 1, 2, 10);
        opened
            .journal
            .append(b"kept", std::slice::from_ref(&first))
            .expect("append");
        opened.journal.sync().expect("sync");
        fs.fail(operation, path);
        let second = filled(1, 3, 3, 2, 10);
        let journal = &mut opened.journal;
        let failed = journal
            .append(b"lost", &[second])
            .and_then(|_| match rotate {
                true => journal.mark().map(|_| ()),
                false => journal.sync(),
            });
        assert!(
            matches!(failed, Err(WriteError::Final(JournalFailure::Now { .. }))),
            "{operation:?}: {failed:?}"
        );
        fs.heal();
        assert!(is_poisoned(opened.journal.sync()), "{operation:?}");
        assert!(
            is_poisoned(opened.journal.append(b"", &[])),
            "{operation:?}"
        );
        assert!(is_poisoned(opened.journal.mark()), "{operation:?}");
        opened.journal.make_readable();
        assert_eq!(read_all(&opened.reader, 0).expect("read")[0], first);
        let closed = opened.journal.close();
        assert!(
            matches!(closed, Err(JournalFailure::Earlier { .. })),
            "{operation:?}"
        );
        drop((opened.reader, opened.checkpoints, opened.replay));
        let mut opened = start(dir.path());
        assert!(!opened.clean);
        assert_eq!(&replayed(&mut opened)[0].notes[..], b"kept");
        opened
            .journal
            .append(b"more", &[filled(1, 9, 9, 1, 1)])
            .expect("append");
        opened.journal.sync().expect("sync");
    };
    check(Operation::Write, "journal", false);
    check(Operation::Sync, "journal", false);
    for operation in [
        Operation::Create,
        Operation::Allocate,
        Operation::Sync,
        Operation::Rename,
        Operation::SyncDir,
        Operation::Write,
    ] {
        check(operation, "journal", true);
    }
}

#[test]
fn a_block_of_a_failed_sync_is_never_readable() {
    let dir = folder();
    let (mut opened, fs) = start_faulty(dir.path());
    opened
        .journal
        .append(b"", &[filled(1, 1, 1, 1, 10)])
        .expect("append");
    fs.fail(Operation::Sync, "journal");
    opened.journal.sync().expect_err("injected");
    opened.journal.make_readable();
    assert_eq!(read_all(&opened.reader, 0).expect("read"), []);
}

#[test]
fn a_failed_generation_leaves_the_journal_and_the_next_attempt_works() {
    let dir = folder();
    let (mut opened, fs) = start_faulty(dir.path());
    let block = filled(1, 1, 1, 5, 100);
    opened
        .journal
        .append(b"", std::slice::from_ref(&block))
        .expect("append");
    let mark = opened.journal.mark().expect("rotate");
    let faults = [
        (Operation::Sync, "part-0000"),
        (Operation::Sync, "state"),
        (Operation::SyncDir, "part-0000"),
        (Operation::SyncDir, "generations"),
        (Operation::Create, "about"),
        (Operation::Sync, "about"),
    ];
    for (operation, path) in faults {
        fs.fail(operation, path);
        let blocks = std::iter::once(Ok(block.clone()));
        let failed = opened
            .checkpoints
            .write_generation(mark, blocks, std::iter::empty());
        assert!(
            matches!(
                failed,
                Err(CheckpointError::Retry(CheckpointFailure::Io { .. }))
            ),
            "{operation:?} {path}: {failed:?}"
        );
        fs.heal();
        let left = std::fs::read_dir(dir.path().join("generations"))
            .expect("folder")
            .count();
        assert_eq!(left, 0, "{operation:?} {path}");
        assert_eq!(journal_files(dir.path()).len(), 2);
    }
    checkpoint(&mut opened, mark, |block| Some(block.clone()), &[]);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), [block]);
    assert_eq!(journal_files(dir.path()).len(), 1);
}

// sled syncs when it closes a database, and panics when that fails.
#[test]
fn a_database_that_cannot_be_closed_fails_its_checkpoint_and_the_next_attempt_works() {
    let dir = folder();
    let (mut opened, _) = start_faulty(dir.path());
    let block = filled(1, 1, 1, 5, 100);
    opened
        .journal
        .append(b"", std::slice::from_ref(&block))
        .expect("append");
    let mark = opened.journal.mark().expect("rotate");
    for path in ["part-0000", "state"] {
        let within = dir.path().join("generations/00000001").join(path);
        let failing = failing::closing(&within);
        let blocks = std::iter::once(Ok(block.clone()));
        let failed = opened
            .checkpoints
            .write_generation(mark, blocks, std::iter::empty());
        assert!(
            matches!(
                failed,
                Err(CheckpointError::Retry(CheckpointFailure::Database(_)))
            ),
            "{path}: {failed:?}"
        );
        drop(failing);
        assert_eq!(journal_files(dir.path()).len(), 2);
    }
    checkpoint(&mut opened, mark, |block| Some(block.clone()), &[]);
    assert_eq!(journal_files(dir.path()).len(), 1);
    // Nor does it harm who only reads.
    let _failing = failing::closing(dir.path());
    assert_eq!(read_all(&opened.reader, 0).expect("read"), [block]);
}

#[test]
fn after_a_failed_manifest_the_next_checkpoint_works_and_nothing_is_lost() {
    let check = |operation: Operation, crash: bool| {
        let dir = folder();
        let (mut opened, fs) = start_faulty(dir.path());
        let block = filled(1, 1, 1, 5, 100);
        opened
            .journal
            .append(b"", std::slice::from_ref(&block))
            .expect("append");
        let mark = opened.journal.mark().expect("rotate");
        fs.fail(
            operation,
            match operation {
                // The folder of the manifest is the store's own.
                Operation::SyncDir => dir_name(dir.path()),
                _ => "manifest",
            },
        );
        let write = |opened: &mut Opened| {
            let blocks = std::iter::once(Ok(block.clone()));
            opened
                .checkpoints
                .write_generation(mark, blocks, std::iter::empty())
        };
        for _ in 0..2 {
            let failed = write(&mut opened);
            assert!(
                matches!(
                    failed,
                    Err(CheckpointError::Retry(CheckpointFailure::Manifest(_)))
                ),
                "{operation:?}: {failed:?}"
            );
        }
        assert_eq!(journal_files(dir.path()).len(), 2, "{operation:?}");
        fs.heal();
        opened
            .journal
            .append(b"", &[filled(1, 6, 6, 1, 1)])
            .expect("the journal goes on");
        opened.journal.sync().expect("the journal goes on");
        if !crash {
            write(&mut opened).expect("the disk is well again");
            assert_eq!(journal_files(dir.path()).len(), 1, "{operation:?}");
        }
        drop(opened);
        let opened = start(dir.path());
        assert_eq!(
            read_all(&opened.reader, 0).expect("read").len(),
            2,
            "{operation:?}"
        );
    };
    for operation in [
        Operation::Create,
        Operation::Write,
        Operation::Sync,
        Operation::Rename,
        Operation::SyncDir,
    ] {
        check(operation, true);
        check(operation, false);
    }
}

// A disk that is full, as far as anything new is concerned.
fn fill(fs: &FaultyFileSystem, path: &'static str) {
    let full = Fault::Error(io::ErrorKind::StorageFull);
    fs.fail_with(Operation::Allocate, path, full);
}

#[test]
fn a_full_disk_is_told_before_anything_is_written_and_passes() {
    let dir = folder();
    let (mut opened, fs) = start_faulty(dir.path());
    let big = filled(1, 1, 1, 1, 14_000);
    opened.journal.append(b"", &[big]).expect("append");
    fill(&fs, ".new");
    assert!(!opened.journal.is_short());
    // The first file that is needed then is the one in reserve.
    opened.journal.make_room(10_000).expect("the reserve");
    assert!(opened.journal.is_short(), "nothing else should be taken");
    opened.journal.append(b"acks", &[]).expect("room for acks");
    opened.checkpoints.replenish().expect_err("no room");
    let later = opened.journal.make_room(1 << 20);
    assert!(matches!(later, Err(WriteError::Retry(_))), "{later:?}");
    let later = opened.journal.mark();
    assert!(matches!(later, Err(WriteError::Retry(_))), "{later:?}");
    fs.heal();
    opened.checkpoints.replenish().expect("room again");
    assert!(!opened.journal.is_short());
    opened.journal.make_room(1 << 20).expect("room again");
    let next = filled(1, 2, 2, 1, 10);
    opened.journal.append(b"more", &[next]).expect("append");
    opened.journal.close().expect("closed");
    drop((opened.reader, opened.checkpoints, opened.replay));
    let mut opened = start(dir.path());
    assert!(opened.clean);
    let notes: Vec<_> = replayed(&mut opened)
        .into_iter()
        .map(|group| group.notes)
        .collect();
    assert_eq!(notes, [&b""[..], b"acks", b"more"]);
}

// As on a file system that does not keep what it reserved.
#[test]
fn a_write_that_finds_no_room_is_cut_back_and_passes() {
    let check = |first: bool, crash: bool| {
        let dir = folder();
        let (mut opened, fs) = start_faulty(dir.path());
        let mut blocks = Vec::new();
        if !first {
            blocks.push(filled(1, 1, 1, 2, 10));
            opened.journal.append(b"kept", &blocks).expect("append");
            opened.journal.sync().expect("sync");
        }
        let full = Fault::Error(io::ErrorKind::StorageFull);
        fs.fail_with(Operation::Write, "journal", full);
        let refused = filled(1, 3, 3, 50, 1_000);
        for _ in 0..3 {
            let only = std::slice::from_ref(&refused);
            let later = opened.journal.append(b"refused", only);
            assert!(matches!(later, Err(WriteError::Retry(_))), "{later:?}");
            assert!(opened.journal.is_short());
            opened.journal.sync().expect("what was there is as it was");
            assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
        }
        fs.heal();
        if !crash {
            blocks.push(filled(1, 5, 5, 1, 10));
            opened
                .journal
                .append(b"more", &blocks[blocks.len() - 1..])
                .expect("append");
            opened.journal.close().expect("closed");
        } else {
            drop(opened.journal);
        }
        drop((opened.reader, opened.checkpoints, opened.replay));
        let mut opened = start(dir.path());
        assert_eq!(opened.clean, !crash);
        assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
        let notes = replayed(&mut opened).into_iter().map(|group| group.notes);
        let expected: Vec<&[u8]> = [(!first, &b"kept"[..]), (!crash, b"more")]
            .into_iter()
            .filter_map(|(is_there, notes)| is_there.then_some(notes))
            .collect();
        assert!(notes.eq(expected), "{first} {crash}");
    };
    for (first, crash) in [(false, false), (false, true), (true, false), (true, true)] {
        check(first, crash);
    }
}

// Whoever closes cannot try again later.
#[test]
fn a_journal_that_finds_no_room_for_its_end_says_so_and_loses_nothing() {
    let dir = folder();
    let (mut opened, fs) = start_faulty(dir.path());
    let blocks = [filled(1, 1, 1, 2, 10)];
    opened.journal.append(b"", &blocks).expect("append");
    opened.journal.sync().expect("sync");
    let full = Fault::Error(io::ErrorKind::StorageFull);
    fs.fail_with(Operation::Write, "journal", full);
    let closed = opened.journal.close();
    assert!(
        matches!(&closed, Err(JournalFailure::Now { source, .. }) if source.kind() == io::ErrorKind::StorageFull),
        "{closed:?}"
    );
    fs.heal();
    drop((opened.reader, opened.checkpoints, opened.replay));
    let opened = start(dir.path());
    assert!(!opened.clean);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
}

#[test]
fn what_there_is_room_for_begins_no_file() {
    let dir = folder();
    let (mut opened, fs) = start_faulty(dir.path());
    let blocks = [filled(1, 1, 1, 20, 1_000)];
    opened.journal.append(b"", &blocks).expect("append");
    let bytes = |notes: &[u8]| opened.journal.group_bytes(notes, &[]);
    let groups: Vec<Vec<u8>> = (0..10).map(|n| vec![n; 2_000]).collect();
    let all = groups.iter().map(|notes| bytes(notes).expect("short"));
    let all = all.sum();
    opened.journal.make_room(all).expect("room");
    fs.fail(Operation::Create, "journal");
    for notes in &groups {
        opened.journal.append(notes, &[]).expect("it was there");
    }
    opened.journal.sync().expect("sync");
}

#[test]
fn a_start_on_a_full_disk_makes_do_with_little() {
    let dir = folder();
    let (mut opened, _) = start_faulty(dir.path());
    opened.journal.append(b"kept", &[]).expect("append");
    opened.journal.close().expect("closed");
    drop((opened.reader, opened.checkpoints, opened.replay));
    let fs = FaultyFileSystem::default();
    fs.limit_allocations(SMALL);
    let options = StoreOptions {
        journal_file_bytes: 16 * SMALL,
        ..small_options()
    };
    let mut opened = open(dir.path(), options, Arc::new(fs.clone())).expect("it starts");
    assert!(opened.journal.is_short(), "but takes no publishes");
    assert_eq!(&replayed(&mut opened)[0].notes[..], b"kept");
    opened.journal.append(b"acks", &[]).expect("room for acks");
    opened.journal.sync().expect("room for acks");
    fs.heal();
    opened.checkpoints.replenish().expect("room again");
    assert!(!opened.journal.is_short());
}

const SMALL: u64 = 256 << 10;

#[test]
fn files_that_run_out_are_no_fault_of_the_disk() {
    let dir = folder();
    let (mut opened, fs) = start_faulty(dir.path());
    opened.journal.append(b"", &[]).expect("append");
    // To make a file takes one, and to make its name durable another.
    for operation in [Operation::Create, Operation::SyncDir] {
        fs.fail_with(operation, "journal", Fault::OutOfFiles);
        for _ in 0..2 {
            let later = opened.journal.mark();
            assert!(matches!(later, Err(WriteError::Retry(_))), "{later:?}");
        }
        assert!(!opened.journal.is_short());
        fs.heal();
        opened.journal.mark().expect("there are some again");
        opened.journal.append(b"", &[]).expect("append");
    }
    opened.journal.close().expect("closed");
    drop((opened.reader, opened.checkpoints, opened.replay));
    let mut opened = start(dir.path());
    assert!(opened.clean);
    assert_eq!(replayed(&mut opened).len(), 3);
}

#[test]
fn a_folder_that_was_away_for_a_moment_is_no_fault_of_the_disk() {
    let dir = folder();
    let (mut opened, fs) = start_faulty(dir.path());
    opened.journal.append(b"", &[]).expect("append");
    // When it is looked for afterwards, it is back.
    for operation in [Operation::Create, Operation::Rename, Operation::SyncDir] {
        fs.fail_with(operation, "journal", Fault::Error(io::ErrorKind::NotFound));
        let later = opened.journal.mark();
        assert!(matches!(later, Err(WriteError::Retry(_))), "{later:?}");
        fs.heal();
        opened.journal.mark().expect("it is there");
        opened.journal.append(b"", &[]).expect("append");
    }
    opened.journal.close().expect("closed");
    drop((opened.reader, opened.checkpoints, opened.replay));
    let mut opened = start(dir.path());
    assert!(opened.clean);
    assert_eq!(replayed(&mut opened).len(), 4);
}

#[test]
fn a_checkpoint_for_which_there_is_no_room_says_so_and_gets_the_reserve() {
    let dir = folder();
    let (mut opened, fs) = start_faulty(dir.path());
    let block = filled(1, 1, 1, 5, 100);
    let only = std::slice::from_ref(&block);
    opened.journal.append(b"", only).expect("append");
    let mark = opened.journal.mark().expect("rotate");
    let full = Fault::Error(io::ErrorKind::StorageFull);
    for path in ["about", "manifest"] {
        fs.fail_with(Operation::Write, path, full);
        let blocks = std::iter::once(Ok(block.clone()));
        let failed = opened
            .checkpoints
            .write_generation(mark, blocks, std::iter::empty());
        let failed = failed.expect_err("no room");
        assert!(matches!(failed, CheckpointError::NoRoom(_)), "{failed:?}");
    }
    assert!(!opened.checkpoints.release_reserve(), "the manifest had it");
    assert!(opened.journal.is_short());
    fs.heal();
    checkpoint(&mut opened, mark, |block| Some(block.clone()), &[]);
    opened.checkpoints.replenish().expect("room again");
    assert!(opened.checkpoints.release_reserve());
}

pub(super) fn dir_name(dir: &Path) -> &'static str {
    let name = dir.file_name().expect("named").to_string_lossy();
    Box::leak(format!("={name}").into_boxed_str())
}

#[test]
fn a_journal_file_that_cannot_be_removed_goes_with_the_next_release() {
    let dir = folder();
    let (mut opened, fs) = start_faulty(dir.path());
    let mut release = |position: u64, failing: bool| {
        opened
            .journal
            .append(b"", &[filled(1, position, position, 1, 100)])
            .expect("append");
        let mark = opened.journal.mark().expect("rotate");
        match failing {
            true => fs.fail(Operation::Remove, ".log"),
            false => fs.heal(),
        }
        checkpoint(&mut opened, mark, |block| Some(block.clone()), &[]);
        journal_files(dir.path()).len()
    };
    assert_eq!(release(1, true), 2);
    assert_eq!(release(2, true), 3);
    assert_eq!(release(3, false), 1);
}

#[test]
fn a_mark_beyond_the_journal_or_before_the_last_is_refused() {
    let dir = folder();
    let (mut opened, _) = start_faulty(dir.path());
    let mut write = |mark: u64| {
        let none = std::iter::empty();
        opened
            .checkpoints
            .write_generation(CommitNumber(mark), none, std::iter::empty())
    };
    assert!(matches!(
        write(2),
        Err(CheckpointError::Refused(CheckpointRefusal::Mark { .. }))
    ));
    assert!(write(1).is_ok());
    assert!(matches!(
        write(0),
        Err(CheckpointError::Refused(CheckpointRefusal::Mark { .. }))
    ));
    let blocks = [filled(1, 5, 1, 2, 1), filled(1, 6, 2, 1, 1)];
    let blocks = blocks.into_iter().map(Ok);
    let refused = opened
        .checkpoints
        .write_generation(CommitNumber(1), blocks, std::iter::empty());
    assert!(
        matches!(
            refused,
            Err(CheckpointError::Refused(CheckpointRefusal::Order(
                Position(6)
            )))
        ),
        "{refused:?}"
    );
}

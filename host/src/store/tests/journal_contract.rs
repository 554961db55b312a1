//! What every journal promises to whoever writes to it and reads from it, checked against the file journal and the one in memory
//! alike, so that tests which use the one say something of the other.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::harness::*;
use super::memory_store::MemoryStore;
use crate::disk::RealFileSystem;
use crate::domain::{Block, CommitNumber, Position};
use crate::store::journal::memory_journal::{Call, Fault};
use crate::store::{
    JournalFailure, JournalSize, Opened, StoreOptions, WriteError, WriteRefusal, open,
};

// Runs a test on a store of each kind; its second argument opens the same one again, after a crash.
fn check(test: impl Fn(Opened, &mut dyn FnMut(Opened) -> Opened)) {
    let dir = folder();
    let file = |dir: &Path| {
        let options = StoreOptions {
            journal_file_bytes: 16 * 1024,
            ..StoreOptions::default()
        };
        open(dir, options, Arc::new(RealFileSystem)).expect("a store")
    };
    test(file(dir.path()), &mut |opened| {
        drop(opened);
        file(dir.path())
    });
    let mut memory = Some(MemoryStore::new());
    let opened = memory.as_ref().expect("it is there").open();
    test(opened, &mut |opened| {
        drop(opened);
        let left = memory.take().expect("it is there").after_crash();
        memory.insert(left).open()
    });
}

fn block(position: u64) -> Block {
    filled(1, position, position, 2, 100)
}

fn positions(opened: &Opened) -> Vec<u64> {
    let blocks = read_all(&opened.reader, 0).expect("readable");
    blocks.iter().map(|block| block.first_position.0).collect()
}

#[test]
fn blocks_are_seen_once_they_are_durable_or_released_to_readers_and_found_by_position() {
    check(|mut opened, _| {
        opened.journal.append(b"", &[block(1)]).expect("append");
        assert_eq!(positions(&opened), [0; 0]);
        opened.journal.make_readable();
        assert_eq!(positions(&opened), [1]);
        opened.journal.append(b"", &[block(5)]).expect("append");
        assert_eq!(positions(&opened), [1]);
        opened.journal.sync().expect("sync");
        assert_eq!(positions(&opened), [1, 5]);
        let at = |position| opened.reader.block_at(Position(position)).expect("read");
        assert_eq!(at(2).as_deref(), Some(&block(1)));
        assert_eq!(at(3), None, "between two");
    });
}

#[test]
fn a_group_is_refused_without_a_trace_and_what_comes_after_it_is_not() {
    check(|mut opened, _| {
        opened.journal.append(b"", &[block(5)]).expect("append");
        let refused = opened.journal.append(b"", &[block(6)]);
        let early = WriteError::Refused(WriteRefusal::Order(Position(6)));
        assert_eq!(format!("{refused:?}"), format!("{:?}", Err::<(), _>(early)));
        let number = opened.journal.append(b"", &[block(7)]).expect("append");
        assert_eq!(number, CommitNumber(2));
        opened.journal.sync().expect("sync");
        assert_eq!(positions(&opened), [5, 7]);
        assert_eq!(opened.journal.next_position(), Position(9));
    });
}

#[test]
fn what_was_synced_is_there_after_a_crash_in_order_with_its_notes() {
    check(|mut opened, crash| {
        for (number, notes) in [(1, "one"), (2, ""), (3, "three")] {
            let blocks = [block(10 * number)];
            let given = opened.journal.append(notes.as_bytes(), &blocks);
            assert_eq!(given.expect("append"), CommitNumber(number));
        }
        opened.journal.sync().expect("sync");
        let mut opened = crash(opened);
        assert!(!opened.clean);
        let groups = replayed(&mut opened);
        let notes: Vec<_> = groups.iter().map(|group| group.notes.clone()).collect();
        assert_eq!(notes, [&b"one"[..], b"", b"three"]);
        assert_eq!(positions(&opened), [10, 20, 30]);
        assert_eq!(opened.journal.next_number(), CommitNumber(4));
        assert_eq!(opened.journal.next_position(), Position(32));
    });
}

#[test]
fn a_journal_that_was_closed_is_clean() {
    check(|mut opened, again| {
        opened.journal.append(b"last", &[]).expect("append");
        let (journal, rest) = (opened.journal, opened.reader);
        journal.close().expect("closed");
        drop((rest, opened.replay));
        // Whatever is given goes; what matters is what is opened.
        let scratch = MemoryStore::new().open();
        let emptied = Opened {
            checkpoints: opened.checkpoints,
            ..scratch
        };
        assert!(again(emptied).clean);
    });
}

#[test]
fn a_mark_is_durable_and_a_checkpoint_of_it_releases_what_came_before() {
    check(|mut opened, crash| {
        opened.journal.append(b"", &[block(1)]).expect("append");
        opened.journal.append(b"", &[block(3)]).expect("append");
        let mark = opened.journal.mark().expect("marked");
        assert_eq!(mark, CommitNumber(3));
        assert_eq!(opened.journal.usage().unmarked, JournalSize::default());
        opened
            .journal
            .append(b"after", &[block(5)])
            .expect("append");
        opened.journal.sync().expect("sync");
        let usage = opened.journal.usage();
        assert_eq!((usage.all.blocks, usage.unmarked.blocks), (3, 1));
        let metas = opened.checkpoints.journal_blocks(mark);
        assert_eq!(metas.len(), 2);
        let segments = opened.checkpoints.journal_segments(mark);
        assert_eq!(segments.last().expect("some").end, mark);
        assert_eq!(segments.iter().map(|one| one.events).sum::<u64>(), 4);
        let state = [(Bytes::from_static(b"key"), Bytes::from_static(b"value"))];
        let keep = |block: &Block| (block.first_position == Position(3)).then(|| block.clone());
        checkpoint(&mut opened, mark, keep, &state);
        assert_eq!(opened.journal.usage().all.blocks, 1);
        assert_eq!(positions(&opened), [3, 5]);
        let mut opened = crash(opened);
        assert_eq!(opened.state, state);
        let notes = replayed(&mut opened);
        assert_eq!(notes.len(), 1);
        assert_eq!(&notes[0].notes[..], b"after");
        assert_eq!(positions(&opened), [3, 5]);
    });
}

#[test]
fn the_one_in_memory_fails_as_it_is_told_and_then_goes_on_unless_for_good() {
    let store = MemoryStore::new();
    let mut opened = store.open();
    store.journal.fail_next(Call::Append, Fault::Refuse);
    store.journal.fail_next(Call::MakeRoom, Fault::Full);
    store.journal.fail_next(Call::Mark, Fault::Retry);
    let refused = opened.journal.append(b"", &[block(1)]);
    assert!(matches!(refused, Err(WriteError::Refused(_))));
    let full = opened.journal.make_room(1);
    assert!(matches!(full, Err(WriteError::Retry(delay)) if delay.is_full()));
    let later = opened.journal.mark();
    assert!(matches!(later, Err(WriteError::Retry(delay)) if !delay.is_full()));
    opened.journal.append(b"", &[block(1)]).expect("append");
    opened.journal.sync().expect("sync");
    opened.journal.append(b"", &[block(3)]).expect("append");
    store.journal.fail_next(Call::Sync, Fault::Final);
    let failed = opened.journal.sync();
    let now = |error: &WriteError| matches!(error, WriteError::Final(JournalFailure::Now { .. }));
    assert!(failed.is_err_and(|error| now(&error)));
    let earlier = opened.journal.append(b"", &[]);
    assert!(matches!(
        earlier,
        Err(WriteError::Final(JournalFailure::Earlier { .. }))
    ));
    assert_eq!(positions(&opened), [1], "what was not synced is not seen");
    assert_eq!(
        (store.journal.groups().len(), store.journal.syncs()),
        (1, 1)
    );
    store.journal.damage(Position(1)..=Position(1));
    assert_eq!(positions(&opened), [1], "it was read before");
    let error = store.open().reader.block_at(Position(1));
    assert!(error.is_err_and(|error| error.is_damage()));
}

#[test]
fn the_one_in_memory_has_the_limits_that_it_is_given() {
    let store = MemoryStore::new();
    let mut opened = store.open();
    store.journal.set_group_bytes_max(500);
    let long = opened.journal.append(&[0; 600], &[]);
    let bytes_max = 500;
    assert!(matches!(
        long,
        Err(WriteError::Refused(WriteRefusal::TooLong {
            bytes_max: 500
        }))
    ));
    store.journal.set_bytes_max(bytes_max);
    assert!(!opened.journal.usage().is_full);
    for _ in 0..2 {
        opened.journal.append(&[0; 300], &[]).expect("append");
    }
    assert!(opened.journal.usage().is_full);
    assert!(!opened.journal.is_short());
    store.journal.set_short(true);
    assert!(opened.journal.is_short());
    store.journal.set_displaced(Some("it is elsewhere"));
    assert_eq!(
        opened.journal.displaced().as_deref(),
        Some("it is elsewhere")
    );
    store.journal.set_displaced(None);
    assert_eq!(opened.journal.displaced(), None);
}

//! The journal when nothing goes wrong.

use super::harness::*;
use crate::domain::{CommitNumber, Position};
use crate::store::{JournalSize, OpenError, StoreOptions, WriteError, WriteRefusal};

fn group(number: u64, notes: &'static [u8], blocks: Vec<crate::domain::Block>) -> Group {
    Group {
        number: CommitNumber(number),
        notes: notes.into(),
        blocks,
    }
}

#[test]
fn groups_come_back_as_they_were_appended() {
    let dir = folder();
    let blocks = vec![
        filled(1, 1, 1, 3, 20),
        filled(2, 4, 1, 1, 0),
        filled(1, 5, 4, 40, 900),
    ];
    let mut opened = start(dir.path());
    assert!(opened.clean && opened.state.is_empty() && opened.losses.is_empty());
    assert_eq!(
        opened
            .journal
            .append(b"first", &blocks[..2])
            .expect("append"),
        CommitNumber(1)
    );
    assert_eq!(
        opened.journal.append(b"", &[]).expect("append"),
        CommitNumber(2)
    );
    assert_eq!(
        opened
            .journal
            .append(b"third", &blocks[2..])
            .expect("append"),
        CommitNumber(3)
    );
    opened.journal.sync().expect("sync");
    drop(opened);
    let mut opened = start(dir.path());
    assert!(!opened.clean);
    let expected = [
        group(1, b"first", blocks[..2].to_vec()),
        group(2, b"", vec![]),
        group(3, b"third", blocks[2..].to_vec()),
    ];
    assert_eq!(replayed(&mut opened), expected);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    assert_eq!(
        opened.journal.append(b"", &[]).expect("append"),
        CommitNumber(4)
    );
    opened.journal.close().expect("close");
    drop((opened.reader, opened.checkpoints, opened.replay));
    let mut opened = start(dir.path());
    assert!(opened.clean);
    assert_eq!(replayed(&mut opened).len(), 4);
}

#[test]
fn blocks_are_found_by_any_position() {
    let dir = folder();
    let mut opened = start(dir.path());
    for index in 0..50 {
        let block = filled(index % 3, 1 + index * 10, 1 + index, 5, 700);
        opened.journal.append(b"", &[block]).expect("append");
    }
    opened.journal.sync().expect("sync");
    assert!(journal_files(dir.path()).len() > 5, "several files");
    let check = |position: u64, at: Option<u64>, next: Option<u64>| {
        let block = opened.reader.block_at(Position(position)).expect("read");
        assert_eq!(
            block.map(|block| block.first_position.0),
            at,
            "at {position}"
        );
        let block = opened.reader.next_block(Position(position)).expect("read");
        assert_eq!(
            block.map(|block| block.first_position.0),
            next,
            "from {position}"
        );
    };
    check(0, None, Some(1));
    check(1, Some(1), Some(1));
    check(5, Some(1), Some(1));
    check(6, None, Some(11));
    check(254, Some(251), Some(251));
    check(256, None, Some(261));
    check(495, Some(491), Some(491));
    check(496, None, None);
}

#[test]
fn blocks_are_readable_once_synced_or_released_to_readers() {
    let dir = folder();
    let mut opened = start(dir.path());
    let seen = |opened: &crate::store::Opened| read_all(&opened.reader, 0).expect("read").len();
    opened
        .journal
        .append(b"", &[filled(1, 1, 1, 1, 1)])
        .expect("append");
    assert_eq!((seen(&opened), opened.journal.usage().all.blocks), (0, 1));
    opened.journal.sync().expect("sync");
    assert_eq!(seen(&opened), 1);
    opened
        .journal
        .append(b"", &[filled(1, 2, 2, 1, 1)])
        .expect("append");
    opened.journal.make_readable();
    assert_eq!(seen(&opened), 2);
}

#[test]
fn a_group_larger_than_a_file_gets_a_larger_file() {
    let dir = folder();
    let mut opened = start(dir.path());
    let blocks = [
        filled(1, 1, 1, 1, 10),
        filled(1, 2, 2, 1, 100_000),
        filled(1, 3, 3, 1, 10),
    ];
    for block in &blocks {
        opened
            .journal
            .append(b"", std::slice::from_ref(block))
            .expect("append");
    }
    opened.journal.sync().expect("sync");
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    drop(opened);
    assert_eq!(
        read_all(&start(dir.path()).reader, 0).expect("read"),
        blocks
    );
}

#[test]
fn blocks_out_of_order_are_refused_and_the_writer_goes_on() {
    let dir = folder();
    let mut opened = start(dir.path());
    opened
        .journal
        .append(b"", &[filled(1, 10, 1, 5, 1)])
        .expect("append");
    let refused = opened.journal.append(b"", &[filled(1, 14, 6, 1, 1)]);
    assert!(
        matches!(
            refused,
            Err(WriteError::Refused(WriteRefusal::Order(Position(14))))
        ),
        "{refused:?}"
    );
    opened
        .journal
        .append(b"", &[filled(1, 15, 6, 1, 1)])
        .expect("append");
    opened.journal.sync().expect("sync");
    assert_eq!(read_all(&opened.reader, 0).expect("read").len(), 2);
}

#[test]
fn the_journal_is_full_by_bytes_before_the_reserve_or_by_blocks() {
    let check = |options: StoreOptions, bytes: usize| -> u64 {
        let dir = folder();
        let mut opened = try_start(dir.path(), options).expect("open");
        let mut appended = 0;
        while !opened.journal.usage().is_full {
            appended += 1;
            let block = filled(1, appended, appended, 1, bytes);
            opened.journal.append(b"", &[block]).expect("append");
            assert!(appended < 1000);
        }
        appended
    };
    let sized = StoreOptions {
        journal_bytes_max: 100_000,
        journal_reserve_bytes: 50_000,
        ..small_options()
    };
    let by_bytes = check(sized, 1000);
    assert!((25..45).contains(&by_bytes), "{by_bytes}");
    assert_eq!(
        check(
            StoreOptions {
                journal_blocks_max: 7,
                ..small_options()
            },
            1
        ),
        7
    );
}

#[test]
fn what_came_after_a_mark_is_counted_apart_and_a_start_counts_all() {
    let dir = folder();
    let mut opened = start(dir.path());
    assert_eq!(opened.journal.usage().unmarked.blocks, 0);
    for number in 1..=3 {
        let block = filled(1, number, number, 1, 1_000);
        opened.journal.append(b"", &[block]).expect("append");
    }
    let JournalSize { bytes, blocks } = opened.journal.usage().unmarked;
    assert!((3_000..4_000).contains(&bytes), "{bytes}");
    assert_eq!(blocks, 3);
    opened.journal.mark().expect("rotate");
    assert_eq!(opened.journal.usage().unmarked, JournalSize::default());
    let block = filled(1, 4, 4, 1, 1_000);
    opened.journal.append(b"", &[block]).expect("append");
    assert_eq!(opened.journal.usage().unmarked.blocks, 1);
    opened.journal.close().expect("close");
    drop((opened.reader, opened.checkpoints));
    // No checkpoint was made of the mark, so all of it is still to be released.
    let opened = start(dir.path());
    assert_eq!(
        opened.journal.usage().unmarked.blocks,
        opened.journal.usage().all.blocks
    );
    assert_eq!(opened.journal.usage().all.blocks, 4);
}

#[test]
fn a_second_opener_is_refused_until_every_part_is_gone() {
    let dir = folder();
    let opened = start(dir.path());
    let reader = opened.reader.clone();
    drop(opened);
    let refused = try_start(dir.path(), small_options()).err();
    assert!(
        matches!(refused, Some(OpenError::InUse { .. })),
        "{refused:?}"
    );
    assert!(
        refused
            .expect("refused")
            .to_string()
            .contains("another broker is running on")
    );
    drop(reader);
    start(dir.path());
}

#[test]
fn closing_and_opening_without_groups_leaves_one_file() {
    let dir = folder();
    for _ in 0..3 {
        let opened = start(dir.path());
        assert!(opened.clean);
        opened.journal.close().expect("close");
    }
    assert_eq!(journal_files(dir.path()).len(), 1);
}

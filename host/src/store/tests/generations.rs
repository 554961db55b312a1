//! Generations and what moves into them.

use bytes::Bytes;

use super::harness::*;
use crate::domain::{Block, CommitNumber, Position};
use crate::store::{CheckpointError, OpenError, ReadError};

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
    let mark = opened.journal.rotate().expect("rotate");
    assert_eq!(mark, CommitNumber(5));
    let after = filled(2, 74, 11, 3, 50);
    opened
        .journal
        .append(b"after", std::slice::from_ref(&after))
        .expect("append");
    opened.journal.sync().expect("sync");
    let before = opened.journal.used_bytes();
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
    assert!(opened.journal.used_bytes() < before / 2);
    assert_eq!(opened.journal.blocks(), 1);
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

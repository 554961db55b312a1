//! What the disk may do to a store that is not running: cut, flip, lose. A torn end is cut off; anything else
//! is refused by name until the loss is accepted, and then only what is damaged is gone.

use std::fs;
use std::path::Path;

use super::harness::*;
use crate::domain::{Block, CommitNumber, Position, Sequence, TopicId};
use crate::store::{Loss, LostRange, OpenError, StoreOptions};

const HEAD: usize = 4096;

// Three synced groups of two topics each, in one file; answers them and where each record ends.
fn three_groups(dir: &Path) -> (Vec<Group>, Vec<usize>) {
    let mut opened = start(dir);
    let mut groups = Vec::new();
    let mut ends = Vec::new();
    for index in 0..3 {
        let position = 1 + index * 5;
        let blocks = vec![
            filled(1, position, 1 + index * 3, 3, 9),
            filled(2, position + 3, 1 + index * 2, 2, 4),
        ];
        let notes = format!("notes {index}");
        let number = opened
            .journal
            .append(notes.as_bytes(), &blocks)
            .expect("append");
        opened.journal.sync().expect("sync");
        groups.push(Group {
            number,
            notes: notes.into(),
            blocks,
        });
        ends.push(opened.journal.usage().all.bytes as usize);
    }
    (groups, ends)
}

fn write_journal(dir: &Path, bytes: &[u8]) {
    let folder = dir.join("journal");
    let _ = fs::remove_dir_all(&folder);
    let _ = fs::remove_dir_all(dir.join("lost"));
    // It knows of a later journal than this.
    let _ = fs::remove_file(dir.join("witness"));
    fs::create_dir_all(&folder).expect("folder");
    fs::write(folder.join(format!("{:020}.log", 1)), bytes).expect("write");
}

fn refused(dir: &Path) -> Vec<Loss> {
    match try_start(dir, small_options()).map(|_| ()) {
        Err(OpenError::Corrupt { losses }) => losses,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn a_last_record_torn_at_any_byte_is_cut_off() {
    let dir = folder();
    let (groups, ends) = three_groups(dir.path());
    let bytes = fs::read(&journal_files(dir.path())[0]).expect("journal");
    for at in ends[1]..ends[2] {
        let mut torn_variants = vec![bytes[..at].to_vec()];
        let mut zeroed = bytes.clone();
        zeroed[at..].fill(0);
        torn_variants.push(zeroed);
        let mut hole = bytes.clone();
        hole[ends[1]..at].fill(0);
        torn_variants.push(hole);
        for torn in torn_variants.into_iter().skip(at % 3) {
            // A record that lost only bytes which are zero anyway is whole.
            let whole = torn.get(..ends[2]) == bytes.get(..ends[2]);
            let count = if whole { 3 } else { 2 };
            write_journal(dir.path(), &torn);
            let mut opened = start(dir.path());
            assert_eq!(replayed(&mut opened), groups[..count], "at {at}");
            if at % 16 != 0 {
                continue;
            }
            opened.journal.append(b"next", &[]).expect("append");
            opened.journal.sync().expect("sync");
            drop(opened);
            let mut opened = start(dir.path());
            let again = replayed(&mut opened);
            assert_eq!(again.len(), count + 1, "at {at}");
            assert_eq!(again[count].number, CommitNumber(count as u64 + 1));
        }
    }
}

#[test]
fn a_flipped_byte_before_the_last_record_is_refused_and_costs_only_its_group() {
    let dir = folder();
    let (groups, ends) = three_groups(dir.path());
    let bytes = fs::read(&journal_files(dir.path())[0]).expect("journal");
    for at in (HEAD..ends[1]).step_by(5) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        write_journal(dir.path(), &flipped);
        let damaged = usize::from(at >= ends[0]);
        let losses =
            match try_start(dir.path(), small_options()).map(|mut opened| replayed(&mut opened)) {
                Err(OpenError::Corrupt { losses }) => losses,
                // Padding after the last block is covered by nothing and means nothing.
                Ok(replayed) if replayed == groups => continue,
                other => panic!("at {at}: {other:?}"),
            };
        let number = groups[damaged].number;
        assert_eq!(losses[0].groups, Some((number, Some(number))), "at {at}");
        let mut opened = try_start(dir.path(), accepting()).expect("accepted");
        assert_eq!(opened.losses.len(), 1, "at {at}");
        let kept = opened.losses[0].kept_aside.as_ref().expect("kept aside");
        assert_eq!(fs::read(kept).expect("copy"), flipped);
        let first = replayed(&mut opened);
        let others = |found: &[Group]| -> Vec<Group> {
            found
                .iter()
                .filter(|group| group.number != number)
                .cloned()
                .collect()
        };
        assert_eq!(others(&first), others(&groups), "at {at}");
        // What remains of the damaged group is true.
        for group in first.iter().filter(|group| group.number == number) {
            assert_eq!(group.notes, groups[damaged].notes);
            assert!(
                group
                    .blocks
                    .iter()
                    .all(|block| is_emptied(block) || groups[damaged].blocks.contains(block))
            );
        }
        drop(opened);
        let mut opened = start(dir.path());
        assert!(opened.losses.is_empty());
        assert_eq!(replayed(&mut opened), first, "at {at}");
    }
}

#[test]
fn a_loss_names_topics_sequences_and_positions() {
    let dir = folder();
    let (_, ends) = three_groups(dir.path());
    let bytes = fs::read(&journal_files(dir.path())[0]).expect("journal");
    let check = |at: usize, positions: (u64, u64), ranges: &[(u64, u64, u64)], notes: bool| {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        write_journal(dir.path(), &flipped);
        let losses = refused(dir.path());
        let [loss] = losses.as_slice() else {
            panic!("{losses:?}")
        };
        assert_eq!(
            loss.positions,
            Some((Position(positions.0), Position(positions.1)))
        );
        let expected: Vec<LostRange> = ranges
            .iter()
            .map(|(topic, first, last)| LostRange {
                topic: TopicId(*topic),
                first: Sequence(*first),
                last: Sequence(*last),
            })
            .collect();
        assert_eq!(loss.ranges, expected);
        assert_eq!(loss.notes, notes);
        let message = OpenError::Corrupt {
            losses: losses.clone(),
        }
        .to_string();
        assert!(
            message.contains("the loss accepted") && message.contains("sequences"),
            "{message}"
        );
    };
    // The header: the group is gone. The last body: only the second block is.
    check(ends[0] + 20, (6, 10), &[(1, 4, 6), (2, 3, 4)], true);
    check(ends[1] - 9, (9, 10), &[(2, 3, 4)], false);
}

#[test]
fn a_flip_in_the_last_group_counts_as_torn_only_without_a_clean_shutdown() {
    let dir = folder();
    let mut opened = start(dir.path());
    opened
        .journal
        .append(b"only", &[filled(1, 1, 1, 1, 50)])
        .expect("append");
    opened.journal.close().expect("close");
    drop((opened.reader, opened.checkpoints, opened.replay));
    let mut bytes = fs::read(&journal_files(dir.path())[0]).expect("journal");
    bytes[HEAD + 48 + 10] ^= 1;
    write_journal(dir.path(), &bytes);
    let losses = refused(dir.path());
    assert_eq!(
        losses[0].groups.map(|(first, _)| first),
        Some(CommitNumber(1))
    );
}

// A journal of one block per group that was closed; answers the blocks, and its bytes with a flip in the last byte of the
// second block.
fn closed_and_flipped(dir: &Path) -> (Vec<Block>, Vec<u8>) {
    let mut opened = start(dir);
    let blocks: Vec<_> = (0..3)
        .map(|index| filled(1, 1 + index * 2, 1 + index * 2, 2, 100))
        .collect();
    let mut flip_at = 0;
    for (index, block) in blocks.iter().enumerate() {
        let one = std::slice::from_ref(block);
        opened.journal.append(b"notes", one).expect("append");
        if index == 1 {
            // Before the padding of a record to a multiple of 8.
            flip_at = opened.journal.usage().all.bytes as usize - 8;
        }
    }
    opened.journal.close().expect("close");
    let mut bytes = fs::read(&journal_files(dir)[0]).expect("journal");
    bytes[flip_at] ^= 1;
    (blocks, bytes)
}

#[test]
fn what_was_damaged_after_a_clean_end_is_found_by_who_reads_it() {
    let dir = folder();
    let (blocks, bytes) = closed_and_flipped(dir.path());
    write_journal(dir.path(), &bytes);
    let opened = start(dir.path());
    assert!(opened.clean && opened.losses.is_empty());
    let read = |position: u64| opened.reader.block_at(Position(position));
    for sound in [0, 2] {
        let found = read(1 + sound * 2).expect("readable");
        assert_eq!(found.as_deref(), Some(&blocks[sound as usize]));
    }
    let error = read(3).expect_err("damaged").to_string();
    assert!(error.contains("given up"), "{error}");
    drop(opened);
    // That run did not end cleanly, so the next start reads everything.
    assert_eq!(refused(dir.path()).len(), 1);
}

#[test]
fn losses_are_accepted_after_a_clean_end_as_well() {
    let dir = folder();
    let (blocks, bytes) = closed_and_flipped(dir.path());
    write_journal(dir.path(), &bytes);
    let opened = try_start(dir.path(), accepting()).expect("accepted");
    let [loss] = opened.losses.as_slice() else {
        panic!("{:?}", opened.losses)
    };
    assert_eq!(loss.positions, Some((Position(3), Position(4))));
    assert!(!loss.notes);
    let left = read_all(&opened.reader, 0).expect("read");
    assert_eq!([&left[0], &left[2]], [&blocks[0], &blocks[2]]);
    assert!(is_emptied(&left[1]));
}

// What was damaged keeps its place.
fn is_emptied(block: &Block) -> bool {
    block.kept.as_ref().is_some_and(Vec::is_empty) && block.entries.is_empty()
}

#[test]
fn either_copy_of_a_file_head_is_enough() {
    let dir = folder();
    let (groups, _) = three_groups(dir.path());
    let bytes = fs::read(&journal_files(dir.path())[0]).expect("journal");
    for at in [0, 9, 20, 2048, 2060] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        write_journal(dir.path(), &flipped);
        assert_eq!(replayed(&mut start(dir.path())), groups, "at {at}");
    }
    let mut flipped = bytes;
    flipped[0] ^= 1;
    flipped[2048] ^= 1;
    write_journal(dir.path(), &flipped);
    assert_eq!(refused(dir.path())[0].groups, Some((CommitNumber(1), None)));
    let mut opened = try_start(dir.path(), accepting()).expect("accepted");
    assert_eq!(replayed(&mut opened), []);
    opened.journal.append(b"", &[]).expect("append");
}

// A journal of several files with one group each; answers the groups.
fn many_files(dir: &Path) -> Vec<Block> {
    let mut opened = start(dir);
    let mut blocks = Vec::new();
    for index in 0..4 {
        let block = filled(1, 1 + index * 2, 1 + index * 2, 2, 100);
        opened
            .journal
            .append(b"", std::slice::from_ref(&block))
            .expect("append");
        opened.journal.mark().expect("rotate");
        blocks.push(block);
    }
    blocks
}

#[test]
fn a_damaged_or_missing_file_before_another_is_refused_by_name() {
    let check = |index: usize, damage: &dyn Fn(&Path), lost: Option<u64>| {
        let dir = folder();
        let blocks = many_files(dir.path());
        damage(&journal_files(dir.path())[index]);
        let losses = refused(dir.path());
        let number = CommitNumber(index as u64 + 1);
        assert_eq!(losses[0].groups, Some((number, Some(number))), "{losses:?}");
        let mut opened = try_start(dir.path(), accepting()).expect("accepted");
        let left: Vec<Block> = blocks
            .into_iter()
            .filter(|block| Some(block.first_position.0) != lost)
            .collect();
        assert_eq!(read_all(&opened.reader, 0).expect("read"), left);
        assert_eq!(opened.journal.next_number(), CommitNumber(5));
        opened.journal.append(b"", &[]).expect("append");
        drop(opened);
        let mut opened = start(dir.path());
        assert_eq!(read_all(&opened.reader, 0).expect("read"), left);
        assert_eq!(replayed(&mut opened).len(), left.len() + 1);
    };
    let cut = |path: &Path| {
        let bytes = fs::read(path).expect("read");
        fs::write(path, &bytes[..HEAD + 60]).expect("write");
    };
    let remove = |path: &Path| fs::remove_file(path).expect("remove");
    let no_head = |path: &Path| {
        let mut bytes = fs::read(path).expect("read");
        bytes[..HEAD].fill(7);
        fs::write(path, &bytes).expect("write");
    };
    for index in [0, 1, 3] {
        let lost = Some(1 + index as u64 * 2);
        check(index, &cut, lost);
        check(index, &remove, lost);
        check(index, &no_head, lost);
    }
}

#[test]
fn unsynced_groups_written_out_of_order_are_torn_not_damaged() {
    let dir = folder();
    let mut opened = start(dir.path());
    opened.journal.append(b"synced", &[]).expect("append");
    opened.journal.sync().expect("sync");
    let start_of_second = opened.journal.usage().all.bytes as usize;
    opened.journal.append(b"second", &[]).expect("append");
    opened.journal.append(b"third", &[]).expect("append");
    drop(opened);
    let mut bytes = fs::read(&journal_files(dir.path())[0]).expect("journal");
    // The power went while both were in the cache; only the third was written.
    bytes[start_of_second..start_of_second + 8].fill(0);
    write_journal(dir.path(), &bytes);
    let mut opened = start(dir.path());
    assert_eq!(replayed(&mut opened).len(), 1);
    assert_eq!(opened.journal.next_number(), CommitNumber(2));
}

#[test]
fn planted_bytes_do_not_pass_for_a_record() {
    let dir = folder();
    let (_, ends) = three_groups(dir.path());
    let other = fs::read(&journal_files(dir.path())[0]).expect("journal");
    let record = &other[ends[1]..ends[2]];
    let second = folder();
    let mut opened = start(second.path());
    opened.journal.append(b"", &[]).expect("append");
    opened.journal.sync().expect("sync");
    let at = opened.journal.usage().all.bytes as usize;
    // A publisher's event that looks like a record of a later group, in a record that is torn.
    opened
        .journal
        .append(b"", &[block(1, 1, 1, &[vec![0; 5], record.to_vec()])])
        .expect("append");
    drop(opened);
    let mut bytes = fs::read(&journal_files(second.path())[0]).expect("journal");
    bytes[at] ^= 1;
    write_journal(second.path(), &bytes);
    assert_eq!(replayed(&mut start(second.path())).len(), 1);
}

#[test]
fn any_bytes_are_survived() {
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    let mut random = StdRng::seed_from_u64(7);
    let dir = folder();
    let (groups, ends) = three_groups(dir.path());
    let bytes = fs::read(&journal_files(dir.path())[0]).expect("journal");
    for _ in 0..150 {
        let mut bytes = bytes[..random.random_range(0..ends[2] + 100)].to_vec();
        for _ in 0..random.random_range(1..20) {
            if !bytes.is_empty() {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
        }
        write_journal(dir.path(), &bytes);
        if let Ok(mut opened) = try_start(
            dir.path(),
            StoreOptions {
                accept_loss: true,
                ..small_options()
            },
        ) {
            for group in replayed(&mut opened) {
                let original = &groups[group.number.0 as usize - 1];
                assert_eq!(group.notes, original.notes);
                assert!(
                    group
                        .blocks
                        .iter()
                        .all(|block| is_emptied(block) || original.blocks.contains(block))
                );
            }
        }
    }
}

//! What is not there: the end of a journal that was closed, its newest file, the manifest, a whole folder. What is known of it
//! from elsewhere makes it a loss by name, never a fresh start; a start that is refused changes nothing; and nothing is deleted
//! that may be of use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::faulty_disk::{FaultyFileSystem, Operation};
use super::harness::*;
use crate::disk::RealFileSystem;
use crate::domain::{Block, CommitNumber, Position, TopicId};
use crate::store::{Loss, OpenError, Opened, Replayed, StoreOptions, examine, open};

fn close(opened: Opened) {
    opened.journal.close().expect("close");
}

// Appends and syncs groups of one block each.
fn append(opened: &mut Opened, positions: std::ops::Range<u64>) -> Vec<Block> {
    let blocks: Vec<Block> = positions.map(|at| filled(1, at, at, 1, 50)).collect();
    for block in &blocks {
        let one = std::slice::from_ref(block);
        opened.journal.append(b"notes", one).expect("append");
    }
    opened.journal.sync().expect("sync");
    blocks
}

// A journal of four groups in two files, closed, and then damaged.
fn closed(dir: &Path, damage: impl FnOnce(&Path)) -> Vec<Block> {
    let mut opened = start(dir);
    let mut blocks = append(&mut opened, 1..3);
    opened.journal.mark().expect("rotate");
    blocks.extend(append(&mut opened, 3..5));
    close(opened);
    damage(journal_files(dir).last().expect("a file"));
    blocks
}

// Every file but the lock with its content, and what sled adds to its databases left out.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("folder") {
            let path = entry.expect("entry").path();
            let name = path
                .file_name()
                .expect("named")
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name != "lock" && !name.starts_with("snap.") {
                let bytes = fs::read(&path).expect("read");
                found.insert(path, bytes);
            }
        }
    }
    found
}

fn refused(dir: &Path) -> Vec<Loss> {
    let before = tree(dir);
    let losses = match try_start(dir, small_options()).map(|_| ()) {
        Err(OpenError::Corrupt { losses }) => losses,
        other => panic!("expected a refusal, got {other:?}"),
    };
    assert!(before == tree(dir), "a refused start wrote");
    losses
}

// Starts with the loss accepted, works, and starts without.
fn accepted(dir: &Path, left: &[Block]) -> Vec<Loss> {
    let mut opened = try_start(dir, accepting()).expect("accepted");
    let losses = std::mem::take(&mut opened.losses);
    assert!(!losses.is_empty());
    assert_eq!(read_all(&opened.reader, 0).expect("read"), left);
    let gaps = |opened: &mut Opened| {
        let pieces = opened.replay.by_ref().map(|piece| piece.expect("sound"));
        pieces.filter(|piece| *piece == Replayed::Gap).count()
    };
    assert_eq!(gaps(&mut opened), 1);
    let new = append(&mut opened, 1000..1001);
    drop(opened);
    let mut opened = start(dir);
    assert!(opened.losses.is_empty());
    assert_eq!(gaps(&mut opened), 1, "who starts again has to know of it");
    let all = [left, &new].concat();
    assert_eq!(read_all(&opened.reader, 0).expect("read"), all);
    losses
}

#[test]
fn the_end_of_a_closed_journal_that_is_missing_is_a_loss() {
    // `keep` answers how much of what was written is left.
    let cut = |keep: fn(usize) -> usize| {
        move |path: &Path| {
            let bytes = fs::read(path).expect("read");
            let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            let written = (written + 1).next_multiple_of(8);
            fs::write(path, &bytes[..keep(written)]).expect("written");
        }
    };
    let zero = |path: &Path| {
        let mut bytes = fs::read(path).expect("read");
        bytes[4096..].fill(0);
        fs::write(path, bytes).expect("written");
    };
    let check = |damage: &dyn Fn(&Path), first: u64, left: usize| {
        let dir = folder();
        let blocks = closed(dir.path(), damage);
        let groups = Some((CommitNumber(first), Some(CommitNumber(4))));
        let losses = refused(dir.path());
        assert_eq!(losses[0].groups, groups, "{losses:?}");
        let losses = accepted(dir.path(), &blocks[..left]);
        assert_eq!(losses[0].groups, groups, "{losses:?}");
        assert!(
            losses[0]
                .kept_aside
                .as_ref()
                .is_some_and(|kept| kept.exists())
        );
    };
    check(&cut(|_| 4096), 3, 2);
    check(&cut(|length| length - 60), 4, 3);
    check(&zero, 3, 2);
    // All of the close record and nothing else: nothing is lost.
    let dir = folder();
    let blocks = closed(dir.path(), cut(|length| length - 48));
    assert_eq!(
        read_all(&start(dir.path()).reader, 0).expect("read"),
        blocks
    );
}

#[test]
fn damage_within_a_closed_file_is_no_torn_end() {
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).expect("read");
        bytes[4096 + 20] ^= 1;
        // The close record, which told of it until now, as well: its number is all that is not zero near its end.
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        bytes[end] ^= 1;
        fs::write(path, bytes).expect("written");
    };
    let dir = folder();
    let blocks = closed(dir.path(), flip);
    let three = Some((CommitNumber(3), Some(CommitNumber(3))));
    assert_eq!(refused(dir.path())[0].groups, three);
    let left = [&blocks[..2], &blocks[3..]].concat();
    accepted(dir.path(), &left);
}

#[test]
fn the_end_of_another_history_is_not_taken_for_the_one_that_was_closed() {
    let dir = folder();
    let other = folder();
    closed(dir.path(), |_| ());
    let mut opened = start(other.path());
    append(&mut opened, 1..3);
    opened.journal.mark().expect("rotate");
    append(&mut opened, 7..9);
    close(opened);
    let newest = |dir: &Path| journal_files(dir).pop().expect("a file");
    fs::copy(newest(other.path()), newest(dir.path())).expect("copied");
    let four = Some((CommitNumber(4), Some(CommitNumber(4))));
    assert_eq!(refused(dir.path())[0].groups, four);
    let mut opened = try_start(dir.path(), accepting()).expect("accepted");
    append(&mut opened, 1000..1001);
    drop(opened);
    start(dir.path());
}

#[test]
fn a_newest_file_that_is_missing_is_a_loss() {
    let check = |close_it: bool, remove_all: bool, left: usize| {
        let dir = folder();
        let mut opened = start(dir.path());
        let mut blocks = append(&mut opened, 1..3);
        opened.journal.mark().expect("rotate");
        blocks.extend(append(&mut opened, 3..5));
        match close_it {
            true => close(opened),
            false => drop(opened),
        }
        let files = journal_files(dir.path());
        let gone = files.iter().skip(usize::from(!remove_all));
        gone.for_each(|path| fs::remove_file(path).expect("removed"));
        let first = CommitNumber(1 + left as u64);
        let last = close_it.then_some(CommitNumber(4));
        assert_eq!(refused(dir.path())[0].groups, Some((first, last)));
        accepted(dir.path(), &blocks[..left]);
    };
    check(true, false, 2);
    check(false, false, 2);
    check(true, true, 0);
    check(false, true, 0);
}

#[test]
fn a_witness_that_could_not_be_opened_is_opened_when_it_can() {
    let dir = folder();
    let fs = FaultyFileSystem::default();
    fs.fail(Operation::Allocate, "=witness");
    let opened = open(dir.path(), small_options(), Arc::new(fs.clone()));
    let mut opened = opened.expect("it goes without");
    append(&mut opened, 1..3);
    opened.journal.mark().expect("still without");
    fs.heal();
    append(&mut opened, 3..5);
    opened.journal.mark().expect("rotate");
    append(&mut opened, 5..7);
    close(opened);
    let newest = journal_files(dir.path()).pop().expect("a file");
    fs::remove_file(newest).expect("removed");
    let groups = refused(dir.path())[0].groups;
    assert_eq!(groups, Some((CommitNumber(5), Some(CommitNumber(6)))));
}

#[test]
fn an_older_store_has_no_witness_and_no_manifest_and_opens() {
    let dir = folder();
    let blocks = closed(dir.path(), |_| ());
    fs::remove_file(dir.path().join("witness")).expect("removed");
    fs::remove_file(dir.path().join("manifest")).expect("removed");
    let opened = start(dir.path());
    assert!(opened.clean);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    // From now on it has both.
    drop(opened);
    fs::remove_dir_all(dir.path().join("journal")).expect("removed");
    assert_eq!(refused(dir.path()).len(), 1);
}

#[test]
fn a_journal_that_an_older_broker_went_on_with_is_ahead_of_the_witness_and_opens() {
    let dir = folder();
    let mut blocks = closed(dir.path(), |_| ());
    let witness = fs::read(dir.path().join("witness")).expect("read");
    let mut opened = start(dir.path());
    blocks.extend(append(&mut opened, 5..8));
    drop(opened);
    fs::write(dir.path().join("witness"), witness).expect("written");
    assert_eq!(
        read_all(&start(dir.path()).reader, 0).expect("read"),
        blocks
    );
}

#[test]
fn a_damaged_witness_costs_nothing_but_what_it_could_have_told() {
    let dir = folder();
    let blocks = closed(dir.path(), |_| ());
    fs::write(dir.path().join("witness"), [7; 8192]).expect("written");
    let opened = start(dir.path());
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    drop(opened);
    fs::remove_file(journal_files(dir.path()).pop().expect("a file")).expect("removed");
    refused(dir.path());
}

// Three generations, and two groups in the journal after them.
fn with_generations(dir: &Path) -> Vec<Block> {
    let mut opened = start(dir);
    let mut blocks = Vec::new();
    for at in 1..4 {
        blocks.extend(append(&mut opened, at..at + 1));
        let mark = opened.journal.mark().expect("rotate");
        let state = [("position".into(), at.to_string().into())];
        checkpoint(&mut opened, mark, |block| Some(block.clone()), &state);
    }
    blocks.extend(append(&mut opened, 4..6));
    close(opened);
    blocks
}

fn generations(dir: &Path) -> usize {
    fs::read_dir(dir.join("generations"))
        .expect("folder")
        .count()
}

#[test]
fn a_manifest_that_is_missing_is_made_again_of_the_generations() {
    let dir = folder();
    let blocks = with_generations(dir.path());
    fs::remove_file(dir.path().join("manifest")).expect("removed");
    let losses = refused(dir.path());
    let [loss] = losses.as_slice() else {
        panic!("{losses:?}")
    };
    let why = loss.why.clone().unwrap_or_default();
    assert!(
        loss.path.ends_with("manifest") && why.contains("[1, 2, 3]"),
        "{why}"
    );
    let opened = try_start(dir.path(), accepting()).expect("accepted");
    assert_eq!(opened.state, [("position".into(), "3".into())]);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    assert_eq!(generations(dir.path()), 3);
    drop(opened);
    assert_eq!(
        read_all(&start(dir.path()).reader, 0).expect("read"),
        blocks
    );
}

#[test]
fn without_manifest_and_journal_nothing_is_deleted_and_both_are_named() {
    let dir = folder();
    let blocks = with_generations(dir.path());
    fs::remove_file(dir.path().join("manifest")).expect("removed");
    fs::remove_dir_all(dir.path().join("journal")).expect("removed");
    let losses = refused(dir.path());
    assert_eq!(losses.len(), 2, "{losses:?}");
    assert_eq!(
        losses[1].groups,
        Some((CommitNumber(4), Some(CommitNumber(5))))
    );
    accepted(dir.path(), &blocks[..3]);
    assert_eq!(generations(dir.path()), 3);
}

#[test]
fn what_describes_itself_no_more_is_set_aside_and_its_number_not_given_again() {
    let dir = folder();
    let blocks = with_generations(dir.path());
    fs::write(dir.path().join("manifest"), b"nonsense").expect("written");
    fs::remove_file(dir.path().join("generations/00000003/about")).expect("removed");
    for foreign in ["lost+found", "00000002.bak"] {
        fs::create_dir_all(dir.path().join("generations").join(foreign)).expect("folder");
    }
    fs::write(dir.path().join("generations/.DS_Store"), b"").expect("written");
    refused(dir.path());
    // What the third held is not among what counts any more, but it is there.
    let mut opened = try_start(dir.path(), accepting()).expect("accepted");
    let left = [&blocks[..2], &blocks[3..]].concat();
    assert_eq!(read_all(&opened.reader, 0).expect("read"), left);
    assert!(dir.path().join("lost/00000003.1/part-0000/db").exists());
    assert_eq!(
        generations(dir.path()),
        2 + 3,
        "nothing of others is touched"
    );
    append(&mut opened, 1000..1001);
    let mark = opened.journal.mark().expect("rotate");
    checkpoint(&mut opened, mark, |block| Some(block.clone()), &[]);
    let ids = opened.checkpoints.generations();
    assert_eq!(ids.last().map(|one| one.id), Some(4));
}

#[test]
fn a_generation_tells_of_groups_that_the_journal_must_have_had() {
    let dir = folder();
    with_generations(dir.path());
    // As an older manifest and an older journal would be: neither knows of the newest generation.
    let mut text = fs::read_to_string(dir.path().join("manifest")).expect("read");
    text.truncate(text.find("generation 3").expect("named"));
    text += &format!("crc {:08x}\n", crc32c::crc32c(text.as_bytes()));
    fs::write(dir.path().join("manifest"), text).expect("written");
    fs::remove_file(dir.path().join("witness")).expect("removed");
    fs::remove_dir_all(dir.path().join("journal")).expect("removed");
    assert_eq!(refused(dir.path())[0].groups, Some((CommitNumber(3), None)));
    drop(try_start(dir.path(), accepting()).expect("accepted"));
    assert!(dir.path().join("lost/00000003.1/part-0000/db").exists());
}

#[test]
fn a_store_that_lost_all_its_states_starts_again_after_that_was_accepted() {
    let dir = folder();
    let blocks = with_generations(dir.path());
    for id in 1..4 {
        let _ = fs::remove_dir_all(dir.path().join(format!("generations/{id:08}/state")));
    }
    assert_eq!(
        refused(dir.path()).len(),
        3,
        "two states, and what the journal has no more"
    );
    let opened = try_start(dir.path(), accepting()).expect("accepted");
    assert!(opened.state.is_empty());
    drop(opened);
    let opened = start(dir.path());
    assert!(opened.state.is_empty() && opened.losses.is_empty());
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
}

#[test]
fn a_folder_that_is_gone_is_no_new_store() {
    let dir = folder();
    let store = dir.path().join("store");
    let options = |accept_loss| StoreOptions {
        marker: Some(dir.path().join("marker")),
        accept_loss,
        ..small_options()
    };
    let mut opened = try_start(&store, options(false)).expect("new");
    append(&mut opened, 1..3);
    close(opened);
    fs::remove_dir_all(&store).expect("removed");
    for _ in 0..2 {
        let error = try_start(&store, options(false))
            .map(|_| ())
            .expect_err("refused");
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
        assert!(!store.exists());
    }
    fs::create_dir_all(&store).expect("an empty one");
    try_start(&store, options(false))
        .map(|_| ())
        .expect_err("refused");
    let mut opened = try_start(&store, options(true)).expect("accepted");
    let pieces: Vec<_> = opened.replay.by_ref().collect();
    assert!(matches!(pieces[..], [Ok(Replayed::Gap)]), "{pieces:?}");
    drop(opened);
    try_start(&store, options(false)).expect("it is there again");
}

#[test]
fn what_another_version_wrote_is_refused_whatever_is_accepted() {
    let title = |path: &Path| {
        let mut bytes = fs::read(path).expect("read");
        for at in [7, 2048 + 7] {
            bytes[at] = b'2';
        }
        fs::write(path, bytes).expect("written");
    };
    let dir = folder();
    closed(dir.path(), title);
    let before = tree(dir.path());
    for options in [small_options(), accepting()] {
        let error = try_start(dir.path(), options)
            .map(|_| ())
            .expect_err("refused");
        let message = error.to_string();
        assert!(matches!(error, OpenError::Format { .. }), "{message}");
        assert!(message.contains("TGJOURN2"), "{message}");
    }
    assert!(before == tree(dir.path()), "a refused start wrote");
}

#[test]
fn examining_writes_nothing_and_beginning_does() {
    let dir = folder();
    with_generations(dir.path());
    let before = tree(dir.path());
    let examined = examine(dir.path(), small_options(), Arc::new(RealFileSystem));
    let examined = examined.expect("examined");
    assert!(examined.is_clean() && examined.losses().is_empty());
    assert_eq!(examined.replay().count(), 2);
    let topics = examined.sealed_topics();
    assert_eq!(topics, [(TopicId(1), 3)]);
    assert!(before == tree(dir.path()));
    let opened = examined.begin().expect("begun");
    assert_eq!(opened.journal.next_position(), Position(6));
    assert!(before != tree(dir.path()));
}

#[test]
fn a_failure_of_the_system_is_no_damage_and_goes_away_by_itself() {
    let dir = folder();
    with_generations(dir.path());
    let state = dir.path().join("generations/00000003/state/db");
    let sound = fs::read(&state).expect("read");
    let check = |path: &'static str, is_state: bool| {
        let before = tree(dir.path());
        let disk = FaultyFileSystem::default();
        let open = |options| open(dir.path(), options, Arc::new(disk.clone())).map(|_| ());
        disk.fail(Operation::Read, path);
        for options in [small_options(), accepting()] {
            let error = open(options).expect_err("refused");
            let told = match is_state {
                true => matches!(error, OpenError::Read { .. }),
                false => matches!(error, OpenError::Io { .. }),
            };
            let message = error.to_string();
            assert!(told && message.contains("not damage"), "{path}: {error:?}");
        }
        assert!(before == tree(dir.path()), "{path}: a refused start wrote");
    };
    for path in ["=manifest", "=witness", "journal"] {
        check(path, false);
    }
    // What sled calls damage may be the disk's doing, as long as the disk fails.
    fs::write(&state, vec![0; 1000]).expect("written");
    check("state", true);
    refused(dir.path());
    fs::write(&state, sound).expect("written");
    assert!(start(dir.path()).losses.is_empty());
}

#[test]
fn a_witness_that_somebody_removes_is_made_again() {
    let dir = folder();
    let mut opened = start(dir.path());
    append(&mut opened, 1..3);
    fs::remove_file(dir.path().join("witness")).expect("removed");
    close(opened);
    let file = journal_files(dir.path()).pop().expect("a file");
    let bytes = fs::read(&file).expect("read");
    fs::write(&file, &bytes[..4096]).expect("cut behind its head");
    refused(dir.path());
}

// A journal of four groups in one file, whose broker was killed, and the offset after each.
fn killed(dir: &Path) -> (Vec<Block>, Vec<u64>) {
    let mut opened = start(dir);
    let blocks = append(&mut opened, 1..5);
    drop(opened);
    let bytes = fs::read(&journal_files(dir)[0]).expect("the journal");
    let magic = &bytes[4096..4100];
    let starts = (4096..bytes.len()).step_by(8);
    let mut ends: Vec<u64> = starts
        .filter(|at| bytes.get(*at..at + 4) == Some(magic))
        .skip(1)
        .map(|at| at as u64)
        .collect();
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("a group");
    ends.push((last as u64 + 1).next_multiple_of(8));
    assert_eq!(ends.len(), 4);
    (blocks, ends)
}

fn cut(dir: &Path, length: u64) {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&journal_files(dir)[0]);
    file.and_then(|file| file.set_len(length)).expect("cut");
}

#[test]
fn a_journal_file_that_is_cut_short_after_a_kill_is_a_loss() {
    // Within the third group, its head, and the last one.
    for (kept, beyond) in [(2, 60), (2, 4), (3, 60)] {
        let dir = folder();
        let (blocks, ends) = killed(dir.path());
        cut(dir.path(), ends[kept - 1] + beyond);
        let losses = refused(dir.path());
        let from = CommitNumber(kept as u64 + 1);
        assert_eq!(losses[0].groups, Some((from, None)));
        let why = losses[0].why.as_deref().unwrap_or_default();
        assert!(why.contains("cut short"), "{why}");
        accepted(dir.path(), &blocks[..kept]);
    }
}

#[test]
fn what_the_power_can_leave_of_a_journal_file_is_no_loss() {
    // As long as it was, whatever became of its last group; and cut where its records end, as it is before the next one begins.
    let check = |kept: usize, damage: &dyn Fn(&Path, &[u64])| {
        let dir = folder();
        let (blocks, ends) = killed(dir.path());
        damage(dir.path(), &ends);
        let opened = start(dir.path());
        assert!(opened.losses.is_empty());
        let found = read_all(&opened.reader, 0).expect("read");
        assert_eq!(found, blocks[..kept]);
    };
    let zero = |dir: &Path, from: u64, to: u64| {
        let path = &journal_files(dir)[0];
        let mut bytes = fs::read(path).expect("read");
        bytes[from as usize..to as usize].fill(0);
        fs::write(path, bytes).expect("written");
    };
    check(3, &|dir, ends| zero(dir, ends[2] + 60, ends[3]));
    check(3, &|dir, ends| zero(dir, ends[2], ends[2] + 40));
    check(4, &|dir, ends| cut(dir, ends[3]));
    check(4, &|dir, ends| cut(dir, ends[3] + 100));
    // Nothing says how long the file of an older broker was.
    check(3, &|dir, ends| {
        fs::remove_file(dir.join("witness")).expect("removed");
        cut(dir, ends[2] + 60);
    });
}

// What the log says of a start.
fn told(dir: &Path) -> String {
    #[derive(Clone, Default)]
    struct Said(Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Said {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("lock").extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let said = Said::default();
    let writer = said.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || close(start(dir)));
    let said = said.0.lock().expect("lock").clone();
    String::from_utf8(said).expect("text")
}

#[test]
fn a_store_without_its_witness_says_so_once() {
    let dir = folder();
    let is_told = || told(dir.path()).contains("WARN");
    assert!(!is_told(), "a new store has none");
    for damage in [&b""[..], &[0; 8192], b"junk"] {
        assert!(!is_told(), "it has one");
        fs::write(dir.path().join("witness"), damage).expect("damaged");
        assert!(is_told(), "{} bytes", damage.len());
    }
    fs::remove_file(dir.path().join("witness")).expect("removed");
    assert!(is_told());
    assert!(!is_told(), "it was made again");
}

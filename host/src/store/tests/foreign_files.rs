//! What is not the broker's in the folders of a store: it stops nothing, and nothing of it is touched.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::faulty_disk::{FaultyFileSystem, Operation};
use super::harness::*;
use crate::domain::Block;
use crate::store::{Opened, open};

// Files, the folders above them included. None has a name that the broker gives, or else it is a folder where that is a file.
const FOREIGN: [&str; 26] = [
    ".DS_Store",
    "lost+found/foreign",
    "manifest.bak",
    "foreign.new",
    "journal/.DS_Store",
    "journal/.nfs0001",
    "journal/lost+found/foreign",
    "journal/foreign.log",
    "journal/foreign.new",
    "journal/1.log",
    "journal/1.new",
    "journal/+0000000000000000001.log",
    "journal/00000000000000000001.log.bak",
    "journal/prepared.new.bak",
    "journal/00000000000000000900.log/foreign",
    "journal/00000000000000000900.new/foreign",
    "generations/.DS_Store",
    "generations/lost+found/foreign",
    "generations/00000001.bak/part-0000/db",
    "generations/1/foreign",
    "generations/00000004",
    "generations/00000001/.DS_Store",
    "generations/00000001/part-0000/foreign",
    "generations/00000002/lost+found/foreign",
    "generations/00000003/state/db.bak",
    "generations/00000007/part-0000/foreign",
];

fn place(dir: &Path) {
    for name in FOREIGN {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, name).expect("written");
    }
}

fn are_there(dir: &Path) {
    for name in FOREIGN {
        let found = fs::read_to_string(dir.join(name));
        assert_eq!(found.ok().as_deref(), Some(name), "{name}");
    }
}

fn append(opened: &mut Opened, position: u64) -> Block {
    let block = filled(1, position, position, 1, 50);
    let one = std::slice::from_ref(&block);
    opened.journal.append(b"notes", one).expect("append");
    opened.journal.sync().expect("sync");
    block
}

fn move_all(opened: &mut Opened) {
    let mark = opened.journal.mark().expect("rotate");
    let state = [("a".into(), "b".into())];
    checkpoint(opened, mark, |block| Some(block.clone()), &state);
}

fn close(opened: Opened) {
    opened.journal.close().expect("close");
}

// Three generations, and a group after them.
fn store(dir: &Path) -> Vec<Block> {
    let mut opened = start(dir);
    let mut blocks = Vec::new();
    for position in 1..4 {
        blocks.push(append(&mut opened, position));
        move_all(&mut opened);
    }
    blocks.push(append(&mut opened, 4));
    close(opened);
    blocks
}

// All that removes, renames or makes files.
fn work(dir: &Path, disk: &FaultyFileSystem, mut blocks: Vec<Block>) {
    let start = |options| open(dir, options, Arc::new(disk.clone())).expect("starts");
    // A generation that was never finished.
    let unfinished = dir.join("generations/00000007/part-0000/db");
    fs::create_dir_all(unfinished.parent().expect("a folder")).expect("folder");
    fs::write(&unfinished, b"half").expect("written");
    let unnamed = dir.join("journal/00000000000000000077.new");
    fs::write(&unnamed, b"half").expect("written");
    let mut opened = start(small_options());
    assert!(opened.clean);
    assert!(
        !unfinished.exists() && !unnamed.exists(),
        "its own it removes"
    );
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    blocks.push(append(&mut opened, 5));
    move_all(&mut opened);
    opened.checkpoints.delete_generation(1).expect("deleted");
    blocks.remove(0);
    assert!(!dir.join("generations/00000001/about").exists());
    close(opened);
    // The journal's end and the manifest are damaged, and that is accepted.
    let newest = journal_files(dir)
        .into_iter()
        .rfind(|path| path.is_file() && path.file_name().is_some_and(|name| name.len() == 24))
        .expect("a file");
    let bytes = fs::read(&newest).expect("read");
    fs::write(&newest, &bytes[..4096]).expect("cut");
    fs::write(dir.join("manifest"), b"nonsense").expect("written");
    let opened = start(accepting());
    assert_eq!(opened.losses.len(), 1, "{:?}", opened.losses);
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
    drop(opened);
    let opened = start(small_options());
    assert_eq!(read_all(&opened.reader, 0).expect("read"), blocks);
}

#[test]
fn what_is_not_the_brokers_stops_nothing_and_stays() {
    let dir = folder();
    let blocks = store(dir.path());
    place(dir.path());
    work(dir.path(), &FaultyFileSystem::default(), blocks);
    are_there(dir.path());
}

#[test]
fn what_is_not_the_brokers_may_as_well_be_out_of_order() {
    use Operation::{Allocate, Create, Read, Remove, Rename, Sync, SyncDir, Write};
    for operation in [Create, Read, Write, Sync, Rename, Remove, SyncDir, Allocate] {
        let dir = folder();
        let blocks = store(dir.path());
        place(dir.path());
        let disk = FaultyFileSystem::default();
        disk.fail(operation, "=foreign");
        work(dir.path(), &disk, blocks);
        are_there(dir.path());
    }
}

#[test]
fn a_folder_that_held_a_generation_goes_once_nobody_else_has_anything_in_it() {
    let dir = folder();
    store(dir.path());
    place(dir.path());
    let deleted = dir.path().join("generations/00000001");
    let mut opened = start(dir.path());
    opened.checkpoints.delete_generation(1).expect("deleted");
    close(opened);
    assert!(deleted.exists());
    fs::remove_file(deleted.join(".DS_Store")).expect("removed");
    fs::remove_file(deleted.join("part-0000/foreign")).expect("removed");
    drop(start(dir.path()));
    let gone = fs::metadata(deleted).map(|_| ());
    let gone = gone.expect_err("an empty one is removed");
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
}

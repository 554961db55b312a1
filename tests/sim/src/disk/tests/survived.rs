//! What is there after an end of each kind, and that all of it occurs.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tidegate_simulated::disk::FileSystem;

use super::{FOLDER, disk, found, lasting, path};
use crate::disk::{End, Shape, SimDisk};
use crate::scheduler::{Options, run};
use crate::simulation;

#[test]
fn sectors_are_dropped_kept_torn_and_reordered_when_the_power_goes() {
    let after = |seed| {
        let (disk, life) = disk(Shape::of(seed));
        let file = lasting(&life, "file", &[0; 1024]);
        file.write_at(&[1; 1024], 0).unwrap();
        file.write_at(&[2; 1024], 0).unwrap();
        let found = found(&disk, End::Usual, "file").unwrap();
        assert_eq!(found.len(), 1024);
        let whole = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
        assert!(found.chunks(512).all(whole), "a sector is whole");
        (found[0], found[512])
    };
    let all: BTreeSet<_> = (0..300).map(after).collect();
    assert_eq!(all.len(), 9, "{all:?}");
}

#[test]
fn a_length_survives_by_itself() {
    let after = |seed| {
        let (disk, life) = disk(Shape::of(seed));
        let file = lasting(&life, "file", &[1; 512]);
        file.write_at(&[2; 512], 512).unwrap();
        let found = found(&disk, End::Usual, "file").unwrap();
        assert_eq!(found[..512], [1; 512]);
        (found.len(), found.get(512).copied())
    };
    let all: BTreeSet<_> = (0..100).map(after).collect();
    let expected = [(512, None), (1024, Some(0)), (1024, Some(2))];
    assert_eq!(all, BTreeSet::from(expected));
}

#[test]
fn the_first_changes_are_there_after_a_mild_end_and_one_in_part() {
    let after = |seed| {
        let (disk, life) = disk(Shape::of(seed));
        let file = lasting(&life, "file", &[0; 4]);
        file.write_at(&[1; 4], 0).unwrap();
        file.write_at(&[2; 4], 4).unwrap();
        found(&disk, End::Mild, "file").unwrap()
    };
    let all: BTreeSet<Vec<u8>> = (0..400).map(after).collect();
    let whole = [1, 1, 1, 1, 2, 2, 2, 2];
    let mut expected: BTreeSet<Vec<u8>> = (4..=8).map(|cut| whole[..cut].to_vec()).collect();
    for ones in 0..4 {
        let mut torn = vec![1; ones];
        torn.resize(4, 0);
        expected.insert(torn);
    }
    assert_eq!(all, expected);
}

#[test]
fn only_what_was_synced_is_there_after_a_cruel_end_and_all_after_a_kill() {
    for (how, expected) in [(End::Cruel, &b"old"[..]), (End::Killed, &b"new"[..])] {
        let (disk, life) = disk(Shape::of(1));
        let file = lasting(&life, "file", b"old");
        file.write_at(b"new", 0).unwrap();
        life.create(&path("unsynced")).unwrap();
        assert_eq!(found(&disk, how, "file").unwrap(), expected);
        let is_there = disk.image().contains_key(&path("unsynced"));
        assert_eq!(is_there, how == End::Killed);
    }
}

#[test]
fn a_name_is_the_one_or_the_other() {
    for how in [End::Mild, End::Usual, End::Ordered] {
        let after = |seed| {
            let (disk, life) = disk(Shape::of(seed));
            lasting(&life, "aside", b"new");
            lasting(&life, "file", b"old");
            life.rename(&path("aside"), &path("file")).unwrap();
            life.create(&path("later")).unwrap();
            disk.end(how);
            let image = disk.image();
            let is_later = image.contains_key(&path("later"));
            match image.contains_key(&path("aside")) {
                true => assert_eq!(image[&path("file")].as_deref(), Some(&b"old"[..])),
                false => assert_eq!(image[&path("file")].as_deref(), Some(&b"new"[..])),
            }
            (image.contains_key(&path("aside")), is_later)
        };
        let all: BTreeSet<_> = (0..100).map(after).collect();
        // Never the later name alone.
        let expected = [(false, false), (false, true), (true, false)];
        assert_eq!(all, BTreeSet::from(expected), "{how:?}");
    }
}

#[test]
fn a_folder_has_what_is_in_it_under_the_one_name_or_the_other() {
    for (how, is_synced, expected) in [
        (End::Cruel, false, "before"),
        (End::Killed, false, "after"),
        (End::Cruel, true, "after"),
    ] {
        let (disk, life) = disk(Shape::of(1));
        life.create_dir(&path("before")).unwrap();
        life.sync_dir(Path::new(FOLDER)).unwrap();
        lasting(&life, "before/file", b"old");
        life.sync_dir(&path("before")).unwrap();
        life.rename(&path("before"), &path("after")).unwrap();
        // What comes into it later has a name there of its own.
        life.create(&path("after/later")).unwrap();
        if is_synced {
            life.sync_dir(Path::new(FOLDER)).unwrap();
        }
        disk.end(how);
        let image = disk.image();
        let file = |folder: &str| image.get(&path(folder).join("file")).cloned().flatten();
        assert_eq!(file(expected).as_deref(), Some(&b"old"[..]), "{how:?}");
        let all = ["before", "after"];
        let others = all.iter().filter(|name| **name != expected);
        others.for_each(|name| assert!(!image.contains_key(&path(name)), "{how:?}"));
        let is_later = image.contains_key(&path("after/later"));
        assert_eq!(is_later, how == End::Killed);
    }
}

#[test]
fn names_of_two_folders_keep_one_order_only_where_the_disk_does() {
    let orders = |how| {
        let after = |seed| {
            let (disk, life) = disk(Shape::of(seed));
            life.create_dir(Path::new("/other")).unwrap();
            life.sync_dir(Path::new("/")).unwrap();
            life.create(&path("first")).unwrap();
            life.create(Path::new("/other/second")).unwrap();
            disk.end(how);
            let image = disk.image();
            let second = image.contains_key(Path::new("/other/second"));
            (image.contains_key(&path("first")), second)
        };
        (0..100).map(after).collect::<BTreeSet<_>>()
    };
    assert_eq!(orders(End::Usual).len(), 4);
    let ordered = orders(End::Ordered);
    assert_eq!(ordered.len(), 3);
    assert!(!ordered.contains(&(false, true)));
}

#[test]
fn what_lies_in_a_folder_that_is_lost_is_lost() {
    let (disk, life) = disk(Shape::of(1));
    let inner = path("inner");
    life.create_dir(&inner).unwrap();
    life.create(&inner.join("file")).unwrap();
    life.sync_dir(&inner).unwrap();
    disk.end(End::Cruel);
    let all: Vec<_> = disk.image().into_keys().collect();
    assert_eq!(all, [Path::new(FOLDER)]);
}

#[test]
fn a_write_that_is_under_way_when_the_process_is_killed_is_there_in_part() {
    let after = |seed| {
        let shape = Shape {
            latency_max: Duration::from_millis(100),
            ..Shape::of(seed)
        };
        let found = run(Options::of(seed), move || async move {
            let disk = SimDisk::new(shape);
            let life = disk.life();
            let writes = simulation::start_blocking("writes", move || {
                life.create_dir(Path::new(FOLDER))?;
                life.create(&path("file"))?.write_at(&[1; 8], 0)
            });
            tokio::time::sleep(Duration::from_millis(120)).await;
            disk.end(End::Killed);
            let ended = writes.await;
            let content = disk.image().remove(&path("file")).flatten();
            if ended.is_ok() {
                assert_eq!(content.as_ref().unwrap().len(), 8);
            }
            content
        });
        found.expect().map(|content| content.len())
    };
    let all: BTreeSet<_> = (0..300).map(after).collect();
    let expected = [None].into_iter().chain((0..=8).map(Some));
    assert_eq!(all, expected.collect());
}

#[test]
fn a_disk_does_the_same_again_for_its_seed() {
    let after = |seed| {
        let (disk, life) = disk(Shape::of(seed));
        let file = lasting(&life, "file", &[0; 4096]);
        for at in 0..20 {
            file.write_at(&[7; 600], at * 200).unwrap();
            life.create(&path(&at.to_string())).unwrap();
        }
        let listed = life.list(Path::new(FOLDER)).unwrap();
        disk.end(End::Usual);
        (listed, disk.image())
    };
    assert_eq!(after(1), after(1));
    let (one, other) = (after(1), after(2));
    assert_ne!(one.0, other.0, "a list has no order");
    assert_ne!(one.1, other.1);
}

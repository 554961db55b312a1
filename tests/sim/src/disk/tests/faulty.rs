//! Full disks, failing operations, damage, locks, and lives that are over.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use tidegate_simulated::disk::FileSystem;
use tokio::time::Instant;

use super::{FOLDER, disk, found, lasting, path};
use crate::disk::{End, Failing, Fault, Operation, Shape, SimDisk, Struck};
use crate::history::Blow;
use crate::scheduler::{Options, run};
use crate::simulation;

fn fault(on: Operation, failing: Failing) -> Fault {
    Fault {
        on,
        path_has: "file".into(),
        times: 1,
        failing,
    }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn after_a_sync_that_failed_no_later_one_writes_what_it_should_have() {
    let after = |seed, how, again: bool| {
        let (disk, life) = disk(Shape::of(seed));
        let file = lasting(&life, "file", b"old");
        file.write_at(b"new", 0).unwrap();
        disk.inject(fault(Operation::Sync, Failing::Io));
        assert_eq!(errno(file.sync()), Some(5));
        assert_eq!(
            life.read(&path("file")).unwrap(),
            b"new",
            "it is still read"
        );
        if again {
            file.write_at(b"new", 0).unwrap();
        }
        file.sync().unwrap();
        found(&disk, how, "file").unwrap()
    };
    assert_eq!(after(1, End::Cruel, false), b"old");
    let all: BTreeSet<_> = (0..50).map(|seed| after(seed, End::Usual, false)).collect();
    assert_eq!(all, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
    for seed in 0..50 {
        assert_eq!(after(seed, End::Usual, true), b"new");
        assert_eq!(after(seed, End::Cruel, true), b"new");
    }
}

#[test]
fn a_full_disk_takes_what_fits_and_more_once_there_is_room() {
    let shape = Shape {
        room: 3 * 4096,
        ..Shape::of(1)
    };
    let (disk, life) = disk(shape);
    let file = life.create(&path("file")).unwrap();
    let full = file.write_at(&[1; 5 * 4096], 100).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(file.length().unwrap(), 3 * 4096, "what fits is there");
    assert_eq!(life.free_bytes(Path::new(FOLDER)).unwrap(), 0);
    file.write_at(&[2; 100], 0).unwrap();
    let other = life.create(&path("other")).unwrap();
    assert!(other.write_at(b"x", 0).is_err());
    assert_eq!(other.length().unwrap(), 0);
    // Open, it keeps its room.
    life.remove(&path("file")).unwrap();
    assert!(other.write_at(b"x", 0).is_err());
    drop(file);
    other.write_at(b"x", 0).unwrap();
    assert_eq!(life.free_bytes(Path::new(FOLDER)).unwrap(), 2 * 4096);
    disk.set_room(0);
    assert!(other.write_at(b"x", 4096).is_err());
    other.write_at(b"y", 0).unwrap();
    disk.set_room(4 * 4096);
    other.write_at(b"x", 4096).unwrap();
    other.set_length(0).unwrap();
    assert_eq!(life.free_bytes(Path::new(FOLDER)).unwrap(), 4 * 4096);
}

#[test]
fn room_that_is_asked_for_is_there_or_refused_in_whole_or_in_part() {
    let left = |seed| {
        let shape = Shape {
            room: 4 * 4096,
            ..Shape::of(seed)
        };
        let (_disk, life) = disk(shape);
        let file = life.create(&path("file")).unwrap();
        file.allocate(2 * 4096).unwrap();
        assert_eq!(file.length().unwrap(), 2 * 4096);
        assert_eq!(life.read(&path("file")).unwrap(), [0; 2 * 4096]);
        let full = file.allocate(9 * 4096).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        assert_eq!(file.length().unwrap(), 2 * 4096);
        life.free_bytes(Path::new(FOLDER)).unwrap()
    };
    let all: BTreeSet<_> = (0..30).map(left).collect();
    assert_eq!(all, BTreeSet::from([0, 2 * 4096]));
}

#[test]
fn faults_strike_what_they_name_and_as_often_as_they_say() {
    let (disk, life) = disk(Shape::of(1));
    let file = lasting(&life, "file", b"old");
    let other = lasting(&life, "other", b"old");
    disk.inject(fault(Operation::Write, Failing::Io));
    other.write_at(b"new", 0).unwrap();
    assert_eq!(errno(file.write_at(b"new", 0)), Some(5));
    let torn = life.read(&path("file")).unwrap();
    let parts = [&b"old"[..], b"nld", b"ned", b"new"];
    assert!(parts.contains(&&torn[..]), "{torn:?}");
    file.write_at(b"new", 0).unwrap();
    disk.inject(fault(Operation::Open, Failing::NoFiles));
    assert_eq!(errno(life.open(&path("file"))), Some(24));
    life.open(&path("file")).unwrap();
    disk.inject(fault(Operation::Name, Failing::Io));
    disk.heal();
    life.remove(&path("file")).unwrap();
}

#[test]
fn damage_stays_until_it_is_written_over() {
    let (disk, life) = disk(Shape::of(1));
    let file = lasting(&life, "file", b"sound");
    assert!(disk.rot(&path("file"), 1, 0x20));
    assert!(!disk.rot(&path("file"), 9, 0x20) && !disk.rot(&path("none"), 0, 1));
    assert_eq!(life.read(&path("file")).unwrap(), b"sOund");
    file.sync().unwrap();
    assert_eq!(found(&disk, End::Cruel, "file").unwrap(), b"sOund");
}

#[test]
fn what_was_written_when_the_power_went_may_be_unreadable_until_it_is_written_again() {
    let mut unreadable = 0;
    for seed in 0..200 {
        let shape = Shape {
            tears: true,
            ..Shape::of(seed)
        };
        let (disk, life) = disk(shape);
        let file = lasting(&life, "file", &[1; 1024]);
        file.write_at(&[2; 512], 512).unwrap();
        disk.end(End::Usual);
        let life = disk.life();
        let file = life.open(&path("file")).unwrap();
        let mut sector = [0; 512];
        file.read_at(&mut sector, 0).unwrap();
        assert_eq!(sector, [1; 512], "nobody wrote there");
        if file.read_at(&mut sector, 512).is_err() {
            unreadable += 1;
            file.write_at(&[3; 512], 512).unwrap();
        }
        file.read_at(&mut sector, 512).unwrap();
    }
    assert!((1..40).contains(&unreadable), "{unreadable}");
}

#[test]
fn what_is_durable_in_a_sector_is_read_where_that_is_only_added_to() {
    let torn = |sector: [u8; 512]| {
        let torn = (0..200).filter(|seed| {
            let shape = Shape {
                tears: true,
                ..Shape::of(*seed)
            };
            let (disk, life) = disk(shape);
            let mut begun = [0; 512];
            begun[..9].fill(1);
            let file = lasting(&life, "file", &begun);
            file.write_at(&sector, 0).unwrap();
            disk.end(End::Usual);
            !disk.unreadable().is_empty()
        });
        torn.count()
    };
    let mut added = [2; 512];
    added[..9].fill(1);
    assert_eq!(torn(added), 0);
    assert!(torn([2; 512]) > 0, "it is another one");
}

#[test]
fn a_lock_is_one_life_s_and_a_folder_that_moved_is_told() {
    let (disk, life) = disk(Shape::of(1));
    let folder = Path::new(FOLDER);
    let held = life.hold(folder).unwrap();
    let locked = life.lock(folder).unwrap().unwrap();
    assert!(life.lock(folder).unwrap().is_none());
    drop(locked);
    let locked = life.lock(folder).unwrap().unwrap();
    assert_eq!(held.displaced().unwrap(), None);
    let file = lasting(&life, "file", b"kept");
    assert!(disk.move_folder(folder, Path::new("/elsewhere")));
    assert!(
        held.displaced()
            .unwrap()
            .unwrap()
            .contains("not there any more")
    );
    assert!(!file.is_at(&path("file")).unwrap());
    assert!(file.is_at(Path::new("/elsewhere/file")).unwrap());
    life.create_dir(folder).unwrap();
    assert!(
        locked
            .displaced()
            .unwrap()
            .unwrap()
            .contains("another folder")
    );
    disk.end(End::Cruel);
    let next = disk.life();
    let elsewhere = Path::new("/elsewhere");
    assert!(
        next.lock(elsewhere).unwrap().is_some(),
        "it is gone with its life"
    );
    // What is left of that life touches nothing of this one.
    drop((locked, held, file));
    assert_eq!(next.read(Path::new("/elsewhere/file")).unwrap(), b"kept");
}

#[test]
fn a_life_that_is_over_reaches_nothing() {
    let (disk, life) = disk(Shape::of(1));
    let file = lasting(&life, "file", b"old");
    let at = disk.operations() + 2;
    disk.end_at(at, End::Cruel);
    file.write_at(b"lost", 0).unwrap();
    assert!(
        file.write_at(b"never", 0).is_err(),
        "the power goes at this one"
    );
    let next = disk.life();
    let refused = [
        file.write_at(b"x", 0).is_err(),
        file.sync().is_err(),
        life.create(&path("x")).is_err(),
        life.list(Path::new(FOLDER)).is_err(),
    ];
    assert_eq!(refused, [true; 4]);
    assert_eq!(next.read(&path("file")).unwrap(), b"old");
    assert_eq!(next.list(Path::new(FOLDER)).unwrap(), [path("file")]);
}

#[test]
fn names_that_do_not_fit_are_refused() {
    let (_disk, life) = disk(Shape::of(1));
    lasting(&life, "file", b"old");
    let folder = Path::new(FOLDER);
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(
        kind(life.open(&path("none")).map(drop)),
        ErrorKind::NotFound
    );
    assert_eq!(kind(life.open(folder).map(drop)), ErrorKind::IsADirectory);
    assert_eq!(kind(life.remove_dir(folder)), ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind(life.remove(&path("none"))), ErrorKind::NotFound);
    assert_eq!(
        kind(life.create_dir(&path("file"))),
        ErrorKind::AlreadyExists
    );
    let nowhere = Path::new("/nowhere/file");
    assert_eq!(kind(life.create(nowhere).map(drop)), ErrorKind::NotFound);
    assert_eq!(
        kind(life.rename(&path("file"), nowhere)),
        ErrorKind::NotFound
    );
    life.remove_dir(Path::new("/nowhere")).unwrap();
    life.remove(&path("file")).unwrap();
    life.remove_dir(folder).unwrap();
    assert!(!life.is_dir(folder) && life.is_dir(Path::new("/")));
}

#[test]
fn operations_take_virtual_time_and_more_of_it_on_a_slow_disk() {
    let took = |seed: u64, factor| {
        let shape = Shape {
            latency_max: Duration::from_millis(10),
            ..Shape::of(seed)
        };
        let ran = run(Options::of(seed), move || async move {
            let disk = SimDisk::new(shape);
            disk.slow(factor);
            let life = disk.life();
            let begun = Instant::now();
            simulation::start_blocking("syncs", move || {
                life.create_dir(Path::new(FOLDER)).unwrap();
                let file = life.create(&path("file")).unwrap();
                (0..20).for_each(|_| file.sync().unwrap());
            })
            .await;
            begun.elapsed()
        });
        ran.expect()
    };
    let (usual, slow) = (took(1, 1), took(1, 100));
    // 20 syncs of up to 80 ms each.
    let range = Duration::from_millis(300)..Duration::from_millis(1_700);
    assert!(range.contains(&usual), "{usual:?}");
    assert!(slow > usual * 50, "{slow:?}");
}

#[test]
fn what_others_do_to_it_ends_as_it_began() {
    let (disk, life) = disk(Shape::of(1));
    let file = lasting(&life, "file", b"old");
    let free = || life.free_bytes(Path::new(FOLDER)).unwrap();
    let before = free();
    let most = disk.leave_room(4096);
    let all = disk.leave_room(0);
    assert_eq!(free(), 0);
    disk.lift(all);
    assert_eq!(free(), 4096);
    disk.lift(most);
    assert_eq!(free(), before);
    let often = Fault {
        times: u32::MAX,
        ..fault(Operation::Write, Failing::Io)
    };
    let (first, other) = (disk.inject(often.clone()), disk.inject(often));
    disk.lift(first);
    assert_eq!(errno(file.write_at(b"new", 0)), Some(5));
    disk.lift(other);
    file.write_at(b"new", 0).unwrap();
    // The name is another's meanwhile, and nobody's afterwards.
    let moved = disk.move_away(Path::new(FOLDER)).expect("it is there");
    assert_eq!(disk.move_away(Path::new(FOLDER)), None);
    assert!(life.read(&path("file")).is_err());
    disk.lift(moved);
    assert_eq!(life.read(&path("file")).unwrap(), b"new");
}

#[test]
fn a_folder_comes_back_into_one_that_was_moved_after_it() {
    let (disk, life) = disk(Shape::of(1));
    let inner = Path::new(FOLDER).join("inner");
    life.create_dir(&inner).unwrap();
    let inner_moved = disk.move_away(&inner).expect("it is there");
    let moved = disk.move_away(Path::new(FOLDER)).expect("it is there");
    disk.lift(inner_moved);
    assert!(!life.is_dir(&inner));
    disk.lift(moved);
    assert!(life.is_dir(&inner));
}

#[test]
fn what_failed_is_told_once_of_several_that_are_alike() {
    let (disk, life) = disk(Shape::of(1));
    let file = life.create(&path("file")).unwrap();
    disk.inject(Fault {
        times: 3,
        ..fault(Operation::Write, Failing::Io)
    });
    for _ in 0..4 {
        let _ = file.write_at(b"new", 0);
    }
    let all = disk.leave_room(0);
    assert!(file.allocate(1 << 20).is_err());
    disk.lift(all);
    let struck = |on, by| Struck {
        on,
        by,
        path: path("file"),
    };
    let expected = [
        struck(Operation::Write, Blow::Io),
        struck(Operation::Size, Blow::NoRoom),
    ];
    assert_eq!(disk.take_struck(), expected);
    assert_eq!(disk.take_struck(), []);
}

#[test]
fn what_cannot_be_read_is_zeros_in_a_copy() {
    let rescued = (0..200).filter(|seed| {
        let shape = Shape {
            tears: true,
            ..Shape::of(*seed)
        };
        let (disk, life) = disk(shape);
        let file = lasting(&life, "file", &[1; 1024]);
        file.write_at(&[2; 512], 512).unwrap();
        disk.end(End::Usual);
        let unreadable = disk.unreadable();
        assert_eq!(disk.rescue(), unreadable);
        assert_eq!(disk.unreadable(), Vec::<std::path::PathBuf>::new());
        let is_torn = unreadable == [path("file")];
        let held = disk.life().read(&path("file")).unwrap();
        assert_eq!(&held[..512], [1; 512]);
        assert!(!is_torn || held[512..] == [0; 512]);
        is_torn
    });
    assert!((3..60).contains(&rescued.count()));
}

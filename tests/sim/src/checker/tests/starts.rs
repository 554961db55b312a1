//! Starts that are refused.

use super::{BEGIN, check, check_broken};
use crate::history;

/// A life has ended, and room was kept for the start of the next one.
const ENDED: &str = "19 broker crashed life=1 cause=kill\n";
const STARTS: &str = "20 broker starts life=2\n";
const FULL: &str =
    "20 stage troubled what={\"disk\":{\"full\":{\"left_bytes\":0,\"lasts_ms\":50}}} until_ms=70\n";
const NO_ROOM: &str = "21 disk struck on=size by=no-room path=/data/store/reserve\n";
const REFUSES: &str = "21 broker refuses life=2 why=no\n";

#[test]
fn a_start_loses_nothing_and_a_refused_one_changes_nothing() {
    let refused = "
        20 broker crashed life=1 cause=power
        20 broker image life=2 digest=5
        21 broker starts life=2
        22 broker refuses life=2 why=torn
    ";
    let same = "23 broker image life=2 digest=5\n";
    let other = "23 broker image life=2 digest=6\n";
    let changed = "
        20 broker crashed life=1 cause=power
        20 broker image life=2 digest=5
        21 broker starts life=2
        22 broker serves life=2 interval_ms=50
        23 broker image life=3 digest=6
    ";
    check_broken(&[
        ("refused", &[refused, same], &["NOTHING_LOST"]),
        (
            "and changed",
            &[refused, other],
            &["NOTHING_LOST", "CHANGES_NOTHING"],
        ),
        ("a start that serves", &[changed], &[]),
    ]);
}

// Only what was kept for it lets a start work on a full disk.
#[test]
fn a_start_on_a_full_disk_is_refused_only_where_no_room_was_kept_for_it() {
    let power = ENDED.replace("kill", "power");
    let again = "
        72 broker starts life=3
        73 disk struck on=size by=no-room path=/data/store/reserve
        74 broker refuses life=3 why=no
    ";
    let killed = "21 broker crashed life=2 cause=kill\n";
    let later = "72 broker starts life=3\n73 broker refuses life=3 why=no\n";
    check_broken(&[
        (
            "room was kept",
            &[ENDED, FULL, STARTS, NO_ROOM, REFUSES],
            &["NOTHING_LOST"],
        ),
        ("given back", &[ENDED, STARTS, FULL, NO_ROOM, REFUSES], &[]),
        (
            "there was room",
            &[ENDED, STARTS, FULL, REFUSES],
            &["NOTHING_LOST"],
        ),
        (
            "over",
            &[ENDED, STARTS, FULL, NO_ROOM, REFUSES, later],
            &["NOTHING_LOST"],
        ),
        (
            "the power went",
            &[&power, FULL, STARTS, NO_ROOM, REFUSES],
            &["NOTHING_LOST"],
        ),
        (
            "the one before had given it back",
            &[ENDED, STARTS, killed, FULL, again],
            &[],
        ),
        (
            "the one before had, and was refused",
            &[ENDED, STARTS, FULL, NO_ROOM, REFUSES, FULL, again],
            &[],
        ),
    ]);
    let first = [
        "0 broker starts life=1\n",
        FULL,
        NO_ROOM,
        "21 broker refuses life=1 why=full\n",
    ];
    let first = history::read(&first.concat()).expect("a history");
    assert_eq!(check(&first), [], "none was kept before the first life");
}

#[test]
fn a_start_is_refused_only_for_what_the_disk_did_to_it() {
    let errors = "18 stage troubled what={\"disk\":{\"errors\":{\"on\":\"read\",\"path\":\"\",\"times\":1,\"lasts_ms\":9000}}} until_ms=9018\n";
    let before = "18 disk struck on=read by=io path=/data/store/journal/1\n";
    let struck = "21 disk struck on=read by=io path=/data/store/journal/1\n";
    let at_write = "21 disk struck on=write by=io path=/data/store/journal/1\n";
    let moved = "20 stage troubled what={\"disk\":{\"moved\":{\"folder\":\"store\",\"lasts_ms\":50}}} until_ms=70\n";
    let damage = REFUSES.replace("why=no", "why=committed%20data%20is%20damaged:%20x");
    let image = |ms, digest| format!("{ms} broker image life=2 digest={digest}\n");
    let (is, same, other) = (image(19, 5), image(22, 5), image(22, 6));
    check_broken(&[
        ("it struck", &[errors, ENDED, STARTS, struck, REFUSES], &[]),
        (
            "it struck the life before",
            &[errors, before, ENDED, STARTS, REFUSES],
            &["NOTHING_LOST"],
        ),
        (
            "it never did",
            &[errors, ENDED, STARTS, REFUSES],
            &["NOTHING_LOST"],
        ),
        ("a folder was away", &[ENDED, STARTS, moved, REFUSES], &[]),
        (
            "it is called damage",
            &[errors, ENDED, STARTS, struck, &damage],
            &["NOT_DAMAGE"],
        ),
        ("what is away is", &[ENDED, STARTS, moved, &damage], &[]),
        (
            "one was away before",
            &[moved, ENDED, STARTS, REFUSES],
            &["NOTHING_LOST"],
        ),
        (
            "nothing changes",
            &[ENDED, &is, STARTS, struck, REFUSES, &same],
            &[],
        ),
        (
            "and something changes",
            &[ENDED, &is, STARTS, struck, REFUSES, &other],
            &["CHANGES_NOTHING"],
        ),
        (
            "while it is written",
            &[ENDED, &is, STARTS, at_write, REFUSES, &other],
            &[],
        ),
    ]);
}

#[test]
fn when_all_is_well_again_a_broker_starts() {
    let ended = "
        900 stage healed
        901 broker stops life=1
        902 broker stopped life=1
        903 broker starts life=2
    ";
    let refused = "904 broker refuses life=2 why=EIO\n";
    let serves = "904 broker serves life=2 interval_ms=50\n";
    let drained = "
        1000 o drains
        1001 broker drained subscription=s
        1001 broker drained subscription=f
    ";
    let over = "1002 o over\n";
    let stopped =
        "1003 broker stops life=2\n1004 broker stopped life=2\n1005 broker starts life=3\n";
    let last = "1006 broker refuses life=3 why=EIO\n";
    let errors = "800 stage troubled what={\"disk\":{\"errors\":{\"on\":\"read\",\"path\":\"\",\"times\":1,\"lasts_ms\":12000}}} until_ms=12800\n";
    check_broken(&[
        ("it does", &[ended, serves, drained, over], &[]),
        (
            "it never does",
            &[errors, ended, refused, over],
            &["NOTHING_LOST", "NOTHING_LOST"],
        ),
        (
            "nor the last time",
            &[errors, ended, serves, drained, over, stopped, last],
            &["NOTHING_LOST"],
        ),
        (
            "nor comes to an end",
            &[ended, serves, drained, over, stopped],
            &["ANSWERED_AT_ALL"],
        ),
    ]);
    assert!(!BEGIN.contains("healed"));
}

//! Damage, and losses that were accepted.

use super::{DRAINED, GOT, KILLED, ONE, check_broken};

const ROT: &str = "16 stage troubled what={\"rot\":{\"of\":\"journal\",\"file\":0,\"at\":0,\"bits\":1}} until_ms=9000000\n";
const ACCEPTED: &str = "
    23 broker accepts life=3
    23 broker starts life=3
    24 broker serves life=3 interval_ms=50
";

/// A start that refuses since this is lost.
fn refused(loss: &str) -> String {
    let why = format!(
        "committed data is damaged: {loss}; restore it, or start with the loss accepted to go on"
    );
    format!(
        "20 broker crashed life=1 cause=kill\n21 broker starts life=2\n22 broker refuses life=2 why={}\n",
        why.replace(' ', "%20")
    )
}

/// What the log says is lost.
fn loses(loss: &str) -> String {
    format!("23 broker loses what={}\n", loss.replace(' ', "%20"))
}

fn sequences(first: u64, last: u64) -> String {
    format!(
        "/data/store/journal/1.log: groups 1 to 1 (1) positions {first}4 to {last}5 (at most 2 events), topic `t` sequences {first} to {last} (1 events)"
    )
}

#[test]
fn of_what_is_damaged_that_is_lost_which_was_told() {
    let told = refused(&sequences(1, 1));
    let other = refused(&sequences(2, 2));
    let again = told
        .replace("life=2", "life=3")
        .replace("21 ", "24 ")
        .replace("22 ", "25 ");
    let again = again.replace("20 broker crashed life=1 cause=kill\n", "");
    let asks_again = format!("23 broker accepts life=3\n{again}");
    check_broken(&[
        ("as it was told", &[ONE, ROT, &told, ACCEPTED, DRAINED], &[]),
        (
            "another one",
            &[ONE, ROT, &other, ACCEPTED, DRAINED],
            &["AT_MOST"],
        ),
        (
            "and nobody was told",
            &[ONE, ROT, KILLED, DRAINED],
            &["DAMAGE_TOLD"],
        ),
        (
            "although nothing was",
            &[ONE, &told, ACCEPTED, DRAINED],
            &["NOTHING_LOST"],
        ),
        (
            "asked for again",
            &[ONE, ROT, &told, &asks_again],
            &["GOES_ON"],
        ),
    ]);
}

#[test]
fn what_a_start_goes_on_without_it_has_asked_for() {
    let told = refused(&sequences(1, 1));
    let stopped = told.replace("crashed life=1 cause=kill", "stopped life=1");
    let kept = loses(&format!("{} (kept as lost/1)", sequences(1, 1)));
    let more = loses(&sequences(2, 2));
    let later = ROT.replace("16 ", "22 ");
    let accepts = "23 broker accepts life=3\n23 broker starts life=3\n";
    let serves = "24 broker serves life=3 interval_ms=50\n";
    let part = loses("/data/store/generations/1/part-0000: positions 5 to 5 (at most 1 events)");
    check_broken(&[
        ("as it did", &[ROT, &told, accepts, &kept, serves], &[]),
        (
            "more than that",
            &[ROT, &told, accepts, &more, serves],
            &["DAMAGE_TOLD"],
        ),
        (
            "that rotted since then",
            &[ROT, &told, &later, accepts, &more, serves],
            &[],
        ),
        (
            "which nobody had read",
            &[ROT, &stopped, accepts, &more, serves],
            &[],
        ),
        ("of a database", &[ROT, &told, accepts, &part, serves], &[]),
    ]);
}

#[test]
fn positions_that_are_given_up_are_of_what_was_seen_there_or_may_lie_there() {
    let part = |first: u64, last: u64| {
        loses(&format!(
            "/data/store/generations/1/part-0000: positions {first} to {last} (at most 9 events)"
        ))
    };
    let before = "
        10 p publishes op=20 producer=a topic=t n=20 hash=7
        11 p published op=20 sequence=2 is_duplicate=false
    ";
    check_broken(&[
        ("there", &[ONE, GOT, ROT, &part(5, 5), DRAINED], &[]),
        (
            "elsewhere",
            &[ONE, GOT, ROT, &part(6, 9), DRAINED],
            &["AT_MOST"],
        ),
        ("never seen", &[ONE, ROT, &part(6, 9), DRAINED], &[]),
        (
            "behind what was seen",
            &[ONE, before, GOT, ROT, &part(1, 5), DRAINED],
            &["AT_MOST"],
        ),
    ]);
}

#[test]
fn where_nobody_knows_what_else_is_lost_numbers_and_contents_stay() {
    let told = refused(&format!(
        "{}, with the acks and changes committed there",
        sequences(8, 9)
    ));
    let taken = "
        31 p publishes op=12 producer=a topic=t n=2 hash=7
        32 p published op=12 sequence=1 is_duplicate=false
    ";
    let changed =
        "30 c delivered subscription=s topic=t position=5 sequence=1 attempt=2 n=1 hash=8\n";
    check_broken(&[
        ("anything", &[ONE, ROT, &told, ACCEPTED, DRAINED], &[]),
        (
            "its number",
            &[ONE, ROT, &told, ACCEPTED, taken],
            &["ONE_STANDS_FOR_ONE"],
        ),
        (
            "other bytes",
            &[ONE, ROT, &told, ACCEPTED, changed],
            &["AS_PUBLISHED"],
        ),
    ]);
}

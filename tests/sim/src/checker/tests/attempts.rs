//! How often events were handed out.

use super::{ACKED, CONFIRMED, GOT, KILLED, ONE, POWER, check_broken, outage};

const THIRD: &str =
    "40 c delivered subscription=s topic=t position=5 sequence=1 attempt=3 n=1 hash=7\n";
/// The broker stops in order two seconds after what came before, and comes again.
const STOPPED: &str = "
    2020 broker stops life=1
    2020 broker stopped life=1
    2021 broker starts life=2
    2022 broker serves life=2 interval_ms=50
    2023 c opens subscription=s
";
const OPENS: &str = "23 c opens subscription=s\n";

fn again(attempt: u64) -> String {
    format!(
        "30 c delivered subscription=s topic=t position=5 sequence=1 attempt={attempt} n=1 hash=7\n"
    )
}

fn disk_full(from: &str) -> String {
    format!(
        "{from} stage troubled what={{\"disk\":{{\"full\":{{\"left_bytes\":0,\"lasts_ms\":5}}}}}} until_ms=14\n"
    )
}

#[test]
fn an_attempt_counts_hand_outs() {
    let nacked = "13 c says subscription=s position=5 answer=nack\n";
    let first = GOT.replace("attempt=1", "attempt=2");
    let (once, twice) = (again(1), again(2));
    let lag = format!("12 n troubled what={} until_ms=29\n", outage("c", 17));
    let of_another = format!("12 n troubled what={} until_ms=29\n", outage("d", 17));
    let deleted = "14 o deletes-subscription op=20 subscription=s\n15 o done op=20 id=0\n";
    let dies = "14 c dies\n15 c attaches op=20 subscription=s\n15 c opens subscription=s\n16 c attached op=20\n";
    let cut = "14 n troubled what={\"cut\":{\"actor\":\"c\"}} until_ms=14\n15 c opens subscription=s\n16 c opens subscription=s\n";
    check_broken(&[
        ("the first is 1", &[ONE, GOT], &[]),
        ("it is more", &[ONE, &first], &["COUNTED"]),
        ("the second is 2", &[ONE, GOT, nacked, &twice], &[]),
        ("it is 1 again", &[ONE, GOT, nacked, &once], &["COUNTED"]),
        ("it is 3", &[ONE, GOT, nacked, &again(3)], &["COUNTED"]),
        (
            "nothing was said, and it is 1",
            &[ONE, GOT, &once],
            &["COUNTED"],
        ),
        ("the third is 3", &[ONE, GOT, &twice, THIRD], &[]),
        (
            "on a link that held up what was said",
            &[ONE, GOT, &lag, nacked, &once],
            &[],
        ),
        (
            "on another link",
            &[ONE, GOT, &of_another, nacked, &once],
            &["COUNTED"],
        ),
        (
            "its subscription is deleted",
            &[ONE, GOT, nacked, deleted, &again(9)],
            &[],
        ),
        ("its client died", &[ONE, GOT, dies, &once], &[]),
        (
            "and one that had it as a suspect",
            &[ONE, GOT, dies, dies, &again(3)],
            &[],
        ),
        (
            "but only one died",
            &[ONE, GOT, dies, &again(3)],
            &["COUNTED"],
        ),
        (
            "it was cut off twice",
            &[ONE, GOT, OPENS, cut, &again(3)],
            &[],
        ),
    ]);
}

#[test]
fn what_may_have_missed_its_deadline_on_its_way_is_void() {
    let held_up = |ms: u64| {
        let what = outage("c", ms);
        format!("12 n troubled what={what} until_ms={}\n", 12 + ms)
    };
    let (long, short) = (held_up(40_000), held_up(20_000));
    let at = |ms: u64| GOT.replace("12 c", &format!("{ms} c"));
    let (first, again) = (at(40_020), at(40_030));
    let newer = "
        40014 p publishes op=12 producer=a topic=t n=2 hash=7
        40015 p published op=12 sequence=2 is_duplicate=false
        40016 c delivered subscription=s topic=t position=6 sequence=2 attempt=1 n=2 hash=7
    ";
    let opens = "40013 c opens subscription=s\n";
    // It took something, and then waited for what became of its answer.
    let waits = |ms: u64| {
        format!(
            "11 c delivered subscription=s topic=t position=4 sequence=9 attempt=1 n=3 hash=7
             12 c flushes op=11 subscription=s
             {ms} c confirmed op=11\n"
        )
    };
    let other = "
        9 p publishes op=9 producer=a topic=t n=3 hash=7
        10 p published op=9 sequence=9 is_duplicate=false
    ";
    let (long_wait, short_wait) = (waits(40_013), waits(10_013));
    check_broken(&[
        ("for longer than that", &[ONE, &long, &first, &again], &[]),
        ("for less", &[ONE, &short, &first, &again], &["COUNTED"]),
        (
            "once only",
            &[ONE, &long, &first, &again, &at(40_040)],
            &["COUNTED"],
        ),
        (
            "its application stood still for longer",
            &[other, ONE, &long_wait, &first, &again],
            &[],
        ),
        (
            "it did for less",
            &[other, ONE, &short_wait, &first, &again],
            &["COUNTED"],
        ),
        (
            "it did, and that was once",
            &[other, ONE, &long_wait, &first, &again, &at(40_040)],
            &["COUNTED"],
        ),
        (
            "something newer came before it",
            &[ONE, &long, newer, &first, &again],
            &["COUNTED"],
        ),
        (
            "it was asked for later",
            &[ONE, &long, opens, &first, &again],
            &["COUNTED"],
        ),
    ]);
}

#[test]
fn what_was_confirmed_counts_over_all_lives() {
    let nacked = ACKED.replace("answer=ack", "answer=nack");
    let (once, twice) = (again(1), again(2));
    let full = disk_full("13");
    let held_back = "19 broker held-back\n";
    let late = "15 c late op=11 position=5\n15 c confirmed op=11\n";
    check_broken(&[
        (
            "a kill",
            &[ONE, GOT, &nacked, CONFIRMED, KILLED, OPENS, &twice],
            &[],
        ),
        (
            "it is forgotten",
            &[ONE, GOT, &nacked, CONFIRMED, KILLED, OPENS, &once],
            &["KEPT"],
        ),
        (
            "the power",
            &[ONE, GOT, &nacked, CONFIRMED, POWER, OPENS, &once],
            &["KEPT"],
        ),
        (
            "it counts twice",
            &[ONE, GOT, &nacked, CONFIRMED, KILLED, OPENS, &again(3)],
            &["COUNTED"],
        ),
        (
            "nobody said that it is on disk",
            &[ONE, GOT, &nacked, KILLED, OPENS, &once],
            &[],
        ),
        (
            "it was late",
            &[ONE, GOT, &nacked, late, KILLED, OPENS, &once],
            &[],
        ),
        (
            "it was held back",
            &[
                ONE, GOT, &nacked, CONFIRMED, held_back, KILLED, OPENS, &once,
            ],
            &[],
        ),
        (
            "something else was, in the life after",
            &[
                ONE, GOT, &nacked, CONFIRMED, KILLED, held_back, OPENS, &once,
            ],
            &["KEPT"],
        ),
        (
            "the disk was full",
            &[ONE, GOT, &nacked, &full, CONFIRMED, KILLED, OPENS, &once],
            &[],
        ),
    ]);
}

#[test]
fn what_was_in_hand_at_a_stop_counts() {
    let again = |attempt: u64| {
        let again = again(attempt);
        again.replace("30 c", "2030 c")
    };
    let (once, twice) = (again(1), again(2));
    let just_now = GOT.replace("12 c", "1950 c");
    let full = disk_full("13");
    let opens = "6 c opens subscription=s\n";
    let cut = |who: &str| {
        STOPPED.replace(
            "    2020 broker stopped",
            &format!(
                "    2020 n troubled what={{\"close\":{{\"actor\":\"{who}\"}}}} until_ms=2020\n    2020 broker stopped"
            ),
        )
    };
    let (cut, cut_another) = (cut("c"), cut("d"));
    check_broken(&[
        (
            "cut off meanwhile, who had perhaps more in hand",
            &[opens, ONE, GOT, &cut, &once],
            &[],
        ),
        (
            "its client died before, and the broker has perhaps not heard that it has it",
            &[opens, ONE, GOT, "12 c dies\n", STOPPED, &once],
            &[],
        ),
        (
            "another was cut off",
            &[opens, ONE, GOT, &cut_another, &once],
            &["KEPT"],
        ),
        ("it does", &[opens, ONE, GOT, STOPPED, &twice], &[]),
        ("it does not", &[opens, ONE, GOT, STOPPED, &once], &["KEPT"]),
        ("nobody knew", &[opens, ONE, &just_now, STOPPED, &once], &[]),
        (
            "it counts twice",
            &[opens, ONE, GOT, STOPPED, &again(3)],
            &["COUNTED"],
        ),
        (
            "the disk failed",
            &[opens, ONE, GOT, &full, STOPPED, &once],
            &[],
        ),
    ]);
}

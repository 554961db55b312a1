//! What is excused by what is wrong, and what is not.

use super::{
    ACKED, AGAIN, BEGIN, CONFIRMED, GOT, KILLED, ONE, POWER, broken, check, check_broken, outage,
};
use crate::history;

const SLOW_LINK: &str =
    "9 stage troubled what={\"slow\":{\"actor\":\"c\",\"factor\":10}} until_ms=9000000\n";
const CUT_AFTER: &str = "9 stage troubled what={\"cut-after\":{\"actor\":\"p\",\"is_up\":true,\"bytes\":9}} until_ms=9000000\n";
const IS_CUT: &str =
    "12 stage lifted what={\"cut-after\":{\"actor\":\"p\",\"is_up\":true,\"bytes\":9}}\n";
const SLOW_DISK: &str = "9 stage troubled what={\"slow-disk\":{\"factor\":20}} until_ms=9000000\n";

/// Which promises a history breaks whose consumers have two seconds.
fn broken_in_a_hurry(parts: &[&str]) -> Vec<&'static str> {
    let begin = BEGIN.replace("ack_deadline_ms=30000", "ack_deadline_ms=2000");
    let history = history::read(&format!("{begin}{}", parts.concat())).expect("a history");
    check(&history)
        .iter()
        .map(|found| found.promise.id)
        .collect()
}

#[test]
fn what_came_late_may_have_been_answered_late() {
    let outage = |actor: &str, lasts_ms: u64| {
        let what = outage(actor, lasts_ms);
        format!("9 stage troubled what={what} until_ms=12\n")
    };
    let came_again = |trouble: &str| broken(&[trouble, ONE, GOT, ACKED, CONFIRMED, AGAIN]);
    assert_eq!(came_again(""), ["I5"]);
    assert_eq!(came_again(&outage("c", 29_999)), ["I5"]);
    assert_eq!(came_again(&outage("d", 30_000)), ["I5"]);
    assert_eq!(came_again(&outage("c", 30_000)), Vec::<&str>::new());
    // An earlier hand-out to another consumer comes once its link works again.
    let to_another = AGAIN.replace("30 c", "6000 d");
    let attached = "
        6 d attaches op=6 subscription=s
        6 d attached op=6
    ";
    let came_to_another =
        |trouble: &str| broken(&[attached, trouble, ONE, GOT, ACKED, CONFIRMED, &to_another]);
    assert_eq!(came_to_another(&outage("d", 29_999)), ["I5"]);
    assert_eq!(came_to_another(&outage("d", 30_000)), Vec::<&str>::new());
}

// What a life handed out before it ended cannot come long after the next one has begun, nor what an attachment got in the next one.
#[test]
fn a_slow_link_excuses_what_was_on_its_way_and_nothing_else() {
    let acked = [SLOW_LINK, ONE, GOT, ACKED, CONFIRMED].concat();
    let soon = AGAIN.replace("30 c", "14000 c");
    let late = AGAIN.replace("30 c", "16000 c");
    let attaches = "
        16 c detached subscription=s
        16 c attaches op=30 subscription=s
        17 c attached op=30
    ";
    for (case, parts, expected) in [
        ("again", &[&*acked, AGAIN] as &[&str], &[] as &[&str]),
        ("right after a life", &[&acked, KILLED, &soon], &[]),
        ("long after a life", &[&acked, KILLED, &late], &["I5"]),
        ("after it came anew", &[&acked, attaches, AGAIN], &["I5"]),
        (
            "once all is well",
            &[&acked, "18 stage healed\n", &late],
            &["I5"],
        ),
    ] {
        assert_eq!(broken_in_a_hurry(parts), expected, "{case}");
    }
    // Whether an answer came in time is known if the event is younger than the time that there is for it.
    let got = GOT.replace("12 c", "5012 c");
    let acked = ACKED.replace("    1", "    501");
    let confirmed = CONFIRMED.replace("15 c", "5015 c");
    let killed = KILLED.replace("    2", "    502");
    let again = AGAIN.replace("30 c", "25000 c");
    let late = [SLOW_LINK, ONE, &got, &acked, &confirmed, &killed, &again];
    assert_eq!(broken_in_a_hurry(&late), Vec::<&str>::new());
    assert_eq!(broken_in_a_hurry(&late[1..]), ["I5"]);
}

#[test]
fn what_is_wrong_with_a_link_keeps_no_event_from_a_disk() {
    let one = "
        10 p publishes op=10 producer=a topic=fast n=1 hash=7
        11 p published op=10 sequence=1 is_duplicate=false
    ";
    let drained = "
        9000 o drains
        9001 broker drained subscription=f
    ";
    let power = POWER.replace("    2", "    8002");
    let restarted = "
        4000 broker stops life=1
        4001 broker stopped life=1
        4002 broker starts life=2
        4003 broker serves life=2 interval_ms=50
    ";
    let second = power
        .replace("life=2", "life=3")
        .replace("life=1", "life=2");
    let errors = |ms: u64| {
        format!(
            "{ms} stage troubled what={{\"disk\":{{\"errors\":{{\"on\":\"sync\",\"path\":\"\",\"times\":1,\"lasts_ms\":100}}}}}} until_ms={}\n",
            ms + 100
        )
    };
    let (early, late) = (errors(12), errors(3_000));
    check_broken(&[
        ("a slow link", &[SLOW_LINK, one, &power, drained], &["I1"]),
        (
            "a link to be cut",
            &[CUT_AFTER, one, &power, drained],
            &["I1"],
        ),
        ("a slow disk", &[SLOW_DISK, one, &power, drained], &[]),
        ("a sync that fails", &[one, &early, &power, drained], &[]),
        (
            "one that fails long after it",
            &[one, &late, &power, drained],
            &["I1"],
        ),
        (
            "and a start after it",
            &[one, &early, restarted, &second, drained],
            &["I1"],
        ),
    ]);
}

#[test]
fn a_stop_is_late_only_for_a_disk() {
    let stops = "2000 broker stops life=1\n";
    let late = "22001 broker stopped life=1\n";
    let full = "15 stage troubled what={\"disk\":{\"full\":{\"left_bytes\":0,\"lasts_ms\":1000}}} until_ms=1015\n";
    let during = full
        .replace("15 stage", "2015 stage")
        .replace("until_ms=1015", "until_ms=3015");
    let silent = format!(
        "2015 stage troubled what={} until_ms=42015\n",
        outage("c", 40_000)
    );
    check_broken(&[
        ("a slow link", &[SLOW_LINK, stops, late], &["I17"]),
        ("a link to be cut", &[CUT_AFTER, stops, late], &["I17"]),
        ("a silent link", &[stops, &silent, late], &["I17"]),
        ("a slow disk", &[SLOW_DISK, stops, late], &[]),
        ("a disk that was full", &[full, stops, late], &["I17"]),
        ("a disk that is full", &[stops, &during, late], &[]),
    ]);
}

#[test]
fn a_request_waits_for_its_own_link_and_what_it_needs_of_the_disk() {
    let ask = "10 p publishes op=10 producer=a topic=t n=1 hash=7\n";
    let late = "70011 p published op=10 sequence=1 is_duplicate=false\n";
    let flush = "15 c flushes op=11 subscription=s\n";
    let confirmed = "60011 c confirmed op=11\n";
    let full = "9 stage troubled what={\"disk\":{\"full\":{\"left_bytes\":0,\"lasts_ms\":90000}}} until_ms=90009\n";
    check_broken(&[
        ("that is to be cut", &[CUT_AFTER, ask, late], &[]),
        ("that was cut", &[CUT_AFTER, ask, IS_CUT, late], &["I17"]),
        ("another's", &[SLOW_LINK, ask, late], &["I17"]),
        ("a publish on a full disk", &[full, ask, late], &[]),
        ("an ack on a full disk", &[full, flush, confirmed], &["I17"]),
        ("an ack on a slow one", &[SLOW_DISK, flush, confirmed], &[]),
    ]);
}

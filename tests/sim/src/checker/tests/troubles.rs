//! What is excused by what is wrong, and what is not.

use super::{
    ACKED, AGAIN, BEGIN, CONFIRMED, GOT, KILLED, ONE, POWER, broken, broken_after, check_broken,
    outage,
};

const SLOW_LINK: &str =
    "9 stage troubled what={\"slow\":{\"actor\":\"c\",\"factor\":10}} until_ms=9000000\n";
const CUT_AFTER: &str = "9 stage troubled what={\"cut-after\":{\"actor\":\"p\",\"is_up\":true,\"bytes\":9}} until_ms=9000000\n";
const IS_CUT: &str =
    "12 stage lifted what={\"cut-after\":{\"actor\":\"p\",\"is_up\":true,\"bytes\":9}}\n";
const SLOW_DISK: &str = "9 stage troubled what={\"slow-disk\":{\"factor\":20}} until_ms=9000000\n";

/// An event that is answered, of a topic that is synced at intervals.
const ONE_AT_INTERVALS: &str = "
    10 p publishes op=10 producer=a topic=fast n=1 hash=7
    11 p published op=10 sequence=1 is_duplicate=false
";
const DRAINED: &str = "
    9000 o drains
    9001 broker drained subscription=f
";

/// Which promises a history breaks whose consumers have two seconds.
fn broken_in_a_hurry(parts: &[&str]) -> Vec<&'static str> {
    let begin = BEGIN.replace("ack_deadline_ms=30000", "ack_deadline_ms=2000");
    broken_after(&begin, parts)
}

#[test]
fn what_came_late_may_have_been_answered_late() {
    let outage = |actor: &str, lasts_ms: u64| {
        let what = outage(actor, lasts_ms);
        format!("9 stage troubled what={what} until_ms=12\n")
    };
    let came_again = |trouble: &str| broken(&[trouble, ONE, GOT, ACKED, CONFIRMED, AGAIN]);
    assert_eq!(came_again(""), ["ACKED"]);
    assert_eq!(came_again(&outage("c", 29_999)), ["ACKED"]);
    assert_eq!(came_again(&outage("d", 30_000)), ["ACKED"]);
    assert_eq!(came_again(&outage("c", 30_000)), Vec::<&str>::new());
    // An earlier hand-out to another consumer comes once its link works again.
    let to_another = AGAIN.replace("30 c", "6000 d");
    let attached = "
        6 d attaches op=6 subscription=s
        6 d attached op=6
    ";
    let came_to_another =
        |trouble: &str| broken(&[attached, trouble, ONE, GOT, ACKED, CONFIRMED, &to_another]);
    assert_eq!(came_to_another(&outage("d", 29_999)), ["ACKED"]);
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
        ("long after a life", &[&acked, KILLED, &late], &["ACKED"]),
        ("after it came anew", &[&acked, attaches, AGAIN], &["ACKED"]),
        (
            "once all is well",
            &[&acked, "18 stage healed\n", &late],
            &["ACKED"],
        ),
    ] {
        assert_eq!(broken_in_a_hurry(parts), expected, "{case}");
    }
    // Somebody who has all the time something to take has not caught up: what comes was there when all was well again.
    let other = |ms: u64, n: u64| {
        format!(
            "{ms} c delivered subscription=s topic=t position={at} sequence={n} attempt=1 n={n} hash=7\n",
            at = n + 4
        )
    };
    let published: String = (2..=9)
        .map(|n| {
            format!(
                "11 p publishes op={n}0 producer=a topic=t n={n} hash=7
                 11 p published op={n}0 sequence={n} is_duplicate=false\n"
            )
        })
        .collect();
    let taken: String = (2..=6).map(|n| other(7_600 + n * 900, n)).collect();
    let healed = "18 stage healed\n";
    let again = AGAIN.replace("30 c", "13900 c");
    let fresh = "
        13100 p publishes op=99 producer=a topic=t n=10 hash=7
        13101 p published op=99 sequence=10 is_duplicate=false
    ";
    let [first, last] = [other(13_102, 10), other(11_500, 6)];
    let all = [ONE, &published].concat();
    let acked = [SLOW_LINK, &all, GOT, ACKED, CONFIRMED, healed].concat();
    for (case, parts, expected) in [
        (
            "behind",
            &[&*acked, &taken, &again] as &[&str],
            &[] as &[&str],
        ),
        (
            "caught up",
            &[&acked, &taken, fresh, &first, &again],
            &["ACKED"],
        ),
        ("had nothing to take", &[&acked, &last, &again], &["ACKED"]),
        (
            "was never behind",
            &[&acked[SLOW_LINK.len()..], &taken, &again],
            &["ACKED"],
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
    assert_eq!(broken_in_a_hurry(&late[1..]), ["ACKED"]);
}

#[test]
fn what_is_wrong_with_a_link_or_a_disk_that_takes_no_more_keeps_no_event_from_it() {
    let (one, drained) = (ONE_AT_INTERVALS, DRAINED);
    let power = POWER.replace("    2", "    8002");
    let soon = POWER.replace("    2", "    602");
    let disk =
        |what: &str| format!("9 stage troubled what={{\"disk\":{{{what}}}}} until_ms=9009\n");
    let full = disk("\"full\":{\"left_bytes\":0,\"lasts_ms\":9000}");
    let no_files = disk("\"no-files\":{\"lasts_ms\":9000}");
    let moved = disk("\"moved\":{\"folder\":\"store\",\"lasts_ms\":9000}");
    let slow_syncs = disk("\"slow-syncs\":{\"up_to_ms\":3000,\"lasts_ms\":9000}");
    check_broken(&[
        (
            "a slow link",
            &[SLOW_LINK, one, &power, drained],
            &["LOST_AT_INTERVALS"],
        ),
        (
            "a link to be cut",
            &[CUT_AFTER, one, &power, drained],
            &["LOST_AT_INTERVALS"],
        ),
        ("a slow disk", &[SLOW_DISK, one, &soon, drained], &[]),
        (
            "a slow disk, long after",
            &[SLOW_DISK, one, &power, drained],
            &["LOST_AT_INTERVALS"],
        ),
        ("slow syncs", &[&slow_syncs, one, &soon, drained], &[]),
        (
            "slow syncs, long after",
            &[&slow_syncs, one, &power, drained],
            &["LOST_AT_INTERVALS"],
        ),
        (
            "a full disk",
            &[&full, one, &power, drained],
            &["LOST_AT_INTERVALS"],
        ),
        (
            "no files",
            &[&no_files, one, &power, drained],
            &["LOST_AT_INTERVALS"],
        ),
        (
            "a folder that is away",
            &[&moved, one, &power, drained],
            &["LOST_AT_INTERVALS"],
        ),
    ]);
}

// Nothing is written after it before a restart.
#[test]
fn a_sync_of_the_journal_that_fails_excuses_what_was_to_be_synced() {
    let (one, drained) = (ONE_AT_INTERVALS, DRAINED);
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
    let struck = |ms: u64| format!("{ms} disk struck on=sync by=io path=/data/store/journal/1\n");
    let (early, late) = (errors(12), errors(3_000));
    let (early_struck, late_struck) = (early.clone() + &struck(20), late + &struck(3_050));
    let sealed = early.clone() + &struck(20).replace("journal", "sealed");
    check_broken(&[
        (
            "a sync that fails",
            &[one, &early_struck, &power, drained],
            &[],
        ),
        (
            "a sync that might have failed",
            &[one, &early, &power, drained],
            &["LOST_AT_INTERVALS"],
        ),
        (
            "a sync of something else",
            &[one, &sealed, &power, drained],
            &["LOST_AT_INTERVALS"],
        ),
        (
            "one that fails long after it",
            &[one, &late_struck, &power, drained],
            &["LOST_AT_INTERVALS"],
        ),
        (
            "and a start after it",
            &[one, &early_struck, restarted, &second, drained],
            &["LOST_AT_INTERVALS"],
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
        ("a slow link", &[SLOW_LINK, stops, late], &["STOPS"]),
        ("a link to be cut", &[CUT_AFTER, stops, late], &["STOPS"]),
        ("a silent link", &[stops, &silent, late], &["STOPS"]),
        ("a slow disk", &[SLOW_DISK, stops, late], &[]),
        ("a disk that was full", &[full, stops, late], &["STOPS"]),
        ("a disk that is full", &[stops, &during, late], &["STOPS"]),
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
        (
            "that was cut",
            &[CUT_AFTER, ask, IS_CUT, late],
            &["ANSWERED_AT_ALL"],
        ),
        ("another's", &[SLOW_LINK, ask, late], &["ANSWERED_AT_ALL"]),
        ("a publish on a full disk", &[full, ask, late], &[]),
        (
            "an ack on a full disk",
            &[full, flush, confirmed],
            &["ANSWERED_AT_ALL"],
        ),
        ("an ack on a slow one", &[SLOW_DISK, flush, confirmed], &[]),
    ]);
}

//! Each promise with histories that break it, and with others that only nearly do: a checker that finds nothing is worth as little as one
//! that finds what is not there.

mod attempts;
mod changes;
mod disks;
mod filters;
mod letters;
mod losses;
mod routes;
mod starts;
mod troubles;

use std::fs;
use std::path::Path;

use super::{PROMISES, check};
use crate::history;

/// What most histories begin with.
const BEGIN: &str = "
    0 broker starts life=1
    1 broker serves life=1 interval_ms=50
    2 o creates-topic op=1 topic=t durability=sync
    2 o done op=1 id=1
    2 o creates-topic op=2 topic=fast durability=interval
    2 o done op=2 id=2
    3 o creates-subscription op=3 subscription=s topic=t start=earliest ack_deadline_ms=30000
    4 o done op=3 id=1
    4 o creates-subscription op=4 subscription=f topic=fast start=earliest ack_deadline_ms=30000
    4 o done op=4 id=2
    5 c attaches op=5 subscription=s
    5 c attached op=5
";
/// An event that is answered.
const ONE: &str = "
    10 p publishes op=10 producer=a topic=t n=1 hash=7
    11 p published op=10 sequence=1 is_duplicate=false
";
/// It is delivered.
const GOT: &str =
    "12 c delivered subscription=s topic=t position=5 sequence=1 attempt=1 n=1 hash=7\n";
/// It is acked, and that is asked for.
const ACKED: &str = "
    13 c says subscription=s position=5 answer=ack
    14 c flushes op=11 subscription=s
";
const CONFIRMED: &str = "15 c confirmed op=11\n";
const DRAINED: &str = "
    1000 o drains
    1001 broker drained subscription=s
";
/// The broker is killed, and comes again.
const KILLED: &str = "
    20 broker crashed life=1 cause=kill
    21 broker starts life=2
    22 broker serves life=2 interval_ms=50
";
const POWER: &str = "
    20 broker crashed life=1 cause=power
    21 broker starts life=2
    22 broker serves life=2 interval_ms=50
";
/// The same in two, with what is between.
const POWER_TAKES: &str = "20 broker crashed life=1 cause=power\n";
const SERVES: &str = "
    21 broker starts life=2
    22 broker serves life=2 interval_ms=50
";
const AGAIN: &str =
    "30 c delivered subscription=s topic=t position=5 sequence=1 attempt=2 n=1 hash=7\n";

/// Which promises a history breaks by their names, in order. It follows the usual beginning.
fn broken(parts: &[&str]) -> Vec<&'static str> {
    broken_after(BEGIN, parts)
}

/// The same of one that follows another beginning.
fn broken_after(begin: &str, parts: &[&str]) -> Vec<&'static str> {
    let text = format!("{begin}{}", parts.concat());
    let history = history::read(&text).unwrap_or_else(|why| panic!("{why}"));
    let violations = check(&history);
    violations
        .iter()
        .map(|found| found.promise.name())
        .collect()
}

/// A fault that holds up somebody's link.
fn outage(actor: &str, lasts_ms: u64) -> String {
    format!("{{\"outage\":{{\"actor\":\"{actor}\",\"is_up\":null,\"lasts_ms\":{lasts_ms}}}}}")
}

#[track_caller]
fn check_broken(cases: &[(&str, &[&str], &[&str])]) {
    let wrong = cases.iter().filter_map(|(case, parts, expected)| {
        let broken = broken(parts);
        (broken != *expected).then(|| format!("{case}: {broken:?} instead of {expected:?}"))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_answered_event_is_delivered_until_it_is_acked() {
    let unanswered = "10 p publishes op=10 producer=a topic=t n=1 hash=7\n";
    let failed = "11 p not-published op=10 code=lost is_sure=false\n";
    let deleted = "
        40 o deletes-subscription op=20 subscription=s
        41 o done op=20 id=0
    ";
    let recreated = "
        50 o creates-subscription op=21 subscription=s topic=t start=latest ack_deadline_ms=30000
        51 o done op=21 id=3
    ";
    let no_topic = "
        40 o deletes-topic op=20 topic=t
        41 o done op=20 id=0
    ";
    check_broken(&[
        ("it was", &[ONE, GOT, ACKED, CONFIRMED, DRAINED], &[]),
        ("never delivered", &[ONE, DRAINED], &["ANSWERED"]),
        ("never acked", &[ONE, GOT, DRAINED], &["ANSWERED"]),
        ("acked, and nobody knows", &[ONE, GOT, ACKED, DRAINED], &[]),
        (
            "not gone after a kill",
            &[ONE, KILLED, DRAINED],
            &["ANSWERED"],
        ),
        (
            "nor after a power cut",
            &[ONE, POWER, DRAINED],
            &["ANSWERED"],
        ),
        ("never answered", &[unanswered, DRAINED], &[]),
        ("the answer was lost", &[unanswered, failed, DRAINED], &[]),
        (
            "deleted with its subscription",
            &[ONE, deleted, recreated, DRAINED],
            &[],
        ),
        ("deleted with its topic", &[ONE, no_topic, DRAINED], &[]),
    ]);
}

#[test]
fn what_was_consumed_stays_so_over_a_stop() {
    let back = "1010 broker came-back subscription=s\n";
    let late = "900 p publishes op=12 producer=a topic=t n=2 hash=7\n";
    let elsewhere = late.replace("topic=t", "topic=fast");
    let answered = "901 p published op=12 sequence=2 is_duplicate=false\n";
    let got = "902 c delivered subscription=s topic=t position=6 sequence=2 attempt=1 n=2 hash=7
        903 c says subscription=s position=6 answer=ack
        904 c flushes op=13 subscription=s
        905 c confirmed op=13\n";
    let all = [ONE, GOT, ACKED, CONFIRMED];
    let with = |more: &[&'static str]| [&all[..], more].concat();
    check_broken(&[
        ("it does not", &with(&[DRAINED, back]), &["ACKED"]),
        (
            "nobody knows of one that was just sent",
            &with(&[late, DRAINED, back]),
            &[],
        ),
        (
            "everybody knows",
            &with(&[late, answered, got, DRAINED, back]),
            &["ACKED"],
        ),
        (
            "to another topic",
            &[&all[..], &[&elsewhere, DRAINED, back]].concat(),
            &["ACKED"],
        ),
    ]);
}

#[test]
fn what_is_synced_at_intervals_survives_a_kill_and_after_a_moment_the_power() {
    let one = "
        6 d attaches op=6 subscription=f
        6 d attached op=6
        10 p publishes op=10 producer=a topic=fast n=1 hash=7
        11 p published op=10 sequence=1 is_duplicate=false
    ";
    let drained = "
        9000 o drains
        9001 broker drained subscription=f
    ";
    let late = POWER.replace("    2", "    802");
    let seen =
        "30 d delivered subscription=f topic=fast position=5 sequence=1 attempt=1 n=1 hash=7\n";
    let on_its_way = "
        20 broker crashed life=1 cause=power
        20 d delivered subscription=f topic=fast position=5 sequence=1 attempt=1 n=1 hash=7
        21 broker starts life=2
        22 broker serves life=2 interval_ms=50
    ";
    let asked = "19 p publishes op=10 producer=a topic=fast n=1 hash=7\n";
    let answer = "23 p published op=10 sequence=1 is_duplicate=false\n";
    check_broken(&[
        (
            "a kill",
            &[one, KILLED, drained],
            &["ANSWERED_AT_INTERVALS"],
        ),
        ("the power, at once", &[one, POWER, drained], &[]),
        (
            "while it was on its way to somebody",
            &[one, on_its_way, drained],
            &[],
        ),
        (
            "after it was seen again",
            &[one, POWER, seen, drained],
            &["ANSWERED"],
        ),
        (
            "the power, long after",
            &[one, &late, drained],
            &["LOST_AT_INTERVALS"],
        ),
        (
            "while the answer was on its way",
            &[asked, POWER, answer, drained],
            &[],
        ),
        (
            "a kill while it was",
            &[asked, KILLED, answer, drained],
            &["ANSWERED"],
        ),
    ]);
}

#[test]
fn what_was_refused_is_not_there() {
    let refused = "
        10 p publishes op=10 producer=a topic=t n=1 hash=7
        11 p not-published op=10 code=denied is_sure=true
    ";
    let lost = "
        10 p publishes op=10 producer=a topic=t n=1 hash=7
        11 p not-published op=10 code=lost is_sure=false
    ";
    let early = "10 p publishes op=10 producer=a topic=t n=1 hash=7\n";
    let no = "16 p not-published op=10 code=denied is_sure=true\n";
    check_broken(&[
        ("it is not", &[refused, DRAINED], &[]),
        ("it is", &[refused, GOT], &["REFUSED"]),
        ("it was", &[early, GOT, no], &["REFUSED"]),
        ("nobody knew", &[lost, GOT], &[]),
    ]);
}

#[test]
fn after_a_confirmed_ack_an_event_does_not_come_again() {
    let other = "29 d attaches op=30 subscription=s\n29 d attached op=30\n";
    let late = "15 c late op=11 position=5\n";
    let unknown = "15 c not-confirmed op=11 code=lost\n";
    let later = "16 c flushes op=12 subscription=s\n17 c confirmed op=12\n";
    let nacked = ACKED.replace("answer=ack", "answer=nack");
    let slow = ACKED.replace("    1", "    3001");
    let slow = format!("{slow}    30016 c confirmed op=11\n");
    let after = AGAIN.replace("30 c", "30020 d");
    let early = "9 d attaches op=30 subscription=s\n9 d attached op=30\n";
    let soon = AGAIN.replace("30 c", "30 d");
    let late_again = AGAIN.replace("30 c", "6000 d");
    let trouble = format!("20 n troubled what={} until_ms=5000\n", outage("d", 4_980));
    check_broken(&[
        ("again", &[ONE, GOT, ACKED, CONFIRMED, AGAIN], &["ACKED"]),
        (
            "in a later life",
            &[ONE, GOT, ACKED, CONFIRMED, KILLED, AGAIN],
            &["ACKED"],
        ),
        (
            "after the power",
            &[ONE, GOT, ACKED, CONFIRMED, POWER, AGAIN],
            &["ACKED"],
        ),
        (
            "to another",
            &[ONE, GOT, ACKED, CONFIRMED, other, &soon],
            &["ACKED"],
        ),
        (
            "to one who was there, and for whom it was on its way",
            &[early, ONE, GOT, ACKED, CONFIRMED, &soon],
            &[],
        ),
        (
            "and was not any more",
            &[early, ONE, GOT, ACKED, CONFIRMED, &late_again],
            &["ACKED"],
        ),
        (
            "and was for long",
            &[early, ONE, GOT, ACKED, CONFIRMED, &trouble, &late_again],
            &[],
        ),
        (
            "not confirmed, and killed",
            &[ONE, GOT, ACKED, KILLED, AGAIN],
            &[],
        ),
        (
            "it was late",
            &[ONE, GOT, ACKED, late, CONFIRMED, AGAIN],
            &[],
        ),
        ("no ack", &[ONE, GOT, &nacked, CONFIRMED, AGAIN], &[]),
        (
            "confirmed of what came later only",
            &[ONE, GOT, ACKED, unknown, later, AGAIN],
            &[],
        ),
        (
            "by who has died since",
            &[ONE, GOT, ACKED, "15 c dies\n", later, AGAIN],
            &[],
        ),
        ("after its deadline", &[ONE, GOT, &slow, &after], &[]),
    ]);
}

#[test]
fn an_event_has_one_place_and_a_number_one_event() {
    let two = "
        16 p publishes op=12 producer=a topic=t n=2 hash=7
        17 p published op=12 sequence=2 is_duplicate=false
    ";
    let same = two.replace("sequence=2", "sequence=1");
    let elsewhere = GOT.replace("position=5", "position=6");
    let other =
        "18 c delivered subscription=s topic=t position=5 sequence=2 attempt=2 n=2 hash=7\n";
    let differs = GOT.replace("sequence=1", "sequence=2");
    let third = "
        40 o creates-topic op=20 topic=u durability=sync
        40 o done op=20 id=1
    ";
    check_broken(&[
        ("resent and known", &[ONE, GOT, two], &[]),
        ("twice in the log", &[ONE, GOT, &elsewhere], &["ONCE"]),
        ("one sequence twice", &[ONE, &same], &["ONE_STANDS_FOR_ONE"]),
        (
            "one position twice",
            &[ONE, GOT, two, other],
            &["NEVER_AGAIN"],
        ),
        ("answered otherwise", &[ONE, &differs], &["ONCE"]),
        ("an id again", &[third], &["ONE_STANDS_FOR_ONE"]),
    ]);
}

#[test]
fn what_the_power_took_may_come_again_elsewhere_and_its_number_may_not() {
    let one = "
        10 p publishes op=10 producer=a topic=fast n=1 hash=7
        11 p published op=10 sequence=1 is_duplicate=false
    ";
    let got =
        "12 c delivered subscription=f topic=fast position=5 sequence=1 attempt=1 n=1 hash=7\n";
    let again =
        "30 c delivered subscription=f topic=fast position=90 sequence=9 attempt=1 n=1 hash=7\n";
    let taken = "
        31 p publishes op=12 producer=a topic=fast n=2 hash=7
        32 p published op=12 sequence=1 is_duplicate=false
    ";
    check_broken(&[
        ("elsewhere", &[one, got, POWER, again], &[]),
        (
            "after a kill",
            &[one, got, KILLED, again],
            &["ONCE", "ONCE"],
        ),
        (
            "its number",
            &[one, got, POWER, taken],
            &["ONE_STANDS_FOR_ONE"],
        ),
    ]);
}

#[test]
fn sequences_of_one_life_have_no_gaps() {
    let three = "
        16 p publishes op=12 producer=a topic=t n=3 hash=7
        17 p published op=12 sequence=3 is_duplicate=false
        18 c delivered subscription=s topic=t position=7 sequence=3 attempt=1 n=3 hash=7
        18 c says subscription=s position=7 answer=ack
    ";
    let later = three.replace("    1", "    3");
    let all = [ONE, GOT, ACKED, three].concat();
    let (published, delivered) = three.split_at(three.find("        18").expect("it is there"));
    let first = [ONE, GOT, ACKED, published].concat();
    let third = delivered.replace("        18", "        20");
    let drained = DRAINED.to_owned();
    let to_fast = |words: &String| {
        let words = words.replace("topic=t", "topic=fast");
        words.replace("subscription=s", "subscription=f")
    };
    let asked = "16 p publishes op=12 producer=a topic=t n=2 hash=7\n";
    let answered = "
        36 p published op=12 sequence=2 is_duplicate=false
        36 c delivered subscription=s topic=t position=6 sequence=2 attempt=1 n=2 hash=7
        36 c says subscription=s position=6 answer=ack
    ";
    let nine = "
        37 p publishes op=13 producer=a topic=t n=9 hash=7
        37 p published op=13 sequence=9 is_duplicate=false
        38 c delivered subscription=s topic=t position=19 sequence=9 attempt=1 n=9 hash=7
        38 c says subscription=s position=19 answer=ack
    ";
    check_broken(&[
        (
            "a gap",
            &[ONE, GOT, ACKED, three, DRAINED],
            &["WITHOUT_GAPS"],
        ),
        (
            "of two lives",
            &[ONE, GOT, ACKED, KILLED, &later, DRAINED],
            &[],
        ),
        (
            "the power took none",
            &[&all, POWER, &drained],
            &["WITHOUT_GAPS"],
        ),
        (
            "it took them, since they were not synced yet",
            &[&to_fast(&all), POWER, &to_fast(&drained)],
            &[],
        ),
        (
            "the last of them was on its way to somebody",
            &[
                &to_fast(&first),
                POWER_TAKES,
                &to_fast(&third),
                SERVES,
                &to_fast(&drained),
            ],
            &[],
        ),
        (
            "of which of them nobody knows",
            &[ONE, GOT, ACKED, asked, KILLED, answered, nine, DRAINED],
            &[],
        ),
    ]);
}

#[test]
fn what_is_delivered_is_what_was_published() {
    let changed = GOT.replace("hash=7", "hash=8");
    let moved = GOT.replace("topic=t", "topic=fast");
    let unknown = GOT.replace("n=1", "n=4");
    check_broken(&[
        ("as it was", &[ONE, GOT], &[]),
        ("other bytes", &[ONE, &changed], &["AS_PUBLISHED"]),
        (
            "another topic",
            &[ONE, &moved],
            &["AS_PUBLISHED", "AS_PUBLISHED"],
        ),
        (
            "nobody's",
            &[ONE, &unknown],
            &["ONE_STANDS_FOR_ONE", "AS_PUBLISHED"],
        ),
    ]);
}

#[test]
fn events_are_stored_as_sent_and_first_offered_as_stored() {
    let two = "
        11 p publishes op=12 producer=a topic=t n=2 hash=7
        12 p published op=12 sequence=2 is_duplicate=false
    ";
    let first =
        "13 c delivered subscription=s topic=t position=4 sequence=2 attempt=1 n=2 hash=7\n";
    let second =
        "13 c delivered subscription=s topic=t position=6 sequence=2 attempt=1 n=2 hash=7\n";
    let another = two.replace("producer=a", "producer=b");
    let gone = "40012 c detached subscription=s\n";
    let cut = "40012 n troubled what={\"cut\":{\"actor\":\"c\"}} until_ms=40012\n";
    let helper = "9 d attaches op=30 subscription=s\n9 d attached op=30\n";
    let late = |text: &str| text.replace("    1", "    4001");
    let late_line = |text: &str| format!("400{text}");
    let (late_one, late_two) = (late(ONE), late(two));
    let (late_second, late_got) = (late_line(second), late_line(GOT));
    let retried = late_got.replace("attempt=1", "attempt=2");
    check_broken(&[
        ("in order", &[ONE, two, GOT, second], &[]),
        (
            "stored the other way",
            &[ONE, two, first, GOT],
            &["IN_ORDER"],
        ),
        ("of two producers", &[ONE, &another, first, GOT], &[]),
        (
            "offered the other way",
            &[&late_one, &late_two, &late_second, &late_got],
            &["IN_ORDER"],
        ),
        ("soon after a start", &[ONE, two, second, GOT], &[]),
        (
            "to two consumers",
            &[helper, &late_one, &late_two, &late_second, &late_got],
            &[],
        ),
        (
            "a retry, of what nobody has had",
            &[&late_one, &late_two, &late_second, &retried],
            &["COUNTED"],
        ),
        (
            "of what waited in a client",
            &[&late_one, &late_two, gone, &late_second, &late_got],
            &[],
        ),
        (
            "after a cut",
            &[&late_one, &late_two, cut, &late_second, &late_got],
            &[],
        ),
    ]);
}

#[test]
fn requests_are_answered_once_and_before_long() {
    let ask = "10 p publishes op=10 producer=a topic=t n=1 hash=7\n";
    let answer = "11 p published op=10 sequence=1 is_duplicate=false\n";
    let late = answer.replace("11 p", "70011 p");
    let stranger = answer.replace("11 p", "11 q");
    let nobody = "11 p published op=77 sequence=1 is_duplicate=false\n";
    let other = "11 p done op=10 id=4\n";
    let trouble = |who| {
        let what = outage(who, 19_988);
        format!("12 n troubled what={what} until_ms=20000\n")
    };
    let over = "100000 o over\n";
    let dies = "12 p dies\n";
    let down = "12 broker crashed life=1 cause=kill\n";
    let up = "69000 broker starts life=2\n69001 broker serves life=2 interval_ms=50\n";
    check_broken(&[
        ("once", &[ask, answer, over], &[]),
        ("twice", &[ask, answer, answer], &["ANSWERED_ONCE"]),
        ("to somebody else", &[ask, &stranger], &["ANSWERED_ONCE"]),
        ("unasked", &[nobody], &["ANSWERED_ONCE"]),
        ("by another's", &[ask, other], &["ANSWERED_ONCE"]),
        ("asked twice", &[ask, ask], &["ANSWERED_ONCE"]),
        ("late", &[ask, &late], &["ANSWERED_AT_ALL"]),
        ("late after a fault", &[ask, &trouble("p"), &late], &[]),
        (
            "on another's link",
            &[ask, &trouble("c"), &late],
            &["ANSWERED_AT_ALL"],
        ),
        ("late after a life", &[ask, down, up, &late], &[]),
        ("never", &[ask, over], &["ANSWERED_AT_ALL"]),
        ("by the dead", &[ask, dies, over], &[]),
    ]);
}

#[test]
fn everything_drains_and_a_broker_stops_and_starts() {
    let stops = "2000 broker stops life=1\n";
    let stopped = "3000 broker stopped life=1\n";
    let late = "22001 broker stopped life=1\n";
    let over = "90000 o over\n";
    let both = "1002 broker drained subscription=f\n";
    let dead = "2000 broker crashed life=1 cause=kill\n2001 broker starts life=2\n";
    let slow = "62002 broker serves life=2 interval_ms=50\n";
    check_broken(&[
        ("all", &[DRAINED, both, stops, stopped, over], &[]),
        ("one did not", &[DRAINED, over], &["DRAINS"]),
        ("late", &[stops, late], &["STOPS"]),
        ("never", &[stops], &["STOPS"]),
        (
            "killed meanwhile",
            &[stops, &dead.replace("2000 ", "2002 "), slow],
            &["ANSWERED_AT_ALL"],
        ),
        ("never came", &[dead], &["ANSWERED_AT_ALL"]),
    ]);
}

#[test]
fn no_queue_is_fuller_than_it_may_be() {
    let fills = |is| format!("9 broker fills gauge=journal_bytes is={is} at_most=9\n");
    check_broken(&[
        ("full", &[&fills(9)], &[]),
        ("fuller", &[&fills(9), &fills(10)], &["BOUNDED"]),
    ]);
}

#[test]
fn panics_and_leftovers_are_told() {
    check_broken(&[
        (
            "a panic",
            &["9 broker panicked strand=committer said=no\n"],
            &["NO_PANIC"],
        ),
        (
            "a leftover",
            &["9 broker left strand=lane.7 waits=its%20task\n"],
            &["NO_PANIC"],
        ),
        (
            "a run without an end",
            &["9 run never-rests why=lane.7\n"],
            &["RESTS"],
        ),
    ]);
}

#[test]
fn a_violation_names_its_line_and_the_promise() {
    let history = history::read(&format!("{BEGIN}{ONE}{DRAINED}")).unwrap();
    let violations = check(&history);
    assert_eq!(
        violations[0].to_string(),
        "I1, line 16: event 1 of t was answered and never acked, and s has nothing more\n  \
         delivery.md says: an answered publish is on disk, or as its topic"
    );
}

// What is expected of a history is compared with what it breaks.
#[test]
fn each_promise_is_broken_by_a_history() {
    let files = [
        include_str!("tests.rs"),
        include_str!("tests/attempts.rs"),
        include_str!("tests/changes.rs"),
        include_str!("tests/disks.rs"),
        include_str!("tests/filters.rs"),
        include_str!("tests/letters.rs"),
        include_str!("tests/losses.rs"),
        include_str!("tests/routes.rs"),
        include_str!("tests/starts.rs"),
        include_str!("tests/troubles.rs"),
    ];
    for promise in PROMISES {
        let name = format!("\"{}\"", promise.name());
        let is_broken = files.iter().any(|file| file.contains(&name));
        assert!(is_broken, "no history breaks {name}");
    }
}

#[test]
fn the_book_says_what_is_quoted() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Lines break where they will.
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for promise in PROMISES {
        let page = match promise.page {
            page if page.contains('/') || page.starts_with(|first: char| first.is_lowercase()) => {
                format!("host/docs/src/{page}")
            }
            page => page.to_owned(),
        };
        let text = fs::read_to_string(repository.join(&page));
        let text = text.unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(
            plain(&text).contains(&plain(promise.words)),
            "{page} does not say any more: {}",
            promise.words
        );
    }
}

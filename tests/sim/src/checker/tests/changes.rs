//! Histories of topics and subscriptions that come, go, come again and stand still.

use super::{ACKED, CONFIRMED, DRAINED, GOT, KILLED, ONE, check_broken};

const DELETED: &str = "
    40 o deletes-subscription op=20 subscription=s
    41 o done op=20 id=0
";
const NO_TOPIC: &str = "
    40 o deletes-topic op=20 topic=t
    41 o done op=20 id=0
";
const PAUSED: &str = "
    6 o pauses op=6 subscription=s why=for-6
    7 o done op=6 id=0
";
/// The broker is killed while a request is open.
const CUT: &str = "
    50 broker crashed life=1 cause=kill
    50 o dies
    51 broker starts life=2
    52 broker serves life=2 interval_ms=50
";

fn made(start: &str) -> String {
    format!(
        "60 o creates-subscription op=60 subscription=s topic=t start={start} ack_deadline_ms=30000
         61 o done op=60 id=3
         62 c attaches op=61 subscription=s
         62 c attached op=61\n"
    )
}

fn sees(subscription: &str) -> String {
    format!("53 o sees-subscription subscription=s {subscription}\n")
}

const AS_MADE: &str = "is_there=true is_paused=false ack_deadline_ms=30000 in_flight_max=65536";
const NOWHERE: &str = "is_there=false is_paused=false ack_deadline_ms=0 in_flight_max=0";

#[test]
fn what_was_answered_is_there_in_the_next_life() {
    let asked = "40 o deletes-subscription op=20 subscription=s\n";
    let refused = "41 o not-done op=20 code=no is_sure=true\n";
    let lost = "41 o not-done op=20 code=lost is_sure=false\n";
    let changes = "40 o changes op=20 subscription=s ack_deadline_ms=2000 in_flight_max=4\n";
    let done = "41 o done op=20 id=0\n";
    let (there, nowhere) = (sees(AS_MADE), sees(NOWHERE));
    let changed = sees("is_there=true is_paused=false ack_deadline_ms=2000 in_flight_max=4");
    let half = sees("is_there=true is_paused=false ack_deadline_ms=2000 in_flight_max=65536");
    check_broken(&[
        ("it is", &[CUT, &there], &[]),
        ("it is not", &[CUT, &nowhere], &["MADE"]),
        ("deleted", &[DELETED, CUT, &nowhere], &[]),
        ("deleted, and there", &[DELETED, CUT, &there], &["MADE"]),
        ("nobody knows: gone", &[asked, CUT, &nowhere], &[]),
        ("nobody knows: there", &[asked, CUT, &there], &[]),
        (
            "once it is known",
            &[asked, CUT, &there, &nowhere],
            &["MADE"],
        ),
        (
            "an answer that says nothing",
            &[asked, lost, CUT, &nowhere],
            &[],
        ),
        ("refused: there", &[asked, refused, CUT, &there], &[]),
        ("refused: gone", &[asked, refused, CUT, &nowhere], &["MADE"]),
        ("changed", &[changes, done, CUT, &changed], &[]),
        ("changed, and not", &[changes, done, CUT, &there], &["MADE"]),
        ("perhaps changed", &[changes, CUT, &changed], &[]),
        ("perhaps not", &[changes, CUT, &there], &[]),
        ("half of it", &[changes, CUT, &half], &["MADE"]),
        ("never asked for", &[CUT, &changed], &["MADE"]),
    ]);
}

#[test]
fn a_topic_has_the_id_that_was_answered_until_it_is_deleted() {
    let sees = |id: u64| format!("53 o sees-topic topic=t id={id}\n");
    let asked = "40 o deletes-topic op=20 topic=t\n";
    let again = "
        42 o creates-topic op=21 topic=t durability=sync
        42 o done op=21 id=9
    ";
    check_broken(&[
        ("the same", &[CUT, &sees(1)], &[]),
        ("none", &[CUT, &sees(0)], &["MADE"]),
        ("another", &[CUT, &sees(7)], &["MADE"]),
        ("deleted", &[NO_TOPIC, CUT, &sees(0)], &[]),
        ("made by a publish", &[NO_TOPIC, CUT, &sees(7)], &[]),
        (
            "deleted, and there",
            &[NO_TOPIC, CUT, &sees(1)],
            &["DELETED"],
        ),
        ("perhaps deleted", &[asked, CUT, &sees(0)], &[]),
        ("perhaps not", &[asked, CUT, &sees(1)], &[]),
        ("it was not", &[asked, CUT, &sees(1), &sees(0)], &["MADE"]),
        ("made again", &[NO_TOPIC, again, CUT, &sees(9)], &[]),
        (
            "the old one",
            &[NO_TOPIC, again, CUT, &sees(1)],
            &["DELETED", "MADE"],
        ),
        ("made although it is there", &[again], &["MADE"]),
    ]);
}

#[test]
fn what_a_subscription_has_is_its_own() {
    let (new, all) = (made("latest"), made("earliest"));
    let got = "63 c delivered subscription=s topic=t position=5 sequence=1 attempt=1 n=1 hash=7\n";
    let by_old = got.replace("63 c", "63 d");
    let old = "
        9 d attaches op=9 subscription=s
        9 d attached op=9
    ";
    let other = "
        8 o creates-subscription op=8 subscription=u topic=t start=earliest ack_deadline_ms=30000
        8 o done op=8 id=8
    ";
    let both = "1001 broker drained subscription=u\n";
    let again = "62 d opens subscription=s\n";
    let acked = "
        64 c says subscription=s position=5 answer=ack
        64 c flushes op=64 subscription=s
        65 c confirmed op=64
    ";
    let counted = "
        63 p publishes op=70 producer=a topic=t n=2 hash=7
        64 p published op=70 sequence=2 is_duplicate=false
        65 d delivered subscription=s topic=t position=9 sequence=2 attempt=1 n=2 hash=7
        66 d says subscription=s position=9 answer=nack
        67 c delivered subscription=s topic=t position=9 sequence=2 attempt=2 n=2 hash=7
    ";
    let u_acked = "
        12 e attaches op=12 subscription=u
        12 e attached op=12
        12 e delivered subscription=u topic=t position=5 sequence=1 attempt=1 n=1 hash=7
        13 e says subscription=u position=5 answer=ack
    ";
    check_broken(&[
        (
            "what was before it",
            &[ONE, DELETED, &new, got],
            &["BEGINS"],
        ),
        (
            "earliest gets it",
            &[ONE, DELETED, &all, got, acked, DRAINED],
            &[],
        ),
        (
            "acked in another of its name",
            &[ONE, GOT, ACKED, CONFIRMED, DELETED, &all, got],
            &[],
        ),
        (
            "from the one before",
            &[ONE, old, DELETED, &new, &by_old, DRAINED],
            &[],
        ),
        (
            "from the new one, over another connection",
            &[ONE, old, DELETED, &new, again, &by_old],
            &["BEGINS"],
        ),
        (
            "from the one before, over another connection",
            &[ONE, old, DELETED, again, &new, &by_old, DRAINED],
            &[],
        ),
        (
            "published for the new one, to somebody who had asked before it came",
            &[old, DELETED, &new, counted],
            &[],
        ),
        ("nobody kept it", &[ONE, DELETED, &all, DRAINED], &[]),
        (
            "somebody did",
            &[other, ONE, DELETED, &all, DRAINED],
            &["ANSWERED"],
        ),
        (
            "somebody had acked it",
            &[other, ONE, u_acked, DELETED, &all, DRAINED, both],
            &[],
        ),
        (
            "somebody did, and it came",
            &[other, ONE, DELETED, &all, got, acked, DRAINED],
            &[],
        ),
    ]);
}

#[test]
fn a_deleted_topic_is_gone_at_once_and_its_numbers_are_nobody_elses() {
    let later = "
        43 d attaches op=43 subscription=s
        43 d attached op=43
    ";
    let got = "44 d delivered subscription=s topic=t position=5 sequence=1 attempt=1 n=1 hash=7\n";
    let waited = got.replace("44 d", "44 c");
    let again = "43 c opens subscription=s\n";
    let next = |sequence: u64| {
        format!(
            "45 p publishes op=45 producer=a topic=t n=2 hash=7
             46 p published op=45 sequence={sequence} is_duplicate=false
             46 c delivered subscription=s topic=t position=9 sequence={sequence} attempt=1 n=2 hash=7\n"
        )
    };
    let says = "47 c says subscription=s position=9 answer=ack\n";
    let early = "39 p publishes op=45 producer=a topic=t n=2 hash=7\n";
    let answer = "46 p published op=45 sequence=1 is_duplicate=false\n";
    let open = "40 o deletes-topic op=20 topic=t\n";
    // The broker is killed while a deletion is open, and there is a topic then that nobody has seen before.
    let made = "
        42 p publishes op=45 producer=a topic=t n=1 hash=7
        43 p published op=45 sequence=1 is_duplicate=false
    ";
    let open_again = "44 o deletes-topic op=46 topic=t\n";
    let seen = "
        53 o sees-topic topic=t id=7
        54 d attaches op=54 subscription=s
        54 d attached op=54
    ";
    let got_then = got.replace("44 d", "55 d");
    check_broken(&[
        (
            "of one that was not known, and may be there still",
            &[NO_TOPIC, made, open_again, CUT, seen, &got_then],
            &[],
        ),
        (
            "of one that was known, and is not there any more",
            &[ONE, open, CUT, seen, &got_then],
            &["DELETED"],
        ),
        ("owed to nobody", &[ONE, NO_TOPIC, DRAINED], &[]),
        ("still there", &[ONE, NO_TOPIC, later, got], &["DELETED"]),
        (
            "still in the client",
            &[ONE, NO_TOPIC, &waited, DRAINED],
            &[],
        ),
        (
            "no more in the client",
            &[ONE, NO_TOPIC, again, &waited],
            &["DELETED"],
        ),
        ("before it is answered", &[ONE, open, later, got], &[]),
        (
            "goes on above",
            &[ONE, NO_TOPIC, &next(3), says, DRAINED],
            &[],
        ),
        (
            "begins anew",
            &[ONE, NO_TOPIC, &next(1)],
            &[
                "ONE_STANDS_FOR_ONE",
                "GOES_ON_ABOVE",
                "ONE_STANDS_FOR_ONE",
                "GOES_ON_ABOVE",
            ],
        ),
        (
            "of the one before",
            &[early, NO_TOPIC, answer, DRAINED],
            &[],
        ),
        (
            "owed, of the new one",
            &[ONE, NO_TOPIC, &next(3), DRAINED],
            &["ANSWERED"],
        ),
    ]);
}

#[test]
fn what_is_paused_stands_still_until_it_is_resumed() {
    let resumed = "
        11 o resumes op=7 subscription=s
        11 o done op=7 id=0
    ";
    let asked = "11 o resumes op=7 subscription=s\n";
    let later = "
        9 d attaches op=9 subscription=s
        9 d attached op=9
    ";
    let early = "
        5 p publishes op=10 producer=a topic=t n=1 hash=7
        5 p published op=10 sequence=1 is_duplicate=false
    ";
    let by_later = GOT.replace("12 c", "12 d");
    let again = "9 c opens subscription=s\n";
    let paused = sees("is_there=true is_paused=true ack_deadline_ms=30000 in_flight_max=65536");
    let goes_on = sees(AS_MADE);
    let lost = "6 o pauses op=6 subscription=s why=for-6\n";
    check_broken(&[
        ("published since", &[PAUSED, ONE, GOT], &["PAUSED"]),
        ("published before", &[early, PAUSED, GOT], &[]),
        (
            "to who came since",
            &[early, PAUSED, later, &by_later],
            &["PAUSED"],
        ),
        (
            "to who came again",
            &[early, PAUSED, again, GOT],
            &["PAUSED"],
        ),
        ("resumed", &[PAUSED, ONE, resumed, GOT], &[]),
        ("perhaps resumed", &[PAUSED, ONE, asked, GOT], &[]),
        ("perhaps paused", &[lost, ONE, GOT], &[]),
        ("in the next life", &[PAUSED, KILLED, &paused], &[]),
        (
            "not any more",
            &[PAUSED, KILLED, &goes_on],
            &["STAYS_PAUSED"],
        ),
        ("still resumed", &[PAUSED, resumed, KILLED, &goes_on], &[]),
        (
            "paused again",
            &[PAUSED, resumed, KILLED, &paused],
            &["STAYS_RESUMED"],
        ),
        ("nobody knows", &[lost, CUT, &paused], &[]),
        ("nobody knew", &[lost, CUT, &goes_on], &[]),
    ]);
}

#[test]
fn consumers_are_told_that_nothing_comes() {
    let hears = "8 c hears subscription=s why=for-6\n";
    let other = "8 c hears subscription=s why=lost\n";
    let soon = "10000 o resumes op=7 subscription=s\n";
    let later = "30000 o resumes op=7 subscription=s\n";
    let trouble = "20000 n troubled what={\"cut\":{\"actor\":\"c\"}} until_ms=20000\n";
    let detached = "9 c detached subscription=s\n";
    check_broken(&[
        ("told", &[PAUSED, hears, later], &[]),
        ("not told", &[PAUSED, later], &["TOLD"]),
        ("told something else", &[PAUSED, other, later], &["TOLD"]),
        ("soon", &[PAUSED, soon], &[]),
        ("after a fault", &[PAUSED, trouble, later], &[]),
        ("who is not there", &[PAUSED, detached, later], &[]),
    ]);
}

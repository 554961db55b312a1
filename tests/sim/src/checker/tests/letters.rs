//! Events that are given up, their letters, and what waits until then.

use super::{KILLED, check_broken};

/// A subscription that tries an event twice, somebody who consumes it, and somebody who keeps its letters.
const GIVES: &str = "
    5 o creates-topic op=38 topic=u durability=sync
    5 o done op=38 id=8
    6 o chooses-attempts op=40 attempts_max=2 backoff_ms=0
    6 o creates-subscription op=40 subscription=x topic=u start=earliest ack_deadline_ms=30000
    6 o done op=40 id=8
    6 o creates-topic op=41 topic=dead.x durability=sync
    6 o done op=41 id=9
    6 o creates-subscription op=42 subscription=k topic=dead.x start=earliest ack_deadline_ms=30000
    6 o done op=42 id=9
    7 d attaches op=43 subscription=x
    7 d opens subscription=x
    7 d attached op=43
    7 e attaches op=44 subscription=k
    7 e attached op=44
    10 p publishes op=10 producer=a topic=u n=1 hash=7
    11 p published op=10 sequence=1 is_duplicate=false
";
const LETTER: &str = "40 e letter subscription=k topic=dead.x position=9 sequence=1 attempt=1 n=1 hash=7 of=x from=u was=1 attempts=2 why=handed%20out%20as%20often\n";
const OVER: &str = "
    1000 o drains
    1001 broker drained subscription=s
    1001 broker drained subscription=f
    1001 broker drained subscription=x
    1001 broker drained subscription=k
    1002 o over
";
const FIRST: &str =
    "12 d delivered subscription=x topic=u position=5 sequence=1 attempt=1 n=1 hash=7\n";
const SECOND: &str =
    "14 d delivered subscription=x topic=u position=5 sequence=1 attempt=2 n=1 hash=7\n";
const NACKED: &str = "13 d says subscription=x position=5 answer=nack\n";
const AGAIN: &str = "15 d says subscription=x position=5 answer=nack\n";

#[test]
fn what_failed_as_often_as_allowed_is_given_up_and_its_letter_is_there_once() {
    let third = SECOND
        .replace("14 d", "50 d")
        .replace("attempt=2", "attempt=3");
    let early = LETTER.replace("attempts=2", "attempts=1");
    let twice = LETTER.replace("position=9 sequence=1", "position=10 sequence=2");
    let got_again = LETTER.replace("attempt=1", "attempt=2");
    let elsewhere = LETTER.replace("dead.x", "dead.s");
    let changed = LETTER.replace("hash=7", "hash=8");
    let refused = LETTER.replace(
        "handed%20out%20as%20often",
        "refused%20by%20the%20consumer:%20no",
    );
    let filtered = early.replace("handed%20out%20as%20often", "filter%20failed:%20trap");
    let lost = LETTER.replace("handed%20out%20as%20often", "lost");
    let term = NACKED.replace("nack", "term");
    let acked = AGAIN.replace("nack", "ack");
    let gone = "
        30 o deletes-topic op=45 topic=dead.x
        30 o done op=45 id=0
    ";
    let late = "
        20 o deletes-subscription op=45 subscription=k
        20 o done op=45 id=0
        30 o creates-subscription op=46 subscription=k topic=dead.x start=latest ack_deadline_ms=30000
        30 o done op=46 id=10
    ";
    let failed = [GIVES, FIRST, NACKED, SECOND, AGAIN].concat();
    check_broken(&[
        ("as it should", &[&failed, LETTER, OVER], &[]),
        ("without its letter", &[&failed, OVER], &["GOES_THERE"]),
        ("after the keeper of it went", &[&failed, late, OVER], &[]),
        ("and its topic was deleted", &[&failed, gone, OVER], &[]),
        (
            "perhaps acked",
            &[GIVES, FIRST, NACKED, SECOND, &acked, OVER],
            &[],
        ),
        (
            "one attempt early",
            &[GIVES, FIRST, NACKED, &early],
            &["GIVES_UP"],
        ),
        (
            "it has failed once",
            &[GIVES, FIRST, NACKED, LETTER],
            &["DOES_NOT_PAY"],
        ),
        (
            "handed out again",
            &[&failed, LETTER, &third],
            &["GIVES_UP"],
        ),
        ("twice", &[&failed, LETTER, &twice], &["LETTER_ONCE"]),
        ("got twice", &[&failed, LETTER, &got_again], &[]),
        ("in another topic", &[&failed, &elsewhere], &["GOES_THERE"]),
        ("with other bytes", &[&failed, &changed], &["GOES_THERE"]),
        ("for another reason", &[&failed, &lost], &["SAYS_WHY"]),
        ("nobody refused it", &[&failed, &refused], &["SAYS_WHY"]),
        ("no filter fails on it", &[&failed, &filtered], &["BLAMED"]),
        (
            "refused",
            &[
                GIVES,
                FIRST,
                &term,
                &refused.replace("attempts=2", "attempts=1"),
                OVER,
            ],
            &[],
        ),
        (
            "refused, and it comes again",
            &[GIVES, FIRST, &term, SECOND],
            &["GIVES_UP"],
        ),
    ]);
}

#[test]
fn what_is_refused_comes_again_after_a_crash_only_where_that_was_held_back() {
    let said = NACKED.replace("nack", "term");
    let flushed = "14 d flushes op=12 subscription=x\n15 d confirmed op=12\n";
    let held_back = "19 broker held-back\n";
    let opens = "23 d opens subscription=x\n";
    let again = FIRST.replace("12 d", "40 d");
    let refused = [GIVES, FIRST, &said, flushed].concat();
    let acked = [GIVES, FIRST, &said.replace("term", "ack"), flushed].concat();
    check_broken(&[
        (
            "held back",
            &[&refused, held_back, KILLED, opens, &again],
            &[],
        ),
        (
            "written",
            &[&refused, KILLED, opens, &again],
            &["ACKED", "KEPT", "GIVES_UP"],
        ),
        (
            "an ack, which nothing holds back",
            &[&acked, held_back, KILLED, opens, &again],
            &["ACKED"],
        ),
    ]);
}

#[test]
fn what_was_in_hand_beside_others_has_not_failed() {
    let other = "
        11 p publishes op=11 producer=a topic=u n=2 hash=7
        11 p published op=11 sequence=2 is_duplicate=false
        14 d delivered subscription=x topic=u position=6 sequence=2 attempt=1 n=2 hash=7
    ";
    let done = "15 d says subscription=x position=6 answer=ack\n";
    let dies = "2000 d dies\n";
    let just_now = "100 d dies\n";
    let letter = LETTER.replace("40 e", "2100 e");
    let cut = "1500 stage troubled what={\"cut\":{\"actor\":\"d\"}} until_ms=1500\n";
    let stopped = "
        2000 broker stops life=1
        2010 broker stopped life=1
        2020 broker starts life=2
        2030 broker serves life=2 interval_ms=50
    ";
    let long_after = LETTER.replace("40 e", "32000 e");
    let failed = [GIVES, FIRST, NACKED, SECOND].concat();
    check_broken(&[
        ("alone", &[&failed, dies, &letter], &[]),
        (
            "with another",
            &[&failed, other, dies, &letter],
            &["DOES_NOT_PAY"],
        ),
        (
            "which was done",
            &[&failed, other, done, dies, &letter],
            &[],
        ),
        (
            "which nobody knew",
            &[&failed, other, just_now, &letter],
            &[],
        ),
        (
            "its deadline was over",
            &[&failed, other, dies, &long_after],
            &[],
        ),
        (
            "the broker stopped",
            &[&failed, stopped, &letter],
            &["DOES_NOT_PAY"],
        ),
        (
            "after it was cut off, perhaps",
            &[&failed, cut, stopped, &letter],
            &[],
        ),
    ]);
}

#[test]
fn what_a_killed_client_was_to_hand_over_is_given_up_perhaps_without_anybody_getting_it() {
    let others = "
        11 p publishes op=11 producer=a topic=u n=2 hash=7
        11 p publishes op=12 producer=a topic=u n=3 hash=7
        11 p published op=11 sequence=2 is_duplicate=false
        11 p published op=12 sequence=3 is_duplicate=false
    ";
    let got = "
        13 d says subscription=x position=5 answer=ack
        14 d delivered subscription=x topic=u position=7 sequence=3 attempt=1 n=3 hash=7
        15 d says subscription=x position=7 answer=ack
    ";
    let cut = |ms: u64| {
        format!(
            "
            {ms} d dies
            {ms} d attaches op={ms} subscription=x
            {ms} d opens subscription=x
            {ms} d attached op={ms}
            "
        )
    };
    let drained = "900 broker drained subscription=x\n";
    let all = [GIVES, others, FIRST, got].concat();
    let chooses = "6 o chooses-attempts op=40";
    let filters = format!("6 o chooses-filters op=40 chain=f%20drop%20all\n{chooses}");
    let filtered = all.replace(chooses, &filters);
    let letter = LETTER.replace("40 e", "400 e").replace("n=1", "n=2");
    let letter = letter.replace("was=1", "was=2");
    check_broken(&[
        (
            "cut off three times, and there is a letter of what filters took",
            &[&filtered, &cut(100), &cut(200), &cut(300), &letter, drained],
            &[],
        ),
        (
            "cut off three times, of which one is known",
            &[&all, &cut(100), &cut(200), &cut(300), drained],
            &[],
        ),
        (
            "cut off twice",
            &[&all, &cut(100), &cut(200), drained],
            &["ANSWERED", "WITHOUT_GAPS"],
        ),
    ]);
}

#[test]
fn nothing_comes_before_its_wait_is_over() {
    let waits = "13 d waits subscription=x position=5 delay_ms=50\n";
    let at = |ms: u64| SECOND.replace("14 d", &format!("{ms} d"));
    let (early, due) = (at(60), at(63));
    let flushed = "14 d flushes op=12 subscription=x\n15 d confirmed op=12\n";
    let opens = "23 d opens subscription=x\n";
    let nacked = [GIVES, FIRST, waits, NACKED].concat();
    let slow = [
        GIVES,
        FIRST,
        &waits.replace("13 d", "30012 d"),
        &NACKED.replace("13 d", "30012 d"),
    ];
    let slow = slow.concat();
    check_broken(&[
        ("when it is over", &[&nacked, &due], &[]),
        ("before", &[&nacked, &early], &["WAITS"]),
        (
            "in a later life",
            &[&nacked, flushed, KILLED, opens, &early],
            &["WAITS"],
        ),
        (
            "when it is over there",
            &[&nacked, flushed, KILLED, opens, &due],
            &[],
        ),
        ("nobody knew", &[&nacked, KILLED, opens, &early], &[]),
        ("it was said too late", &[&slow, &at(30_020)], &[]),
        ("at once", &[GIVES, FIRST, NACKED, SECOND], &[]),
    ]);
}

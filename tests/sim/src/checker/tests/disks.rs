//! Disks that fail.

use super::{GOT, ONE, check_broken, outage};

const FULL: &str = r#"
    20 stage troubled what={"disk":{"full":{"left_bytes":0,"lasts_ms":5000}}} until_ms=5020
"#;
const ERRORS: &str = r#"
    20 stage troubled what={"disk":{"errors":{"on":"sync","path":"","times":1,"lasts_ms":1000}}} until_ms=1020
"#;
const MOVED: &str = r#"
    20 stage troubled what={"disk":{"moved":{"folder":"store","lasts_ms":1000}}} until_ms=1020
"#;
/// A sync of the journal fails.
const STRUCK: &str = "1019 disk struck on=sync by=io path=/data/store/journal/1.log\n";
const REFUSED: &str = "
    3000 c flushes op=20 subscription=s
    3001 c not-confirmed op=20 code=refused:%20full
";
const FAILED: &str = "1030 broker is-wrong condition=store_failed why=EIO\n";
const OVER: &str = "
    1031 o drains
    1032 broker drained subscription=s
    1032 broker drained subscription=f
    1040 o over
";
/// The next life.
const AGAIN: &str = "
    1025 broker stops life=1
    1025 broker stopped life=1
    1025 broker starts life=2
    1025 broker serves life=2 interval_ms=50
";

#[test]
fn a_full_disk_refuses_publishes_and_nothing_else() {
    let published = "
        3000 p publishes op=20 producer=a topic=t n=9 hash=7
        3001 p not-published op=20 code=refused:%20full is_sure=false
    ";
    let lost = REFUSED.replace("refused:%20full", "no%20connection");
    let attaches = |subscription: &str| {
        format!(
            "3000 c attaches op=20 subscription={subscription}
             3001 c not-attached op=20 code=refused:%20no\n"
        )
    };
    let came = "
        2999 o creates-subscription op=19 subscription=g topic=t start=latest ack_deadline_ms=30000
        3000 c attaches op=20 subscription=g
        3000 o done op=19 id=9
        3001 c not-attached op=20 code=refused:%20no
    ";
    let begun = FULL
        .replace("20 stage", "3000 stage")
        .replace("until_ms=5020", "until_ms=8000");
    let asked = REFUSED.replace("3000 c", "2999 c");
    let (asks, is_refused) = asked.trim().split_once('\n').expect("two lines");
    check_broken(&[
        ("an ack is refused", &[FULL, REFUSED], &["FULL"]),
        ("a publish is", &[FULL, published], &[]),
        ("an ack is not heard of", &[FULL, &lost], &[]),
        ("a consumer is", &[FULL, &attaches("s")], &["FULL"]),
        ("of what is not there", &[FULL, &attaches("gone")], &[]),
        ("of what came since", &[FULL, came], &[]),
        ("an ack, when more is wrong", &[FULL, ERRORS, REFUSED], &[]),
        (
            "an ack, when more was in another life",
            &[ERRORS, AGAIN, &begun, &REFUSED.replace("300", "310")],
            &["FULL"],
        ),
        (
            "an ack from before it was",
            &[&format!("{asks}\n"), &begun, is_refused, "\n"],
            &[],
        ),
    ]);
    let late = REFUSED.replace("300", "900");
    check_broken(&[("an ack, later", &[FULL, &late], &[])]);
}

#[test]
fn what_was_answered_is_handed_out_while_a_disk_is_full() {
    let one = ONE.replace("    1", "    1600");
    let got = GOT.replace("12 c", "16014 c");
    let acked = "16015 c says subscription=s position=5 answer=ack\n";
    let nacked = acked.replace("ack\n", "nack\n");
    let full = FULL
        .replace("20 stage", "16020 stage")
        .replace("5020", "28020");
    let later = "23000 c flushes op=30 subscription=s\n";
    let busy = "
        15990 p publishes op=20 producer=a topic=t n=2 hash=7
        15991 p published op=20 sequence=2 is_duplicate=false
        15992 c delivered subscription=s topic=t position=4 sequence=2 attempt=1 n=2 hash=7
    ";
    let outage = format!(
        "16021 stage troubled what={} until_ms=17021\n",
        outage("c", 1_000)
    );
    let paused = "16021 o pauses op=31 subscription=s why=x\n16022 o done op=31 id=0\n";
    let short = full.replace("28020", "20020");
    let anew = "
        16012 c dies
        16012 c attaches op=32 subscription=s
        16013 c attached op=32
    ";
    check_broken(&[
        ("it was", &[&one, &got, acked, &full, later], &[]),
        ("it was not", &[&one, &full, later], &["FULL"]),
        (
            "it was, and was wanted again",
            &[&one, &got, &nacked, &full, later],
            &["FULL"],
        ),
        (
            "which somebody said who was late",
            &[&one, &got, acked, &nacked, &full, later],
            &[],
        ),
        (
            "to one who has something in hand",
            &[busy, &one, &full, later],
            &[],
        ),
        (
            "over a link that was silent",
            &[&one, &full, &outage, later],
            &[],
        ),
        (
            "of a subscription that stands still",
            &[&one, &full, paused, later],
            &[],
        ),
        (
            "to one that was there before, and had it perhaps",
            &[&one, anew, &full, later],
            &[],
        ),
        ("for less long", &[&one, &short, later], &[]),
    ]);
}

#[test]
fn what_is_wrong_has_a_cause() {
    let late = FAILED.replace("1030", "17000");
    let died = "1030 broker is-wrong condition=task_died%20router why=no\n";
    let sealed = STRUCK.replace("journal/1.log", "sealed/1");
    let read = STRUCK.replace("on=sync", "on=read");
    let no_room = STRUCK.replace("by=io", "by=no-room");
    let checkpoint = FAILED.replace("store_failed", "checkpoint_fails");
    let unreadable = FAILED.replace("store_failed", "unreadable%20a");
    let journal_full = FAILED.replace("store_failed", "journal_full");
    let lost = FAILED.replace("store_failed", "folder_lost");
    check_broken(&[
        ("for nothing", &[FAILED], &["HAS_A_CAUSE"]),
        ("for what never struck", &[ERRORS, FAILED], &["HAS_A_CAUSE"]),
        ("of the journal", &[ERRORS, STRUCK, FAILED], &[]),
        (
            "of another folder",
            &[ERRORS, &sealed, FAILED],
            &["HAS_A_CAUSE"],
        ),
        (
            "but a checkpoint may fail",
            &[ERRORS, &sealed, &checkpoint],
            &[],
        ),
        (
            "a read ends no writing",
            &[ERRORS, &read, FAILED],
            &["HAS_A_CAUSE"],
        ),
        (
            "but something is unreadable",
            &[ERRORS, &read, &unreadable],
            &[],
        ),
        (
            "which no write is",
            &[ERRORS, STRUCK, &unreadable],
            &["HAS_A_CAUSE"],
        ),
        (
            "nor does want of room",
            &[FULL, &no_room, FAILED],
            &["HAS_A_CAUSE"],
        ),
        (
            "a task dies of nothing",
            &[ERRORS, STRUCK, died],
            &["HAS_A_CAUSE"],
        ),
        ("long after it", &[ERRORS, STRUCK, &late], &["HAS_A_CAUSE"]),
        (
            "in the life before",
            &[ERRORS, STRUCK, AGAIN, FAILED],
            &["HAS_A_CAUSE"],
        ),
        ("a folder is away", &[MOVED, &lost], &[]),
        ("none is", &[ERRORS, STRUCK, &lost], &["HAS_A_CAUSE"]),
        (
            "a journal fills up while checkpoints fail",
            &[ERRORS, &sealed, &checkpoint, &journal_full],
            &[],
        ),
        (
            "and not otherwise",
            &[ERRORS, &sealed, &journal_full],
            &["HAS_A_CAUSE"],
        ),
    ]);
}

#[test]
fn what_is_wrong_ends_with_its_cause() {
    let is_over = "1031 broker is-over condition=store_failed\n";
    let again = AGAIN.replace("1025", "1031");
    check_broken(&[
        ("for ever", &[ERRORS, STRUCK, FAILED, OVER], &["IS_OVER"]),
        (
            "until it is over",
            &[ERRORS, STRUCK, FAILED, is_over, OVER],
            &[],
        ),
        (
            "until a restart",
            &[ERRORS, STRUCK, FAILED, &again, OVER],
            &[],
        ),
    ]);
}

#[test]
fn what_the_power_left_that_is_never_read_may_have_a_start_refused() {
    let refused = "
        500 broker crashed life=1 cause=kill
        500 broker image life=2 digest=1
        500 broker starts life=2
        510 broker refuses life=2 why=EIO
        510 broker image life=2 digest=1
    ";
    let changed = refused.replace(
        "510 broker image life=2 digest=1",
        "510 broker image life=2 digest=2",
    );
    let torn = "500 broker torn files=/data/a\n";
    let rescued = "500 broker rescued files=/data/a\n";
    check_broken(&[
        ("it never reads it", &[torn, refused], &[]),
        (
            "it was copied",
            &[torn, rescued, refused],
            &["NOTHING_LOST"],
        ),
        (
            "it never reads it, and changes",
            &[torn, &changed],
            &["CHANGES_NOTHING"],
        ),
    ]);
}

//! Disks that fail.

use super::check_broken;

const FULL: &str = r#"
    20 stage troubled what={"disk":{"full":{"left_bytes":0,"lasts_ms":5000}}} until_ms=5020
"#;
const ERRORS: &str = r#"
    20 stage troubled what={"disk":{"errors":{"on":"sync","path":"","times":1,"lasts_ms":1000}}} until_ms=1020
"#;
const CUT: &str = r#"20 stage troubled what={"cut":{"actor":"c"}} until_ms=20
"#;
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
    check_broken(&[
        ("an ack is refused", &[FULL, REFUSED], &["I18"]),
        ("a publish is", &[FULL, published], &[]),
        ("an ack is not heard of", &[FULL, &lost], &[]),
        ("a consumer is", &[FULL, &attaches("s")], &["I18"]),
        ("of what is not there", &[FULL, &attaches("gone")], &[]),
        ("an ack, when more is wrong", &[FULL, ERRORS, REFUSED], &[]),
    ]);
    let late = REFUSED.replace("300", "900");
    check_broken(&[("an ack, later", &[FULL, &late], &[])]);
}

#[test]
fn what_is_wrong_has_a_cause_and_ends_with_it() {
    let is_over = "1031 broker is-over condition=store_failed\n";
    let again = "
        1031 broker stops life=1
        1031 broker stopped life=1
        1031 broker starts life=2
        1031 broker serves life=2 interval_ms=50
    ";
    let late = FAILED.replace("1030", "99000");
    let died = "1030 broker is-wrong condition=task_died%20router why=no\n";
    check_broken(&[
        ("for nothing", &[FAILED], &["I22"]),
        ("for what cannot cause it", &[CUT, FAILED], &["I22"]),
        ("a full disk ends no writing", &[FULL, FAILED], &["I22"]),
        ("a task dies of nothing", &[ERRORS, died], &["I22"]),
        ("with a cause", &[ERRORS, FAILED], &[]),
        ("long after it", &[ERRORS, &late], &["I22"]),
        ("for ever", &[ERRORS, FAILED, OVER], &["I22"]),
        ("until it is over", &[ERRORS, FAILED, is_over, OVER], &[]),
        ("until a restart", &[ERRORS, FAILED, again, OVER], &[]),
    ]);
}

#[test]
fn a_disk_that_fails_may_have_a_start_refused() {
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
    let late = refused.replace("500", "5000").replace("510", "5010");
    let starts = "500 broker starts life=2\n";
    let fills = FULL.trim().replacen("20", "501", 1);
    let filled = refused.replace(starts, &format!("{starts}{fills}\n"));
    let torn = "500 broker torn files=/data/a\n";
    let rescued = "500 broker rescued files=/data/a\n";
    let reads = ERRORS.replace("sync", "read");
    check_broken(&[
        ("it fails", &[ERRORS, refused], &[]),
        ("it has failed", &[ERRORS, &late], &["I20"]),
        ("it is full", &[FULL, refused], &["I20"]),
        ("it fills in the middle", &[&filled], &[]),
        ("it never reads it", &[torn, refused], &[]),
        ("it was copied", &[torn, rescued, refused], &["I20"]),
        ("it fails at a write", &[ERRORS, &changed], &[]),
        ("it fails at a read", &[&reads, refused], &[]),
        ("and something changes", &[&reads, &changed], &["I20"]),
        (
            "it never reads it, and changes",
            &[torn, &changed],
            &["I20"],
        ),
    ]);
}

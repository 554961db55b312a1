//! Histories of subscriptions with filters, which change at a fence and fail.

use super::check_broken;

/// A subscription that takes odd numbers, and one that takes all.
const ODD: &str = "
    6 o chooses-filters op=6 chain=f%20drop%20mod%202%201
    6 o creates-subscription op=6 subscription=g topic=t start=earliest ack_deadline_ms=30000
    6 o done op=6 id=6
    7 d attaches op=7 subscription=g
    7 d attached op=7
";
const DRAINED: &str = "
    1000 o drains
    1001 broker drained subscription=g
";
const CUT: &str = "
    50 broker crashed life=1 cause=kill
    50 o dies
    51 broker starts life=2
    52 broker serves life=2 interval_ms=50
";

fn event(n: u64) -> String {
    format!(
        "1{n} p publishes op=1{n} producer=a topic=t n={n} hash=7
         1{n} p published op=1{n} sequence={n} is_duplicate=false\n"
    )
}

// At position 100 and its number.
fn got(n: u64) -> String {
    format!(
        "3{n} d delivered subscription=g topic=t position=10{n} sequence={n} attempt=1 n={n} hash=7
         3{n} d says subscription=g position=10{n} answer=ack\n"
    )
}

// Somebody else got it, so that it is known where it is.
fn seen(n: u64) -> String {
    format!(
        "2{n} c delivered subscription=s topic=t position=10{n} sequence={n} attempt=1 n={n} hash=7\n"
    )
}

fn changes(chain: &str) -> String {
    let chain = chain.replace(' ', "%20");
    format!("16 o changes-filters op=16 subscription=g chain={chain}\n")
}

fn done(fence: u64) -> String {
    format!("16 o done op=16 id={fence}\n")
}

#[test]
fn what_the_filters_take_comes_and_nothing_else() {
    let (one, two) = (event(1), event(2));
    let blamed = "40 o blames subscription=g position=101\n";
    let traps = ODD.replace("201\n", "201%20trap%20on%201..2\n");
    let passes = traps.replace("drop", "pass");
    let once = ODD.replace("201\n", "201%20once-trap%20on%201..2\n");
    let lags = r#"8 stage troubled what={"outage":{"actor":"d","is_up":false,"lasts_ms":30000}} until_ms=60
"#;
    let asked = "11 p publishes op=11 producer=a topic=t n=1 hash=7\n";
    let answer = "60 p published op=11 sequence=1 is_duplicate=false\n";
    check_broken(&[
        ("it came", &[ODD, &one, &got(1), DRAINED], &[]),
        ("it never came", &[ODD, &one, DRAINED], &["PASSED"]),
        (
            "it came before its answer, perhaps late",
            &[lags, ODD, asked, &got(1), answer, DRAINED],
            &[],
        ),
        (
            "only its answer came",
            &[lags, ODD, asked, answer, DRAINED],
            &["PASSED"],
        ),
        ("it was not for it", &[ODD, &two, DRAINED], &[]),
        ("and came", &[ODD, &two, &got(2), DRAINED], &["FENCED"]),
        ("it failed", &[&traps, &one, DRAINED], &[]),
        ("it failed, and came", &[&traps, &one, &got(1)], &["FENCED"]),
        (
            "it failed and passes",
            &[&passes, &two, &got(2), DRAINED],
            &[],
        ),
        ("it never passed", &[&passes, &two, DRAINED], &["PASSED"]),
        (
            "it failed once, and came",
            &[&once, &one, &got(1), DRAINED],
            &[],
        ),
        ("it failed once only", &[&once, &one, DRAINED], &["PASSED"]),
        ("guilty", &[&traps, &one, &seen(1), blamed], &[]),
        ("not guilty", &[ODD, &one, &seen(1), blamed], &["BLAMED"]),
        (
            "not guilty of that once",
            &[&once, &one, &seen(1), blamed],
            &["BLAMED"],
        ),
        ("of what nobody knows", &[ODD, &one, blamed], &[]),
    ]);
}

#[test]
fn a_fence_parts_what_was_published_before_a_change_from_what_comes_after() {
    let even = changes("f drop mod 2 0");
    let (one, two) = (event(1), event(2));
    let (eight, nine) = (event(8), event(9));
    let fence = done(105);
    check_broken(&[
        ("before", &[ODD, &one, &even, &fence, &got(1), DRAINED], &[]),
        (
            "before, and never came",
            &[ODD, &one, &even, &fence, DRAINED],
            &["PASSED"],
        ),
        (
            "before, by the new",
            &[ODD, &two, &even, &fence, &got(2)],
            &["FENCED"],
        ),
        (
            "after",
            &[ODD, &even, &fence, &eight, &got(8), DRAINED],
            &[],
        ),
        (
            "after, and never came",
            &[ODD, &even, &fence, &eight, DRAINED],
            &["PASSED"],
        ),
        (
            "after, by the old",
            &[ODD, &even, &fence, &nine, &got(9)],
            &["FENCED"],
        ),
        (
            "nobody knows which",
            &[ODD, &even, &two, &got(2), DRAINED],
            &[],
        ),
    ]);
}

#[test]
fn a_fence_is_behind_what_was_answered_and_before_what_is_published_since() {
    let even = changes("f drop mod 2 0");
    let (one, two) = (event(1), event(2));
    let (eight, nine) = (event(8), event(9));
    let fence = done(105);
    let same = [&*even, &*done(105)].concat().replace("op=16", "op=20");
    check_broken(&[
        (
            "a fence too early",
            &[ODD, &two, &even, &done(102), &got(2), DRAINED],
            &["FENCED"],
        ),
        (
            "too early, which is seen later",
            &[ODD, &one, &even, &done(101), &seen(1)],
            &["FENCED"],
        ),
        (
            "too early, which was seen before",
            &[
                ODD,
                &one,
                &seen(1).replace("21 c", "12 c"),
                &even,
                &done(101),
            ],
            &["FENCED"],
        ),
        (
            "before the first that comes after",
            &[ODD, &one, &even, &done(102), &seen(1)],
            &[],
        ),
        (
            "too late",
            &[ODD, &even, &done(110), &nine, &got(9)],
            &["FENCED"],
        ),
        (
            "too late, and it matters",
            &[ODD, &even, &done(109), &eight, &got(8)],
            &["FENCED", "FENCED"],
        ),
        (
            "a change of nothing",
            &[ODD, &even, &fence, &nine, &same, &seen(9)],
            &[],
        ),
    ]);
}

#[test]
fn a_fence_of_a_paused_subscription_is_behind_what_it_has_handed_out() {
    let even = changes("f drop mod 2 0");
    let (one, two) = (event(1), event(2));
    let paused = "
        12 o pauses op=72 subscription=g why=for-12
        12 o done op=72 id=0
    ";
    let resumed = "
        17 o resumes op=73 subscription=g
        17 o done op=73 id=0
    ";
    let handed = got(1).replace("31 d", "11 d");
    let restarted = "
        14 broker crashed life=1 cause=kill
        15 broker starts life=2
        15 broker serves life=2 interval_ms=50
    ";
    check_broken(&[
        (
            "a step back",
            &[
                ODD,
                paused,
                &two,
                &even,
                &done(102),
                resumed,
                &got(2),
                DRAINED,
            ],
            &[],
        ),
        (
            "a step back behind what it has handed out",
            &[ODD, &one, &handed, paused, &even, &done(102), resumed],
            &[],
        ),
        (
            "a step back before what it has handed out",
            &[ODD, &one, &handed, paused, &even, &done(101), resumed],
            &["FENCED"],
        ),
        (
            "what it has handed out in another life",
            &[ODD, &one, &handed, paused, restarted, &even, &done(101)],
            &[],
        ),
        (
            "how far nobody sees",
            &[ODD, paused, &one, &even, &done(101), resumed, DRAINED],
            &[],
        ),
        (
            "that is seen",
            &[
                ODD,
                paused,
                &one,
                &even,
                &done(102),
                resumed,
                &seen(1),
                DRAINED,
            ],
            &["PASSED"],
        ),
    ]);
}

#[test]
fn a_chain_and_its_fence_outlive_the_broker() {
    let even = changes("f drop mod 2 0");
    let sees = |chain: &str, fence: u64| {
        format!(
            "53 o sees-filters subscription=g chain={} fence={fence}\n",
            chain.replace(' ', "%20")
        )
    };
    let (old, new) = (sees("f drop mod 2 1", 0), sees("f drop mod 2 0", 105));
    let (one, two) = (event(1), event(2));
    check_broken(&[
        ("the old", &[ODD, CUT, &old], &[]),
        ("the new", &[ODD, &even, &done(105), CUT, &new], &[]),
        (
            "not the old",
            &[ODD, &even, &done(105), CUT, &old],
            &["HOLDS"],
        ),
        (
            "another fence",
            &[ODD, &even, &done(104), CUT, &new],
            &["HOLDS"],
        ),
        ("nobody's", &[ODD, CUT, &new], &["HOLDS"]),
        ("perhaps the new", &[ODD, &even, CUT, &new], &[]),
        ("perhaps the old", &[ODD, &even, CUT, &old], &[]),
        (
            "then it is known",
            &[ODD, &even, CUT, &new, &old],
            &["HOLDS"],
        ),
        (
            "and holds",
            &[ODD, &one, &even, CUT, &new, DRAINED],
            &["PASSED"],
        ),
        (
            "from there on",
            &[ODD, &two, &even, CUT, &new, DRAINED],
            &[],
        ),
    ]);
}

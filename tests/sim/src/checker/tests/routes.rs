//! What routes make of events.

use super::check_broken;
use crate::history::Text;
use crate::plan::payload::hash;
use crate::plan::route::Route;
use crate::simulation::rules::emitted;

/// A topic that a route makes two events of one from, into another, and somebody who consumes that.
fn begins() -> String {
    let route = Route {
        name: "r".to_owned(),
        from: "i".to_owned(),
        rule: "emit 2".to_owned(),
        outputs: vec![("a".to_owned(), "o".to_owned())],
    };
    format!(
        "
        5 o creates-topic op=50 topic=i durability=sync
        5 o done op=50 id=8
        5 o creates-topic op=51 topic=o durability=sync
        5 o done op=51 id=9
        6 o creates-route op=52 route={}
        7 o done op=52 id=0
        7 o creates-subscription op=53 subscription=x topic=o start=earliest ack_deadline_ms=30000
        7 o done op=53 id=8
        7 d attaches op=54 subscription=x
        7 d attached op=54
        ",
        Text::from(route.to_string())
    )
}

const EVENT: &str = "
    10 p publishes op=10 producer=a topic=i n=1 hash=7
    11 p published op=10 sequence=1 is_duplicate=false
";
const OVER: &str = "
    1000 o drains
    1001 broker drained subscription=s
    1001 broker drained subscription=f
    1001 broker drained subscription=x
    1001 broker drained subscription=r
    1002 o over
";

// The `at`-th of what comes of the event, at a position.
fn output(at: u64, position: u64) -> String {
    let hash = hash(emitted(1, at).as_bytes());
    format!(
        "20 d output subscription=x topic=o position={position} sequence={position} attempt=1 n=1 hash={hash}\n"
    )
}

#[test]
fn what_a_route_makes_is_there_once() {
    let begins = begins();
    let (first, second) = (output(0, 5), output(1, 6));
    let again = first.replace("attempt=1", "attempt=2");
    let twice = output(0, 7);
    let changed = first.replace(&hash(emitted(1, 0).as_bytes()).to_string(), "7");
    let elsewhere = first.replace("topic=o", "topic=fast");
    let before = "
        5 p publishes op=12 producer=a topic=i n=1 hash=7
        5 p published op=12 sequence=1 is_duplicate=false
    ";
    let gone = "
        12 o deletes-topic op=55 topic=i
        13 o done op=55 id=0
    ";
    check_broken(&[
        ("both", &[&begins, EVENT, &first, &second, OVER], &[]),
        (
            "one of them again",
            &[&begins, EVENT, &first, &second, &again, OVER],
            &[],
        ),
        (
            "one of them twice",
            &[&begins, EVENT, &first, &twice],
            &["ROUTED_ONCE"],
        ),
        (
            "something else",
            &[&begins, EVENT, &changed],
            &["ROUTED_ONCE"],
        ),
        (
            "where it does not belong",
            &[&begins, EVENT, &elsewhere],
            &["ROUTED_ONCE"],
        ),
        (
            "one of them only",
            &[&begins, EVENT, &first, OVER],
            &["ROUTED"],
        ),
        ("none", &[&begins, EVENT, OVER], &["ROUTED", "ROUTED"]),
        (
            "of what was there before, which may be gone",
            &[before, &begins, OVER],
            &[],
        ),
        (
            "of what was deleted with its topic",
            &[&begins, EVENT, gone, OVER],
            &[],
        ),
    ]);
}

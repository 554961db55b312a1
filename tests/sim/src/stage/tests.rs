//! Whole runs of plans that are written here.

use super::*;
use crate::history;
use crate::plan::Plan;

fn report(plan: &Plan) -> Report {
    let report = examine(plan, plan.options());
    if let Some(failed) = report.failed(plan) {
        panic!("{failed}");
    }
    report
}

#[test]
fn a_calm_plan_is_played_to_its_end() {
    let mut plan = Plan::of(1);
    (plan.faults, plan.crashes) = (Vec::new(), Vec::new());
    plan.lasts_ms = 10_000;
    let report = report(&plan);
    let text = history::text(&report.history);
    for happens in [
        "published",
        "delivered",
        "confirmed",
        "drained",
        "over",
        "stopped",
    ] {
        assert!(text.contains(happens), "nothing is {happens}:\n{text}");
    }
}

#[test]
fn a_run_without_an_end_breaks_a_promise_and_tells_all_that_is_needed_to_see_it() {
    let plan = Plan::of(1);
    let options = Options {
        steps_max: 500,
        ..plan.options()
    };
    let report = examine(&plan, options);
    assert_eq!(report.steps, 500);
    let without_end = report.violations.last().expect("it has no end");
    assert_eq!(without_end.promise.id, "I17");
    let told = report.failed(&plan).expect("as it says").with(plan);
    let told = told.to_string();
    for needed in [
        "seed 1 breaks a promise, in a run of 500 steps",
        "of the last steps, ",
        "internals/queues.md says: ",
        "the last steps:\n",
        "-- --seed 1 --trace",
        "-- --plan FILE --trace",
        "\"seed\": 1,",
    ] {
        assert!(told.contains(needed), "{needed} is not in:\n{told}");
    }
}

//! Whole runs: of plans that are written here, and of those that seeds give.

use super::*;
use crate::history;
use crate::plan::Plan;

fn report(plan: &Plan) -> Report {
    let report = examine(plan, Options::of(plan.seed));
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
fn a_seed_gives_the_same_history_whatever_ran_before_it() {
    for seed in 0..4 {
        let plan = Plan::of(seed);
        let first = examine(&plan, Options::of(seed));
        let again = examine(&plan, Options::of(seed));
        for (one, two) in first.history.iter().zip(&again.history) {
            assert_eq!(one.to_string(), two.to_string(), "seed {seed}");
        }
        assert_eq!(first, again, "seed {seed}");
    }
}

/// Seeds whose plans are played each time, or those of `TIDEGATE_SIM_SEEDS`, as `1000..2000`.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("TIDEGATE_SIM_SEEDS");
    let asked = asked.ok().and_then(|asked| {
        let (first, end) = asked.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    });
    asked.unwrap_or(0..60)
}

#[test]
fn what_users_are_promised_is_kept() {
    let mut failed = Vec::new();
    for seed in seeds() {
        let plan = Plan::of(seed);
        let report = examine(&plan, Options::of(seed));
        failed.extend(report.failed(&plan).map(|failed| failed.to_string()));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

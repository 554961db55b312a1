//! What users are promised is kept in runs of many seeds: the same each time, or those that are asked for, such as ones that never were.

use std::ops::Range;

use tidegate_sim::plan::Plan;
use tidegate_sim::planted::on_two_threads;
use tidegate_sim::stage::{Report, examine, smallest};

/// Seeds that are played each time.
const ALWAYS: Range<u64> = 0..300;
/// Failures that are told; and runs that may be made to find a smaller plan, of the first.
const TOLD: usize = 3;
const TRIES_MAX: usize = 100;

// Those of `TIDEGATE_SIM_SEEDS`, as `1000..2000`, alone, if it is there.
fn seeds() -> Range<u64> {
    let asked = std::env::var("TIDEGATE_SIM_SEEDS").ok();
    if let Some(asked) = asked {
        let both = asked
            .split_once("..")
            .expect("TIDEGATE_SIM_SEEDS is like 1000..2000");
        let number = |word: &str| word.parse().expect("TIDEGATE_SIM_SEEDS has two numbers");
        return number(both.0)..number(both.1);
    }
    ALWAYS
}

#[test]
fn what_users_are_promised_is_kept() {
    let seeds = seeds();
    assert!(!seeds.is_empty(), "no seed is in {seeds:?}");
    let seeds: Vec<u64> = seeds.collect();
    let played = on_two_threads(&seeds, |seed| {
        let plan = Plan::of(*seed);
        let report = examine(&plan, plan.options());
        (!report.violations.is_empty()).then_some((plan, report))
    });
    let failed: Vec<(Plan, Report)> = played.into_iter().flatten().collect();
    let told = failed
        .iter()
        .take(TOLD)
        .enumerate()
        .map(|(at, (plan, report))| {
            let told = report.failed(plan).expect("it has violations");
            match at {
                0 => told
                    .with(smallest(plan, report, plan.options(), TRIES_MAX))
                    .to_string(),
                _ => told.to_string(),
            }
        });
    let told: Vec<String> = told.collect();
    let all: Vec<u64> = failed.iter().map(|(plan, _)| plan.seed).collect();
    assert!(told.is_empty(), "{all:?} fail\n\n{}", told.join("\n\n"));
}

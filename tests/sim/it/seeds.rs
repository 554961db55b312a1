//! What users are promised is kept in runs of many seeds: the same each time, or those that are asked for, such as ones that never were.
//! Those of each time reach all states of the broker but few, of which it is said why.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use tidegate_sim::plan::Plan;
use tidegate_sim::planted::on_two_threads;
use tidegate_sim::simulation::State;
use tidegate_sim::stage::{Report, examine, smallest};

/// Seeds that are played each time.
const ALWAYS: Range<u64> = 0..300;
/// How many follow from the sources, and of how many: each state of them has others, which nobody had played.
const FRESH: u64 = 300;
const ALL: u64 = 1 << 40;
/// Failures that are told; and runs that may be made to find a smaller plan, of the first.
const TOLD: usize = 3;
const TRIES_MAX: usize = 100;

/// States that few of these seeds reach, or none. Nobody holds that they do not.
#[rustfmt::skip]
const SELDOM: &[State] = &[
    State::ReserveTaken,
    State::CheckpointTriedAgain,
    State::TornEndCut,
    State::StaleFileRemoved,
    State::CatchUpStands,
    State::StalledDrainsNoMore,
    State::OutputsWait,
    State::JournalFull,
    State::CheckpointInPart,
    State::DamageGivenUp,
    State::WitnessAhead,
    State::JournalCutShort,
    State::DamagedFileHead,
    State::DamagedRecord,
    State::DamagedEvents,
    State::ManifestMadeAgain,
    State::StateRejected,
    State::StartRefusedForDamage,
    State::LossAccepted,
    State::ReplayedForItsEventsOnly,
    State::ReplayedGap,
    State::ReplayedStop,
    State::LostFiltersReplaced,
];

// Those of `TIDEGATE_SIM_SEEDS`, as `1000..2000` or `fresh`, alone, if it is there.
fn seeds() -> Vec<u64> {
    let Some(asked) = asked() else {
        return ALWAYS.collect();
    };
    if asked == "fresh" {
        return fresh().collect();
    }
    let both = asked
        .split_once("..")
        .expect("TIDEGATE_SIM_SEEDS is like 1000..2000, or fresh");
    let number = |word: &str| -> u64 { word.parse().expect("TIDEGATE_SIM_SEEDS has two numbers") };
    (number(both.0)..number(both.1)).collect()
}

// Those of what is committed, however often and by whom. Where git says nothing, as in an archive of the sources, those of this version.
fn fresh() -> Range<u64> {
    let git = Command::new("git")
        .args(["rev-parse", "HEAD^{tree}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let tree = git.ok().filter(|git| git.status.success());
    let tree = tree.map_or(env!("CARGO_PKG_VERSION").into(), |git| git.stdout);
    let mut hasher = DefaultHasher::new();
    hasher.write(&tree);
    let first = ALWAYS.end + hasher.finish() % ALL;
    first..first + FRESH
}

fn asked() -> Option<String> {
    std::env::var("TIDEGATE_SIM_SEEDS").ok()
}

#[test]
fn what_users_are_promised_is_kept() {
    let seeds = seeds();
    assert!(!seeds.is_empty(), "no seed is asked for");
    let played = on_two_threads(&seeds, |seed| {
        let plan = Plan::of(*seed);
        let report = examine(&plan, plan.options());
        let reached = report.reached.keys().copied();
        let reached: Vec<State> = reached.filter(|_| ALWAYS.contains(seed)).collect();
        let failed = (!report.violations.is_empty()).then_some((plan, report));
        (failed, reached)
    });
    let (failed, reached): (Vec<_>, Vec<_>) = played.into_iter().unzip();
    let failed: Vec<(Plan, Report)> = failed.into_iter().flatten().collect();
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
    if asked().is_none() {
        check_reached(&reached.concat());
    }
}

// What seeds reach, each as often as seeds do.
fn check_reached(reached: &[State]) {
    let mut seeds: BTreeMap<State, u64> = BTreeMap::new();
    for state in reached {
        *seeds.entry(*state).or_default() += 1;
    }
    let states = State::ALL.iter().filter(|state| !SELDOM.contains(state));
    let never: Vec<&State> = states.filter(|state| !seeds.contains_key(state)).collect();
    assert!(
        never.is_empty(),
        "none of {ALWAYS:?} reaches {never:?}; seeds that reach each: {seeds:?}"
    );
}

#[test]
fn the_table_of_states_that_are_seldom_reached_has_those_that_nobody_looks_for() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../RELIABILITY.md");
    let table = fs::read_to_string(path).expect("the table");
    let (_, table) = table
        .split_once("\n| state | ")
        .expect("the table of states");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("| `"));
    let named = rows.filter_map(|line| line.split('`').nth(1));
    let named: Vec<&str> = named.collect();
    let seldom: Vec<&str> = SELDOM.iter().map(|state| state.name()).collect();
    assert_eq!(named, seldom);
}

//! Whole runs: a broker on a disk that loses power, by seed.

use tidegate_sim::run::{Plan, Report, simulate};
use tidegate_sim::scheduler::{Options, Outcome};

fn of(seed: u64, change: impl FnOnce(&mut Plan)) -> Outcome<Report> {
    let mut plan = Plan::of(seed);
    change(&mut plan);
    simulate(plan, Options::of(seed))
}

#[test]
fn what_is_published_is_consumed_and_stays_so_over_a_start() {
    let report = of(1, |plan| {
        plan.is_cut = false;
        plan.events = 10;
    })
    .expect();
    assert_eq!(report.broken, Vec::<String>::new());
}

// `TIDEGATE_SIM_SEEDS=FROM..TO` looks through others.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("TIDEGATE_SIM_SEEDS").ok();
    let asked = asked.as_deref().and_then(|asked| asked.split_once(".."));
    let asked = asked.and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    asked.unwrap_or(0..60)
}

#[test]
fn nothing_answered_is_lost_when_the_power_goes() {
    for seed in seeds() {
        let report = of(seed, |_| {}).expect();
        assert!(
            report.broken.is_empty(),
            "seed {seed}: {:#?}\n{}",
            report.broken,
            report.history.join("\n")
        );
    }
}

#[test]
fn a_seed_gives_the_same_run_whatever_ran_before_it() {
    for seed in 0..4 {
        let first = of(seed, |_| {});
        let again = of(seed, |_| {});
        let (one, two) = (first.value.clone(), again.value.clone());
        let (one, two) = (one.expect("it ends"), two.expect("it ends"));
        for (one, two) in one.history.iter().zip(&two.history) {
            assert_eq!(one, two, "seed {seed}");
        }
        assert_eq!(first, again, "seed {seed}");
    }
}

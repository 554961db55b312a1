//! A seed is one run, whatever ran before it and in whichever thread.

use std::thread;

use tidegate_sim::plan::Plan;
use tidegate_sim::stage::{Report, examine};

const SEEDS: std::ops::Range<u64> = 0..8;

fn play(seed: u64) -> Report {
    let plan = Plan::of(seed);
    examine(&plan, plan.options())
}

// The second time each has a thread of its own, and comes after all the others.
#[test]
fn a_seed_gives_the_same_run_byte_for_byte() {
    let first: Vec<Report> = SEEDS.map(play).collect();
    for (seed, first) in SEEDS.zip(first) {
        let again = thread::spawn(move || play(seed)).join().unwrap();
        for (one, two) in first.history.iter().zip(&again.history) {
            assert_eq!(one.to_string(), two.to_string(), "seed {seed}");
        }
        assert_eq!(first, again, "seed {seed}");
    }
}

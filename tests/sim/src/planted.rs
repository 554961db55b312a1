//! Looks through seeds for planted faults: for each, which seed breaks a promise first, and which promise that is.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{panic, thread};

use crate::checker::{Promise, Violation};
use crate::plan::Plan;
use crate::scheduler::Options;
use crate::simulation::Bug;
use crate::stage::{Report, examine};

/// Steps of a run before it counts as one that never ends: several times what one without a fault takes.
const STEPS_MAX: u64 = 300_000;

/// By what a fault was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The seed of the plan.
    pub seed: u64,
    /// How many seeds were looked through, this one included.
    pub tries: u64,
    /// The promises that break, the first one first, each once.
    pub promises: Vec<&'static Promise>,
    /// How the one that it was looked for breaks, or the first.
    pub says: String,
}

/// The run of a seed's plan on a broker with this fault.
#[must_use]
pub fn run(bug: Option<Bug>, seed: u64) -> Report {
    let plan = Plan::of(seed);
    let options = Options {
        planted: bug,
        steps_max: STEPS_MAX,
        ..plan.options()
    };
    examine(&plan, options)
}

/// The first of these seeds by which a fault is found, if it has to break a promise, that one. `None` if there is none.
#[must_use]
pub fn look(bug: Bug, seeds: Range<u64>, promise: Option<&Promise>) -> Option<Found> {
    let first = seeds.start;
    for seed in seeds {
        let report = run(Some(bug), seed);
        let mut promises = Vec::new();
        for violation in &report.violations {
            if !promises.contains(&violation.promise) {
                promises.push(violation.promise);
            }
        }
        let is_it = |found: &&Violation| promise.is_none_or(|promise| found.promise == promise);
        if let Some(broken) = report.violations.iter().find(is_it) {
            return Some(Found {
                seed,
                tries: seed - first + 1,
                promises,
                says: broken.says.clone(),
            });
        }
    }
    None
}

/// Does something for each of several on two threads, and answers what it came to, in their order.
///
/// # Panics
///
/// It does for one of them.
pub fn on_two_threads<T: Sync, A: Send>(all: &[T], does: impl Fn(&T) -> A + Sync) -> Vec<A> {
    let next = AtomicUsize::new(0);
    let came_to = Mutex::new(Vec::new());
    let work = || {
        while let Some((at, one)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            all.get(at).map(|one| (at, one))
        } {
            let answer = does(one);
            let mut came_to = came_to.lock().unwrap_or_else(PoisonError::into_inner);
            came_to.push((at, answer));
        }
    };
    thread::scope(|scope| {
        let both = [scope.spawn(work), scope.spawn(work)];
        for thread in both {
            if let Err(panicked) = thread.join() {
                panic::resume_unwind(panicked);
            }
        }
    });
    let mut came_to = came_to.into_inner().unwrap_or_else(PoisonError::into_inner);
    came_to.sort_by_key(|(at, _)| *at);
    came_to.into_iter().map(|(_, answer)| answer).collect()
}

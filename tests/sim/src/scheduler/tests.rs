//! Small programs of strands: that the seed alone decides their order, that what is wrong with one is found, and that what holds a lock
//! is never cut off.

mod ends;
mod order;
mod signals;

use std::sync::{Arc, Mutex, PoisonError};

use super::{Options, Outcome, run};
use crate::simulation::{self, End, Point};

/// What strands say, in order.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    fn say(&self, word: impl Into<String>) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.push(word.into());
    }

    fn all(&self) -> Vec<String> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }
}

/// Of a run whose first strand is told where to say something: that.
fn said_by<F>(options: Options, main: impl FnOnce(Said) -> F + Send + 'static) -> Vec<String>
where
    F: Future<Output = ()> + 'static,
{
    let said = Said::default();
    let of_run = said.clone();
    run(options, move || main(of_run)).expect();
    said.all()
}

fn outcome<F>(seed: u64, main: impl FnOnce() -> F + Send + 'static) -> Outcome<()>
where
    F: Future<Output = ()> + 'static,
{
    run(Options::of(seed), main)
}

fn pause(at: Point<'_>) {
    simulation::in_charge().pause(at);
}

/// Runs what blocks beside its caller, from now on, to its end.
fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + 'static,
) -> impl Future<Output = Result<T, End>> {
    simulation::start_blocking("beside", work).ended()
}

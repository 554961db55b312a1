//! Runs of one seed after the other, for as long as there is time: how many there were, what went wrong in them by plan, which states of the
//! broker they reached and which none of them did, and which broke a promise.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::history::{Entry, What};
use crate::plan::Plan;
use crate::simulation::{Reached, State};
use crate::stage::{Failed, Report, examine};

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Totals {
    /// Runs.
    pub seeds: u64,
    /// Steps of all of them.
    pub steps: u64,
    /// Seeds that broke a promise.
    pub failed: Vec<u64>,
    /// How often what happened, by kind: faults, ends of lives, starts.
    happened: BTreeMap<String, u64>,
    /// How often which state was reached.
    reached: Reached,
    took: Duration,
}

/// Plays seeds from the first on until the time is over. Each that breaks a promise is told at once.
pub fn play(first: u64, time: Duration, mut tell: impl FnMut(&Failed)) -> Totals {
    let begun = Instant::now();
    let mut totals = Totals::default();
    for seed in first.. {
        let plan = Plan::of(seed);
        let report = examine(&plan, plan.options());
        totals.add(seed, &report, begun);
        if let Some(failed) = report.failed(&plan) {
            tell(&failed);
        }
        if totals.took >= time {
            break;
        }
    }
    totals
}

impl Totals {
    /// Adds the run of a seed, of several that were begun then.
    pub fn add(&mut self, seed: u64, report: &Report, begun: Instant) {
        self.seeds += 1;
        self.steps += report.steps;
        self.count(&report.history);
        for (state, times) in &report.reached {
            *self.reached.entry(*state).or_default() += times;
        }
        if !report.violations.is_empty() {
            self.failed.push(seed);
        }
        self.took = begun.elapsed();
    }

    fn count(&mut self, history: &[Entry]) {
        for entry in history {
            if let Some(kind) = kind(&entry.what) {
                *self.happened.entry(kind).or_default() += 1;
            }
        }
    }
}

// What is counted of what happens.
fn kind(what: &What) -> Option<String> {
    Some(match what {
        What::Troubled { what, .. } => format!("fault: {}", what.kind()),
        What::Crashed { cause, .. } => format!("end of a life: {cause}"),
        What::Stopped { .. } => "end of a life: stop".to_owned(),
        What::Serves { .. } => "start: serves".to_owned(),
        What::Refuses { .. } => "start: refused".to_owned(),
        What::Accepts { .. } => "start: goes on without what is lost".to_owned(),
        What::Loses { .. } => "loss".to_owned(),
        What::Torn { .. } => "start: finds what cannot be read".to_owned(),
        What::IsWrong { condition, .. } => {
            let kind = condition.split(' ').next().unwrap_or_default();
            format!("condition: {kind}")
        }
        What::Published { .. } => "event: answered".to_owned(),
        What::NotPublished { .. } => "event: not answered".to_owned(),
        What::Delivered { .. } => "event: delivered".to_owned(),
        _ => return None,
    })
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64().max(0.001);
        let (seeds, steps) = (self.seeds, self.steps);
        let per_second = seeds as f64 / seconds;
        writeln!(
            f,
            "{seeds} seeds in {seconds:.0} s ({per_second:.1} a second), {steps} steps, {} seeds break a promise: {:?}",
            self.failed.len(),
            self.failed
        )?;
        for (kind, times) in &self.happened {
            writeln!(f, "{times:>9}  {kind}")?;
        }
        for state in State::ALL {
            match self.reached.get(state) {
                Some(times) => writeln!(f, "{times:>9}  state: {}", state.name())?,
                None => writeln!(f, "    never  state: {}", state.name())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_is_counted_by_kind() {
        let history = crate::history::read(
            "1 stage troubled what={\"disk\":{\"no-files\":{\"lasts_ms\":1}}} until_ms=2\n\
             3 stage troubled what={\"cut\":{\"actor\":\"p0\"}} until_ms=3\n\
             4 broker crashed life=1 cause=power\n\
             5 stage troubled what={\"cut\":{\"actor\":\"p1\"}} until_ms=5\n",
        );
        let mut totals = Totals::default();
        totals.count(&history.expect("a history"));
        let happened: Vec<(&str, u64)> = totals
            .happened
            .iter()
            .map(|(kind, times)| (&**kind, *times))
            .collect();
        let expected = [
            ("end of a life: power", 1),
            ("fault: cut", 2),
            ("fault: disk: no-files", 1),
        ];
        assert_eq!(happened, expected);
    }

    #[test]
    fn it_ends_when_the_time_is_over() {
        let totals = play(0, Duration::ZERO, |failed| panic!("{failed}"));
        assert_eq!((totals.seeds, &totals.failed), (1, &Vec::new()));
        let told = totals.to_string();
        for needed in [
            "  start: serves\n",
            "  state: SyncedAtInterval\n",
            "    never  state: ",
        ] {
            assert!(told.contains(needed), "{needed} is not in:\n{told}");
        }
    }
}

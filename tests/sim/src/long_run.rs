//! Runs of one seed after the other, for as long as there is time: how many there were, what went wrong in them by plan, and which broke a
//! promise.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::history::{Entry, What};
use crate::plan::Plan;
use crate::stage::{Failed, examine};

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
    took: Duration,
}

/// Plays seeds from the first on until the time is over. Each that breaks a promise is told at once.
pub fn play(first: u64, time: Duration, mut tell: impl FnMut(&Failed)) -> Totals {
    let begun = Instant::now();
    let mut totals = Totals::default();
    for seed in first.. {
        let plan = Plan::of(seed);
        let report = examine(&plan, plan.options());
        totals.seeds += 1;
        totals.steps += report.steps;
        totals.count(&report.history);
        if let Some(failed) = report.failed(&plan) {
            totals.failed.push(seed);
            tell(&failed);
        }
        totals.took = begun.elapsed();
        if totals.took >= time {
            break;
        }
    }
    totals
}

impl Totals {
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
        assert!(told.contains("start: serves"), "{told}");
    }
}

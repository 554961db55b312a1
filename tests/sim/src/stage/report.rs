//! What a run came to, judged: which promises it broke, or how it ended before it was over; with what somebody needs to look at it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::PoisonError;

use super::play;
use crate::checker::{Violation, check};
use crate::history::{Entry, Kept, Text, What};
use crate::plan::Plan;
use crate::scheduler::{Failure, Options, Outcome, Traced};
use crate::shrink::shrink;
use crate::simulation::Reached;

/// Entries that are shown of a run that failed.
const LAST: usize = 50;
/// Strands that are named of a run that never ends.
const STRANDS_TOLD: usize = 8;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What happened.
    pub history: Vec<Entry>,
    /// What of it breaks a promise.
    pub violations: Vec<Violation>,
    /// Its steps.
    pub steps: u64,
    /// Which states of the broker were reached, and how often.
    pub reached: Reached,
    /// What it did, step by step.
    pub trace: Traced,
}

/// Plays a plan and judges what happens.
#[must_use]
pub fn examine(plan: &Plan, options: Options) -> Report {
    let kept = Kept::default();
    let outcome = play(plan, options, &kept);
    let mut history = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
    history.extend(ends(&outcome, &history));
    Report {
        violations: check(&history),
        history,
        steps: outcome.steps,
        reached: outcome.reached,
        trace: outcome.trace,
    }
}

// What went wrong with the run itself, as entries.
fn ends(outcome: &Outcome<()>, history: &[Entry]) -> Vec<Entry> {
    let ms = history.last().map_or(0, |entry| entry.ms);
    let entry = |what| Entry {
        ms,
        who: "run".into(),
        what,
    };
    let panicked = outcome.panics.iter().map(|(strand, said)| {
        let (strand, said) = (Text::from(&**strand), Text::from(&**said));
        entry(What::Panicked { strand, said })
    });
    let left = |strand: &str, waits: &str| {
        let (strand, waits) = (strand.into(), waits.into());
        entry(What::Left { strand, waits })
    };
    let failed = match &outcome.failure {
        None => Vec::new(),
        Some(Failure::LeftOver(waiting)) => {
            let waiting = waiting.iter().map(|of| left(&of.strand, &of.at));
            waiting.collect()
        }
        Some(failure @ (Failure::TooManySteps | Failure::NeverRests(_))) => {
            let busy = busy(&outcome.trace.last);
            let why = format!("{failure}; of the last steps, {busy}").into();
            vec![entry(What::NeverRests { why })]
        }
        Some(failure) => vec![left("run", &failure.to_string())],
    };
    panicked.chain(failed).collect()
}

// Which strands made these steps, and how many each: whoever made most of them comes first.
fn busy(steps: &[String]) -> String {
    let mut by_strand: BTreeMap<&str, usize> = BTreeMap::new();
    for step in steps {
        let said = step.splitn(3, ' ').nth(2).unwrap_or_default();
        let strand = said.split_once(": ").map_or(said, |(strand, _)| strand);
        *by_strand.entry(strand).or_default() += 1;
    }
    let mut by_strand: Vec<(&str, usize)> = by_strand.into_iter().collect();
    by_strand.sort_by_key(|(_, many)| std::cmp::Reverse(*many));
    let by_strand = by_strand.iter().take(STRANDS_TOLD);
    let told: Vec<String> = by_strand
        .map(|(strand, many)| format!("{many} are of {strand}"))
        .collect();
    told.join(", ")
}

/// The smallest plan found in so many runs that breaks the promise that broke first in this one.
#[must_use]
pub fn smallest(plan: &Plan, report: &Report, options: Options, tries_max: usize) -> Plan {
    let broken = |report: &Report| report.violations.first().map(|first| first.promise);
    let promise = broken(report);
    shrink(plan, tries_max, |smaller| {
        broken(&examine(smaller, options)) == promise
    })
}

impl Report {
    /// What somebody needs who looks at the run of this plan; `None` if it kept all promises.
    #[must_use]
    pub fn failed(&self, plan: &Plan) -> Option<Failed> {
        let first = self.violations.first()?;
        let end = (first.line + 5).min(self.history.len());
        let begin = first.line.saturating_sub(LAST).min(end);
        let shown = (begin + 1..).zip(&self.history[begin..end]);
        Some(Failed {
            seed: plan.seed,
            violations: self.violations.iter().map(ToString::to_string).collect(),
            shown: shown
                .map(|(at, entry)| format!("{at:6}  {entry}"))
                .collect(),
            steps: self.steps,
            last: self.trace.last.clone(),
            smallest: None,
        })
    }
}

/// A run that broke a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    seed: u64,
    violations: Vec<String>,
    shown: Vec<String>,
    steps: u64,
    last: Vec<String>,
    smallest: Option<Plan>,
}

impl Failed {
    /// The same, with a smaller plan that shows it, too.
    #[must_use]
    pub fn with(self, smallest: Plan) -> Self {
        let smallest = Some(smallest);
        Self { smallest, ..self }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, steps, .. } = self;
        writeln!(
            f,
            "seed {seed} breaks a promise, in a run of {steps} steps:"
        )?;
        for violation in self.violations.iter().take(10) {
            writeln!(f, "{violation}")?;
        }
        writeln!(f, "\nup to the first:\n{}", self.shown.join("\n"))?;
        writeln!(f, "\nthe last steps:\n{}", self.last.join("\n"))?;
        let command = "cargo run -p tidegate-sim --";
        writeln!(f, "\nall of it: {command} --seed {seed} --trace")?;
        if let Some(plan) = &self.smallest {
            let json = plan.to_json();
            writeln!(f, "\na smaller plan that shows it, too:\n{json}\n")?;
            writeln!(f, "all of that, from a file: {command} --plan FILE --trace")?;
        }
        Ok(())
    }
}

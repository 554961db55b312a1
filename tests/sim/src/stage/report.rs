//! What a run came to, judged: which promises it broke, or how it ended before it was over; with what somebody needs to look at it.

use std::fmt;
use std::sync::PoisonError;

use super::play;
use crate::checker::{Violation, check};
use crate::history::{Entry, Kept, Text, What};
use crate::plan::Plan;
use crate::scheduler::{Failure, Options, Outcome, Traced};

/// Steps of a run before it counts as one that never ends.
const STEPS_MAX: u64 = 3_000_000;
/// Entries that are shown of a run that failed.
const LAST: usize = 60;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What happened.
    pub history: Vec<Entry>,
    /// What of it breaks a promise.
    pub violations: Vec<Violation>,
    /// Its steps.
    pub steps: u64,
    /// What it did, step by step.
    pub trace: Traced,
}

/// Plays a plan and judges what happens.
#[must_use]
pub fn examine(plan: &Plan, options: Options) -> Report {
    let options = Options {
        steps_max: STEPS_MAX,
        ..options
    };
    let kept = Kept::default();
    let outcome = play(plan, options, &kept);
    let mut history = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
    history.extend(ends(&outcome, &history));
    Report {
        violations: check(&history),
        history,
        steps: outcome.steps,
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
    let waiting = match &outcome.failure {
        None => Vec::new(),
        Some(Failure::LeftOver(waiting)) => waiting.clone(),
        Some(failure) => vec![crate::scheduler::Waiting {
            strand: "run".to_owned(),
            at: failure.to_string(),
        }],
    };
    let left = waiting.into_iter().map(|waiting| {
        let (strand, waits) = (waiting.strand.into(), waiting.at.into());
        entry(What::Left { strand, waits })
    });
    panicked.chain(left).collect()
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
        })
    }
}

/// A run that broke a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    seed: u64,
    violations: Vec<String>,
    shown: Vec<String>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            violations,
            shown,
        } = self;
        writeln!(f, "seed {seed} breaks a promise:")?;
        for violation in violations.iter().take(10) {
            writeln!(f, "{violation}")?;
        }
        writeln!(f, "\nup to the first:\n{}", shown.join("\n"))?;
        write!(
            f,
            "\nall of it: cargo run -p tidegate-sim -- --seed {seed} --trace"
        )
    }
}

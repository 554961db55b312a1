//! How a run ended, and why it could not go on.

use std::fmt;
use std::time::Duration;

use super::trace::Traced;
use crate::simulation::Reached;

/// A strand that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which one.
    pub strand: String,
    /// What it waits for.
    pub at: String,
}

/// Why a run ended before it was over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// These wait for locks that they never get.
    Deadlock(Vec<Waiting>),
    /// Nothing happens any more, and these have not ended.
    Stalled(Vec<Waiting>),
    /// There were more steps than may be.
    TooManySteps,
    /// This one took locks without end in one step.
    NeverRests(Waiting),
    /// These had not ended when the time was over that strands have after the first one.
    LeftOver(Vec<Waiting>),
    /// A strand panicked, and while it unwound it needed a lock that another has.
    StuckUnwinding(Waiting),
    /// Somebody on another thread woke a strand, so this run cannot be repeated.
    WokenFromOutside,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadlock(waiting) => list(f, "deadlock", waiting),
            Self::Stalled(waiting) => list(f, "nothing happens any more", waiting),
            Self::TooManySteps => f.write_str("more steps than may be: something never rests"),
            Self::NeverRests(Waiting { strand, at }) => write!(f, "{strand} never rests: it {at}"),
            Self::LeftOver(waiting) => list(f, "these never ended", waiting),
            Self::StuckUnwinding(waiting) => {
                let Waiting { strand, at } = waiting;
                write!(
                    f,
                    "{strand} panicked, and then needed a lock that another has, at {at}"
                )
            }
            Self::WokenFromOutside => f.write_str("another thread woke a strand"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, what: &str, waiting: &[Waiting]) -> fmt::Result {
    f.write_str(what)?;
    for Waiting { strand, at } in waiting {
        write!(f, "\n  {strand}: {at}")?;
    }
    Ok(())
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<T> {
    /// What the first strand came to, if it ended without a panic.
    pub value: Option<T>,
    /// Why the run ended before it was over.
    pub failure: Option<Failure>,
    /// Strands that panicked, and what they said, also where somebody heard of it.
    pub panics: Vec<(String, String)>,
    /// Steps of all strands.
    pub steps: u64,
    /// Virtual time that passed.
    pub took: Duration,
    /// Which states of the broker were reached, and how often.
    pub reached: Reached,
    /// What happened.
    pub trace: Traced,
}

impl<T> Outcome<T> {
    /// The value of a run in which nothing went wrong.
    ///
    /// # Panics
    ///
    /// Something went wrong; it says what, and the last steps.
    pub fn expect(self) -> T {
        let last = || self.trace.last.join("\n");
        if let Some(failure) = &self.failure {
            panic!("{failure}\nthe last steps:\n{}", last());
        }
        assert!(
            self.panics.is_empty(),
            "{:?}\nthe last steps:\n{}",
            self.panics,
            last()
        );
        self.value.expect("it ended, and nobody panicked")
    }
}

//! Whether what happened in a run is what users are promised. The checker reads the history of the run and nothing else: not the broker, not
//! its disk. What it holds the broker to are sentences of the book, each quoted where it is checked; a test compares the quotes with the book,
//! so that a promise that changes is changed here too.
//!
//! Each group of promises has a file, which sees the entries one after the other and says which of them breaks what.

mod attempts;
mod bounds;
mod catalog;
mod catching_up;
mod causes;
mod changes;
mod disks;
mod ends;
mod events;
mod facts;
mod fates;
mod filters;
mod flow;
mod given_up;
mod letters;
mod losses;
mod numbers;
mod order;
mod requests;
mod routes;
mod starts;
mod troubles;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::history::Entry;
use facts::Facts;

pub(crate) use losses::MAY_BE_ACCEPTED;

/// What users are promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Which one.
    pub id: &'static str,
    /// The page that makes it: of the book, or `ARCHITECTURE.md`.
    pub page: &'static str,
    /// Its words.
    pub words: &'static str,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: &'static Promise,
    /// The line of the history, counted from 1, at which that is seen.
    pub line: usize,
    /// How.
    pub says: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Promise { id, page, words } = self.promise;
        let Self { line, says, .. } = self;
        write!(f, "{id}, line {line}: {says}\n  {page} says: {words}")
    }
}

macro_rules! promises {
    ($($room:ident::$name:ident,)*) => {
        /// All promises that are checked.
        pub const PROMISES: &[&Promise] = &[$(&$room::$name),*];

        /// Each promise by its name.
        pub mod promises {
            use super::Promise;

            $(
                #[doc = concat!("As it stands in `", stringify!($room), ".rs`.")]
                pub const $name: &Promise = &super::$room::$name;
            )*
        }

        impl Promise {
            /// What it is called here: of those with one id, each has another name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                let named = [$((&$room::$name, stringify!($name))),*];
                let named = named.iter().find(|(promise, _)| *promise == self);
                named.map_or("", |(_, name)| name)
            }
        }
    };
}

promises! {
    fates::ANSWERED,
    fates::ANSWERED_AT_INTERVALS,
    fates::LOST_AT_INTERVALS,
    fates::REFUSED,
    fates::ACKED,
    attempts::COUNTED,
    attempts::KEPT,
    given_up::WAITS,
    given_up::GIVES_UP,
    routes::ROUTED_ONCE,
    routes::ROUTED,
    letters::GOES_THERE,
    letters::SAYS_WHY,
    letters::LETTER_ONCE,
    letters::DOES_NOT_PAY,
    requests::ANSWERED_ONCE,
    requests::ANSWERED_AT_ALL,
    requests::DRAINS,
    requests::STOPS,
    numbers::ONCE,
    numbers::ONE_STANDS_FOR_ONE,
    numbers::NEVER_AGAIN,
    numbers::WITHOUT_GAPS,
    events::AS_PUBLISHED,
    order::IN_ORDER,
    starts::NOTHING_LOST,
    starts::CHANGES_NOTHING,
    starts::NOT_DAMAGE,
    losses::DAMAGE_TOLD,
    losses::AT_MOST,
    losses::GOES_ON,
    bounds::BOUNDED,
    disks::FULL,
    disks::HAS_A_CAUSE,
    disks::IS_OVER,
    ends::NO_PANIC,
    ends::RESTS,
    catalog::MADE,
    catalog::DELETED,
    catalog::STAYS_PAUSED,
    catalog::STAYS_RESUMED,
    changes::BEGINS,
    changes::GOES_ON_ABOVE,
    changes::PAUSED,
    changes::TOLD,
    filters::FENCED,
    filters::HOLDS,
    filters::PASSED,
    filters::BLAMED,
}

/// What of a history breaks a promise, in order.
#[must_use]
pub fn check(history: &[Entry]) -> Vec<Violation> {
    let mut facts = Facts::default();
    let mut groups: Vec<Box<dyn Group>> = vec![
        Box::<requests::Requests>::default(),
        Box::<fates::Ledger>::default(),
        Box::<numbers::Numbers>::default(),
        Box::<events::Contents>::default(),
        Box::<order::Order>::default(),
        Box::<starts::Starts>::default(),
        Box::<disks::Disks>::default(),
        Box::<ends::Ends>::default(),
        Box::<changes::Changed>::default(),
        Box::<filters::Judged>::default(),
        Box::<flow::Flow>::default(),
        Box::<attempts::Counted>::default(),
        Box::<letters::Letters>::default(),
        Box::<routes::Routed>::default(),
        Box::<losses::Accepted>::default(),
        Box::<bounds::Bounds>::default(),
    ];
    let mut found = Found::default();
    for (at, entry) in history.iter().enumerate() {
        found.line = at + 1;
        facts.see(entry);
        let judging = groups.iter_mut();
        for group in judging.filter(|group| group.judges(&facts)) {
            group.see(entry, &facts, &mut found);
        }
    }
    let judging = groups.iter_mut();
    for group in judging.filter(|group| group.judges(&facts)) {
        group.end(&facts, &mut found);
    }
    found.violations.sort_by_key(|violation| violation.line);
    found.violations
}

/// Those who hold the broker to some promises.
trait Group {
    /// Something happened. The facts know of it already.
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found);

    /// Nothing more happens.
    fn end(&mut self, _: &Facts, _: &mut Found) {}

    /// Whether it goes on once nobody knows what else is lost.
    fn judges_after_a_loss(&self) -> bool {
        false
    }

    /// Whether it is asked now.
    fn judges(&self, facts: &Facts) -> bool {
        self.judges_after_a_loss() || !facts.losses.is_blurred()
    }
}

/// What was found.
#[derive(Default)]
struct Found {
    line: usize,
    violations: Vec<Violation>,
}

impl Found {
    /// The entry that was seen last breaks a promise.
    fn breaks(&mut self, promise: &'static Promise, says: String) {
        let line = self.line;
        self.violations.push(Violation {
            promise,
            line,
            says,
        });
    }
}

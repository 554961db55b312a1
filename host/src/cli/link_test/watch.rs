//! Looks after a test while it goes on: says what it is at, notices when nothing comes from the broker, and ends it when that lasts for
//! too long.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Duration;

use serde::Serialize;
use tidegate_client::{Client, CountedHere};
use tokio::time::{MissedTickBehavior, interval};

use crate::cli::obstacles::LinkWatch;
use crate::cli::output;
use crate::cli::time_limit::{TimeIsOver, TimeLimit};
use crate::cli::wait_notices::{LOOK_EVERY, Patience};

/// What is the matter when nothing comes.
pub(super) const NO_ANSWER: &str = "no answer from the broker";

/// What is shorter needs no line, unless somebody watches.
const SAID_AFTER: Duration = Duration::from_secs(2);

/// With some round trips, in which a lost packet is sent again: nothing for so long is no accident.
const OUTAGE_LEAST: Duration = Duration::from_secs(1);
const OUTAGE_ROUND_TRIPS: u32 = 4;

/// What a test is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    RoundTrips,
    Up,
    Down,
    AddressChange,
}

impl Step {
    pub(super) fn told(self) -> &'static str {
        match self {
            Self::RoundTrips => "measuring round trips",
            Self::Up => "sending to the broker",
            Self::Down => "receiving from the broker",
            Self::AddressChange => "changing the port of this end",
        }
    }
}

/// The step that a test is at, as it says itself.
#[derive(Debug)]
pub(super) struct Steps {
    at: Cell<Step>,
    is_said: Cell<bool>,
    is_watched: bool,
}

impl Steps {
    pub(super) fn new() -> Self {
        Self {
            at: Cell::new(Step::RoundTrips),
            is_said: Cell::new(true),
            is_watched: std::io::stderr().is_terminal(),
        }
    }

    pub(super) fn begin(&self, step: Step) {
        self.at.set(step);
        self.is_said.set(false);
        if self.is_watched {
            self.say();
        }
    }

    // Once for each.
    fn say(&self) {
        if !self.is_said.replace(true) {
            output::note(self.at.get().told());
        }
    }
}

/// A time in which nothing came from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Outage {
    /// When.
    pub(super) step: Step,
    pub(super) seconds: f64,
}

/// What was seen of the connection so far. Looks are counted and not the clock, which goes on while this machine stands still.
#[derive(Debug, Default)]
struct Quiet {
    datagrams: u64,
    looks: u32,
    outages: Vec<Outage>,
}

impl Quiet {
    /// Looks at how many datagrams have come, and returns for how long there was none.
    fn look(&mut self, datagrams: u64, round_trip: Duration, step: Step) -> Duration {
        if datagrams == self.datagrams {
            self.looks = self.looks.saturating_add(1);
            return self.lasts();
        }
        let lasted = self.lasts();
        if lasted >= outage_least(round_trip) {
            let seconds = lasted.as_secs_f64();
            self.outages.push(Outage { step, seconds });
        }
        (self.datagrams, self.looks) = (datagrams, 0);
        Duration::ZERO
    }

    fn lasts(&self) -> Duration {
        self.looks * LOOK_EVERY
    }
}

fn outage_least(round_trip: Duration) -> Duration {
    OUTAGE_LEAST + OUTAGE_ROUND_TRIPS * round_trip
}

/// Looks after one test.
pub(super) struct Watch<'a> {
    steps: &'a Steps,
    link: LinkWatch<'a>,
    counted: CountedHere,
    quiet: Quiet,
}

impl<'a> Watch<'a> {
    /// Of a test of the connection of `client`.
    pub(super) fn new(steps: &'a Steps, client: &'a Client, counted: CountedHere) -> Self {
        Self {
            steps,
            link: LinkWatch::new(client),
            counted,
            quiet: Quiet::default(),
        }
    }

    /// Looks until nothing has come for as long as `limit`, and says meanwhile what the test is at and what is in its way. Cancel-safe.
    pub(super) async fn look_on(&mut self, limit: TimeLimit) -> TimeIsOver {
        let mut patience = Patience::default();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = 0;
        loop {
            looks.tick().await;
            looked += 1;
            if looked * LOOK_EVERY >= SAID_AFTER {
                self.steps.say();
            }
            let (quiet, round_trip) = self.look();
            patience.say(self.obstacle(quiet, round_trip));
            let why = patience.obstacle();
            if let Err(over) = limit.check(quiet, NO_ANSWER, why) {
                return over;
            }
        }
    }

    // For how long nothing came, and the round trip.
    fn look(&mut self) -> (Duration, Duration) {
        let counted = self.counted.now();
        let (datagrams, round_trip) = (counted.datagrams_received, counted.round_trip);
        let quiet = self.quiet.look(datagrams, round_trip, self.steps.at.get());
        (quiet, round_trip)
    }

    fn obstacle(&mut self, quiet: Duration, round_trip: Duration) -> Option<String> {
        if quiet < outage_least(round_trip) {
            return None;
        }
        Some(self.link.silence(quiet))
    }

    /// The times in which nothing came. The last may have ended with the test.
    pub(super) fn outages(mut self) -> Vec<Outage> {
        self.look();
        self.quiet.outages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_when_it_is_over_and_what_is_short_is_none() {
        let round_trip = Duration::from_millis(125);
        let mut quiet = Quiet::default();
        let mut look = |datagrams, looks: u32, step| {
            let lasted = (0..looks).map(|_| quiet.look(datagrams, round_trip, step));
            (lasted.last(), quiet.outages.clone())
        };
        assert_eq!(look(1, 1, Step::RoundTrips).0, Some(Duration::ZERO));
        // A second and four round trips are six looks.
        assert_eq!(look(1, 5, Step::RoundTrips).0, Some(5 * LOOK_EVERY));
        assert_eq!(look(2, 1, Step::Up), (Some(Duration::ZERO), vec![]));
        let (lasted, outages) = look(2, 24, Step::Up);
        assert_eq!((lasted, outages), (Some(Duration::from_secs(6)), vec![]));
        let outage = Outage {
            step: Step::Up,
            seconds: 6.0,
        };
        assert_eq!(look(9, 2, Step::Up).1, [outage]);
        assert_eq!(look(10, 1, Step::Down).1, [outage]);
    }
}

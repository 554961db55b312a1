//! What is done about events that fail: how often a subscription tries one, and how long it waits before each attempt but the first; and
//! which events a consumer always fails on, and how.

use serde::{Deserialize, Serialize};

/// How often an event is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempts {
    /// So many attempts that count; 0 is without end.
    pub max: u32,
    /// How long it waits before the second, the third and so on; the last repeats.
    pub backoff_ms: Vec<u64>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            max: 0,
            backoff_ms: vec![100],
        }
    }
}

/// Events that a consumer always fails on: those whose number leaves `rest` when divided by `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Poison {
    /// What the number is divided by.
    pub every: u64,
    /// What is left.
    pub rest: u64,
    /// What the consumer does.
    pub does: Fails,
}

/// How a consumer fails on an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fails {
    /// It wants it again, when its subscription says so.
    Nack,
    /// It wants it again after so many milliseconds.
    NackAfter(u64),
    /// It refuses it.
    Term,
    /// It says nothing, until the run is nearly over.
    Silent,
    /// Its process ends, until the run is nearly over.
    Dies,
}

impl Poison {
    /// Whether it is one.
    #[must_use]
    pub fn is_in(&self, number: u64) -> bool {
        number % self.every.max(1) == self.rest
    }
}

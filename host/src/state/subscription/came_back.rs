//! What became of events that came back, as others write it down and as recovery reads it again: how often each was tried, and what
//! its consumer was promised of it, another attempt now or later, or its end. Why events come back is not known here.

use serde::{Deserialize, Serialize};

use super::give_up_reason::GiveUpReason;
use crate::domain::Millis;

/// Events that came back together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CameBack {
    /// The first.
    pub first: u64,
    /// How many follow it.
    pub more: u64,
    /// How often each failed.
    pub failed: u32,
    /// How often each was handed out.
    pub handed: u32,
    /// One of them may have brought a consumer down.
    pub suspect: bool,
    /// What becomes of them.
    pub next: Next,
}

/// What becomes of an event that came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// Whoever asks gets it.
    Ready,
    /// It is left alone until then.
    At(Millis),
    /// It is given up.
    GivenUp(GiveUpReason),
}

impl CameBack {
    /// The same with the moment, if it has one, moved by so many milliseconds.
    #[must_use]
    pub fn shifted(mut self, by_ms: i64) -> Self {
        if let Next::At(due) = &mut self.next {
            *due = due.shifted(by_ms);
        }
        self
    }
}

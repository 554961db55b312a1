//! What one subscription owes its consumers: which positions matched and are not acked, who holds which of them
//! until when, what is to be tried again and when, and what was given up. Pure state: no I/O, no async, no
//! clock. It never holds an event, only positions, and it never forgets a matched position before its ack.
//!
//! A position that is pending is in exactly one place: never handed out (at or above `next_fresh`), ready to
//! be handed out again, as a retry or a suspect or neither, delayed, in flight with one consumer, or given up. An ack
//! removes it for good. Whoever only looks is shown pending positions wherever they are, and moves none.
//!
//! - `matched`: how positions become pending; `filter_changes`: which filters judge them.
//! - `leases`: which consumer gets what next, and holds it; `browsing`: those that only look.
//! - `acks`: what consumers answer.
//! - `ack_deadlines`: how long they may take, and what an application has not got yet.
//! - `retries`: what came back: how often, and until when it is left alone; `crash_suspects`: what a lost consumer may have had in hand.
//! - `give_up`: what nobody will get any more; `give_up_reasons`: why, kept small.
//! - `effects`: what a change makes necessary outside.
//! - `snapshot`: all of it as bytes.

mod ack_deadlines;
mod acks;
mod browsing;
mod crash_suspects;
mod effects;
mod filter_changes;
mod give_up;
mod give_up_reasons;
mod leases;
mod matched;
mod retries;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use roaring::RoaringTreemap;

pub use self::ack_deadlines::Unseen;
use self::crash_suspects::Suspects;
pub use self::effects::Effects;
use self::filter_changes::FilterChanges;
pub use self::give_up::{GiveUpReason, GivenUp};
use self::give_up_reasons::Reasons;
use self::retries::Delays;
pub use self::retries::Strain;
use self::retries::Tries;
pub use self::snapshot::RestoreError;
use super::position_set::PositionSet;
use super::range_map::RangeMap;
use crate::domain::{ConsumerId, DeliveryPolicy, Millis, Position};

/// While this many events wait for their dead letter, further ones share their reasons: what is kept of each, with its reason,
/// must not grow with the backlog.
const GIVEN_UP_EXACT_MAX: usize = 262_144;
/// Longest reason that is kept with a given-up event, in bytes.
const REASON_BYTES_MAX: usize = 1_024;

/// The state of one subscription or route.
///
/// All calls are short: work is per range of positions, not per event, wherever events are handled in batches.
#[derive(Clone, Debug)]
pub struct SubscriptionState {
    policy: DeliveryPolicy,
    /// First position that may match.
    start: u64,
    /// Everything up to here is decided.
    evaluated: u64,
    /// One per filter of the chain that judges now; none while there are no filters.
    stages: Vec<Stage>,
    /// Which chain that is, and which come after it.
    chains: FilterChanges,
    /// Undecided positions that a filter failed on.
    failed: Reasons,
    /// Undecided positions that are acked already: an ack read from the journal before its match.
    acked_ahead: PositionSet,
    pending: PositionSet,
    /// Pending positions from here on were never handed out.
    next_fresh: u64,
    /// To be handed out again as soon as somebody asks; none of them failed before.
    ready: PositionSet,
    /// Those that failed before and are due again.
    retries: PositionSet,
    delayed: Delays,
    tries: Tries,
    suspects: Suspects,
    consumers: BTreeMap<ConsumerId, Consumer>,
    /// Those whose application takes nothing. They get nothing more meanwhile.
    stalled: BTreeSet<ConsumerId>,
    in_flight: u64,
    /// Those in flight that failed before.
    retries_in_flight: u64,
    /// Retries handed out one after the other while something fresh waited.
    retries_in_a_row: u64,
    given_up: Reasons,
    /// Those of `given_up` that nobody has taken yet.
    given_up_waiting: PositionSet,
    paused: Option<Arc<str>>,
    redelivered: u64,
    dead_lettered: u64,
    /// What nobody has taken yet.
    effects: Effects,
    strain_told: Strain,
}

/// What one filter has said.
#[derive(Clone, Debug, Default)]
struct Stage {
    through: u64,
    /// Matched by this filter, not yet decided by all.
    candidates: PositionSet,
}

#[derive(Clone, Debug, Default)]
struct Consumer {
    /// Positions it holds → deadline.
    flights: RangeMap<Millis>,
    /// No deadline that needs looking at is before this.
    next_scan: Option<Millis>,
    /// It only looks, and the next event it is shown is at this position or behind it. It holds nothing.
    looks_from: Option<u64>,
    /// It says what it has handed to its application.
    says: bool,
    /// What it holds has no deadline.
    untimed: bool,
    /// When it said so last.
    handed_at: Option<Millis>,
}

/// An event handed to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which event.
    pub position: Position,
    /// How often it has been handed out, this time included.
    pub attempt: u32,
    /// A consumer that had it before lost its connection. All events of one lease are, or none.
    pub suspect: bool,
}

impl SubscriptionState {
    /// A subscription that may match events from `start` on, through `stages` filters. With none it is fed by
    /// [`observe`](Self::observe), otherwise by [`stage_result`](Self::stage_result).
    #[must_use]
    pub fn new(policy: DeliveryPolicy, start: Position, stages: usize) -> Self {
        let start = start.0.clamp(1, u64::MAX - 1);
        Self {
            policy,
            start,
            evaluated: start - 1,
            stages: vec![
                Stage {
                    through: start - 1,
                    ..Stage::default()
                };
                stages
            ],
            chains: FilterChanges::default(),
            failed: Reasons::default(),
            acked_ahead: PositionSet::default(),
            pending: PositionSet::default(),
            next_fresh: start,
            ready: PositionSet::default(),
            retries: PositionSet::default(),
            delayed: Delays::default(),
            tries: Tries::default(),
            suspects: Suspects::default(),
            consumers: BTreeMap::new(),
            stalled: BTreeSet::new(),
            in_flight: 0,
            retries_in_flight: 0,
            retries_in_a_row: 0,
            given_up: Reasons::default(),
            given_up_waiting: PositionSet::default(),
            paused: None,
            redelivered: 0,
            dead_lettered: 0,
            effects: Effects::default(),
            strain_told: Strain::default(),
        }
    }

    /// How it hands out events.
    #[must_use]
    pub fn policy(&self) -> &DeliveryPolicy {
        &self.policy
    }

    /// Changes how it hands out events, from the next hand-out on.
    pub fn set_policy(&mut self, policy: DeliveryPolicy) {
        self.policy = policy;
        self.effects.wakes = true;
    }

    /// First position it may match.
    #[must_use]
    pub fn start(&self) -> Position {
        Position(self.start)
    }

    /// Number of filters of the chain that judges now.
    #[must_use]
    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// Events that matched and are not acked, those in flight or given up included.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.pending.len()
    }

    /// Events handed out and not acked.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Events that were given up and are not acked yet.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.given_up.all().len()
    }

    /// Attached consumers.
    #[must_use]
    pub fn consumers(&self) -> usize {
        self.consumers.len()
    }

    /// The oldest event that is not acked.
    #[must_use]
    pub fn oldest_pending(&self) -> Option<Position> {
        self.pending.first().map(Position)
    }

    /// Events handed out a second time or more, since the broker started.
    #[must_use]
    pub fn redelivered(&self) -> u64 {
        self.redelivered
    }

    /// Events given up, since the broker started.
    #[must_use]
    pub fn dead_lettered(&self) -> u64 {
        self.dead_lettered
    }

    /// Whether any event in the range must be kept for this subscription: it is pending, or not decided yet.
    #[must_use]
    pub fn needs(&self, range: RangeInclusive<Position>) -> bool {
        let (first, last) = bounds(&range);
        let undecided = last >= self.start && last > self.evaluated;
        first <= last && (undecided || self.pending.ranges(first, last).next().is_some())
    }

    /// Events of the range that are pending.
    #[must_use]
    pub fn pending_within(&self, range: RangeInclusive<Position>) -> u64 {
        let (first, last) = bounds(&range);
        let runs = self.pending.ranges(first, last);
        runs.map(|(first, last)| last - first + 1).sum()
    }

    /// What is pending between `first` and `last`, together with what at least one filter let through and the
    /// others have not decided. Beyond [`evaluated_through`](Self::evaluated_through) the caller keeps
    /// everything.
    #[must_use]
    pub fn needed(&self, first: Position, last: Position) -> RoaringTreemap {
        let mut needed = self.pending.within(first.0, last.0);
        for stage in &self.stages {
            needed |= stage.candidates.within(first.0, last.0);
        }
        needed
    }

    /// Stops handing out events. What is in flight may still be acked.
    pub fn pause(&mut self, reason: &str) {
        self.paused = Some(bounded(reason));
        self.effects.wakes = true;
    }

    /// Goes on handing out events.
    pub fn resume(&mut self) {
        self.paused = None;
        self.effects.wakes = true;
    }

    /// Why nothing is handed out, when it is paused.
    #[must_use]
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }
}

fn bounds(range: &RangeInclusive<Position>) -> (u64, u64) {
    (range.start().0, range.end().0)
}

// A reason comes from a peer or a guest; what is kept of it is bounded.
fn bounded(reason: &str) -> Arc<str> {
    reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].into()
}

//! What one subscription owes its consumers: which positions matched and are not acked, who holds which of them
//! until when, what is to be tried again and when, and what was given up. Pure state: no I/O, no async, no
//! clock. It never holds an event, only positions, and it never forgets a matched position before its ack.
//!
//! A position that is pending is in exactly one place: never handed out (at or above `next_fresh`), ready to
//! be handed out again, as a retry or a suspect or neither, delayed, in flight with one consumer, or given up. An ack
//! removes it for good. Whoever only looks is shown pending positions wherever they are, and moves none.
//!
//! What it is made of:
//!
//! - `filter_stages`: what the filters have said.
//! - `consumer`: what one holds; `attempt_counts`, `due_times`: of what came back, how often it was tried and how long it is left alone;
//!   `crash_suspects`: what a lost consumer may have had in hand; `reasons_by_position`: what is given up, and why.
//! - `effects`: what a change makes necessary outside.
//!
//! And its rules, each of which uses those above it only:
//!
//! - `filter_changes`: which filters judge which positions.
//! - `in_flight`: what is in any consumer's hands; `give_up`: what nobody will get any more.
//! - `recovery`: what came back before a crash, and `known_ahead`, of what is not decided; `matched`: how positions become pending.
//! - `retries`: what comes back, after which `backoff`; `came_back`: how that is written down; `lost_consumers`: from those
//!   who go, and who tries what they may have gone by.
//! - `browsing`: those that only look; `leases`: which consumer gets what next.
//! - `acks`: what consumers answer; `ack_deadlines`: how long they may take, and what an application has not got yet.
//! - `snapshot`: all of it as bytes.

mod ack_deadlines;
mod acks;
mod browsing;
mod came_back;
mod consumer;
mod crash_suspects;
mod effects;
mod filter_changes;
mod filter_stages;
mod give_up;
mod give_up_reason;
mod in_flight;
mod known_ahead;
mod lease_budget;
mod leases;
mod lost_consumers;
mod matched;
mod reasons_by_position;
mod recovery;
mod retries;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use roaring::RoaringTreemap;

pub use self::ack_deadlines::Unseen;
pub use self::came_back::{CameBack, Next};
use self::consumer::Consumer;
use self::crash_suspects::Suspects;
pub use self::effects::{Effects, Strain};
use self::filter_stages::{FilterChanges, Stage};
pub use self::give_up::GivenUp;
pub use self::give_up_reason::GiveUpReason;
use self::give_up_reason::bounded;
use self::known_ahead::Ahead;
pub use self::lease_budget::Lease;
use self::reasons_by_position::Reasons;
use self::retries::attempt_counts::Tries;
use self::retries::due_times::DueTimes;
pub use self::snapshot::RestoreError;
use super::position_set::PositionSet;
use crate::domain::{ConsumerId, DeliveryPolicy, Millis, Position};

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
    /// Undecided positions that came back before a crash.
    ahead: Ahead,
    pending: PositionSet,
    /// Pending positions from here on were never handed out.
    next_fresh: u64,
    /// To be handed out again as soon as somebody asks; none of them failed before.
    ready: PositionSet,
    /// Those that failed before and are due again.
    retries: PositionSet,
    delayed: DueTimes,
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
    /// What nobody has taken yet.
    effects: Effects,
    strain_told: Strain,
}

impl SubscriptionState {
    /// A subscription that may match events from `start` on, through `stages` filters. With none it is fed by
    /// [`observe`](Self::observe), otherwise by [`stage_result`](Self::stage_result).
    #[must_use]
    pub fn new(policy: DeliveryPolicy, start: Position, stages: usize) -> Self {
        let start = start.0.clamp(1, u64::MAX - 1);
        Self {
            policy: reckoned(policy),
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
            ahead: Ahead::default(),
            pending: PositionSet::default(),
            next_fresh: start,
            ready: PositionSet::default(),
            retries: PositionSet::default(),
            delayed: DueTimes::default(),
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
        self.policy = reckoned(policy);
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

    /// Events that are left alone until a moment that is to come.
    #[must_use]
    pub fn delayed(&self) -> u64 {
        self.delayed.0.len()
    }

    /// When the first of them is handed out again.
    #[must_use]
    pub fn delayed_until(&self) -> Option<Millis> {
        self.delayed.0.first()
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

    /// Which limits it has reached.
    #[must_use]
    pub fn strain(&self) -> Strain {
        Strain {
            coarse_delays: self.delayed.is_coarse(),
            coarse_reasons: self.given_up.are_coarse() || self.failed.are_coarse(),
        }
    }

    /// What the changes since the last call make necessary. Each effect is told once.
    pub fn take_effects(&mut self) -> Effects {
        let mut effects = std::mem::take(&mut self.effects);
        let strain = self.strain();
        if strain != self.strain_told {
            self.strain_told = strain;
            effects.strain = Some(strain);
        }
        effects
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

    // Whether something waits that was never handed out.
    fn has_fresh(&self) -> bool {
        let given_up = self.given_up.all();
        self.pending
            .ranges(self.next_fresh, u64::MAX)
            .any(|(first, last)| !given_up.contains_range(first, last))
    }

    /// Stops handing out events. What is in flight may still be acked.
    pub fn pause(&mut self, reason: &str) {
        let reason = Some(bounded(reason));
        self.effects.paused |= self.paused != reason;
        self.paused = reason;
        self.effects.wakes = true;
    }

    /// Goes on handing out events.
    pub fn resume(&mut self) {
        self.paused = None;
        // Though it did not stand still: what was noted of it before counts no more.
        self.effects.paused = true;
        self.effects.wakes = true;
    }

    /// Why nothing is handed out, when it is paused.
    #[must_use]
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }
}

// As it is reckoned with: an older broker took deadlines that never come.
fn reckoned(policy: DeliveryPolicy) -> DeliveryPolicy {
    DeliveryPolicy {
        ack_deadline_ms: policy.ack_deadline(),
        ..policy
    }
}

fn bounds(range: &RangeInclusive<Position>) -> (u64, u64) {
    (range.start().0, range.end().0)
}

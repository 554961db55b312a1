//! How positions become pending: what the topics' events and the filters say, and acks that recovery reads
//! before the match they belong to.

use std::ops::RangeInclusive;

use super::give_up_reason::{GiveUpReason, bounded};
use super::{SubscriptionState, bounds};
use crate::domain::Position;

/// So that the position after any position exists.
const POSITION_MAX: u64 = u64::MAX - 1;

impl SubscriptionState {
    /// For a subscription without filters: every event up to `through` has been looked at, and `matched` are
    /// those of its topics, rising. What was observed before is ignored, so a repetition does no harm; so is what
    /// the present chain does not judge. Returns whether something became deliverable.
    pub fn observe(
        &mut self,
        through: Position,
        matched: impl IntoIterator<Item = RangeInclusive<Position>>,
    ) -> bool {
        let through = through.0.min(POSITION_MAX).min(self.limit());
        if !self.stages.is_empty() || through <= self.evaluated {
            return false;
        }
        let mut added = 0;
        for range in matched {
            let (first, last) = bounds(&range);
            added += self.add(first.max(self.evaluated + 1), last.min(through));
        }
        self.decide_through(through);
        self.effects.wakes |= added > 0;
        added > 0
    }

    /// Filter number `stage` has looked at every event up to `through`, and `matched` are those it let
    /// through, rising. Positions up to that stage's earlier `through` are ignored, so a repetition does no
    /// harm; so are those that the present chain does not judge. Returns whether something became deliverable.
    pub fn stage_result(&mut self, stage: usize, through: Position, matched: &[Position]) -> bool {
        let (alone, limit) = (self.stages.len() == 1, self.limit());
        let Some(state) = self.stages.get_mut(stage) else {
            return false;
        };
        let (after, through) = (state.through, through.0.min(POSITION_MAX).min(limit));
        if through <= after {
            return false;
        }
        state.through = through;
        let matched = match planted!(MatchedFromTheNext) {
            true => matched.get(1..).unwrap_or_default(),
            false => matched,
        };
        let runs = Runs(matched.iter().map(|position| position.0).peekable())
            .map(|(first, last)| (first.max(after + 1), last.min(through)));
        if alone && state.candidates.is_empty() {
            let mut added = 0;
            for (first, last) in runs {
                added += self.add(first, last);
            }
            self.decide_through(through);
            self.effects.wakes |= added > 0;
            return added > 0;
        }
        for (first, last) in runs {
            state.candidates.insert_range(first, last);
        }
        self.decide()
    }

    /// Filter number `stage` failed on an event that its policy sends to the dead-letter topic. Called before
    /// the [`stage_result`](Self::stage_result) that covers the position. If the other filters let the event
    /// through, it becomes pending as given up; otherwise it did not match.
    pub fn exclude(&mut self, stage: usize, position: Position, reason: &str) {
        let limit = self.limit();
        let Some(state) = self.stages.get_mut(stage) else {
            return;
        };
        if position.0 > state.through && position.0 <= limit {
            state.candidates.insert_range(position.0, position.0);
            let reason = GiveUpReason::FilterFailed(bounded(reason));
            self.failed.insert(position.0, position.0, &reason);
        }
    }

    /// Up to where filter number `stage` has looked; everything for a stage that does not exist.
    #[must_use]
    pub fn stage_through(&self, stage: usize) -> Position {
        Position(
            self.stages
                .get(stage)
                .map_or(self.evaluated, |stage| stage.through),
        )
    }

    /// Up to where every event is decided.
    #[must_use]
    pub fn evaluated_through(&self) -> Position {
        Position(self.evaluated)
    }

    /// Recovery: acks read from the journal. A position that has not matched yet is skipped when it does.
    /// [`is_acked`](Self::is_acked) does this by itself.
    pub fn acked_before_match(&mut self, ranges: &[RangeInclusive<Position>]) {
        for range in ranges {
            let (first, last) = bounds(range);
            self.acked_ahead
                .insert_range(first.max(self.evaluated + 1), last.min(POSITION_MAX));
        }
    }

    // Decides what all stages are past.
    fn decide(&mut self) -> bool {
        let Some(through) = self.stages.iter().map(|stage| stage.through).min() else {
            return false;
        };
        let through = through.min(self.limit());
        let Some((leader, others)) = self.stages.split_first() else {
            return false;
        };
        if through <= self.evaluated {
            return false;
        }
        let mut passed = leader.candidates.within(self.evaluated + 1, through);
        for stage in others {
            passed &= stage.candidates.within(self.evaluated + 1, through);
        }
        let mut added = 0;
        for (first, last) in Runs(passed.iter().peekable()) {
            added += self.add(first, last);
        }
        self.decide_through(through);
        self.effects.wakes |= added > 0;
        added > 0
    }

    fn decide_through(&mut self, through: u64) {
        self.evaluated = through;
        for stage in &mut self.stages {
            stage.candidates.remove_range(0, through);
        }
        self.acked_ahead.remove_range(0, through);
        self.failed.remove(0, through);
        self.ahead.decided(through);
        self.take_over();
    }

    // Makes `first..=last` pending, except what is acked already. Returns how many became deliverable.
    fn add(&mut self, first: u64, last: u64) -> u64 {
        let first = first.max(self.start);
        if first > last {
            return 0;
        }
        if self.acked_ahead.is_empty() {
            return self.add_unacked(first, last);
        }
        reached!(AckedBeforeMatch);
        self.acked_ahead
            .gaps(first, last)
            .into_iter()
            .map(|(first, last)| self.add_unacked(first, last))
            .sum()
    }

    fn add_unacked(&mut self, first: u64, last: u64) -> u64 {
        let added = self.pending.insert_range(first, last);
        if self.failed.is_empty() && self.ahead.is_empty() {
            return added;
        }
        let mut failures_count = 0;
        for (first, last, reason) in self.failed.runs(first, last) {
            failures_count += last - first + 1;
            self.record_given_up(first, last, &reason);
        }
        self.take_up_known(first, last);
        added.saturating_sub(failures_count)
    }
}

// Joins rising positions into runs. A number out of order starts a run of its own.
struct Runs<I: Iterator<Item = u64>>(std::iter::Peekable<I>);

impl<I: Iterator<Item = u64>> Iterator for Runs<I> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let first = self.0.next()?;
        let mut last = first;
        while let Some(next) = self.0.next_if(|next| last.checked_add(1) == Some(*next)) {
            last = next;
        }
        Some((first, last))
    }
}

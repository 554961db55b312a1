//! Which filters judge which positions. A change of the filters holds from a position on, its fence: what lies
//! before it is still judged by the filters that were there, however late they look at it. The stages are always
//! those of one chain; the chains after it wait in line and take over one after the other, each exactly at its fence.

use super::SubscriptionState;
use super::filter_stages::{Stage, Upcoming};
use crate::domain::Position;

impl SubscriptionState {
    /// Which chain of filters judges now: 0 for the first, rising from there. Results of another chain's filters
    /// must not be told.
    #[must_use]
    pub fn revision(&self) -> u32 {
        self.chains.revision
    }

    /// The last position that the present chain judges; the highest there is when no change is pending.
    #[must_use]
    pub fn judges_until(&self) -> Position {
        Position(self.limit())
    }

    /// The chain that judges now and those that will, with their numbers of filters.
    pub fn revisions(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        let upcoming = self.chains.upcoming.iter();
        std::iter::once((self.chains.revision, self.stages.len()))
            .chain(upcoming.map(|next| (next.revision, next.stages)))
    }

    /// Changes whose fence is not reached yet.
    #[must_use]
    pub fn pending_changes(&self) -> usize {
        self.chains.upcoming.len()
    }

    /// From position `from` on, the chain `revision` with `stages` filters judges. Chains that were to begin there or
    /// later never do. A change that is known already is ignored, so a repetition does no harm; returns
    /// whether it was new.
    pub fn change_filters(&mut self, revision: u32, from: Position, stages: usize) -> bool {
        if revision <= self.chains.newest() {
            return false;
        }
        if self
            .chains
            .frozen_for
            .is_some_and(|wanted| wanted <= revision)
        {
            self.chains.frozen_for = None;
        }
        self.chains.upcoming.retain(|chain| chain.from < from.0);
        self.chains.upcoming.push_back(Upcoming {
            revision,
            from: from.0,
            stages,
        });
        self.effects.wakes = true;
        self.take_over();
        true
    }

    /// Decides nothing more until the change `revision` comes, and returns the first position that is undecided: what a
    /// change may have as its fence although events after it were committed before it.
    pub fn freeze(&mut self, revision: u32) -> Position {
        self.chains.frozen_for = Some(revision);
        self.effects.wakes = true;
        Position(self.evaluated + 1)
    }

    /// The change `revision` will not come: what [`freeze`](Self::freeze) held back is decided as before. Returns whether anything
    /// was held back for it.
    pub fn thaw(&mut self, revision: u32) -> bool {
        let is_frozen = self.chains.frozen_for == Some(revision);
        if is_frozen {
            self.chains.frozen_for = None;
            self.effects.wakes = true;
        }
        is_frozen
    }

    // The last position that may be decided by the present stages.
    pub(super) fn limit(&self) -> u64 {
        if self.chains.frozen_for.is_some() {
            return self.evaluated;
        }
        self.chains
            .upcoming
            .front()
            .map_or(u64::MAX, |next| next.from - 1)
    }

    // Lets the next chain begin where everything before its fence is decided.
    pub(super) fn take_over(&mut self) {
        while let Some(next) = self.chains.upcoming.front().copied()
            && next.from <= self.evaluated + 1
        {
            reached!(FiltersTakeOver);
            self.chains.upcoming.pop_front();
            self.chains.revision = next.revision;
            self.effects.took_over = true;
            self.effects.wakes = true;
            let stage = Stage {
                through: self.evaluated,
                ..Stage::default()
            };
            self.stages = vec![stage; next.stages];
            // What is left is undecided: failures of filters that are not asked about it any more.
            self.failed.remove(0, u64::MAX);
        }
    }
}

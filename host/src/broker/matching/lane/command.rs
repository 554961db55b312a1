//! What lanes are told, and the members that they are told of. How a lane works is not known here.

use std::sync::Arc;

use super::super::isolation_lanes::{Stay, Whose};
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::{BlockOrigin, FailurePolicy, Position, SubscriptionId, TopicName};
use crate::state::filter_chain::FilterChain;

/// What a lane is told. Few and small: at most one of each kind for each filter of each subscription and each of its changes.
#[derive(Clone)]
pub(in crate::broker::matching) enum LaneCommand {
    Add(Member),
    /// From another lane of the plugin.
    Move(Member),
    /// Members of chains that judge no more.
    Retire(SubscriptionId),
    Remove(SubscriptionId),
    Resume(SubscriptionId),
}

/// A subscription's rule in a lane: one filter of one of its chains.
#[derive(Clone)]
pub(in crate::broker::matching) struct Member {
    pub(in crate::broker::matching) live: Arc<LiveSubscription>,
    pub(in crate::broker::matching) chain: Arc<FilterChain>,
    pub(in crate::broker::matching) stage: usize,
    pub(in crate::broker::matching) stay: Stay,
}

impl Member {
    pub(in crate::broker::matching) fn whose(&self) -> Whose {
        self.live.settings().spec.responsible().cloned()
    }

    /// The first event it is to look at; `None` when there is none left before the next chain's fence.
    pub(in crate::broker::matching) fn next(&self) -> Option<Position> {
        let state = self.live.read();
        let through = state.stage_through(self.stage);
        let judges = state.revision() == self.chain.revision && through < state.judges_until();
        judges.then(|| through.next())
    }

    pub(in crate::broker::matching) fn judges(&self, position: Position) -> bool {
        let state = self.live.read();
        state.revision() == self.chain.revision && position <= state.judges_until()
    }

    /// Unless another chain has taken over meanwhile.
    pub(in crate::broker::matching) fn pause(&self, reason: &str) -> bool {
        self.live.apply(|state, _| {
            let judges = state.revision() == self.chain.revision;
            if judges {
                state.pause(reason);
            }
            judges
        })
    }

    pub(in crate::broker::matching) fn selects(
        &self,
        topic: &TopicName,
        mark: BlockOrigin,
    ) -> bool {
        self.chain.selects(&self.live.settings().spec, topic, mark)
    }

    pub(in crate::broker::matching) fn policy(&self) -> FailurePolicy {
        self.chain.filters[self.stage].on_failure
    }
}

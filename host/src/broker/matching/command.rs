//! What lanes are told, and the members that they are told of. How a lane works is not known here.

use std::sync::Arc;

use super::wards::{Stay, Whose};
use crate::broker::subscriptions::live::LiveSubscription;
use crate::domain::{FailurePolicy, LetterMark, Position, SubscriptionId, TopicName};
use crate::state::filter_chain::FilterChain;

/// What a lane is told. Few and small: at most one of each kind for each filter of each subscription and each of its changes.
#[derive(Clone)]
pub(super) enum Command {
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
pub(super) struct Member {
    pub(super) live: Arc<LiveSubscription>,
    pub(super) chain: Arc<FilterChain>,
    pub(super) stage: usize,
    pub(super) stay: Stay,
}

impl Member {
    pub(super) fn whose(&self) -> Whose {
        self.live.settings().spec.responsible().cloned()
    }

    /// The first event it is to look at; `None` when there is none left before the next chain's fence.
    pub(super) fn next(&self) -> Option<Position> {
        let state = self.live.read();
        let through = state.stage_through(self.stage);
        let judges = state.revision() == self.chain.revision && through < state.judges_until();
        judges.then(|| through.next())
    }

    pub(super) fn judges(&self, position: Position) -> bool {
        let state = self.live.read();
        state.revision() == self.chain.revision && position <= state.judges_until()
    }

    /// Unless another chain has taken over meanwhile.
    pub(super) fn pause(&self, reason: &str) -> bool {
        self.live.apply(|state, _| {
            let judges = state.revision() == self.chain.revision;
            if judges {
                state.pause(reason);
            }
            judges
        })
    }

    pub(super) fn selects(&self, topic: &TopicName, mark: LetterMark) -> bool {
        self.chain.selects(&self.live.settings().spec, topic, mark)
    }

    pub(super) fn policy(&self) -> FailurePolicy {
        self.chain.filters[self.stage].on_failure
    }
}

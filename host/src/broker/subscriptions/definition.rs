//! What a subscription is: its settings, and the chains of filters that judge for it or will. Follows the catalog, one change after
//! the other. What it owes to whom is its state's business, which is told of the same changes.

use std::sync::Arc;

use crate::domain::{BlockOrigin, Digest, Position, SubscriptionSpec, TopicName};
use crate::state::SubscriptionState;
use crate::state::catalog::Subscription;
use crate::state::filter_chain::FilterChain;

/// What a subscription is from now on, until it is changed again. Whoever works on a batch takes one and keeps it for
/// that batch.
pub(crate) struct Settings {
    pub(crate) spec: Arc<SubscriptionSpec>,
    /// How often it was changed before.
    pub(crate) revision: u32,
    pub(crate) dead_letter: TopicName,
}

impl Settings {
    fn new(subscription: &Subscription) -> Arc<Self> {
        let spec = subscription.spec.clone();
        Arc::new(Self {
            dead_letter: spec.dead_letter_topic(),
            revision: subscription.revision,
            spec,
        })
    }
}

/// Settings and chains.
pub(super) struct Definition {
    settings: Arc<Settings>,
    /// Those that judge or will judge, in order, and perhaps some that have nothing left to judge.
    chains: Vec<Arc<FilterChain>>,
}

impl Definition {
    pub(super) fn new(subscription: &Subscription) -> Self {
        Self {
            settings: Settings::new(subscription),
            chains: subscription.chains().to_vec(),
        }
    }

    /// Makes it what the catalog says. Repeating it changes nothing.
    pub(super) fn update(&mut self, subscription: &Subscription) {
        for chain in subscription.chains() {
            if self
                .chains
                .iter()
                .all(|known| known.revision < chain.revision)
            {
                self.chains.push(chain.clone());
            }
        }
        self.settings = Settings::new(subscription);
    }

    pub(super) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Whether events of `topic` with this mark that are appended now are for this subscription.
    pub(super) fn selects(&self, topic: &TopicName, mark: BlockOrigin) -> bool {
        let newest = self.chains.last();
        newest.is_some_and(|chain| chain.selects(&self.settings.spec, topic, mark))
    }

    /// Whether events of `topic` that are not decided yet may be for this subscription, dead letters or not.
    pub(super) fn may_select(&self, topic: &TopicName) -> bool {
        // Who takes in a topic's letters takes in its ordinary events.
        let mut chains = self.chains.iter();
        chains.any(|chain| chain.selects(&self.settings.spec, topic, BlockOrigin::Ordinary))
    }

    /// Whether a plugin judges for it, or will when its next filters take over.
    pub(super) fn is_judged_by(&self, digest: Digest) -> bool {
        let mut used = self.chains.iter().flat_map(|chain| chain.filters.iter());
        used.any(|used| used.digest == Some(digest))
    }

    /// The fence of its newest filters, when they are not those it was created with.
    pub(super) fn fence(&self) -> Option<Position> {
        let newest = self.chains.last().filter(|chain| chain.revision > 0);
        newest.map(|chain| chain.from)
    }

    /// Whether each of these chains is known, named by its revision and its number of filters.
    pub(super) fn knows(&self, mut revisions: impl Iterator<Item = (u32, usize)>) -> bool {
        revisions.all(|(revision, stages)| {
            let mut chains = self.chains.iter();
            chains.any(|chain| chain.revision == revision && chain.filters.len() == stages)
        })
    }

    /// The chain `revision`, if it is known. Those before it judge nothing any more and are forgotten.
    pub(super) fn forget_before(&mut self, revision: u32) -> Option<Arc<FilterChain>> {
        self.chains.retain(|chain| chain.revision >= revision);
        let first = self.chains.first();
        first.filter(|chain| chain.revision == revision).cloned()
    }
}

/// Tells a subscription's state what the catalog says of it. Repeating it changes nothing. Returns whether it learned of filters
/// that it did not know.
pub(super) fn tell(state: &mut SubscriptionState, subscription: &Subscription) -> bool {
    state.set_policy(subscription.spec.delivery.clone());
    let mut is_news = false;
    for chain in subscription.chains() {
        is_news |= state.change_filters(chain.revision, chain.from, chain.filters.len());
    }
    is_news
}

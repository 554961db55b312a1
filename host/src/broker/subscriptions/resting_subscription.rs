//! A subscription that does not run: what is made of what is on disk, before there is a broker. Nobody is handed anything, nothing
//! has a deadline, and what its changes make necessary is nothing to do. It comes to life as a
//! [`LiveSubscription`](super::live_subscription::LiveSubscription).

use super::definition::{self, Definition};
use crate::domain::{BlockOrigin, Name, Position, SubscriptionId, TopicName};
use crate::state::SubscriptionState;
use crate::state::catalog::Subscription;

/// A subscription or route at rest.
pub(crate) struct RestingSubscription {
    pub(crate) id: SubscriptionId,
    pub(crate) name: Name,
    pub(crate) state: SubscriptionState,
    /// Up to where everything is decided according to the newest checkpoint.
    pub(crate) evaluated_on_disk: Position,
    pub(super) definition: Definition,
}

impl RestingSubscription {
    pub(crate) fn new(
        id: SubscriptionId,
        subscription: &Subscription,
        mut state: SubscriptionState,
    ) -> Self {
        definition::tell(&mut state, subscription);
        Self {
            id,
            name: subscription.spec.name.clone(),
            state,
            evaluated_on_disk: Position(0),
            definition: Definition::new(subscription),
        }
    }

    /// One that was created just now, or is created again by what the journal says.
    pub(crate) fn created(
        id: SubscriptionId,
        subscription: &Subscription,
        start: Position,
    ) -> Self {
        let spec = &subscription.spec;
        let state = SubscriptionState::new(spec.delivery.clone(), start, spec.filters.len());
        Self::new(id, subscription, state)
    }

    /// Makes it what the catalog says. Repeating it changes nothing. Returns whether its state learned of filters that it
    /// did not know.
    pub(crate) fn update(&mut self, subscription: &Subscription) -> bool {
        self.definition.update(subscription);
        definition::tell(&mut self.state, subscription)
    }

    /// Whether events of `topic` with this mark that were appended last are for this subscription.
    pub(crate) fn selects(&self, topic: &TopicName, mark: BlockOrigin) -> bool {
        self.definition.selects(topic, mark)
    }

    /// The fence of its newest filters, when they are not those it was created with.
    pub(crate) fn fence(&self) -> Option<Position> {
        self.definition.fence()
    }

    /// Whether every chain that its state goes by is known.
    pub(crate) fn knows_its_filters(&self) -> bool {
        self.definition.knows(self.state.revisions())
    }
}

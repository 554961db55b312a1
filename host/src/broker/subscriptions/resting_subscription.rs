//! A subscription that does not run: what is made of what is on disk, before there is a broker. Nobody is handed anything, nothing
//! has a deadline, and what its changes make necessary is nothing to do. It comes to life as a
//! [`LiveSubscription`](super::live_subscription::LiveSubscription).

use super::definition::{self, Definition};
use crate::domain::{BlockOrigin, DELAY_MS_MAX, Millis, Name, Position, SubscriptionId, TopicName};
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

    /// It is `now`, and `last_time` is the last moment that anything on disk bears. A clock that was set back in between has nobody
    /// wait for what was due then, and what an older broker was to leave alone for longer than that may be is left alone so long.
    pub(crate) fn wake_at(&mut self, now: Millis, last_time: Millis) {
        let behind_ms = last_time.0.saturating_sub(now.0);
        let latest = now.plus(DELAY_MS_MAX);
        let moved = |due: Millis| Millis(due.0.saturating_sub(behind_ms)).min(latest);
        self.state.move_dues(moved);
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

#[cfg(test)]
mod tests {
    use super::super::test_rig;
    use super::*;
    use crate::state::{CameBack, Next};

    #[test]
    fn a_clock_that_was_set_back_delays_nothing_that_was_due() {
        const HOUR: u64 = 3_600_000;
        let last_time = Millis(100 * HOUR);
        let check = |due: Millis, now: Millis, expected: Millis| {
            let mut resting = test_rig::resting(serde_json::json!({}));
            let all = Position(1)..=Position(1);
            resting.state.observe(Position(1), [all]);
            let back = CameBack {
                first: 1,
                more: 0,
                failed: 1,
                handed: 1,
                suspect: false,
                next: Next::At(due),
            };
            resting.state.is_back(&back, due);
            resting.wake_at(now, last_time);
            assert_eq!(resting.state.delayed_until(), Some(expected), "{due} {now}");
        };
        let hour = |hours: u64| Millis(hours * HOUR);
        check(hour(101), hour(100), hour(101));
        check(hour(101), hour(200), hour(101));
        // Set back by three days: what had an hour left has one, and what was due is.
        check(hour(101), hour(28), hour(29));
        check(hour(99), hour(28), hour(27));
        check(Millis(u64::MAX), hour(100), hour(100 + 30 * 24));
    }
}

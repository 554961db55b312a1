//! A subscription with everything that its changes reach, for tests.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::effect_targets::{AckSink, EffectTargets, Start};
use super::live_subscription::LiveSubscription;
use super::registry::Registry;
use super::resting_subscription::RestingSubscription;
use crate::domain::{ConsumerId, Position, SubscriptionId};
use crate::locks::lock;
use crate::runtime::clock::Clock;
use crate::state::CameBack;
use crate::state::catalog::Subscription;

/// One subscription, which has matched nothing yet.
pub(crate) struct Rig {
    pub(crate) registry: Arc<Registry>,
    pub(crate) live: Arc<LiveSubscription>,
    pub(crate) letters: mpsc::UnboundedReceiver<SubscriptionId>,
    pub(crate) starts: mpsc::UnboundedReceiver<Start>,
    acks: Arc<Acks>,
}

#[derive(Default)]
struct Acks(Mutex<Vec<(SubscriptionId, RangeInclusive<Position>)>>);

impl AckSink for Acks {
    fn acked(&self, subscription: SubscriptionId, ranges: Vec<RangeInclusive<Position>>) {
        let acked = ranges.into_iter().map(|range| (subscription, range));
        lock(&self.0).extend(acked);
    }

    fn came_back(&self, _: SubscriptionId, _: Vec<CameBack>) {}

    fn paused(&self, _: SubscriptionId, _: Option<Arc<str>>) {}

    fn forget(&self, subscription: SubscriptionId) {
        lock(&self.0).retain(|(id, _)| *id != subscription);
    }
}

impl Rig {
    /// One with these settings. Without them it is called `s` and takes all topics.
    pub(crate) fn new(settings: serde_json::Value) -> Self {
        Self::of(resting(settings))
    }

    /// This one, alive.
    pub(crate) fn of(resting: RestingSubscription) -> Self {
        let acks = Arc::new(Acks::default());
        let (registry, live, letters, starts) = alive(resting, acks.clone());
        Self {
            registry,
            live,
            letters,
            starts,
            acks,
        }
    }

    /// Events at positions up to `through` match that have not been looked at.
    pub(crate) fn matched(&self, through: u64) {
        let first = self.live.read().evaluated_through().next();
        let matched = first..=Position(through);
        self.live
            .apply(|state, _| state.observe(Position(through), [matched]));
    }

    /// What the consumer gets of at most so many.
    pub(crate) fn lease(&self, consumer: ConsumerId, events_max: usize) -> Vec<u64> {
        let mut leases = Vec::new();
        self.live.apply(|state, now| {
            state.attach(consumer);
            state.lease(consumer, events_max, now, &mut leases);
        });
        leases.iter().map(|lease| lease.position.0).collect()
    }

    /// What is to be written down.
    pub(crate) fn acks(&self) -> Vec<RangeInclusive<Position>> {
        let acks = lock(&self.acks.0);
        acks.iter().map(|(_, range)| range.clone()).collect()
    }
}

/// A subscription with these settings. Without them it is called `s` and takes all topics.
pub(crate) fn resting(settings: serde_json::Value) -> RestingSubscription {
    let mut spec = serde_json::json!({"name": "s", "topics": ["*"]});
    for (name, value) in settings.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    let spec = serde_json::from_value(spec).expect("valid specification");
    let subscription = Subscription::new(Arc::new(spec), Position(1));
    RestingSubscription::created(SubscriptionId(1), &subscription, Position(1))
}

/// A subscription as the only one of a registry, and where its effects arrive.
pub(crate) fn alive(
    resting: RestingSubscription,
    acks: Arc<dyn AckSink>,
) -> (
    Arc<Registry>,
    Arc<LiveSubscription>,
    mpsc::UnboundedReceiver<SubscriptionId>,
    mpsc::UnboundedReceiver<Start>,
) {
    let (letters_out, letters) = mpsc::unbounded_channel();
    let (starts_out, starts) = mpsc::unbounded_channel();
    let effect_targets = EffectTargets::new(Clock::start(), acks, letters_out, starts_out);
    let registry = Registry::new(effect_targets, Position(1));
    let live = registry.live(resting);
    registry.insert(live.clone());
    (registry, live, letters, starts)
}

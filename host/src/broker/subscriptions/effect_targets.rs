//! What the effects of a subscription's changes reach: the clock, the timers, the writer of dead letters, the supervisor, and
//! whoever makes acks durable. One for all subscriptions of a broker. Nothing is done with any of it here.

use std::ops::RangeInclusive;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::timers::Timers;
use crate::domain::{Name, Position, SubscriptionId};
use crate::runtime::clock::Clock;
use crate::state::CameBack;

/// Whoever makes acks durable.
pub(crate) trait AckSink: Send + Sync {
    /// Takes what a subscription is done with. Never refused and never waiting: whoever hands events out asks for room first.
    fn acked(&self, subscription: SubscriptionId, ranges: Vec<RangeInclusive<Position>>);

    /// Takes what became of events that came back to a subscription, each after what was said of it before. The same holds.
    fn came_back(&self, subscription: SubscriptionId, back: Vec<CameBack>);

    /// Takes that a subscription is paused, and why, or that it goes on. The same holds.
    fn paused(&self, subscription: SubscriptionId, why: Option<Arc<str>>);

    /// A subscription is deleted, and what it was done with means nothing any more.
    fn forget(&self, subscription: SubscriptionId);
}

/// What the supervisor is to start or to end. A few for each subscription and each of its changes, so their queue is bounded. When
/// it comes to one, that subscription may be gone, and then there is nothing to start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Everything that a new subscription needs.
    Created(SubscriptionId),
    /// What feeds a subscription whose next filters have taken over.
    Filters(SubscriptionId),
    /// What feeds a subscription that was paused and goes on, wherever it stands or if it has died.
    Resumed(SubscriptionId),
    /// The lanes of a subscription once more.
    Anew(SubscriptionId),
    /// Nothing any more: it was deleted, and what runs for it ends.
    Deleted(SubscriptionId, Name),
}

/// All of it.
pub(crate) struct EffectTargets {
    pub(super) clock: Clock,
    pub(super) timers: Timers,
    pub(super) acks: Arc<dyn AckSink>,
    // Each subscription is in it at most once at a time, so it is bounded by their number.
    pub(super) letters: mpsc::UnboundedSender<SubscriptionId>,
    pub(super) starts: mpsc::UnboundedSender<Start>,
}

impl EffectTargets {
    /// Subscriptions with events to dead-letter go to `letters`, what is to be started goes to `starts`.
    pub(crate) fn new(
        clock: Clock,
        acks: Arc<dyn AckSink>,
        letters: mpsc::UnboundedSender<SubscriptionId>,
        starts: mpsc::UnboundedSender<Start>,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock,
            timers: Timers::default(),
            acks,
            letters,
            starts,
        })
    }

    /// Hands something to the supervisor.
    pub(crate) fn start(&self, start: Start) {
        // The receiver ends with the broker only.
        let _ = self.starts.send(start);
    }
}

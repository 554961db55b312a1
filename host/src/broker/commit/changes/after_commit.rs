//! What follows from changes once they are durable: others see them in the shared catalog, and subscriptions begin, change and
//! end. And what is taken back when their group could not be written.

use std::sync::Arc;

use super::super::draft::Draft;
use crate::broker::subscriptions::effect_targets::Start;
use crate::broker::subscriptions::resting_subscription::RestingSubscription;
use crate::domain::{Position, SubscriptionId, SubscriptionSpec};
use crate::locks;
use crate::state::catalog::{Change, Subscription};

impl Draft {
    /// Lets everybody see the changes of the group, which is durable.
    pub(in crate::broker::commit) fn show_changes(&mut self) {
        let changes = std::mem::take(&mut self.group.changes);
        if changes.is_empty() {
            return;
        }
        self.share(&changes);
        for change in changes {
            match change {
                Change::CreateSubscription { id, spec, start } => {
                    self.begin_subscription(id, spec.0, start);
                }
                Change::UpdateSubscription {
                    id,
                    revision,
                    fence,
                    ..
                } => self.change_subscription(id, revision, fence),
                Change::DeleteSubscription(id) => {
                    if let Some(live) = self.registry.remove(id) {
                        self.registry.start(Start::Deleted(id, live.name.clone()));
                    }
                    self.forget_selected();
                }
                Change::CreateTopic { .. }
                | Change::DeleteTopic(_)
                | Change::RemoveTopic { .. }
                | Change::AddPlugin(_)
                | Change::DeletePlugin { .. }
                | Change::GivePlugin { .. }
                | Change::FreePlugin { .. } => {}
            }
        }
    }

    /// Lets subscriptions stand still or go on, as the group says, which is durable.
    pub(in crate::broker::commit) fn show_pauses(&mut self) {
        for (id, why) in std::mem::take(&mut self.group.pauses) {
            let Some(live) = self.registry.by_id(id) else {
                continue;
            };
            match why {
                Some(why) => {
                    reached!(PausedByHand);
                    live.apply(|state, _| state.pause(&why));
                }
                None => {
                    reached!(Resumed);
                    live.apply(|state, _| state.resume());
                    self.registry.start(Start::Resumed(id));
                }
            }
        }
    }

    fn share(&self, changes: &[Change]) {
        let mut shared = locks::write(&self.shared);
        for change in changes {
            match change {
                // The topic itself is shared with the master, so that one sequence counter serves both.
                Change::CreateTopic { id, .. } => {
                    if let Some(topic) = self.catalog.topics_by_id.get(id) {
                        shared.insert_topic(topic.clone());
                    }
                }
                // Without the filter chains that the master has forgotten.
                Change::UpdateSubscription { id, .. } => {
                    if let Some(subscription) = self.catalog.subscriptions.get(id) {
                        shared.insert_subscription(*id, subscription.clone());
                    }
                }
                change => shared.apply(change),
            }
        }
    }

    fn begin_subscription(&mut self, id: SubscriptionId, spec: SubscriptionSpec, start: Position) {
        let spec = Arc::new(spec);
        let subscription = Subscription::new(spec, start);
        let live = self
            .registry
            .live(RestingSubscription::created(id, &subscription, start));
        // One that has filters, or starts in the past, is refused here and fed by others.
        let _ = self.registry.followers.join(&live);
        self.registry.insert(live);
        self.forget_selected();
        // Lanes, routes and catch-ups start elsewhere.
        self.registry.start(Start::Created(id));
    }

    fn change_subscription(&mut self, id: SubscriptionId, revision: u32, fence: Option<Position>) {
        let subscription = self.catalog.subscriptions.get(&id);
        let Some((live, subscription)) = self.registry.by_id(id).zip(subscription) else {
            return;
        };
        self.registry.update(&live, subscription, fence.is_some());
        self.forget_selected();
        let pending = live.read().pending_changes();
        match fence {
            Some(fence) => {
                tracing::info!(subscription = %live.name, revision, %fence, pending, "subscription changed; its filters hold from the fence on");
            }
            None => {
                tracing::info!(subscription = %live.name, revision, "subscription changed");
            }
        }
    }

    /// Takes back everything that was decided for the group, which could not be written.
    pub(in crate::broker::commit) fn take_back(&mut self) {
        self.group.undo.take_back(&self.streams);
        let changes = std::mem::take(&mut self.group.changes);
        if changes.is_empty() {
            return;
        }
        // What others see of the catalog is what is durable.
        let shared = locks::read(&self.shared);
        self.catalog = shared.clone();
        drop(shared);
        self.forget_selected();
        for change in &changes {
            if let Change::UpdateSubscription {
                id,
                revision,
                fence: Some(_),
                ..
            } = change
                && let Some(live) = self.registry.by_id(*id)
            {
                self.registry.thaw(&live, *revision);
            }
        }
    }
}

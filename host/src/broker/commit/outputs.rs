//! Outputs of subscriptions on their way into a group: the events that a route or a subscription's dead letters append, together
//! with the acks of what they are made of. Both are in one group or neither is.

use std::sync::Arc;

use super::draft::Draft;
use super::group::check_item;
use super::journal_note::{self, Note};
use super::request::{Appended, Outputs};
use crate::broker::error::OutputError;
use crate::domain::{SubscriptionId, TopicName};
use crate::state::catalog::Topic;

impl Draft {
    /// Appends outputs, or refuses them.
    pub(super) fn append_outputs(&mut self, outputs: Outputs) {
        let bytes = outputs.events.iter().map(|one| one.event.len()).sum();
        if let Err(error) = check_item(bytes) {
            return outputs.refuse(OutputError::TooLong(error.to_string()));
        }
        if !self.is_still_owed(&outputs) {
            return outputs.refuse(OutputError::Conflict);
        }
        // A subscription that was deleted meanwhile has nothing to say any more.
        let subscription = outputs.subscription;
        if self.catalog.subscriptions.contains_key(&subscription) {
            for Appended { topic, mark, event } in &outputs.events {
                let topic = match self.catalog.topics.get(topic) {
                    Some(topic) => topic.clone(),
                    // There was room for it when the subscription was created. What was accepted since is not refused here.
                    None => self.create_topic_of(subscription, topic),
                };
                self.group.append_event(&topic, *mark, event);
            }
            self.group.needs_sync = true;
            if !planted!(OutputAcksNotNoted) {
                self.group.note(&Note::Acks {
                    subscription,
                    ranges: journal_note::pack(outputs.acks.iter().cloned()),
                });
            }
        }
        self.group.owed.outputs.push(outputs);
    }

    fn create_topic_of(&mut self, subscription: SubscriptionId, topic: &TopicName) -> Arc<Topic> {
        let subscription = self.catalog.subscriptions.get(&subscription);
        let by = subscription.and_then(|one| one.spec.created_by.clone());
        self.create_implicit_topic(topic, by)
    }

    // Whether every event of `outputs` is still pending. A lease may expire while a route works, and the event be given up
    // or handed out again; only what comes first of it counts, and the one writer is where they meet.
    fn is_still_owed(&self, outputs: &Outputs) -> bool {
        let Some(live) = self.registry.by_id(outputs.subscription) else {
            return true;
        };
        let state = live.read();
        let others = || {
            let same = |other: &&Outputs| other.subscription == outputs.subscription;
            let in_group = self.group.owed.outputs.iter().filter(same);
            in_group.flat_map(|other| &other.acks)
        };
        outputs.acks.iter().all(|range| {
            let (first, last) = (*range.start(), *range.end());
            state.needed(first, last).len() == last.0 - first.0 + 1
                && !others().any(|other| *other.start() <= last && first <= *other.end())
        })
    }
}

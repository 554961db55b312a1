//! What is delivered is what was published.

use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Entry, What};

pub(super) const AS_PUBLISHED: Promise = Promise {
    id: "I10",
    page: "decisions/stored-is-wire.md",
    words: "A block keeps the publishers' bytes, and a delivery forwards slices of the block.",
};

#[derive(Default)]
pub(super) struct Contents;

impl Group for Contents {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        let What::Delivered {
            subscription,
            topic,
            n,
            hash,
            ..
        } = &entry.what
        else {
            return;
        };
        let Some(event) = facts.events.get(n) else {
            found.breaks(&AS_PUBLISHED, format!("nobody published an event {n}"));
            return;
        };
        if event.topic != *topic {
            let says = format!(
                "event {n} was published to {}, and is in {topic}",
                &*event.topic
            );
            found.breaks(&AS_PUBLISHED, says);
        }
        if event.hash != *hash {
            found.breaks(&AS_PUBLISHED, format!("event {n} has changed"));
        }
        if let Some(of) = facts.subscriptions.get(subscription)
            && of.topic != *topic
        {
            let says = format!(
                "{subscription} is to {}, and got one of {topic}",
                &*of.topic
            );
            found.breaks(&AS_PUBLISHED, says);
        }
    }

    fn judges_after_a_loss(&self) -> bool {
        true
    }
}

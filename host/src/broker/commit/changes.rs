//! Changes of what exists: topics, subscriptions and plugins come, change and go here, or are refused, one request after the other.
//! A change is in the draft when it is decided; what follows from it for those who run is done once it is durable (`after_commit`).

mod after_commit;
mod plugins;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::draft::Draft;
use super::journal_note::Note;
use super::request::{ChangeRequest, Update};
use crate::auth::authorize;
use crate::broker::error::{ChangeError, NotFound, Users};
use crate::domain::{
    Name, NewTopic, PluginUse, Position, Principal, StartAt, SubscriptionId, SubscriptionSpec,
    TopicId, TopicName, TopicSpec,
};
use crate::state::catalog::{Change, Json};
use crate::state::quotas;

/// Changes of a subscription's filters that wait for their fence. Each is a chain whose plugins are kept.
const CHANGES_PENDING_MAX: usize = 8;
/// Filter chains kept for a subscription, most of them only until a checkpoint says that nothing can ask for them any
/// more. From half of it on, every further change asks for that checkpoint.
const CHAINS_MAX: usize = 64;
/// What these may have in configurations together before a further one is refused, each of which may have 1 MiB.
const CHAIN_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Draft {
    /// Makes a change or refuses it. Either is told once the group is durable, so that nobody hears of what a power cut undoes.
    pub(super) fn decide(&mut self, request: ChangeRequest) {
        match request {
            ChangeRequest::CreateTopic(new, reply) => {
                let decided = self.create_requested_topic(new);
                self.group.answer(reply, decided);
            }
            ChangeRequest::DeleteTopic(id, name, reply) => {
                let decided = self.delete_topic(id, &name);
                self.group.answer(reply, decided);
            }
            ChangeRequest::CreateSubscription(spec, reply) => {
                let decided = self.create_subscription(spec);
                self.group.answer(reply, decided);
            }
            ChangeRequest::UpdateSubscription(update, reply) => {
                let decided = self.update_subscription(update);
                self.group.answer(reply, decided);
            }
            ChangeRequest::DeleteSubscription(id, name, reply) => {
                let decided = self.delete_subscription(id, &name);
                self.group.answer(reply, decided);
            }
            ChangeRequest::Pause(id, name, why, reply) => {
                let decided = self.pause(id, &name, why);
                self.group.answer(reply, decided);
            }
            ChangeRequest::AddPlugin(upload, reply) => {
                let decided = self.add_plugin(upload);
                self.group.answer(reply, decided);
            }
            ChangeRequest::GivePlugin(name, owner, reply) => {
                let decided = self.give_plugin(&name, owner);
                self.group.answer(reply, decided);
            }
            ChangeRequest::DeletePlugin(deletion, reply) => {
                let decided = self.delete_plugins(deletion);
                self.group.answer(reply, decided);
            }
        }
    }

    fn create_requested_topic(&mut self, new: NewTopic) -> Result<(), ChangeError> {
        let spec = TopicSpec {
            durability: new
                .durability
                .unwrap_or_else(|| self.durability_before(&new.name)),
            name: new.name,
            created_by: new.created_by,
        };
        if self.catalog.topics.contains_key(&spec.name) {
            return Err(ChangeError::Exists {
                kind: "topic",
                name: spec.name.to_string(),
            });
        }
        self.admit_topics(1, spec.created_by.as_ref())?;
        self.create_topic(spec);
        Ok(())
    }

    fn delete_topic(&mut self, id: TopicId, name: &TopicName) -> Result<(), ChangeError> {
        // Another of its name may be there by now, which is not meant.
        let Some(topic) = self.catalog.topics_by_id.get(&id) else {
            return Err(NotFound::Topic(name.clone()).into());
        };
        let next_sequence = topic.next_sequence();
        let subscriptions = self.catalog.subscriptions.values();
        let specs = subscriptions.map(|subscription| &subscription.spec);
        let users = specs.filter(|spec| spec.outputs.values().any(|output| output == name));
        let users: Vec<String> = users.map(|user| user.name.to_string()).collect();
        if !users.is_empty() {
            return Err(ChangeError::InUse {
                what: format!("topic `{name}`"),
                by: Users::new(users),
            });
        }
        self.change(Change::RemoveTopic {
            id,
            at: self.group.time(),
            next_sequence: self.group.next_sequence(id).unwrap_or(next_sequence),
        });
        Ok(())
    }

    fn create_subscription(
        &mut self,
        spec: SubscriptionSpec,
    ) -> Result<SubscriptionId, ChangeError> {
        let by = spec.created_by.as_ref();
        let taken = self.taken_by(&spec);
        if let Some((existing, true)) = taken {
            return Err(ChangeError::Exists {
                kind: existing.word(),
                name: spec.name.to_string(),
            });
        }
        self.check_plugins(&spec)?;
        self.admit_subscription(by)?;
        self.admit_specification(spec.text_bytes(), by)?;
        let topics = self.missing_topics(&spec, true)?;
        // Only now: whoever may not see it hears of it only where a free name would have become a subscription, and not what it is.
        if taken.is_some() {
            return Err(ChangeError::Exists {
                kind: "subscription or route",
                name: spec.name.to_string(),
            });
        }
        self.create_topics(topics, by);
        let id = self.catalog.next_subscription_id();
        let start = match spec.start {
            StartAt::New if planted!(BeginsOneEarly) => {
                Position(self.group.next_position.0.saturating_sub(1).max(1))
            }
            // Publishes of this group come after its control items.
            StartAt::New => {
                self.group.finish_blocks();
                self.group.next_position
            }
            StartAt::Earliest => Position(1 + u64::from(planted!(StartsOneLate))),
        };
        self.change(Change::CreateSubscription {
            id,
            spec: Json(spec),
            start,
        });
        Ok(id)
    }

    // What has the name of a new one, and whether who creates that may see it.
    fn taken_by(&self, new: &SubscriptionSpec) -> Option<(&SubscriptionSpec, bool)> {
        let subscriptions = self.catalog.subscriptions.values();
        let mut specs = subscriptions.map(|subscription| &*subscription.spec);
        let existing = specs.find(|existing| existing.name == new.name)?;
        let sees = |who| authorize::sees_subscription(&self.policy, who, existing);
        Some((existing, new.created_by.as_ref().is_none_or(sees)))
    }

    fn update_subscription(&mut self, update: Update) -> Result<(), ChangeError> {
        let Update {
            id,
            from_revision,
            spec,
        } = update;
        self.forget_spent_chains(id);
        let subscription = self.catalog.subscriptions.get(&id);
        let subscription =
            subscription.ok_or_else(|| NotFound::Subscription(spec.name.to_string()))?;
        if subscription.revision != from_revision {
            return Err(ChangeError::Conflict(format!(
                "`{}` was changed by somebody else meanwhile; look at it and try again",
                spec.name
            )));
        }
        let by = spec.created_by.as_ref();
        self.check_plugins(&spec)?;
        let longer = spec.text_bytes();
        let longer = longer.saturating_sub(subscription.spec.text_bytes());
        if longer > 0 {
            self.admit_specification(longer, by)?;
        }
        let topics = self.missing_topics(&spec, false)?;
        let revision = from_revision + 1;
        let newest = subscription.chains().last();
        let judged_otherwise = newest.is_none_or(|chain| {
            let is_asked_again = *subscription.spec == spec;
            chain.differs_from(&spec) || is_asked_again && self.is_stuck_before(id, chain.from)
        });
        let fence = match judged_otherwise {
            true => Some(self.fence(id, revision)?),
            false => None,
        };
        self.create_topics(topics, by);
        self.change(Change::UpdateSubscription {
            id,
            revision,
            spec: Json(spec),
            fence,
        });
        Ok(())
    }

    // Whether a subscription is paused before the position from which its newest filters hold.
    fn is_stuck_before(&self, id: SubscriptionId, from: Position) -> bool {
        self.registry.by_id(id).is_some_and(|live| {
            let state = live.read();
            state.paused().is_some() && state.evaluated_through().next() < from
        })
    }

    fn delete_subscription(&mut self, id: SubscriptionId, name: &Name) -> Result<(), ChangeError> {
        if !self.catalog.subscriptions.contains_key(&id) {
            return Err(NotFound::Subscription(name.to_string()).into());
        }
        self.change(Change::DeleteSubscription(id));
        Ok(())
    }

    // No change of the catalog: that it stands still is part of its state.
    fn pause(
        &mut self,
        id: SubscriptionId,
        name: &Name,
        why: Option<String>,
    ) -> Result<(), ChangeError> {
        if !self.catalog.subscriptions.contains_key(&id) {
            return Err(NotFound::Subscription(name.to_string()).into());
        }
        let why: Option<Arc<str>> = why.map(Into::into);
        self.group.needs_sync = true;
        self.group.note(&Note::Paused {
            subscription: id,
            why: why.clone(),
        });
        self.group.pauses.push((id, why));
        Ok(())
    }

    // From which position the changed filters of a subscription hold: the next one that is given out. A subscription that
    // is paused may stand at an event that its filter can never judge, so there it is the first undecided event,
    // and nothing more is decided until the change is there.
    fn fence(&mut self, id: SubscriptionId, revision: u32) -> Result<Position, ChangeError> {
        self.group.finish_blocks();
        let next = self.group.next_position;
        let live = self.registry.by_id(id);
        let Some((live, subscription)) = live.zip(self.catalog.subscriptions.get(&id)) else {
            // Created in this group.
            return Ok(next);
        };
        let chains = subscription.chains();
        let filters = chains.iter().flat_map(|chain| &chain.filters);
        let bytes: usize = filters.map(PluginUse::text_bytes).sum();
        if chains.len() >= CHAINS_MAX / 2 || bytes >= CHAIN_BYTES_MAX / 2 {
            self.checkpoint_due.notify_one();
        }
        if bytes >= CHAIN_BYTES_MAX {
            return Err(ChangeError::Conflict(format!(
                "`{}` was changed since the last checkpoint with configurations of {bytes} bytes together, all of which are kept until the next one; that is on its way, try again in a moment",
                live.name
            )));
        }
        if chains.len() >= CHAINS_MAX {
            return Err(ChangeError::Conflict(format!(
                "`{}` was changed {CHAINS_MAX} times since the last checkpoint; the next one is on its way, try again in a moment",
                live.name
            )));
        }
        let (paused, undecided) = {
            let state = live.read();
            (state.paused().is_some(), state.evaluated_through().next())
        };
        if paused {
            return Ok(self.registry.freeze(&live, revision).min(next));
        }
        let pending = chains.iter().filter(|chain| chain.from > undecided).count();
        if pending >= CHANGES_PENDING_MAX {
            return Err(ChangeError::Conflict(format!(
                "{pending} changes of `{}` wait until its filters have looked at what was published before them; try again when some have",
                live.name
            )));
        }
        if planted!(FenceTooEarly) {
            return Ok(Position(next.0.saturating_sub(1).max(1)));
        }
        Ok(next)
    }

    // Topics that a specification names to append to, and that are not there. They count for whoever makes the subscription, as does
    // that of its dead letters, which comes into being with the first of them.
    fn missing_topics(
        &self,
        spec: &SubscriptionSpec,
        is_new: bool,
    ) -> Result<BTreeSet<TopicName>, ChangeError> {
        let known = &self.catalog.topics;
        let named = spec.outputs.values().chain(&spec.delivery.dead_letter);
        let missing = named.filter(|topic| !known.contains_key(*topic));
        let missing: BTreeSet<TopicName> = missing.cloned().collect();
        let letters = spec.dead_letter_topic();
        let letters_too = is_new && !known.contains_key(&letters) && !missing.contains(&letters);
        let count = missing.len() + usize::from(letters_too);
        if count > 0 {
            self.admit_topics(count, spec.created_by.as_ref())?;
        }
        Ok(missing)
    }

    fn create_topics(&mut self, topics: BTreeSet<TopicName>, by: Option<&Principal>) {
        for topic in topics {
            self.create_implicit_topic(&topic, by.cloned());
        }
    }

    fn admit_subscription(&self, by: Option<&Principal>) -> Result<(), ChangeError> {
        let (census, quota) = (
            &self.catalog.subscriptions_census,
            self.limits.subscriptions,
        );
        Ok(census.admit(quotas::SUBSCRIPTIONS, 1, by, quota, &self.policy)?)
    }

    // Whether specifications may be so many bytes longer.
    fn admit_specification(&self, more: usize, by: Option<&Principal>) -> Result<(), ChangeError> {
        let census = &self.catalog.specifications_census;
        let quota = self.limits.specification_bytes;
        Ok(census.admit(quotas::SPECIFICATION_BYTES, more, by, quota, &self.policy)?)
    }
}

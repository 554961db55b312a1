//! Topics and subscriptions, as the outside makes, changes and deletes them: who may, and whether what is asked for can be. What is
//! made or changed is answered as a list would show it. Who carries it out, the committer, is not known here.

use super::{Broker, FoundSubscription};
use crate::auth::authorize;
use crate::broker::commit::request::{ChangeRequest, Control, Reply, Update};
use crate::broker::error::{ChangeError, NotFound};
use crate::broker::spec_validation::{
    Pinning, check_fixed, check_new_names, check_pattern_count, check_spec,
};
use crate::domain::{
    DeletedTopicInfo, NewTopic, Owner, Principal, Sequence, SubscriptionInfo, SubscriptionSpec,
    TopicInfo, TopicName,
};

impl Broker {
    /// Creates a topic. One of that name that was deleted gave sequences, which are given to none of its events.
    ///
    /// # Errors
    ///
    /// It exists already, nothing new may have that name, or the store refuses writes.
    pub async fn create_topic(&self, new: impl Into<NewTopic>) -> Result<TopicInfo, ChangeError> {
        let new = new.into();
        let name = new.name.clone();
        name.check_new()?;
        self.change(|reply| ChangeRequest::CreateTopic(new, reply))
            .await?;
        self.look(move |broker| Ok(broker.topic(&name)?)).await
    }

    /// Deletes a topic and its events, the one that there is now and no other of its name. For no subscription do they count once this
    /// is answered, which says what went with it, with the names of those that `who` may see. Creating it again makes another topic,
    /// which no publish does for a while.
    ///
    /// # Errors
    ///
    /// There is none, or a route appends to it, which is named if `who` may see it.
    pub async fn delete_topic(
        &self,
        who: &Principal,
        name: &TopicName,
    ) -> Result<DeletedTopicInfo, ChangeError> {
        let topic = self.catalog().topics.get(name).cloned();
        let topic = topic.ok_or_else(|| NotFound::Topic(name.clone()))?;
        let id = topic.id;
        let deleted = self
            .change(|reply| ChangeRequest::DeleteTopic(id, name.clone(), reply))
            .await;
        deleted.map_err(|error| self.named_to(who, error))?;
        let mut info = DeletedTopicInfo {
            // Of the last event that was durable before it.
            last_sequence: Sequence(topic.next_sequence().0.saturating_sub(1)),
            ..DeletedTopicInfo::default()
        };
        for (live, pending) in self.forget_events(Some((id, name.clone()))).await {
            match authorize::sees_subscription(&self.0.policy, who, &live.settings().spec) {
                true => drop(info.pending.insert(live.name.to_string(), pending)),
                false => info.pending_unseen += pending,
            }
        }
        Ok(info)
    }

    /// Creates a subscription or route for `who`: resolves and configures its plugins, then records it.
    ///
    /// # Errors
    ///
    /// `who` has no right to it, the specification cannot be carried out (the message says what to change), the name is
    /// taken, or the store refuses writes.
    pub async fn create_subscription(
        &self,
        who: &Principal,
        mut spec: SubscriptionSpec,
    ) -> Result<SubscriptionInfo, ChangeError> {
        authorize::create_subscription(&self.0.policy, who, &spec)?;
        check_spec(&spec).map_err(ChangeError::Invalid)?;
        check_pattern_count(&spec, self.0.subscription_patterns_max)?;
        check_new_names(&spec, None)?;
        for used in spec.filters.iter_mut().chain(&mut spec.transforms) {
            used.digest = None;
        }
        self.pinning(who).pin_all(&mut spec).await?;
        spec.created = self.0.registry.clock.wall();
        spec.created_by = Some(who.clone());
        let name = spec.name.clone();
        self.change(|reply| ChangeRequest::CreateSubscription(spec, reply))
            .await?;
        self.look(move |broker| Ok(broker.subscription(name.as_str())?))
            .await
    }

    /// Changes a subscription or route, the one that `found` is and no other of its name, to `spec`, which was made of `before`. A
    /// plugin without a digest is looked up and configured; the others stay what they are. Changed filters hold from a fence on, see
    /// `FilterChain`; everything else from the next delivery on.
    ///
    /// # Errors
    ///
    /// `who` has no right to it, the specification cannot be carried out (the message says what to change), the subscription was
    /// changed by somebody else since `before`, too many changes are pending, or the store refuses writes. Nothing is changed then.
    pub async fn update_subscription(
        &self,
        who: &Principal,
        found: &FoundSubscription,
        before: &SubscriptionInfo,
        mut spec: SubscriptionSpec,
    ) -> Result<SubscriptionInfo, ChangeError> {
        authorize::change_subscription(&self.0.policy, who, &before.spec, &spec)?;
        check_spec(&spec).map_err(ChangeError::Invalid)?;
        check_new_names(&spec, Some(&before.spec))?;
        check_fixed(&before.spec, &spec)?;
        if spec.is_route() != before.spec.is_route() {
            return Err(ChangeError::Invalid(
                "a route keeps at least one output, and a subscription has none".into(),
            ));
        }
        self.pinning(who).pin_all(&mut spec).await?;
        self.record_update(found, before, spec).await
    }

    /// Gives a subscription or route, the one that `found` is and no other of its name, to another owner, or to nobody. Consumers
    /// that may not be attached any more end.
    ///
    /// # Errors
    ///
    /// `who` may not give it away, the new owner lacks a right that it takes, it was changed by somebody else since
    /// `before`, or the store refuses writes. Nothing is changed then.
    pub async fn give_subscription(
        &self,
        who: &Principal,
        found: &FoundSubscription,
        before: &SubscriptionInfo,
        owner: Option<Owner>,
    ) -> Result<SubscriptionInfo, ChangeError> {
        let policy = &self.0.policy;
        authorize::give_subscription(policy, who, &before.spec, owner.as_ref())?;
        let spec = SubscriptionSpec {
            owner,
            ..before.spec.clone()
        };
        let info = self.record_update(found, before, spec).await?;
        policy.owners_changed();
        Ok(info)
    }

    async fn record_update(
        &self,
        found: &FoundSubscription,
        before: &SubscriptionInfo,
        spec: SubscriptionSpec,
    ) -> Result<SubscriptionInfo, ChangeError> {
        // What is asked for again changes something where it does not hold yet, and what holds is in its way.
        let is_stuck = before.paused.is_some() && before.pending_changes > 0;
        if spec != before.spec || is_stuck {
            let update = Update {
                id: found.id,
                from_revision: before.revision,
                spec,
            };
            self.change(|reply| ChangeRequest::UpdateSubscription(update, reply))
                .await?;
        }
        let found = found.clone();
        self.look(move |broker| Ok(broker.info_of(&found)?)).await
    }

    /// Deletes a subscription or route, the one that `found` is and no other of its name, and what it has not acked.
    ///
    /// # Errors
    ///
    /// It is gone, or the store refuses writes.
    pub async fn delete_subscription(&self, found: &FoundSubscription) -> Result<(), ChangeError> {
        let live = self.found(found)?;
        let name = live.name.clone();
        self.change(|reply| ChangeRequest::DeleteSubscription(live.id, name, reply))
            .await
    }

    /// Lets a subscription stand still, the one that `found` is and no other of its name: nothing more of it is handed out, for
    /// that reason, until it is [resumed](Self::resume_subscription), whatever happens to the broker meanwhile.
    ///
    /// # Errors
    ///
    /// It is gone, or the store refuses writes.
    pub async fn pause_subscription(
        &self,
        found: &FoundSubscription,
        why: &str,
    ) -> Result<(), ChangeError> {
        self.pause_or_resume(found, Some(why.to_owned())).await
    }

    /// Lets a paused subscription go on, the one that `found` is and no other of its name, and so it does after a restart. Should
    /// what fed it have died, it is fed anew.
    ///
    /// # Errors
    ///
    /// It is gone, or the store refuses writes.
    pub async fn resume_subscription(&self, found: &FoundSubscription) -> Result<(), ChangeError> {
        self.pause_or_resume(found, None).await
    }

    async fn pause_or_resume(
        &self,
        found: &FoundSubscription,
        why: Option<String>,
    ) -> Result<(), ChangeError> {
        let live = self.found(found)?;
        let (id, name) = (live.id, live.name.clone());
        self.change(|reply| ChangeRequest::Pause(id, name, why, reply))
            .await
    }

    fn pinning<'a>(&'a self, who: &'a Principal) -> Pinning<'a> {
        Pinning {
            who,
            policy: &self.0.policy,
            catalog: &self.0.catalog,
            plugins: &self.0.plugins.loaded,
        }
    }

    async fn change<T>(
        &self,
        make: impl FnOnce(Reply<T, ChangeError>) -> ChangeRequest,
    ) -> Result<T, ChangeError> {
        self.0.inbox.ask(|reply| Control::Change(make(reply))).await
    }
}

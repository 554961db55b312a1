//! The draft: the broker as it will be once the group that is being put together is durable. It is the master copy of the catalog
//! and that group, changed together, so that every group says exactly what it makes of the catalog. The committer owns it and
//! lends it to whoever adds something: batches, outputs, changes. Nothing here is written, and nobody else sees it before it is.

use std::sync::{Arc, RwLock};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::group::OpenGroup;
use super::journal_note::Note;
use super::producer_streams::ProducerStreams;
use crate::auth::Policy;
use crate::broker::subscriptions::registry::Registry;
use crate::domain::{
    BlockOrigin, Durability, Millis, Position, Principal, SubscriptionId, TopicId, TopicName,
    TopicSpec,
};
use crate::state::catalog::{Catalog, Change, Json, Topic};
use crate::state::quotas::{self, PluginQuotas, Quota, QuotaReached};

/// How much there may be of what is in the catalog.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CatalogLimits {
    /// A publish to a topic that does not exist creates it.
    pub(crate) auto_create: bool,
    /// Milliseconds after a topic was deleted in which a publish does not.
    pub(crate) recreate_after_ms: u64,
    /// Topics there may be.
    pub(crate) topics: Quota,
    /// Subscriptions and routes there may be.
    pub(crate) subscriptions: Quota,
    /// Bytes that their specifications may have.
    pub(crate) specification_bytes: Quota,
    /// Plugins there may be.
    pub(crate) plugins: PluginQuotas,
}

/// What the next group will have made of the broker.
pub(super) struct Draft {
    /// With everything that is in the group. What others see is `shared`.
    pub(super) catalog: Catalog,
    pub(super) group: OpenGroup,
    pub(super) shared: Arc<RwLock<Catalog>>,
    pub(super) registry: Arc<Registry>,
    pub(super) streams: Arc<ProducerStreams>,
    pub(super) policy: Arc<Policy>,
    pub(super) checkpoint_due: Arc<Notify>,
    pub(super) limits: CatalogLimits,
    /// First position after the last group that is durable as far as it has to be.
    pub(super) next_position: Position,
    // Whether any subscription selects a topic; forgotten when subscriptions change.
    selected: FxHashMap<TopicId, bool>,
}

impl Draft {
    pub(super) fn new(
        (catalog, shared): (Catalog, Arc<RwLock<Catalog>>),
        registry: Arc<Registry>,
        streams: Arc<ProducerStreams>,
        policy: Arc<Policy>,
        checkpoint_due: Arc<Notify>,
        limits: CatalogLimits,
        next_position: Position,
    ) -> Self {
        Self {
            catalog,
            group: OpenGroup::default(),
            shared,
            registry,
            streams,
            policy,
            checkpoint_due,
            limits,
            next_position,
            selected: FxHashMap::default(),
        }
    }

    /// Begins the next group, which takes nothing more beyond `bytes_max`.
    pub(super) fn begin_group(&mut self, time: Millis, bytes_max: usize) {
        self.group.begin(time, self.next_position, bytes_max);
    }

    /// Makes a change in the master catalog and in the group. Others see it once it is durable.
    pub(super) fn change(&mut self, change: Change) {
        self.catalog.apply(&change);
        self.group.needs_sync |= !planted!(ChangesNotSynced);
        self.group.note(&Note::Change(change.clone()));
        if let Change::CreateSubscription { id, .. } | Change::DeleteSubscription(id) = &change {
            self.group.turned_subscriptions.push(*id);
        }
        self.group.changes.push(change);
    }

    /// Creates a topic, for which there is room.
    pub(super) fn create_topic(&mut self, spec: TopicSpec) -> Arc<Topic> {
        let id = self.catalog.next_topic_id();
        self.change(Change::CreateTopic {
            id,
            spec: Json(spec),
        });
        self.catalog.topics_by_id[&id].clone()
    }

    /// Creates a topic because something is appended to it.
    pub(super) fn create_implicit_topic(
        &mut self,
        name: &TopicName,
        by: Option<Principal>,
    ) -> Arc<Topic> {
        self.create_topic(TopicSpec {
            name: name.clone(),
            durability: self.durability_before(name),
            created_by: by,
        })
    }

    /// How durable a topic of that name was, if there was one.
    pub(super) fn durability_before(&self, name: &TopicName) -> Durability {
        let before = self.catalog.deleted_topics.get(name);
        before.map_or(Durability::Sync, |before| before.durability)
    }

    /// Whether there may be so many topics more that `by` makes.
    pub(super) fn admit_topics(
        &self,
        more: usize,
        by: Option<&Principal>,
    ) -> Result<(), QuotaReached> {
        let census = &self.catalog.topics_census;
        census.admit(quotas::TOPICS, more, by, self.limits.topics, &self.policy)
    }

    /// Whether any subscription selects what is published to `topic`, as they are once the group is durable.
    pub(super) fn is_selected(&mut self, topic: &Topic) -> bool {
        let (registry, name) = (&self.registry, &topic.spec.name);
        let turned = &self.group.turned_subscriptions;
        if turned.is_empty() {
            let known = self.selected.entry(topic.id);
            return *known.or_insert_with(|| registry.is_selected(name, &[]));
        }
        // Those that come and go with the group are not in the registry yet, or still are.
        let mut here = turned
            .iter()
            .filter_map(|id| self.catalog.subscriptions.get(id));
        let is_selected_here = here.any(|subscription| {
            let newest = subscription.chains().last();
            newest
                .is_some_and(|chain| chain.selects(&subscription.spec, name, BlockOrigin::Ordinary))
        });
        is_selected_here || registry.is_selected(name, turned)
    }

    /// Subscriptions changed, or an id that was meant for one topic may be another's.
    pub(super) fn forget_selected(&mut self) {
        self.selected.clear();
    }

    /// Forgets the filters that a subscription had before, as far as nothing can ask for them any more: a crash goes back to the
    /// newest checkpoint, and what that says is decided is not judged again.
    pub(super) fn forget_spent_chains(&mut self, id: SubscriptionId) {
        if let Some(live) = self.registry.by_id(id)
            && let Some(subscription) = self.catalog.subscriptions.get_mut(&id)
        {
            subscription.forget_chains(live.evaluated_on_disk());
        }
    }

    /// The same for all subscriptions.
    pub(super) fn forget_all_spent_chains(&mut self) {
        let changed = self.catalog.subscriptions.iter();
        let changed: Vec<SubscriptionId> = changed
            .filter(|(_, subscription)| subscription.chains().len() > 1)
            .map(|(id, _)| *id)
            .collect();
        for id in changed {
            self.forget_spent_chains(id);
        }
    }
}

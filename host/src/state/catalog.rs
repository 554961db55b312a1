//! The catalog: which topics, subscriptions and plugins exist. The committer owns the master copy and is the only one that
//! changes it; everybody else reads a shared copy to which the same changes are applied once they are durable.
//! What is made, changed or deleted is a [`Change`], so replaying the journal on what a checkpoint says rebuilds it exactly. Filter chains
//! that nothing can ask for any more are forgotten without one.

mod deleted_topics;
mod plugins;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::filter_chain::FilterChain;
use super::quotas::QuotaUse;
use crate::auth::{Policy, authorize};
use crate::domain::{
    Digest, Millis, Owner, PluginInfo, PluginUse, Position, Principal, Sequence, SubscriptionId,
    SubscriptionSpec, TopicId, TopicName, TopicSpec,
};

pub(crate) use deleted_topics::{DeletedTopic, DeletedTopics};
pub(crate) use plugins::{KnownName, KnownPlugins};

/// A change of the catalog, as the journal keeps it. Applying one twice is the same as applying it once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Change {
    /// A topic was created, by request or by a first publish.
    CreateTopic {
        /// Its id.
        id: TopicId,
        /// As JSON: specifications grow fields, and JSON lets old journals be read by newer brokers.
        spec: Json<TopicSpec>,
    },
    /// A topic was deleted, as brokers before wrote it who remembered nothing of it.
    DeleteTopic(TopicId),
    /// A subscription or route was created.
    CreateSubscription {
        /// Its id.
        id: SubscriptionId,
        /// How it was asked for.
        spec: Json<SubscriptionSpec>,
        /// First position it may match.
        start: Position,
    },
    /// A subscription or route was deleted.
    DeleteSubscription(SubscriptionId),
    /// A plugin was uploaded.
    AddPlugin(Json<PluginInfo>),
    /// A version of a plugin was deleted.
    DeletePlugin {
        /// Its name.
        name: String,
        /// Which version.
        version: u32,
    },
    /// A subscription or route was changed.
    UpdateSubscription {
        /// Which.
        id: SubscriptionId,
        /// Counts its changes, from 1.
        revision: u32,
        /// As it is from now on, whole.
        spec: Json<SubscriptionSpec>,
        /// First position that its filters judge as changed; `None` when they, and its topics, are as before.
        fence: Option<Position>,
    },
    /// The name of a plugin was given to an owner, with its versions.
    GivePlugin {
        /// Which.
        name: String,
        /// To whom.
        owner: Json<Owner>,
    },
    /// A name without versions was freed.
    FreePlugin {
        /// Which.
        name: String,
        /// The highest version that it ever had: that of no other bytes, whoever has the name next.
        last_version: u32,
    },
    /// A topic was deleted.
    RemoveTopic {
        /// Which.
        id: TopicId,
        /// When, on the wall.
        at: Millis,
        /// The sequence that its next event would have had.
        next_sequence: Sequence,
    },
}

/// A value kept as JSON text inside the journal's compact notes.
#[derive(Clone, Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> Serialize for Json<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(&self.0).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&text)
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for Json<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_slice(text.as_bytes())
            .map(Json)
            .map_err(serde::de::Error::custom)
    }
}

/// A topic. Shared between the master and the shared catalog; the sequence is written by the committer only.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) spec: TopicSpec,
    next_sequence: AtomicU64,
}

impl Topic {
    pub(crate) fn new(id: TopicId, spec: TopicSpec, next_sequence: Sequence) -> Self {
        Self {
            id,
            spec,
            next_sequence: AtomicU64::new(next_sequence.0),
        }
    }

    pub(crate) fn next_sequence(&self) -> Sequence {
        Sequence(self.next_sequence.load(Ordering::Acquire))
    }

    /// Called by the committer, and by recovery before it runs.
    pub(crate) fn advance_to(&self, next: Sequence) {
        self.next_sequence.fetch_max(next.0, Ordering::AcqRel);
    }
}

/// A subscription or route, with everything that events may still have to be judged by.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) spec: Arc<SubscriptionSpec>,
    /// First position it may match.
    pub(crate) start: Position,
    /// How often it was changed.
    pub(crate) revision: u32,
    // Never empty; the last is that of `spec`. Revisions and fences rise.
    chains: Vec<Arc<FilterChain>>,
}

impl Subscription {
    pub(crate) fn new(spec: Arc<SubscriptionSpec>, start: Position) -> Self {
        let chain = FilterChain::of(&spec, 0, start);
        Self {
            spec,
            start,
            revision: 0,
            chains: vec![Arc::new(chain)],
        }
    }

    /// As a checkpoint says it. One that an older broker wrote has no chains.
    pub(crate) fn restore(
        spec: Arc<SubscriptionSpec>,
        start: Position,
        revision: u32,
        chains: Vec<FilterChain>,
    ) -> Self {
        let fresh = Self::new(spec, start);
        Self {
            revision,
            chains: match chains.is_empty() {
                true => fresh.chains,
                false => chains.into_iter().map(Arc::new).collect(),
            },
            ..fresh
        }
    }

    /// Its filter chains, the one that holds from now on last.
    pub(crate) fn chains(&self) -> &[Arc<FilterChain>] {
        &self.chains
    }

    /// The filter chain with this revision.
    pub(crate) fn chain(&self, revision: u32) -> Option<&Arc<FilterChain>> {
        let mut chains = self.chains.iter();
        chains.find(|chain| chain.revision == revision)
    }

    /// Changes it, unless that was done already.
    pub(crate) fn update(
        &mut self,
        revision: u32,
        spec: Arc<SubscriptionSpec>,
        fence: Option<Position>,
    ) {
        if revision <= self.revision {
            return;
        }
        self.revision = revision;
        if let Some(fence) = fence {
            // What was to judge from there on never will.
            self.chains.retain(|chain| chain.from < fence);
            let chain = FilterChain::of(&spec, revision, fence);
            self.chains.push(Arc::new(chain));
        }
        self.spec = spec;
    }

    /// Forgets the chains that have nothing left to judge once everything up to `evaluated` is decided, and that on disk.
    pub(crate) fn forget_chains(&mut self, evaluated: Position) {
        let spent = self
            .chains
            .iter()
            .skip(1)
            .take_while(|next| next.from <= evaluated.next())
            .count();
        self.chains.drain(..spent);
    }
}

/// Everything that exists at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) topics: BTreeMap<TopicName, Arc<Topic>>,
    pub(crate) topics_by_id: HashMap<TopicId, Arc<Topic>>,
    pub(crate) subscriptions: BTreeMap<SubscriptionId, Subscription>,
    pub(crate) plugins: KnownPlugins,
    /// Highest ids ever given, so that none is given twice.
    pub(crate) last_topic: TopicId,
    pub(crate) last_subscription: SubscriptionId,
    /// Who made how many topics.
    pub(crate) topics_census: QuotaUse,
    /// Who made how many subscriptions and routes.
    pub(crate) subscriptions_census: QuotaUse,
    /// How many bytes their specifications have.
    pub(crate) specifications_census: QuotaUse,
    /// A topic that comes into being begins with this sequence: 1, until a loss may have taken topics, one of which may have had
    /// its name.
    pub(crate) first_sequence: Sequence,
    /// Topics that were there and are not.
    pub(crate) deleted_topics: DeletedTopics,
}

impl Catalog {
    /// Takes note of ids that something on disk bears, whether it is known what they stood for or not.
    pub(crate) fn saw(&mut self, topic: Option<TopicId>, subscription: Option<SubscriptionId>) {
        self.last_topic = self.last_topic.max(topic.unwrap_or_default());
        self.last_subscription = self.last_subscription.max(subscription.unwrap_or_default());
    }

    /// Changes and events are lost that had up to this many ids and sequences of each kind: none of them is given again.
    pub(crate) fn skip_lost(&mut self, count: u64) {
        self.last_topic.0 = self.last_topic.0.saturating_add(count);
        self.last_subscription.0 = self.last_subscription.0.saturating_add(count);
        self.first_sequence.0 = self.first_sequence.0.max(1).saturating_add(count);
        for topic in self.topics_by_id.values() {
            topic.advance_to(Sequence(topic.next_sequence().0.saturating_add(count)));
        }
        self.plugins.skip_lost();
    }

    /// Whether changes may be lost, of which nobody knows what they were.
    pub(crate) fn may_lack_changes(&self) -> bool {
        self.first_sequence.0 > 1
    }

    /// Makes the change. Replay applies changes that a checkpoint already holds, hence nothing here fails.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::CreateTopic { id, spec } => {
                self.last_topic = self.last_topic.max(*id);
                if !self.topics_by_id.contains_key(id) {
                    let first = self.first_sequence.max(Sequence(1));
                    let first = first.max(self.deleted_topics.first_sequence(&spec.0.name));
                    self.insert_topic(Arc::new(Topic::new(*id, spec.0.clone(), first)));
                }
            }
            Change::DeleteTopic(id) => self.remove_topic(*id, Millis(0), Sequence(0)),
            Change::RemoveTopic {
                id,
                at,
                next_sequence,
            } => self.remove_topic(*id, *at, *next_sequence),
            Change::CreateSubscription { id, spec, start } => {
                self.last_subscription = self.last_subscription.max(*id);
                if !self.subscriptions.contains_key(id) {
                    let spec = Arc::new(spec.0.clone());
                    self.insert_subscription(*id, Subscription::new(spec, *start));
                }
            }
            Change::UpdateSubscription {
                id,
                revision,
                spec,
                fence,
            } => {
                self.saw(None, Some(*id));
                if let Some(subscription) = self.subscriptions.get_mut(id) {
                    let before = subscription.spec.clone();
                    subscription.update(*revision, Arc::new(spec.0.clone()), *fence);
                    let census = &mut self.specifications_census;
                    let creator = before.created_by.as_ref();
                    census.add_many(creator, subscription.spec.text_bytes());
                    census.remove_many(creator, before.text_bytes());
                }
            }
            Change::DeleteSubscription(id) => {
                self.saw(None, Some(*id));
                if let Some(gone) = self.subscriptions.remove(id) {
                    self.discount(&gone.spec);
                }
            }
            Change::AddPlugin(plugin) => self.plugins.insert(plugin.0.clone()),
            Change::DeletePlugin { name, version } => self.plugins.remove(name, *version),
            Change::GivePlugin { name, owner } => self.plugins.give(name, &owner.0),
            Change::FreePlugin { name, last_version } => self.plugins.free(name, *last_version),
        }
    }

    fn remove_topic(&mut self, id: TopicId, at: Millis, next_sequence: Sequence) {
        self.saw(Some(id), None);
        let Some(topic) = self.topics_by_id.remove(&id) else {
            return;
        };
        self.topics.remove(&topic.spec.name);
        self.topics_census.remove(topic.spec.created_by.as_ref());
        if planted!(DeletedForgotten) {
            return;
        }
        self.deleted_topics.insert(DeletedTopic {
            name: topic.spec.name.clone(),
            at,
            durability: topic.spec.durability,
            next_sequence: next_sequence.max(topic.next_sequence()),
        });
    }

    pub(crate) fn insert_topic(&mut self, topic: Arc<Topic>) {
        self.deleted_topics.remove(&topic.spec.name);
        self.last_topic = self.last_topic.max(topic.id);
        self.topics.insert(topic.spec.name.clone(), topic.clone());
        self.topics_census.add(topic.spec.created_by.as_ref());
        if let Some(before) = self.topics_by_id.insert(topic.id, topic) {
            self.topics_census.remove(before.spec.created_by.as_ref());
        }
    }

    pub(crate) fn insert_subscription(&mut self, id: SubscriptionId, subscription: Subscription) {
        let spec = &subscription.spec;
        let creator = spec.created_by.as_ref();
        self.subscriptions_census.add(creator);
        self.specifications_census
            .add_many(creator, spec.text_bytes());
        if let Some(before) = self.subscriptions.insert(id, subscription) {
            self.discount(&before.spec);
        }
    }

    fn discount(&mut self, gone: &SubscriptionSpec) {
        let creator = gone.created_by.as_ref();
        self.subscriptions_census.remove(creator);
        self.specifications_census
            .remove_many(creator, gone.text_bytes());
    }

    /// The name of a topic, as long as it exists.
    pub(crate) fn topic_name(&self, id: TopicId) -> Option<TopicName> {
        Some(self.topics_by_id.get(&id)?.spec.name.clone())
    }

    pub(crate) fn next_topic_id(&self) -> TopicId {
        TopicId(self.last_topic.0 + 1)
    }

    pub(crate) fn next_subscription_id(&self) -> SubscriptionId {
        SubscriptionId(self.last_subscription.0 + 1)
    }

    /// Those that a user may mean by `event-pattern`, `scrub@3` or a digest, which several names may have.
    pub(crate) fn meant_plugins<'a>(
        &'a self,
        wanted: &str,
    ) -> Box<dyn Iterator<Item = &'a PluginInfo> + 'a> {
        match self.known_digest(wanted) {
            Some(digest) => {
                let plugins = self.plugins.versions();
                Box::new(plugins.filter(move |plugin| plugin.digest == digest))
            }
            None => Box::new(self.find_plugin(wanted).into_iter()),
        }
    }

    /// What a plugin in use is called for its limits, accounts and metrics, and where it fails: `scrub@3`. If it was named by a
    /// digest, it is the name under which whoever it works for uses it. Before its bytes are known, and when there is no such
    /// version any more, it is called as it was named.
    pub(crate) fn plugin_label(
        &self,
        policy: &Policy,
        whose: Option<&Principal>,
        used: &PluginUse,
    ) -> String {
        let plugin = match (self.known_digest(&used.plugin), whose) {
            (Some(_), Some(who)) => {
                authorize::used_of(policy, who, self.meant_plugins(&used.plugin))
            }
            (Some(_), None) => None,
            (None, _) => {
                let mut versions = self.plugins.of_name(split_version(&used.plugin).0);
                versions.find(|plugin| Some(plugin.digest) == used.digest)
            }
        };
        plugin.map_or_else(|| used.plugin.clone(), PluginInfo::label)
    }

    /// What the plugin with these bytes is called: several names may have them, and it is always the first.
    pub(crate) fn label_of(&self, digest: &Digest) -> Option<String> {
        let mut versions = self.plugins.versions();
        let first = versions.find(|plugin| plugin.digest == *digest);
        first.map(PluginInfo::label)
    }

    /// The plugin a user means by `event-pattern`, `scrub@3` or a digest.
    pub(crate) fn find_plugin(&self, wanted: &str) -> Option<&PluginInfo> {
        if let Some(digest) = self.known_digest(wanted) {
            let mut plugins = self.plugins.versions();
            return plugins.find(|plugin| plugin.digest == digest);
        }
        let (name, version) = split_version(wanted);
        match version {
            Some(version) => self.plugins.get(name, version),
            None => self.plugins.of_name(name).next_back(),
        }
    }

    // A digest, unless a plugin from the time when that was allowed has it as its name.
    fn known_digest(&self, wanted: &str) -> Option<Digest> {
        let digest = wanted.parse().ok()?;
        let is_name = self.plugins.name(wanted).is_some();
        (!is_name || self.plugins.have(&digest)).then_some(digest)
    }
}

/// `scrub@3` as name and version.
pub(crate) fn split_version(text: &str) -> (&str, Option<u32>) {
    match text.rsplit_once('@') {
        Some((name, version)) => match version.parse() {
            Ok(version) => (name, Some(version)),
            Err(_) => (text, None),
        },
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Durability, PluginWorld};

    fn plugin(name: &str, version: u32) -> Change {
        Change::AddPlugin(Json(PluginInfo {
            name: name.into(),
            version,
            digest: Digest([version as u8; 32]),
            world: PluginWorld::Filter,
            bytes: 1,
            uploaded: Millis(0),
            bundled: false,
            owner: None,
            uploaded_by: None,
        }))
    }

    #[test]
    fn a_name_means_the_newest_version() {
        let mut catalog = Catalog::default();
        for change in [plugin("a", 1), plugin("a", 2), plugin("ab", 7)] {
            catalog.apply(&change);
        }
        let found = |wanted: &str| catalog.find_plugin(wanted).map(|plugin| plugin.version);
        assert_eq!(found("a"), Some(2));
        assert_eq!(found("a@1"), Some(1));
        assert_eq!(found("a@9"), None);
        assert_eq!(found(&Digest([7; 32]).to_string()), Some(7));
    }

    #[test]
    fn a_topic_id_is_never_reused_and_changes_may_repeat() {
        let mut catalog = Catalog::default();
        let create = Change::CreateTopic {
            id: catalog.next_topic_id(),
            spec: Json(TopicSpec {
                name: "orders".parse().expect("valid name"),
                durability: Durability::Sync,
                created_by: None,
            }),
        };
        catalog.apply(&create);
        catalog.topics_by_id[&TopicId(1)].advance_to(Sequence(5));
        catalog.apply(&create);
        assert_eq!(
            catalog.topics_by_id[&TopicId(1)].next_sequence(),
            Sequence(5)
        );
        catalog.apply(&Change::DeleteTopic(TopicId(1)));
        assert_eq!(catalog.next_topic_id(), TopicId(2));
    }

    #[test]
    fn a_topic_that_is_made_again_goes_on_above_the_sequences_that_were_given() {
        let create = |id: u64, name: &str| Change::CreateTopic {
            id: TopicId(id),
            spec: Json(TopicSpec {
                name: name.parse().expect("valid name"),
                durability: Durability::Interval,
                created_by: None,
            }),
        };
        let name: TopicName = "orders".parse().expect("valid name");
        let mut catalog = Catalog::default();
        catalog.apply(&create(1, "orders"));
        catalog.topics_by_id[&TopicId(1)].advance_to(Sequence(5));
        // Some of the group that deletes it were given sequences too.
        let removed = Change::RemoveTopic {
            id: TopicId(1),
            at: Millis(7),
            next_sequence: Sequence(9),
        };
        for _ in 0..2 {
            catalog.apply(&removed);
            let known = catalog.deleted_topics.get(&name).expect("remembered");
            assert_eq!(known.durability, Durability::Interval);
            assert_eq!((known.at, known.next_sequence), (Millis(7), Sequence(9)));
        }
        catalog.apply(&create(2, "other"));
        catalog.apply(&create(3, "orders"));
        let next = |id: u64| catalog.topics_by_id[&TopicId(id)].next_sequence();
        assert_eq!((next(2), next(3)), (Sequence(1), Sequence(9)));
        assert_eq!(catalog.deleted_topics.get(&name), None);
        // An older broker's journal: nobody has to wait, and no sequence is given again.
        catalog.topics_by_id[&TopicId(3)].advance_to(Sequence(30));
        catalog.apply(&Change::DeleteTopic(TopicId(3)));
        let known = catalog.deleted_topics.get(&name).expect("remembered");
        assert_eq!((known.at, known.next_sequence), (Millis(0), Sequence(30)));
    }

    #[test]
    fn earlier_filters_are_kept_until_nothing_can_ask_for_them() {
        let spec = |filters: &[&str]| -> SubscriptionSpec {
            let filters: Vec<_> = filters
                .iter()
                .map(|plugin| serde_json::json!({ "plugin": plugin }))
                .collect();
            let spec = serde_json::json!({"name": "s", "topics": ["a"], "filters": filters});
            serde_json::from_value(spec).expect("valid specification")
        };
        let id = SubscriptionId(1);
        let mut catalog = Catalog::default();
        catalog.apply(&Change::CreateSubscription {
            id,
            spec: Json(spec(&["a"])),
            start: Position(1),
        });
        let update = |revision, filters: &[&str], fence: Option<u64>| Change::UpdateSubscription {
            id,
            revision,
            spec: Json(spec(filters)),
            fence: fence.map(Position),
        };
        let kept = |catalog: &Catalog| -> Vec<(u32, u64)> {
            let chains = catalog.subscriptions[&id].chains().iter();
            chains.map(|chain| (chain.revision, chain.from.0)).collect()
        };
        for change in [
            update(1, &["b"], Some(10)),
            update(1, &["twice"], Some(99)),
            update(2, &["b"], None),
            update(3, &[], Some(20)),
        ] {
            catalog.apply(&change);
        }
        assert_eq!(kept(&catalog), [(0, 1), (1, 10), (3, 20)]);
        let subscription = catalog.subscriptions.get_mut(&id).expect("created");
        assert_eq!(subscription.revision, 3);
        subscription.forget_chains(Position(8));
        assert_eq!(subscription.chains().len(), 3, "position 9 is undecided");
        subscription.forget_chains(Position(9));
        assert_eq!(kept(&catalog), [(1, 10), (3, 20)]);

        // A fence before others: they never judge.
        catalog.apply(&update(4, &["c"], Some(15)));
        assert_eq!(kept(&catalog), [(1, 10), (4, 15)]);
        let subscription = catalog.subscriptions.get_mut(&id).expect("created");
        subscription.forget_chains(Position(1_000));
        assert_eq!(kept(&catalog), [(4, 15)], "the last one stays");
    }

    #[test]
    fn bytes_of_specifications_are_counted_as_they_come_change_and_go() {
        let by = crate::domain::Principal::common_name("a");
        let spec = |config: &str| -> SubscriptionSpec {
            let filters = serde_json::json!([{ "plugin": "p", "config": config }]);
            let spec = serde_json::json!({"name": "s", "topics": ["abc"], "filters": filters, "created_by": "cn:a"});
            serde_json::from_value(spec).expect("valid specification")
        };
        let id = SubscriptionId(1);
        let mut catalog = Catalog::default();
        let create = Change::CreateSubscription {
            id,
            spec: Json(spec("12345")),
            start: Position(1),
        };
        let update = |revision, config| Change::UpdateSubscription {
            id,
            revision,
            spec: Json(spec(config)),
            fence: None,
        };
        for (change, bytes) in [
            (create.clone(), 9),
            (create, 9),
            (update(1, "1234567"), 11),
            (update(1, "twice, which does nothing"), 11),
            (update(2, "1"), 5),
            (Change::DeleteSubscription(id), 0),
            (Change::DeleteSubscription(id), 0),
        ] {
            catalog.apply(&change);
            let census = &catalog.specifications_census;
            assert_eq!((census.of(&by), census.all()), (bytes, bytes), "{change:?}");
        }
    }

    #[test]
    fn a_journal_of_an_older_broker_asks_for_dead_letters() {
        // As notes keep it: the variant, the id, the specification's length and text, the start.
        let spec = r#"{"name":"s","topics":[">"],"start":"new","created":7}"#;
        let mut bytes = vec![2, 9, spec.len() as u8];
        bytes.extend_from_slice(spec.as_bytes());
        bytes.push(1);
        let change: Change = postcard::from_bytes(&bytes).expect("readable");
        let mut catalog = Catalog::default();
        catalog.apply(&change);
        let read = &catalog.subscriptions[&SubscriptionId(9)];
        assert!(read.spec.include_dead_letters);
        assert!(read.chains()[0].include_dead_letters);
    }

    #[test]
    fn changes_survive_their_journal_form() {
        let bytes = postcard::to_stdvec(&plugin("a", 1)).expect("serializable");
        let Change::AddPlugin(Json(read)) = postcard::from_bytes(&bytes).expect("readable") else {
            panic!("another change came back");
        };
        assert_eq!(read.name, "a");
    }
}

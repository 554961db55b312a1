//! The broker's state as a checkpoint saves it: key/value pairs in a generation beside the events. A checkpoint is
//! fuzzy: it is taken while the broker runs, and holds everything up to its mark and perhaps more. That is sound
//! because replaying the journal from the mark changes nothing that is already there.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::domain::{
    CommitNumber, Millis, PLACE_MAX, PluginInfo, Position, Sequence, SubscriptionId,
    SubscriptionSpec, TopicId, TopicSpec,
};
use crate::state::catalog::{Catalog, DeletedTopic, DeletedTopics, KnownName, Subscription, Topic};
use crate::state::filter_chain::FilterChain;
use crate::state::{Producers, SubscriptionState};

const HEAD: &[u8] = b"head";
const PRODUCERS: &[u8] = b"producers";
const TOPIC: &[u8] = b"topic/";
const SUBSCRIPTION: &[u8] = b"subscription/";
const MATCHES: &[u8] = b"matches/";
const PLUGIN: &[u8] = b"plugin/";

#[derive(Serialize, Deserialize)]
struct Head {
    next_position: Position,
    /// The first position that those who follow the end of the log have not been shown. In the file it keeps the name
    /// under which it was first written.
    #[serde(rename = "routed_through")]
    routed_before: Position,
    last_topic: TopicId,
    last_subscription: SubscriptionId,
    /// Absent as long as it is 1.
    #[serde(default, skip_serializing_if = "is_one")]
    first_sequence: Sequence,
    /// Names that come into being get versions above this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    plugin_versions_from: u32,
    /// Names of plugins of which their versions do not tell everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    plugin_names: Vec<KnownName>,
    /// First group that is not in this state, if the journal still has some that are.
    #[serde(default, skip_serializing_if = "is_none")]
    mark: CommitNumber,
    /// Topics that were deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deleted_topics: Vec<DeletedTopic>,
    /// What every topic begins with, since more were deleted. Absent as long as it is 1 or less.
    #[serde(default, skip_serializing_if = "is_one")]
    sequences_from: Sequence,
    /// What a clock on the wall said at the mark. Absent in what an older broker wrote.
    #[serde(default)]
    at: Millis,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
fn is_zero(version: &u32) -> bool {
    *version == 0
}

fn is_one(sequence: &Sequence) -> bool {
    sequence.0 <= 1
}

fn is_none(mark: &CommitNumber) -> bool {
    mark.0 == 0
}

#[derive(Serialize, Deserialize)]
struct TopicRecord {
    id: TopicId,
    spec: TopicSpec,
    next_sequence: Sequence,
}

#[derive(Serialize, Deserialize)]
struct SubscriptionRecord {
    id: SubscriptionId,
    spec: SubscriptionSpec,
    start: Position,
    /// How often it was changed.
    #[serde(default)]
    revision: u32,
    /// Absent while there is only the one that the specification says, from the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chains: Vec<FilterChain>,
}

/// What a checkpoint, or the start, knows.
pub(crate) struct SavedState {
    pub(crate) catalog: Catalog,
    pub(crate) next_position: Position,
    pub(crate) routed_before: Position,
    /// Groups before this are in it already, though the journal may still have them for their events.
    pub(crate) mark: CommitNumber,
    /// When its mark was made, on the wall.
    pub(crate) at: Millis,
    pub(crate) producers: Producers,
    pub(crate) subscriptions: Vec<(SubscriptionId, SubscriptionState)>,
}

/// Why a checkpoint's state cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the state in the newest generation is not readable: {key}: {why}")]
pub struct StateError {
    key: String,
    why: String,
}

/// The pairs of a checkpoint. `mark` is the first group that is not in it, or 0 where the journal keeps none before that.
/// `snapshots` are the state machines of the catalog's subscriptions, with moments on the wall as it was `at` the mark.
pub(crate) fn encode(
    catalog: &Catalog,
    next_position: Position,
    routed_before: Position,
    mark: CommitNumber,
    producers: Vec<u8>,
    snapshots: Vec<(SubscriptionId, Vec<u8>)>,
    at: Millis,
) -> Vec<(Bytes, Bytes)> {
    let mut pairs = vec![
        (
            Bytes::from_static(HEAD),
            json(&Head {
                next_position,
                routed_before,
                last_topic: catalog.last_topic,
                last_subscription: catalog.last_subscription,
                first_sequence: catalog.first_sequence,
                plugin_versions_from: catalog.plugins.floor(),
                plugin_names: catalog.plugins.names_to_keep(),
                mark,
                deleted_topics: catalog.deleted_topics.all().cloned().collect(),
                sequences_from: catalog.deleted_topics.next_sequence(),
                at,
            }),
        ),
        (Bytes::from_static(PRODUCERS), producers.into()),
    ];
    if planted!(ProducersNotSaved) {
        pairs.truncate(1);
    }
    for topic in catalog.topics.values() {
        let record = TopicRecord {
            id: topic.id,
            spec: topic.spec.clone(),
            next_sequence: match planted!(SequencesNotSaved) {
                true => Sequence(1),
                false => topic.next_sequence(),
            },
        };
        pairs.push((key(TOPIC, topic.id.0), json(&record)));
    }
    for (id, subscription) in &catalog.subscriptions {
        let mut chains: Vec<FilterChain> = Vec::new();
        if subscription.revision > 0 {
            chains.extend(subscription.chains().iter().map(|chain| (**chain).clone()));
        }
        let record = SubscriptionRecord {
            id: *id,
            spec: (*subscription.spec).clone(),
            start: subscription.start,
            revision: subscription.revision,
            chains,
        };
        pairs.push((key(SUBSCRIPTION, id.0), json(&record)));
    }
    for (id, snapshot) in snapshots {
        pairs.push((key(MATCHES, id.0), snapshot.into()));
    }
    for (ordinal, plugin) in catalog.plugins.versions().enumerate() {
        pairs.push((key(PLUGIN, ordinal as u64), json(plugin)));
    }
    pairs
}

/// The state that a generation's pairs say; an empty one where there is no generation.
pub(crate) fn decode(
    pairs: &[(Bytes, Bytes)],
    producers_max: usize,
) -> Result<SavedState, StateError> {
    let mut state = SavedState {
        catalog: Catalog::default(),
        next_position: Position(1),
        routed_before: Position(1),
        mark: CommitNumber(0),
        at: Millis(0),
        producers: Producers::new(producers_max),
        subscriptions: Vec::new(),
    };
    let mut snapshots = Vec::new();
    for (key, value) in pairs {
        if key.starts_with(TOPIC) {
            let record: TopicRecord = parse(key, value)?;
            if record.next_sequence.0 > PLACE_MAX {
                return Err(unreadable(key, "a sequence that nobody gives"));
            }
            let topic = Topic::new(record.id, record.spec, record.next_sequence);
            state.catalog.insert_topic(std::sync::Arc::new(topic));
        } else if key.starts_with(SUBSCRIPTION) {
            let record: SubscriptionRecord = parse(key, value)?;
            let subscription = Subscription::restore(
                std::sync::Arc::new(record.spec),
                record.start,
                record.revision,
                record.chains,
            );
            state.catalog.saw(None, Some(record.id));
            state.catalog.insert_subscription(record.id, subscription);
        } else if key.starts_with(PLUGIN) {
            let plugin: PluginInfo = parse(key, value)?;
            state.catalog.plugins.insert(plugin);
        } else if key.starts_with(MATCHES) {
            let id = key[MATCHES.len()..].try_into().map(u64::from_be_bytes);
            let id = id.map_err(|_| unreadable(key, "not an id"))?;
            state.catalog.saw(None, Some(SubscriptionId(id)));
            snapshots.push((key, SubscriptionId(id), value));
        } else if key == PRODUCERS {
            state.producers =
                Producers::restore(value, producers_max).map_err(|error| unreadable(key, error))?;
        } else if key == HEAD {
            let head: Head = parse(key, value)?;
            let deleted = head
                .deleted_topics
                .iter()
                .map(|topic| topic.next_sequence.0);
            let mut places = deleted.chain([
                head.sequences_from.0,
                head.next_position.0,
                head.routed_before.0,
            ]);
            if places.any(|place| place > PLACE_MAX) {
                return Err(unreadable(key, "a position that nobody gives"));
            }
            state.next_position = head.next_position;
            state.routed_before = head.routed_before;
            state.mark = head.mark;
            state.at = head.at;
            state
                .catalog
                .saw(Some(head.last_topic), Some(head.last_subscription));
            state.catalog.first_sequence = head.first_sequence;
            state.catalog.deleted_topics =
                DeletedTopics::restore(head.deleted_topics, head.sequences_from);
            let plugins = &mut state.catalog.plugins;
            plugins.restore(head.plugin_versions_from, head.plugin_names);
        } else {
            return Err(unreadable(key, "unknown key; a newer Tidegate wrote it"));
        }
    }
    for (key, id, value) in snapshots {
        // A subscription that was deleted while the checkpoint was taken has no record.
        let Some(subscription) = state.catalog.subscriptions.get(&id) else {
            continue;
        };
        // A change after the mark may be in the snapshot already; the journal will tell of it.
        let stages_of = |revision| Some(subscription.chain(revision)?.filters.len());
        let policy = subscription.spec.delivery.clone();
        let restored = SubscriptionState::restore(value, policy, stages_of)
            .map_err(|error| unreadable(key, error))?;
        state.subscriptions.push((id, restored));
    }
    Ok(state)
}

fn key(prefix: &[u8], id: u64) -> Bytes {
    [prefix, &id.to_be_bytes()].concat().into()
}

fn json(value: &impl Serialize) -> Bytes {
    // Maps with text keys, numbers and texts only: nothing that JSON cannot say.
    serde_json::to_vec(value)
        .expect("records are plain data")
        .into()
}

fn parse<T: serde::de::DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(value).map_err(|error| unreadable(key, error))
}

fn unreadable(key: &[u8], why: impl std::fmt::Display) -> StateError {
    StateError {
        key: String::from_utf8_lossy(key).into_owned(),
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DeliveryPolicy;
    use crate::state::catalog::{Change, Json};

    fn spec(filters: usize) -> SubscriptionSpec {
        let filters = vec![serde_json::json!({ "plugin": "p" }); filters];
        let spec = serde_json::json!({"name": "s", "topics": ["a"], "filters": filters});
        serde_json::from_value(spec).expect("valid specification")
    }

    #[test]
    fn a_record_of_an_older_broker_has_one_chain() {
        let id = SubscriptionId(1);
        let snapshot =
            SubscriptionState::new(DeliveryPolicy::default(), Position(4), 1).snapshot(0);
        let record = serde_json::json!({"id": 1, "spec": spec(1), "start": 4});
        let pairs = [
            (key(SUBSCRIPTION, 1), record.to_string().into()),
            (key(MATCHES, 1), Bytes::from(snapshot)),
        ];
        let state = decode(&pairs, 1).expect("readable");
        let subscription = &state.catalog.subscriptions[&id];
        assert_eq!(subscription.revision, 0);
        let chains = subscription.chains();
        assert_eq!(chains.len(), 1);
        assert_eq!((chains[0].revision, chains[0].from), (0, Position(4)));
        assert_eq!(state.subscriptions.len(), 1);
    }

    #[test]
    fn what_an_older_broker_kept_goes_on_taking_in_dead_letters() {
        let id = SubscriptionId(1);
        let mut spec = serde_json::to_value(spec(1)).expect("plain data");
        let known = spec.as_object_mut().expect("an object");
        known.remove("include_dead_letters").expect("it is said");
        let chains = serde_json::json!([
            {"revision": 0, "from": 4, "filters": [{"plugin": "p"}], "dead_letter": "dead.s"},
        ]);
        for record in [
            serde_json::json!({"id": 1, "spec": spec, "start": 4}),
            serde_json::json!({"id": 1, "spec": spec, "start": 4, "revision": 1, "chains": chains}),
        ] {
            let pairs = [(key(SUBSCRIPTION, 1), record.to_string().into())];
            let state = decode(&pairs, 1).expect("readable");
            let subscription = &state.catalog.subscriptions[&id];
            assert!(subscription.spec.include_dead_letters, "{record}");
            assert!(subscription.chains()[0].include_dead_letters, "{record}");
            let chain = &subscription.chains()[0];
            assert!(!chain.differs_from(&subscription.spec), "{record}");
        }
    }

    #[test]
    fn earlier_filters_and_states_ahead_of_the_catalog_come_back() {
        let id = SubscriptionId(1);
        let mut catalog = Catalog::default();
        catalog.apply(&Change::CreateSubscription {
            id,
            spec: Json(spec(1)),
            start: Position(1),
        });
        let update = |revision, filters, fence| Change::UpdateSubscription {
            id,
            revision,
            spec: Json(spec(filters)),
            fence: Some(Position(fence)),
        };
        catalog.apply(&update(1, 2, 10));
        // A change after the mark that the snapshot has seen.
        let mut matches = SubscriptionState::new(DeliveryPolicy::default(), Position(1), 1);
        matches.change_filters(1, Position(10), 2);
        matches.change_filters(2, Position(12), 0);
        let encoded = |matches: &SubscriptionState, catalog: &Catalog| {
            let snapshots = vec![(id, matches.snapshot(0))];
            let (end, mark) = (Position(1), CommitNumber(0));
            encode(catalog, end, end, mark, Vec::new(), snapshots, Millis(0))
        };
        let without_producers = |pairs: Vec<(Bytes, Bytes)>| -> Vec<(Bytes, Bytes)> {
            pairs
                .into_iter()
                .filter(|(key, _)| key != PRODUCERS)
                .collect()
        };
        let pairs = without_producers(encoded(&matches, &catalog));
        let state = decode(&pairs, 1).expect("readable");
        let read = &state.catalog.subscriptions[&id];
        assert_eq!(read.revision, 1);
        assert_eq!(read.chains(), catalog.subscriptions[&id].chains());
        assert_eq!(state.subscriptions[0].1.pending_changes(), 2);

        // A state that does not fit what the catalog knows of its filters is not taken.
        let mut other = SubscriptionState::new(DeliveryPolicy::default(), Position(1), 1);
        other.change_filters(1, Position(10), 3);
        let pairs = without_producers(encoded(&other, &catalog));
        assert!(decode(&pairs, 1).is_err());
    }
}

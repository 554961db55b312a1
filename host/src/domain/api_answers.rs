//! What the broker tells about itself: the answers of the admin API, which the command line prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Digest, Millis, Owner, Position, Principal, Sequence, SubscriptionSpec, TopicId, TopicSpec,
};

/// A topic as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TopicInfo {
    /// How it was created.
    #[serde(flatten)]
    pub spec: TopicSpec,
    /// Its id.
    pub id: TopicId,
    /// Sequence the next event gets.
    pub next_sequence: Sequence,
    /// Names of the subscriptions and routes that select it; in a list of topics the first 100.
    pub subscriptions: Vec<String>,
    /// How many select it.
    #[serde(default)]
    pub subscription_count: u64,
}

/// What went with a topic that was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedTopicInfo {
    /// Sequence of its last event; 0 when it never had one.
    pub last_sequence: Sequence,
    /// Events of it that were pending, by subscription or route. Those that the caller may not see are not named.
    pub pending: BTreeMap<String, u64>,
    /// Such events of subscriptions that the caller may not see, over all of these.
    #[serde(default)]
    pub pending_unseen: u64,
}

/// A subscription or route as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubscriptionInfo {
    /// What it is now.
    #[serde(flatten)]
    pub spec: SubscriptionSpec,
    /// How often it was changed.
    #[serde(default)]
    pub revision: u32,
    /// Changes of its filters that do not hold yet: their filters wait until the ones before them have looked at every
    /// event before the fence.
    #[serde(default)]
    pub pending_changes: u64,
    /// The first position that its filters judge as they are now; `None` when they are those it was created with.
    #[serde(default)]
    pub fence: Option<Position>,
    /// Events that matched and are not acked, those in flight included. Exact.
    pub depth: u64,
    /// Events of its topics that its filters have not looked at yet, counted over all topics: an upper bound
    /// of what may still be added to `depth`.
    pub unevaluated: u64,
    /// Events handed out and not acked.
    pub in_flight: u64,
    /// Events of `depth` that are left alone until another attempt is due.
    #[serde(default)]
    pub delayed: u64,
    /// Milliseconds until the first of them is handed out again; `None` when there are none.
    #[serde(default)]
    pub delayed_for_ms: Option<u64>,
    /// The oldest event that is handed out and not acked; `None` when there is none. A consumer may keep it for as long as it extends
    /// its deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_in_flight: Option<InFlightInfo>,
    /// Age in milliseconds of the oldest event that is not acked, or that its filters have not looked at yet, whichever is older; 0
    /// when there is none, and `None` when that event cannot be read.
    pub oldest_unacked_ms: Option<u64>,
    /// Attached consumers.
    pub consumers: u64,
    /// Events handed out a second time or more, since the broker started.
    pub redelivered: u64,
    /// Dead letters written, since the broker started.
    pub dead_lettered: u64,
    /// Dead letters that were given up a second time and dropped, since the broker started.
    #[serde(default)]
    pub letters_dropped: u64,
    /// Why it stands still, when it does.
    pub paused: Option<String>,
    /// Events of `depth` that could not be read when that was last tried. They stay pending.
    #[serde(default)]
    pub unreadable: u64,
    /// The position at which its filters, or its catching up, stand because it cannot be read.
    #[serde(default)]
    pub stands_at: Option<Position>,
    /// Limits it has reached: it goes on, less exactly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits_reached: Vec<String>,
    /// What whoever it belongs to has no right to any more. Until that changes, a route does nothing and dead letters
    /// wait; nothing is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// What its filters, then its transforms, are called, each with its version: `scrub@3`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugin_labels: Vec<String>,
    /// Whether there is a subscription or route for its dead letters. Without one they are not kept. `None` in lists, where nobody
    /// has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letters_kept: Option<bool>,
}

/// An event in a consumer's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlightInfo {
    /// Where it is in the log.
    pub position: Position,
    /// Milliseconds since it was appended; `None` when it cannot be read.
    pub age_ms: Option<u64>,
    /// How often it was handed out, this time among them.
    pub handed_out: u32,
}

/// Stored events that cannot be read, or that were given up for that reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableInfo {
    /// The file or database.
    pub path: String,
    /// First position concerned.
    pub first: Option<Position>,
    /// Last position concerned.
    pub last: Option<Position>,
    /// Whether it is not what was written; otherwise the system fails, which may pass.
    pub damage: bool,
    /// What was said.
    #[serde(default)]
    pub reason: Option<String>,
    /// Where a copy of the damaged file was kept, once it was given up.
    #[serde(default)]
    pub kept_as: Option<String>,
}

/// Which world a plugin implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginWorld {
    /// Decides which events a subscription gets.
    Filter,
    /// Decides what they look like.
    Transform,
}

impl PluginWorld {
    /// What it is called.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Transform => "transform",
        }
    }
}

/// An uploaded or bundled plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// Its name.
    pub name: String,
    /// Counts uploads under this name, from 1. A name without a version means the newest.
    pub version: u32,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Which world it implements.
    pub world: PluginWorld,
    /// Size of its bytes.
    pub bytes: u64,
    /// When it was uploaded.
    pub uploaded: Millis,
    /// Comes with the binary; cannot be deleted.
    pub bundled: bool,
    /// Whose the name is: only the owner uploads further versions. Absent for bundled plugins, and for those that were
    /// there before plugins had owners; everybody may use these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Who uploaded this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded_by: Option<Principal>,
}

impl PluginInfo {
    /// What exactly this one is called: `scrub@3`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// The name of a plugin. It is kept, and its versions are not given again, when its last version is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginName {
    /// The name.
    pub name: String,
    /// Whose it is. Absent for bundled plugins, and for those that were there before plugins had owners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// The highest version that was ever given.
    pub last_version: u32,
    /// How many versions there are.
    pub versions: u64,
    /// Comes with the binary.
    pub bundled: bool,
}

/// What whoever may use a plugin needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginDetails {
    /// The plugin.
    #[serde(flatten)]
    pub info: PluginInfo,
    /// The world it implements, with the version of the interface.
    pub wit: String,
    /// What holds for it.
    pub limits: PluginBounds,
    /// What its instances hold now. Only for whoever owns the plugin, and of those that nobody owns for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<PluginHoldings>,
}

/// What the instances of a plugin hold of what there is for all, and those of all plugins of its owner. Where it has none, that is
/// the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginHoldings {
    /// Instances of all its versions.
    pub instances: u64,
    /// Bytes of their memories and tables.
    pub memory_bytes: u64,
    /// Instances of all plugins of its owner.
    pub owner_instances: u64,
    /// Bytes of theirs.
    pub owner_memory_bytes: u64,
    /// How many instances plugins of one owner may have.
    pub owner_instances_max: u64,
    /// How many bytes.
    pub owner_memory_bytes_max: u64,
}

/// The limits of one plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginBounds {
    /// Memory of one instance.
    pub memory_bytes_max: u64,
    /// Time that every call gets.
    pub deadline_base_ms: u64,
    /// Time that it gets on top for each pair of an event and a rule.
    pub deadline_pair_us: u64,
    /// What one call may hand back.
    pub output_bytes_max: u64,
    /// Size of the component.
    pub module_bytes_max: u64,
}

/// A line about a subscription's plugins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub time: Millis,
    /// What happened.
    pub text: String,
}

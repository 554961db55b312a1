//! What a user asks of a topic, as written in JSON to the admin API and kept in the catalog. What is published to one is not known here.

use serde::{Deserialize, Serialize};

use super::{Principal, TopicName};

/// When a publish is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// After the event is on disk. An answered publish survives a power cut.
    #[default]
    Sync,
    /// After the event is handed to the operating system; a sync follows within the broker's
    /// `store.interval_ms`. Survives the end of the process, not a power cut: what was answered since the last
    /// sync is lost then, and sequences skip ahead so that none is ever given twice.
    Interval,
}

/// A topic that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTopic {
    /// Its name.
    pub name: TopicName,
    /// When a publish to it is answered. Absent: as it was with the topic of that name that was deleted, if the broker knows of one,
    /// or else once it is on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Who asks. Filled in by the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<Principal>,
}

impl From<TopicSpec> for NewTopic {
    fn from(spec: TopicSpec) -> Self {
        Self {
            name: spec.name,
            durability: Some(spec.durability),
            created_by: spec.created_by,
        }
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicSpec {
    /// Its name.
    pub name: TopicName,
    /// When a publish to it is answered.
    #[serde(default)]
    pub durability: Durability,
    /// Who made it. Filled in by the broker; absent when an older one made it, or the broker itself for a route or a dead
    /// letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<Principal>,
}

//! The words of Tidegate as types: identifiers, names, patterns, principals, events and the specifications
//! a user writes. They are parsed at the edge: a name, a pattern or a principal that exists is well formed. Whether a specification of
//! such can be carried out is checked when it is asked for, by the broker. No I/O, no async, no clock, and no knowledge of any other module of the host.

mod api_answers;
mod block;
mod block_origin;
mod client_network;
mod delivery_policy;
mod encoded_events;
mod event;
mod glob;
pub(crate) mod hops;
mod id;
mod owner;
mod plain_text;
mod plugin_pause;
mod principal;
mod subscription_patch;
mod subscription_spec;
mod topic_pattern;
mod topic_spec;
mod unique_keys;

pub use api_answers::{
    DeletedTopicInfo, InFlightInfo, LogLine, PluginBounds, PluginDetails, PluginHoldings,
    PluginInfo, PluginName, PluginWorld, SubscriptionInfo, TopicInfo, UnreadableInfo,
};
pub use block::{BLOCK_BYTES_MAX, Block, BlockBuilder, BlockError};
pub use block_origin::BlockOrigin;
pub use client_network::Network;
pub use delivery_policy::{
    ACK_DEADLINE_MS_MAX, AckMode, DELAY_MS_MAX, DeliveryPatch, DeliveryPolicy,
};
pub use encoded_events::{EncodedEvents, EntryError};
pub use event::{
    ADDED_BYTES_MAX, EVENT_BYTES_MAX, Event, EventRef, EventRefError, Header, LETTER_BYTES_MAX,
    is_reserved_header,
};
pub use id::{
    CommitNumber, ConnectionId, ConsumerId, Digest, DigestError, Millis, PLACE_MAX, Position,
    ProducerId, Sequence, SubscriptionId, TopicId,
};
pub use owner::{Owner, OwnerError};
pub use plain_text::{is_plain, plain_json, plain_lines, plain_text, shell_word};
pub use plugin_pause::{paused_by, plugin_pause};
pub use principal::{Principal, PrincipalDigest, PrincipalError, PrincipalPattern};
pub use subscription_patch::{PluginPatch, SubscriptionPatch};
pub use subscription_spec::{FailurePolicy, PluginUse, StartAt, SubscriptionSpec, included_before};
pub use topic_pattern::{Name, NameError, NamePattern, TopicName, TopicPattern};
pub use topic_spec::{Durability, NewTopic, TopicSpec};
pub(crate) use unique_keys::UniqueKeys;

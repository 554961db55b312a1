//! The words of Tidegate as types: identifiers, names, patterns, principals, events and the specifications
//! a user writes. Everything here is parsed at the edge into a form that cannot be wrong, so nothing inside
//! validates it again. No I/O, no async, no clock, and no knowledge of any other module of the host.

mod block;
mod entries;
mod event;
pub(crate) mod hops;
mod id;
mod info;
mod letter;
mod network;
mod owner;
mod pattern;
mod principal;
mod spec;
mod wildcard;

pub use block::{BLOCK_BYTES_MAX, Block, BlockBuilder, BlockError};
pub use entries::{Entries, EntryError};
pub use event::{
    ADDED_BYTES_MAX, EVENT_BYTES_MAX, Event, EventRef, EventRefError, Header, is_reserved_header,
};
pub use id::{
    CommitNumber, ConnectionId, ConsumerId, Digest, DigestError, Millis, Position, ProducerId,
    Sequence, SubscriptionId, TopicId,
};
pub use info::{
    LogLine, PluginBounds, PluginDetails, PluginHoldings, PluginInfo, PluginName, PluginWorld,
    SubscriptionInfo, TopicInfo, UnreadableInfo,
};
pub use letter::LetterMark;
pub use network::Network;
pub use owner::{Owner, OwnerError};
pub use pattern::{Name, NameError, NamePattern, TopicName, TopicPattern};
pub use principal::{Principal, PrincipalDigest, PrincipalError, PrincipalPattern};
pub use spec::{
    AckMode, DeliveryPatch, DeliveryPolicy, Durability, FailurePolicy, PluginUse, StartAt,
    SubscriptionPatch, SubscriptionSpec, TopicSpec, included_before,
};

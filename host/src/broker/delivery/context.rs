//! The context of all deliveries: the handles that consumers, routes and the writer of dead letters share, to what is read, answered,
//! counted and asked on the way out. Nothing is delivered here.

use std::sync::{Arc, RwLock};

use tokio_util::sync::CancellationToken;

use super::transform_cache::TransformCache;
use crate::auth::Policy;
use crate::broker::commit::inbox::Inbox;
use crate::broker::counters::Counters;
use crate::broker::event_log::tail::Log;
use crate::broker::subscriptions::registry::Registry;
use crate::domain::{Block, TopicName};
use crate::locks::read;
use crate::runtime::spawn::Spawner;
use crate::state::catalog::Catalog;

/// What all deliveries share. One for the broker.
pub(crate) struct DeliveryContext {
    pub(crate) registry: Arc<Registry>,
    pub(crate) log: Log,
    /// Takes acks, and what is appended in place of an event.
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) catalog: Arc<RwLock<Catalog>>,
    /// Transforms that were set up.
    pub(crate) chains: TransformCache,
    pub(crate) metrics: Arc<Counters>,
    pub(crate) spawner: Spawner,
    pub(crate) policy: Arc<Policy>,
    /// Bytes of the largest event of a topic, without what the broker adds.
    pub(crate) event_bytes_max: usize,
    /// Bytes of what transforms may make of one event for a consumer.
    pub(crate) delivery_bytes_max: usize,
    pub(crate) shutdown: CancellationToken,
}

impl DeliveryContext {
    /// The topic of a block, as long as it exists.
    pub(crate) fn topic_of(&self, block: &Block) -> Option<TopicName> {
        let catalog = read(&self.catalog);
        catalog.topic_name(block.topic)
    }
}

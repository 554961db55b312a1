//! What delivering needs of the broker, shared by all consumers, routes and the writer of dead letters. Nothing is delivered here.

use std::sync::{Arc, RwLock};

use tokio_util::sync::CancellationToken;

use super::transform_cache::TransformCache;
use super::transform_chain::TransformChain;
use crate::auth::Policy;
use crate::broker::commit::inbox::Inbox;
use crate::broker::counters::Counters;
use crate::broker::event_log::tail::Log;
use crate::broker::subscriptions::Settings;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::broker::subscriptions::registry::Registry;
use crate::domain::{Block, PluginUse, Principal, TopicName};
use crate::locks::read;
use crate::plugin::{ConfigureError, Plugins};
use crate::runtime::spawn::Spawner;
use crate::state::catalog::Catalog;

/// What reading and answering need of the broker. Shared by all consumers and routes.
pub(crate) struct DeliveryParts {
    pub(crate) registry: Arc<Registry>,
    pub(crate) log: Log,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) catalog: Arc<RwLock<Catalog>>,
    pub(crate) plugins: Arc<Plugins>,
    /// Transforms that were set up.
    pub(crate) chains: TransformCache,
    pub(crate) metrics: Arc<Counters>,
    pub(crate) spawner: Spawner,
    pub(crate) policy: Arc<Policy>,
    /// Bytes of the largest event of a topic, without what the broker adds.
    pub(crate) event_bytes_max: usize,
    pub(crate) shutdown: CancellationToken,
}

impl DeliveryParts {
    /// The topic of a block, as long as it exists.
    pub(crate) fn topic_of(&self, block: &Block) -> Option<TopicName> {
        let catalog = read(&self.catalog);
        catalog.topic_name(block.topic)
    }

    /// The configured transforms that a subscription has by these settings, made on first use.
    pub(crate) async fn transforms(
        &self,
        live: &LiveSubscription,
        settings: &Settings,
    ) -> Result<Arc<TransformChain>, ConfigureError> {
        let spec = &settings.spec;
        let configure = || async {
            let label = |used: &PluginUse| self.label(spec.responsible(), used);
            let uses = spec.transforms.iter().map(|used| (used, label(used)));
            let chain =
                TransformChain::configure(&self.plugins, &live.name, uses.collect()).await?;
            Ok(Arc::new(chain))
        };
        let place = self.chains.place(live, settings);
        place.get_or_try_init(configure).await.cloned()
    }

    fn label(&self, whose: Option<&Principal>, used: &PluginUse) -> String {
        let catalog = read(&self.catalog);
        catalog.plugin_label(&self.policy, whose, used)
    }
}

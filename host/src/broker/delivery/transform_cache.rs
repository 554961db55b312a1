//! The transforms that were set up, one chain for each subscription that has any and was delivered from, shared by all who deliver
//! from it. A chain is kept while the subscription's transforms are the same, whatever else is changed, and goes with the
//! subscription. How a chain is called is not known here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::OnceCell;

use super::transform_chain::TransformChain;
use crate::auth::Policy;
use crate::broker::subscriptions::Settings;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::{PluginUse, SubscriptionId, SubscriptionSpec};
use crate::locks::{lock, read};
use crate::plugin::{ConfigureError, Plugins};
use crate::state::catalog::Catalog;

/// Where a chain is kept once it is set up.
type ChainCell = Arc<OnceCell<Arc<TransformChain>>>;

/// All of them.
pub(crate) struct TransformCache {
    plugins: Arc<Plugins>,
    // What plugins are called, for those who use them.
    catalog: Arc<RwLock<Catalog>>,
    policy: Arc<Policy>,
    known: Mutex<HashMap<SubscriptionId, Known>>,
}

struct Known {
    /// The newest for which it was asked.
    revision: u32,
    spec: Arc<SubscriptionSpec>,
    cell: ChainCell,
}

impl TransformCache {
    /// None yet.
    pub(crate) fn new(
        plugins: Arc<Plugins>,
        catalog: Arc<RwLock<Catalog>>,
        policy: Arc<Policy>,
    ) -> Self {
        Self {
            plugins,
            catalog,
            policy,
            known: Mutex::default(),
        }
    }

    /// The chain that a subscription has by these settings, set up on first use.
    ///
    /// # Errors
    ///
    /// A transform cannot be set up.
    pub(crate) async fn of(
        &self,
        live: &LiveSubscription,
        settings: &Settings,
    ) -> Result<Arc<TransformChain>, ConfigureError> {
        let spec = &settings.spec;
        let configure = || async {
            let label = |used: &PluginUse| {
                let catalog = read(&self.catalog);
                catalog.plugin_label(&self.policy, spec.responsible(), used)
            };
            let uses = spec.transforms.iter().map(|used| (used, label(used)));
            let chain = TransformChain::configure(&self.plugins, &live.name, uses.collect());
            Ok(Arc::new(chain.await?))
        };
        let cell = self.cell(live, settings);
        cell.get_or_try_init(configure).await.cloned()
    }

    // The cell of the chain that a subscription has by these settings. Whoever still works by older ones than others gets one
    // of his own.
    fn cell(&self, live: &LiveSubscription, settings: &Settings) -> ChainCell {
        let mut known = lock(&self.known);
        if live.is_deleted() {
            // Nobody would say any more that it is to go.
            return ChainCell::default();
        }
        let chain = known.entry(live.id).or_insert_with(|| Known {
            revision: settings.revision,
            spec: settings.spec.clone(),
            cell: ChainCell::default(),
        });
        if chain.revision != settings.revision {
            let is_same = chain.spec.transforms == settings.spec.transforms;
            if chain.revision > settings.revision && !is_same {
                return ChainCell::default();
            }
            if !is_same {
                chain.cell = ChainCell::default();
            }
            if chain.revision < settings.revision {
                chain.revision = settings.revision;
                chain.spec = settings.spec.clone();
            }
        }
        chain.cell.clone()
    }

    /// Drops that of a subscription that was deleted.
    pub(crate) fn forget(&self, subscription: SubscriptionId) {
        // Dropped after the lock: it may be the last to hold instances of plugins.
        let _chain = lock(&self.known).remove(&subscription);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::subscriptions::test_rig::Rig;
    use crate::plugin::PluginOptions;

    fn settings(revision: u32, configuration: &str) -> Settings {
        let transform = serde_json::json!({"plugin": "reshape", "config": configuration});
        let spec = serde_json::json!({"name": "s", "topics": ["*"], "transforms": [transform]});
        let spec: SubscriptionSpec = serde_json::from_value(spec).expect("valid specification");
        Settings {
            dead_letter: spec.dead_letter_topic(),
            spec: Arc::new(spec),
            revision,
        }
    }

    #[test]
    fn a_chain_is_shared_while_its_transforms_are_the_same_and_goes_with_its_subscription() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let plugins = Plugins::start(PluginOptions {
            cache_dir: dir.path().join("cache"),
            ..PluginOptions::default()
        });
        let chains =
            TransformCache::new(plugins.expect("starts"), Arc::default(), Policy::of_local());
        let rig = Rig::new(serde_json::json!({}));
        let cell =
            |revision, configuration| chains.cell(&rig.live, &settings(revision, configuration));
        let first = cell(0, "a");
        assert!(Arc::ptr_eq(&first, &cell(0, "a")), "shared");
        assert!(Arc::ptr_eq(&first, &cell(1, "a")), "kept");
        let second = cell(2, "b");
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&second, &cell(1, "a")), "too late");
        assert!(Arc::ptr_eq(&second, &cell(2, "b")), "and pushes nobody out");

        rig.registry.remove(rig.live.id).expect("it is there");
        chains.forget(rig.live.id);
        assert_eq!(Arc::strong_count(&second), 1);
        drop(cell(2, "b"));
        assert!(lock(&chains.known).is_empty());
    }
}

//! The transforms that were set up, one chain for each subscription that has any and was delivered from, shared by all who deliver
//! from it. A chain is kept while the subscription's transforms are the same, whatever else is changed, and goes with the
//! subscription. How a chain is set up and called is not known here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;

use super::transform_chain::TransformChain;
use crate::broker::subscriptions::Settings;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::{SubscriptionId, SubscriptionSpec};
use crate::locks::lock;

/// Where a chain is kept once it is set up.
pub(super) type Place = Arc<OnceCell<Arc<TransformChain>>>;

/// All of them.
#[derive(Default)]
pub(crate) struct TransformCache {
    known: Mutex<HashMap<SubscriptionId, Known>>,
}

struct Known {
    /// The newest for which it was asked.
    revision: u32,
    spec: Arc<SubscriptionSpec>,
    place: Place,
}

impl TransformCache {
    /// The place of the chain that a subscription has by these settings. Whoever still works by older ones than others gets one
    /// of his own.
    pub(super) fn place(&self, live: &LiveSubscription, settings: &Settings) -> Place {
        let mut known = lock(&self.known);
        if live.is_deleted() {
            // Nobody would say any more that it is to go.
            return Place::default();
        }
        let chain = known.entry(live.id).or_insert_with(|| Known {
            revision: settings.revision,
            spec: settings.spec.clone(),
            place: Place::default(),
        });
        if chain.revision != settings.revision {
            let is_same = chain.spec.transforms == settings.spec.transforms;
            if chain.revision > settings.revision && !is_same {
                return Place::default();
            }
            if !is_same {
                chain.place = Place::default();
            }
            if chain.revision < settings.revision {
                chain.revision = settings.revision;
                chain.spec = settings.spec.clone();
            }
        }
        chain.place.clone()
    }

    /// Drops that of a subscription that was deleted.
    pub(crate) fn forget(&self, subscription: SubscriptionId) {
        let _chain = lock(&self.known).remove(&subscription);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::subscriptions::test_rig::Rig;

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
        let (chains, rig) = (TransformCache::default(), Rig::new(serde_json::json!({})));
        let place =
            |revision, configuration| chains.place(&rig.live, &settings(revision, configuration));
        let first = place(0, "a");
        assert!(Arc::ptr_eq(&first, &place(0, "a")), "shared");
        assert!(Arc::ptr_eq(&first, &place(1, "a")), "kept");
        let second = place(2, "b");
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&second, &place(1, "a")), "too late");
        assert!(
            Arc::ptr_eq(&second, &place(2, "b")),
            "and pushes nobody out"
        );

        rig.registry.remove(rig.live.id).expect("it is there");
        chains.forget(rig.live.id);
        assert_eq!(Arc::strong_count(&second), 1);
        drop(place(2, "b"));
        assert!(lock(&chains.known).is_empty());
    }
}

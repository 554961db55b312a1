//! Subscriptions that are to go once nobody consumes them any more, such as those of `tidegate sub --temporary`: a timer that looks how
//! long each of them has had no consumer, and has those deleted whose time is over. That time is nowhere on disk, so a start gives each
//! all of it again. Who deletes, the committer, is asked as everybody asks it.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::commit::inbox::Inbox;
use super::commit::request::{ChangeRequest, Control};
use super::subscriptions::registry::Registry;
use crate::domain::{Millis, Name, SubscriptionId};
use crate::locks;
use crate::state::catalog::Catalog;

/// As much later than it should a subscription may go.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub(crate) async fn watch(
    registry: Arc<Registry>,
    catalog: Arc<RwLock<Catalog>>,
    inbox: Arc<Inbox>,
    shutdown: CancellationToken,
) {
    let mut idle = IdleTimes::default();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let looks = looks(&registry, &locks::read(&catalog));
        for (id, name) in idle.over(registry.clock.now(), looks) {
            let delete =
                |reply| Control::Change(ChangeRequest::DeleteSubscription(id, name.clone(), reply));
            match inbox.ask(delete).await {
                Ok(()) => {
                    tracing::info!(subscription = %name, "subscription deleted, since it was made to go when nobody consumes it (delete_after_idle_ms)");
                }
                // It is asked again when as much time has passed once more.
                Err(error) => {
                    tracing::warn!(subscription = %name, %error, "cannot delete a subscription that nobody consumes");
                }
            }
        }
    }
}

fn looks(registry: &Registry, catalog: &Catalog) -> Vec<Look> {
    let all = catalog.subscriptions.iter();
    let those = all.filter_map(|(id, subscription)| {
        let idle_ms_max = subscription.spec.delete_after_idle_ms?;
        let live = registry.by_id(*id)?;
        Some(Look {
            id: *id,
            name: live.name.clone(),
            idle_ms_max,
            is_consumed: live.has_consumers(),
            consumers_ever: live.consumers_ever(),
        })
    });
    those.collect()
}

/// One subscription at this moment.
struct Look {
    id: SubscriptionId,
    name: Name,
    idle_ms_max: u64,
    is_consumed: bool,
    /// So that one who came and went between two looks is seen.
    consumers_ever: u64,
}

/// Since when each subscription that nobody consumes has been so.
#[derive(Default)]
struct IdleTimes(HashMap<SubscriptionId, (Millis, u64)>);

impl IdleTimes {
    /// Whose time is over. What was not looked at does not exist any more.
    fn over(&mut self, now: Millis, looks: Vec<Look>) -> Vec<(SubscriptionId, Name)> {
        let mut over = Vec::new();
        let mut known = std::mem::take(&mut self.0);
        for look in looks.into_iter().filter(|look| !look.is_consumed) {
            let before = known.remove(&look.id);
            let since = match before {
                Some((since, consumers)) if consumers == look.consumers_ever => since,
                _ => now,
            };
            match now.0.saturating_sub(since.0) >= look.idle_ms_max {
                true => over.push((look.id, look.name)),
                false => {
                    self.0.insert(look.id, (since, look.consumers_ever));
                }
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_without_a_consumer_counts_and_begins_anew_with_each() {
        let mut idle = IdleTimes::default();
        let mut over = |at: u64, is_consumed, consumers_ever| {
            let look = Look {
                id: SubscriptionId(1),
                name: "s".parse().expect("a name"),
                idle_ms_max: 100,
                is_consumed,
                consumers_ever,
            };
            !idle.over(Millis(at), vec![look]).is_empty()
        };
        assert!(!over(1_000, false, 0), "it may still come");
        assert!(!over(1_099, false, 0));
        assert!(over(1_100, false, 0));
        assert!(!over(1_101, false, 0), "asked once, then after its time");
        assert!(!over(1_150, true, 1));
        assert!(!over(9_000, true, 1));
        assert!(!over(9_001, false, 1), "it has just gone");
        assert!(!over(9_100, false, 2), "another came and went");
        assert!(!over(9_199, false, 2));
        assert!(over(9_200, false, 2));
    }

    #[test]
    fn nothing_is_kept_of_what_is_gone() {
        let mut idle = IdleTimes::default();
        let look = |id| Look {
            id: SubscriptionId(id),
            name: "s".parse().expect("a name"),
            idle_ms_max: 100,
            is_consumed: false,
            consumers_ever: 0,
        };
        idle.over(Millis(0), vec![look(1), look(2)]);
        idle.over(Millis(50), vec![look(2)]);
        assert_eq!(idle.0.len(), 1);
        let over = idle.over(Millis(100), vec![look(1), look(2)]);
        assert_eq!(over.len(), 1, "the first is another one");
        assert_eq!(over[0].0, SubscriptionId(2));
    }
}

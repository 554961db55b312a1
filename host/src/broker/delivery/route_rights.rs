//! Whether the broker may go on with a route in its owner's name. Which rights that takes is said in `auth::authorize`; here the
//! answer is kept as long as it cannot have changed, and waited for while it is no.

use super::fetcher::Fetcher;
use crate::auth::authorize;
use crate::broker::subscriptions::Settings;

/// Whether the route's owner has the rights for what the route does. Asked again only when an answer may have changed.
#[derive(Default)]
pub(crate) struct RouteRights {
    // Of which policy and which revision of the route the answer is.
    asked: Option<(u64, u32)>,
    good: bool,
}

impl RouteRights {
    /// Whether they are there now.
    pub(crate) fn is_good(&mut self, fetcher: &Fetcher, settings: &Settings) -> bool {
        let policy = &fetcher.context.policy;
        let now = (policy.version(), settings.revision);
        if self.asked.replace(now) == Some(now) {
            return self.good;
        }
        let standing = authorize::standing(policy, &settings.spec);
        match &standing {
            Err(denied) => {
                tracing::warn!(reason = %denied, "a route stops: whoever it belongs to lacks a right; it goes on when that is granted, or when it is given to another owner");
            }
            Ok(()) if !self.good => tracing::debug!("a route may go on"),
            Ok(()) => {}
        }
        self.good = standing.is_ok();
        self.good
    }

    /// Waits until they are; false when the route ends instead.
    pub(crate) async fn regained(&mut self, fetcher: &Fetcher) -> bool {
        let mut news = fetcher.context.policy.watch();
        loop {
            // Both registered before looking, so that nothing that comes between is missed.
            news.mark_unchanged();
            let changed = fetcher.live.woken();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if fetcher.live.is_deleted() || fetcher.context.shutdown.is_cancelled() {
                return false;
            }
            if self.is_good(fetcher, &fetcher.live.settings()) {
                return true;
            }
            tokio::select! {
                biased;
                () = changed => {}
                _ = news.changed() => {}
                () = fetcher.context.shutdown.cancelled() => return false,
            }
        }
    }
}

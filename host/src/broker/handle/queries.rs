//! What the broker tells of itself: topics, subscriptions, routes, and metrics read from their state. Whatever takes a while
//! or may read the disk blocks, and is for threads that may be blocked; the locks that events need are taken for one thing
//! at a time. Nothing here changes anything.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::{Broker, FoundSubscription};
use crate::auth::authorize;
use crate::broker::error::{NotFound, Unavailable};
use crate::broker::event_log::unreadable_conditions;
use crate::broker::gauges;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::{
    BlockOrigin, InFlightInfo, Millis, Position, Principal, SubscriptionInfo, SubscriptionSpec,
    TopicInfo, TopicName,
};
use crate::locks::lock;
use crate::state::catalog::Topic;
use crate::store::{ReadError, Unreadable};
use crate::telemetry::conditions::{self, Condition};
use crate::telemetry::metrics_registry::Family;

/// Names of subscriptions that a list tells for a topic; one topic by itself is told with all.
const LISTED_SUBSCRIPTIONS_MAX: usize = 100;

/// Subscriptions that are looked at together.
const LOOKED_AT: usize = 256;

/// How many there are of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Topics.
    pub topics: usize,
    /// Subscriptions that are no routes.
    pub subscriptions: usize,
    /// Routes.
    pub routes: usize,
    /// Versions of plugins, bundled ones among them.
    pub plugins: usize,
}

impl Broker {
    /// How many there are of everything. Kept, so this costs nothing.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (subscriptions, routes) = self.0.registry.counts();
        let catalog = self.catalog();
        Counts {
            topics: catalog.topics.len(),
            subscriptions,
            routes,
            plugins: catalog.plugins.len(),
        }
    }

    /// Up to `count` topics after `after`, or the first ones, by name, each with the names of some of its subscriptions.
    #[must_use]
    pub fn topics(&self, after: Option<&TopicName>, count: usize) -> Vec<TopicInfo> {
        let topics: Vec<_> = {
            let catalog = self.catalog();
            let after = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let rest = catalog
                .topics
                .range::<TopicName, _>((after, std::ops::Bound::Unbounded));
            rest.take(count).map(|(_, topic)| topic.clone()).collect()
        };
        let listed = |topic: &Arc<Topic>| self.topic_info(topic, LISTED_SUBSCRIPTIONS_MAX);
        topics.iter().map(listed).collect()
    }

    /// One topic, with the names of all its subscriptions.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn topic(&self, name: &TopicName) -> Result<TopicInfo, NotFound> {
        let topic = self.catalog().topics.get(name).cloned();
        let topic = topic.ok_or_else(|| NotFound::Topic(name.clone()))?;
        Ok(self.topic_info(&topic, usize::MAX))
    }

    fn topic_info(&self, topic: &Topic, names_max: usize) -> TopicInfo {
        let registry = &self.0.registry;
        let mut selecting = registry.selecting(&topic.spec.name, BlockOrigin::Ordinary);
        selecting.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let names = selecting.iter().take(names_max);
        TopicInfo {
            spec: topic.spec.clone(),
            id: topic.id,
            next_sequence: topic.next_sequence(),
            subscriptions: names.map(|live| live.name.to_string()).collect(),
            subscription_count: selecting.len() as u64,
        }
    }

    /// Up to `count` subscriptions and routes that `who` may see, after the one called `after` or the first ones, by name.
    /// Blocks while it reads how old their oldest events are, for those whose events are in generations only.
    #[must_use]
    pub fn subscriptions(
        &self,
        who: &Principal,
        after: Option<&str>,
        count: usize,
    ) -> Vec<SubscriptionInfo> {
        let sees =
            |spec: &SubscriptionSpec| authorize::sees_subscription(&self.0.policy, who, spec);
        let page = |after: Option<&str>| self.0.registry.page(after, LOOKED_AT);
        self.labelled(self.infos(&self.seen(sees, page, after, count)))
    }

    /// Up to `count` routes, likewise.
    #[must_use]
    pub fn routes(
        &self,
        who: &Principal,
        after: Option<&str>,
        count: usize,
    ) -> Vec<SubscriptionInfo> {
        let sees =
            |spec: &SubscriptionSpec| authorize::sees_subscription(&self.0.policy, who, spec);
        let page = |after: Option<&str>| self.0.registry.page_of_routes(after, LOOKED_AT);
        self.labelled(self.infos(&self.seen(sees, page, after, count)))
    }

    // The first `count` of the pages after `after` that somebody sees.
    fn seen(
        &self,
        sees: impl Fn(&SubscriptionSpec) -> bool,
        page: impl Fn(Option<&str>) -> Vec<Arc<LiveSubscription>>,
        after: Option<&str>,
        count: usize,
    ) -> Vec<Arc<LiveSubscription>> {
        let mut seen = Vec::new();
        let mut after = after.map(str::to_owned);
        loop {
            let subscriptions = page(after.as_deref());
            let is_last = subscriptions.len() < LOOKED_AT;
            after = subscriptions.last().map(|live| live.name.to_string());
            let some = subscriptions
                .into_iter()
                .filter(|live| sees(&live.settings().spec));
            seen.extend(some.take(count - seen.len()));
            if is_last || seen.len() == count {
                return seen;
            }
        }
    }

    /// One subscription or route. Blocks as [`subscriptions`](Self::subscriptions) does.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn subscription(&self, name: &str) -> Result<SubscriptionInfo, NotFound> {
        Ok(self.one(&*self.live(name)?))
    }

    /// The one that was found, as it is now. Blocks as [`subscriptions`](Self::subscriptions) does.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn info_of(&self, found: &FoundSubscription) -> Result<SubscriptionInfo, NotFound> {
        Ok(self.one(&*self.found(found)?))
    }

    /// Which subscription or route has that name now. Never blocks.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn find(&self, name: &str) -> Result<FoundSubscription, NotFound> {
        let live = self.live(name)?;
        Ok(FoundSubscription {
            id: live.id,
            spec: live.settings().spec.clone(),
        })
    }

    /// Metrics that are read from state: all for those with the right to them, and for others those of subscriptions and plugins
    /// that they may see. Blocks as [`subscriptions`](Self::subscriptions) does.
    #[must_use]
    pub fn metrics_of_state(&self, who: &Principal) -> Vec<Family> {
        let policy = &self.0.policy;
        let reads_all = authorize::reads_all_metrics(policy, who);
        let sees =
            |spec: &SubscriptionSpec| reads_all || authorize::sees_subscription(policy, who, spec);
        let page = |after: Option<&str>| self.0.registry.page(after, LOOKED_AT);
        let subscriptions = self.infos(&self.seen(sees, page, None, usize::MAX));
        let mut plugins = self.0.plugins.loaded.stats();
        // Without a name is what is being uploaded, which may be refused yet.
        plugins.retain(|stats| {
            let sees = || self.seen_plugin(who, &stats.digest.to_string()).is_ok();
            !stats.label.is_empty() && (reads_all || sees())
        });
        let mut families = gauges::of_subscriptions(&subscriptions);
        families.extend(gauges::of_plugins(&plugins));
        let mut holders = self.0.plugins.loaded.holders();
        holders.retain(|holder| authorize::reads_owner_metrics(policy, who, holder.owner.as_ref()));
        families.extend(gauges::of_plugin_owners(&holders));
        let (held, most) = self.0.plugins.loaded.held();
        families.extend(gauges::of_all_plugins(held, most));
        let conditions = self.conditions();
        families.extend(gauges::of_store(
            &self.0.reader.usage(),
            conditions.reason(&Condition::StoreFailed).is_some(),
        ));
        families.push(conditions::gauge(conditions, reads_all));
        families.push(conditions::panics(conditions));
        families
    }

    // Away from the threads that serve connections.
    pub(super) async fn look<T: Send + 'static, E: From<Unavailable> + Send + 'static>(
        &self,
        look: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let broker = self.clone();
        let looked = self.0.spawner.blocking("look", move || look(&broker)).await;
        looked.map_err(Unavailable::Internal)?
    }

    fn infos(&self, subscriptions: &[Arc<LiveSubscription>]) -> Vec<SubscriptionInfo> {
        let unreadable = self.0.reader.unreadable();
        let infos = subscriptions
            .iter()
            .map(|live| self.info(live, &unreadable));
        infos.collect()
    }

    // One by itself, with what would take long of many.
    fn one(&self, live: &LiveSubscription) -> SubscriptionInfo {
        let info = self.info(live, &self.0.reader.unreadable());
        let letters = info.spec.dead_letter_topic();
        SubscriptionInfo {
            letters_kept: Some(self.0.registry.keeps_letters(&letters)),
            plugin_labels: self.plugin_labels(&info.spec),
            ..info
        }
    }

    fn labelled(&self, mut infos: Vec<SubscriptionInfo>) -> Vec<SubscriptionInfo> {
        for info in &mut infos {
            info.plugin_labels = self.plugin_labels(&info.spec);
        }
        infos
    }

    fn plugin_labels(&self, spec: &SubscriptionSpec) -> Vec<String> {
        let uses = spec.filters.iter().chain(&spec.transforms);
        let catalog = self.catalog();
        uses.map(|used| catalog.plugin_label(&self.0.policy, spec.responsible(), used))
            .collect()
    }

    fn info(&self, live: &LiveSubscription, unreadable: &[Unreadable]) -> SubscriptionInfo {
        let end = self.0.log.end();
        let routed = self.0.registry.followers.next();
        let (settings, fence, letters) = (live.settings(), live.fence(), live.letters());
        // Which may be long, so not under the lock that events need.
        let spec = (*settings.spec).clone();
        let clock = &self.0.registry.clock;
        let (info, oldest, undecided, held) = {
            let state = live.read();
            let undecided = match live.is_routed() {
                true => routed,
                false => state.evaluated_through().next(),
            };
            let unevaluated = end.0.saturating_sub(undecided.0);
            let info = SubscriptionInfo {
                spec,
                revision: settings.revision,
                pending_changes: state.pending_changes() as u64,
                fence,
                depth: state.depth(),
                unevaluated,
                in_flight: state.in_flight(),
                delayed: state.delayed(),
                delayed_for_ms: state
                    .delayed_until()
                    .map(|due| due.0.saturating_sub(clock.now().0)),
                oldest_in_flight: None,
                oldest_unacked_ms: None,
                consumers: live.consumers.load(Ordering::Relaxed),
                redelivered: state.redelivered(),
                dead_lettered: letters.written,
                letters_dropped: letters.dropped,
                paused: state.paused().map(str::to_owned),
                unreadable: unreadable_conditions::lacks(&state, unreadable),
                stands_at: live.stands_at(),
                limits_reached: state.strain().names().map(str::to_owned).collect(),
                stopped: None,
                plugin_labels: Vec::new(),
                letters_kept: None,
            };
            let (oldest, held) = (state.oldest_pending(), state.oldest_in_flight());
            (info, oldest, undecided, held)
        };
        let now = clock.wall();
        let age = |appended: Result<Option<Millis>, ReadError>| match appended {
            Ok(None) => Some(0),
            Ok(Some(at)) => Some(now.0.saturating_sub(at.0)),
            Err(_) => None,
        };
        let undecided = (info.unevaluated > 0).then_some(undecided);
        let oldest_unacked_ms = age(self.oldest_appended_at(live, oldest, undecided));
        let oldest_in_flight = held.map(|(position, handed_out)| {
            let look_up = || self.0.reader.appended_at(position);
            InFlightInfo {
                position,
                age_ms: age(appended_at(&live.oldest_held, position, look_up)),
                handed_out,
            }
        });
        let standing = authorize::standing(&self.0.policy, &info.spec);
        SubscriptionInfo {
            oldest_in_flight,
            oldest_unacked_ms,
            stopped: standing.err().map(|denied| denied.to_string()),
            ..info
        }
    }

    // When the oldest event was appended that is `pending`, or not decided: the first that there is at `undecided` or after it.
    // Positions rise with time.
    fn oldest_appended_at(
        &self,
        live: &LiveSubscription,
        pending: Option<Position>,
        undecided: Option<Position>,
    ) -> Result<Option<Millis>, ReadError> {
        let reader = &self.0.reader;
        if let Some(pending) =
            pending.filter(|pending| undecided.is_none_or(|from| *pending < from))
        {
            let at = appended_at(&live.oldest, pending, || reader.appended_at(pending))?;
            // It may be gone, with its topic.
            if at.is_some() {
                return Ok(at);
            }
        }
        match undecided {
            Some(from) => appended_at(&live.oldest, from, || reader.next_appended_at(from)),
            None => Ok(None),
        }
    }
}

// What is looked up of `position`. It is asked for again and again for the same one, so remembered.
fn appended_at(
    remembered: &Mutex<(Position, Millis)>,
    position: Position,
    look_up: impl FnOnce() -> Result<Option<Millis>, ReadError>,
) -> Result<Option<Millis>, ReadError> {
    let known = *lock(remembered);
    if known.0 == position {
        return Ok(Some(known.1));
    }
    let at = look_up()?;
    if let Some(at) = at {
        *lock(remembered) = (position, at);
    }
    Ok(at)
}

//! The subscriptions of the running broker, found by id and by name, listed by page, and by the topics they select. Their changes
//! begin here, since what feeds them changes with them. What one of them does is not known here.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, RwLock};

use tokio_util::sync::CancellationToken;

use super::effect_targets::{EffectTargets, Start};
use super::given_up_ranges::GivenUpRanges;
use super::live_subscription::LiveSubscription;
use super::resting_subscription::RestingSubscription;
use super::unfiltered_followers::Followers;
use crate::domain::{BlockOrigin, Name, Position, SubscriptionId, TopicName};
use crate::locks::{read, write};
use crate::runtime::clock::Clock;
use crate::state::TopicTrie;
use crate::state::catalog::Subscription;

/// All live subscriptions. Shared by every task.
pub(crate) struct Registry {
    pub(crate) clock: Clock,
    subscriptions: RwLock<Subscriptions>,
    effect_targets: Arc<EffectTargets>,
    /// Those that follow the end of the log together.
    pub(crate) followers: Followers,
    /// What an operator gave up.
    pub(crate) given_up: GivenUpRanges,
}

#[derive(Default)]
struct Subscriptions {
    by_id: HashMap<SubscriptionId, Arc<LiveSubscription>>,
    by_name: BTreeMap<Name, Arc<LiveSubscription>>,
    routes: BTreeMap<Name, Arc<LiveSubscription>>,
    interests: TopicTrie,
}

impl Registry {
    /// One without subscriptions. Those that come and have seen everything before `next` may follow the end of the log.
    pub(crate) fn new(effect_targets: Arc<EffectTargets>, next: Position) -> Arc<Self> {
        Arc::new(Self {
            clock: effect_targets.clock.clone(),
            subscriptions: RwLock::default(),
            effect_targets,
            followers: Followers::new(next),
            given_up: GivenUpRanges::default(),
        })
    }

    /// Brings a subscription to life. It is found once it is [inserted](Self::insert).
    pub(crate) fn live(&self, resting: RestingSubscription) -> Arc<LiveSubscription> {
        LiveSubscription::new(resting, self.effect_targets.clone())
    }

    /// Adds a live subscription. Called by the committer before the blocks of the same group become readable.
    pub(crate) fn insert(&self, live: Arc<LiveSubscription>) {
        let mut all = write(&self.subscriptions);
        let spec = live.settings().spec.clone();
        all.interests.insert(live.id, &spec.topics);
        if spec.is_route() {
            all.routes.insert(live.name.clone(), live.clone());
        }
        all.by_name.insert(live.name.clone(), live.clone());
        all.by_id.insert(live.id, live);
        drop(all);
        self.followers.changed();
    }

    /// Removes a subscription; its consumers end.
    pub(crate) fn remove(&self, id: SubscriptionId) -> Option<Arc<LiveSubscription>> {
        let mut all = write(&self.subscriptions);
        let live = all.by_id.remove(&id)?;
        all.interests.remove(id);
        all.by_name.remove(&live.name);
        all.routes.remove(&live.name);
        drop(all);
        self.followers.changed();
        live.end();
        Some(live)
    }

    pub(crate) fn by_id(&self, id: SubscriptionId) -> Option<Arc<LiveSubscription>> {
        self.read().by_id.get(&id).cloned()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<LiveSubscription>> {
        self.read().by_name.get(name).cloned()
    }

    /// All, by name.
    pub(crate) fn all(&self) -> Vec<Arc<LiveSubscription>> {
        self.read().by_name.values().cloned().collect()
    }

    /// Up to `count` of them after the one called `after`, or the first ones, by name.
    pub(crate) fn page(&self, after: Option<&str>, count: usize) -> Vec<Arc<LiveSubscription>> {
        page(&self.read().by_name, after, count)
    }

    /// The same of those that are routes.
    pub(crate) fn page_of_routes(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Vec<Arc<LiveSubscription>> {
        page(&self.read().routes, after, count)
    }

    /// How many subscriptions, and how many routes, there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let all = self.read();
        (all.by_name.len() - all.routes.len(), all.routes.len())
    }

    /// Subscriptions that select events of `topic` with this mark.
    pub(crate) fn selecting(
        &self,
        topic: &TopicName,
        mark: BlockOrigin,
    ) -> Vec<Arc<LiveSubscription>> {
        let mut subscriptions: Vec<_> = {
            let all = self.read();
            let ids = all.interests.select(topic);
            let subscriptions = ids.iter().filter_map(|id| all.by_id.get(id));
            subscriptions.cloned().collect()
        };
        // Each has locks of its own; who comes and goes does not wait for them.
        subscriptions.retain(|live| live.selects(topic, mark));
        subscriptions
    }

    /// Whether any but `others` selects what is published to `topic`.
    pub(crate) fn is_selected(&self, topic: &TopicName, others: &[SubscriptionId]) -> bool {
        let all = self.read();
        let selects = |id| {
            let live = all.by_id.get(&id).filter(|_| !others.contains(&id));
            live.is_some_and(|live| live.selects(topic, BlockOrigin::Ordinary))
        };
        all.interests.any(topic, selects)
    }

    /// Whether any selects the dead letters that are written to `topic`, so that they are kept for it.
    pub(crate) fn keeps_letters(&self, topic: &TopicName) -> bool {
        let all = self.read();
        let selects = |id| {
            let live = all.by_id.get(&id);
            live.is_some_and(|live| live.selects(topic, BlockOrigin::Letter))
        };
        all.interests.any(topic, selects)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Subscriptions> {
        read(&self.subscriptions)
    }

    // ── changes ─────────────────────────────────────────────────────────────────────────────────────────

    /// Makes `live` what the catalog says since a change. Called by the committer before the blocks of the same group become
    /// readable, so that nobody has judged anything at or past the fence.
    pub(crate) fn update(
        &self,
        live: &Arc<LiveSubscription>,
        subscription: &Subscription,
        fenced: bool,
    ) {
        {
            let turn = self.followers.turn();
            if fenced {
                turn.leave(live);
            }
            live.update(subscription);
        }
        if fenced {
            self.start(Start::Filters(live.id));
        }
    }

    /// Lets nothing more be decided for `live` until the change `revision`, and returns the first position that is
    /// undecided.
    pub(crate) fn freeze(&self, live: &Arc<LiveSubscription>, revision: u32) -> Position {
        let turn = self.followers.turn();
        turn.leave(live);
        live.apply(|state, _| state.freeze(revision))
    }

    /// The change `revision` for which `live` was frozen will not come: what feeds it begins anew, since lanes may have taken it for
    /// the end of what it judges.
    pub(crate) fn thaw(&self, live: &Arc<LiveSubscription>, revision: u32) {
        let (is_frozen, is_filtered) =
            live.apply(|state, _| (state.thaw(revision), state.stages() > 0));
        if !is_frozen {
            return;
        }
        // A catch-up goes on by itself; whoever has left the router gets one.
        self.start(match is_filtered {
            true => Start::Anew(live.id),
            false => Start::Filters(live.id),
        });
    }

    /// What fed `live` has died: it is paused for that reason, and fed anew once it is resumed.
    pub(crate) fn pause_unfed(&self, live: &Arc<LiveSubscription>, why: &str) {
        live.forget_followed();
        live.apply(|state, _| state.pause(why));
    }

    /// Lets each subscription do what is to be done when its deadline comes, until shutdown.
    pub(crate) async fn run_timers(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let due = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                due = self.effect_targets.timers.due(&self.clock) => due,
            };
            // It may be gone.
            for live in due.into_iter().filter_map(|id| self.by_id(id)) {
                live.tick();
            }
        }
    }

    /// Hands something to the supervisor.
    pub(crate) fn start(&self, start: Start) {
        self.effect_targets.start(start);
    }

    /// Tells every subscription that follows the end of the log how far they are, so that their checkpoints say it. Returns the
    /// first position that they have not been shown.
    pub(crate) fn tell_followers(&self) -> Position {
        self.followers.tell(&self.all())
    }
}

fn page(
    all: &BTreeMap<Name, Arc<LiveSubscription>>,
    after: Option<&str>,
    count: usize,
) -> Vec<Arc<LiveSubscription>> {
    let after = after.map_or(Bound::Unbounded, Bound::Excluded);
    let rest = all.range::<str, _>((after, Bound::Unbounded));
    rest.take(count).map(|(_, live)| live.clone()).collect()
}

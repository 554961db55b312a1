//! The subscriptions of the running broker, found by id and by name. Routes committed blocks to unfiltered subscriptions, fires
//! deadlines, and collects acks for the committer. Nothing here does I/O but the router's reads, and no lock is held across an
//! await.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, RangeInclusive};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::given_up::GivenUp;
use super::live::LiveSubscription;
use crate::broker::commit::pending_acks::PendingAcks;
use crate::broker::log::tail::Log;
use crate::domain::{
    Block, ConsumerId, LetterMark, Millis, Name, Position, SubscriptionId, TopicId, TopicName,
};
use crate::runtime::clock::Clock;
use crate::state::TopicInterests;
use crate::state::catalog::Subscription;
use crate::state::ranges::push_range;
use crate::telemetry::errors::with_causes;

/// Bytes of blocks the router looks at before it hands out what it found.
const ROUTER_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// All live subscriptions. Shared by every task.
pub(crate) struct Registry {
    pub(crate) clock: Clock,
    subscriptions: RwLock<Subscriptions>,
    // Changes whenever a subscription comes or goes or starts to be routed.
    version: AtomicU64,
    router: Mutex<RouterState>,
    routed_through: watch::Sender<Position>,
    timers: Mutex<BTreeSet<(Millis, SubscriptionId)>>,
    timers_changed: Notify,
    /// Those that the committer has not taken yet.
    pub(crate) acks: PendingAcks,
    ack_waker: Box<dyn Fn() + Send + Sync>,
    dead_letters: mpsc::UnboundedSender<Arc<LiveSubscription>>,
    starts: mpsc::UnboundedSender<Start>,
    /// What an operator gave up.
    pub(crate) given_up: GivenUp,
}

/// What the supervisor is to start or to end. A few for each subscription and each of its changes, so their queue is bounded.
pub(crate) enum Start {
    /// Everything that a new subscription needs.
    Created(Arc<LiveSubscription>),
    /// What feeds a subscription whose next filters have taken over.
    Filters(Arc<LiveSubscription>),
    /// The lanes of a subscription once more.
    Anew(Arc<LiveSubscription>),
    /// Nothing any more: it was deleted, and what runs for it ends.
    Deleted(Arc<LiveSubscription>),
}

/// Whether a subscription could join the router.
pub(crate) enum Join {
    /// The router feeds it from here on.
    Joined,
    /// It has not seen what the router has, up to this position.
    Behind(Position),
    /// It is not, or will not be for long, a subscription without filters.
    Changing,
}

#[derive(Default)]
struct Subscriptions {
    by_id: HashMap<SubscriptionId, Arc<LiveSubscription>>,
    by_name: BTreeMap<Name, Arc<LiveSubscription>>,
    routes: BTreeMap<Name, Arc<LiveSubscription>>,
    interests: TopicInterests,
}

#[derive(Default)]
struct RouterState {
    // First position the router has not looked at.
    cursor: Position,
    version: u64,
    // For ordinary events and for dead letters.
    targets: HashMap<(TopicId, bool), Arc<[Arc<LiveSubscription>]>>,
}

impl Registry {
    /// `ack_waker` tells the committer that acks wait for it; subscriptions with events to dead-letter go to
    /// `dead_letters`, each at most once at a time, so that queue is bounded by the number of subscriptions. What is to be
    /// started goes to `starts`.
    pub(crate) fn new(
        clock: Clock,
        cursor: Position,
        ack_waker: Box<dyn Fn() + Send + Sync>,
        dead_letters: mpsc::UnboundedSender<Arc<LiveSubscription>>,
        starts: mpsc::UnboundedSender<Start>,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock,
            subscriptions: RwLock::default(),
            version: AtomicU64::new(1),
            router: Mutex::new(RouterState {
                cursor,
                ..RouterState::default()
            }),
            routed_through: watch::Sender::new(cursor),
            timers: Mutex::default(),
            timers_changed: Notify::new(),
            acks: PendingAcks::default(),
            ack_waker,
            dead_letters,
            starts,
            given_up: GivenUp::default(),
        })
    }

    /// Adds a live subscription. Called by the committer before the blocks of the same group become readable.
    pub(crate) fn insert(&self, live: Arc<LiveSubscription>) {
        let mut all = self
            .subscriptions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let spec = live.settings().spec.clone();
        all.interests.insert(live.id, &spec.topics);
        if spec.is_route() {
            all.routes.insert(live.name.clone(), live.clone());
        }
        all.by_name.insert(live.name.clone(), live.clone());
        all.by_id.insert(live.id, live);
        drop(all);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Removes a subscription; its consumers end.
    pub(crate) fn remove(&self, id: SubscriptionId) -> Option<Arc<LiveSubscription>> {
        let mut all = self
            .subscriptions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let live = all.by_id.remove(&id)?;
        all.interests.remove(id);
        all.by_name.remove(&live.name);
        all.routes.remove(&live.name);
        drop(all);
        self.version.fetch_add(1, Ordering::AcqRel);
        live.deleted.store(true, Ordering::Release);
        live.wake.notify_waiters();
        self.acks.forget(id);
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
        mark: LetterMark,
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

    /// Whether any selects what is published to `topic`.
    pub(crate) fn is_selected(&self, topic: &TopicName) -> bool {
        let all = self.read();
        let selects = |id| {
            let live = all.by_id.get(&id);
            live.is_some_and(|live| live.selects(topic, LetterMark::Ordinary))
        };
        all.interests.any(topic, selects)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Subscriptions> {
        self.subscriptions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    // ── acks ────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes acks of a consumer. They are durable with the next group.
    pub(crate) fn ack(
        &self,
        live: &LiveSubscription,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
    ) {
        let mut acked = Vec::new();
        let made_room = {
            let mut state = live.lock();
            let before = state.has_deliverable();
            let testing = state.is_testing();
            state.ack(Some(consumer), ranges, &mut acked);
            testing || !before && state.has_deliverable()
        };
        if acked.is_empty() {
            return;
        }
        self.record_acks(live.id, acked);
        if made_room {
            live.wake.notify_waiters();
        }
    }

    /// The broker itself is done with an event: it was dropped by a transform or does not exist any more.
    pub(crate) fn ack_internally(
        &self,
        live: &LiveSubscription,
        ranges: &[RangeInclusive<Position>],
    ) {
        let mut acked = Vec::new();
        live.lock().ack(None, ranges, &mut acked);
        if !acked.is_empty() {
            self.record_acks(live.id, acked);
            // Others may have waited for the room.
            live.wake.notify_waiters();
        }
    }

    fn record_acks(&self, id: SubscriptionId, acked: Vec<RangeInclusive<Position>>) {
        self.acks.add(id, acked);
        (self.ack_waker)();
    }

    /// Acks that were taken for a group and could not be written now wait for the next one.
    pub(crate) fn ack_again(&self, id: SubscriptionId, acked: Vec<RangeInclusive<Position>>) {
        if self.by_id(id).is_some() {
            self.record_acks(id, acked);
        }
    }

    // ── giving up ───────────────────────────────────────────────────────────────────────────────────────

    /// Tells the dead-letter task that `live` has given events up.
    pub(crate) fn queue_dead_letters(&self, live: &Arc<LiveSubscription>) {
        if !live.dead_letters_queued.swap(true, Ordering::AcqRel) {
            // The receiver only ends with the broker.
            let _ = self.dead_letters.send(live.clone());
        }
    }

    /// The dead-letter task is done with `live`. Whatever it has given up meanwhile is queued now.
    pub(crate) fn dead_letters_done(&self, live: &Arc<LiveSubscription>) {
        live.dead_letters_queued.store(false, Ordering::Release);
        // Whoever gave something up before this look found the mark; whoever does after it finds none.
        if live.lock().has_given_up() && !live.is_deleted() {
            self.queue_dead_letters(live);
        }
    }

    // ── timers ──────────────────────────────────────────────────────────────────────────────────────────

    /// Arms the timer for what the subscription waits for next. Call it after anything that may have set an earlier deadline.
    pub(crate) fn arm(&self, live: &LiveSubscription, wakeup: Option<Millis>) {
        let Some(at) = wakeup else { return };
        let armed = live.armed_at.load(Ordering::Acquire);
        if at.0 >= armed {
            return;
        }
        let mut timers = lock(&self.timers);
        let armed = live.armed_at.load(Ordering::Acquire);
        if at.0 >= armed {
            return;
        }
        timers.remove(&(Millis(armed), live.id));
        timers.insert((at, live.id));
        live.armed_at.store(at.0, Ordering::Release);
        let is_first = timers.first().is_some_and(|(first, _)| *first >= at);
        drop(timers);
        if is_first {
            self.timers_changed.notify_one();
        }
    }

    /// Fires ack deadlines, back-offs and the like until shutdown.
    pub(crate) async fn run_timers(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let first = lock(&self.timers).first().map(|(at, _)| *at);
            let sleep = async {
                match first {
                    Some(at) => tokio::time::sleep_until(self.clock.instant_of(at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.timers_changed.notified() => continue,
                () = sleep => {}
            }
            self.fire(self.clock.now());
        }
    }

    fn fire(&self, now: Millis) {
        let due: Vec<SubscriptionId> = {
            let mut timers = lock(&self.timers);
            let later = timers.split_off(&(now.plus(1), SubscriptionId(0)));
            std::mem::replace(&mut *timers, later)
                .into_iter()
                .map(|(_, id)| id)
                .collect()
        };
        for live in due.into_iter().filter_map(|id| self.by_id(id)) {
            live.armed_at.store(u64::MAX, Ordering::Release);
            self.tick(&live, now);
        }
    }

    /// Takes up the deadlines and the unwritten dead letters of a subscription that was read from disk.
    pub(crate) fn arm_after_recovery(&self, live: &Arc<LiveSubscription>) {
        self.tick(live, self.clock.now());
    }

    fn tick(&self, live: &Arc<LiveSubscription>, now: Millis) {
        let (deliverable, wakeup, given_up, strain, stalled) = {
            let mut state = live.lock();
            let before = state.stalled();
            let deliverable = state.tick(now, |consumer| live.unseen_of(consumer));
            let given_up = state.has_given_up();
            let stalled = state.stalled().saturating_sub(before) as u64;
            let wakeup = state.next_wakeup();
            (deliverable, wakeup, given_up, state.strain(), stalled)
        };
        live.log_limits.strain(&live.name, strain);
        if let Some(consumers) = live.log_limits.stalled.admit(stalled) {
            tracing::warn!(subscription = %live.name, consumers, "consumers' applications take nothing of what they were sent; it goes to others without an attempt, and they get nothing more until they go on");
        }
        self.arm(live, wakeup);
        if given_up {
            self.queue_dead_letters(live);
        }
        if deliverable {
            live.wake.notify_waiters();
        }
    }

    // ── router ──────────────────────────────────────────────────────────────────────────────────────────

    /// First position the router has not looked at.
    pub(crate) fn routed_through(&self) -> watch::Receiver<Position> {
        self.routed_through.subscribe()
    }

    /// Feeds committed blocks to the unfiltered subscriptions that follow the end of the log, until shutdown.
    pub(crate) async fn run_router(
        self: Arc<Self>,
        log: Log,
        topic_name: impl Fn(TopicId) -> Option<TopicName> + Send,
        shutdown: CancellationToken,
    ) {
        let mut end = log.watch_end();
        loop {
            let cursor = lock(&self.router).cursor;
            // Taken before reading: what is appended meanwhile must not be skipped below.
            let at = log.end();
            match log.blocks_from(cursor, ROUTER_BATCH_BYTES).await {
                Ok(blocks) if blocks.is_empty() => {
                    if cursor < at {
                        // Positions that no block holds: skipped after an unclean start.
                        self.route(&[], at, &topic_name);
                    }
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        changed = end.wait_for(|end| *end > at) => if changed.is_err() { return },
                    }
                }
                Ok(blocks) => {
                    let through = blocks
                        .last()
                        .map_or(cursor, |block| block.last_position().next());
                    self.route(&blocks, through, &topic_name);
                }
                Err(error) => {
                    tracing::error!(%cursor, error = %with_causes(&error), "cannot read what was just committed; trying again");
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    }
                }
            }
        }
    }

    fn route(
        &self,
        blocks: &[Arc<Block>],
        next: Position,
        topic_name: &impl Fn(TopicId) -> Option<TopicName>,
    ) {
        let mut matched: HashMap<
            SubscriptionId,
            (Arc<LiveSubscription>, Vec<RangeInclusive<Position>>),
        > = HashMap::new();
        let mut router = lock(&self.router);
        let version = self.version.load(Ordering::Acquire);
        if router.version != version {
            router.version = version;
            router.targets.clear();
        }
        for block in blocks {
            let key = (block.topic, block.mark.is_letter());
            let targets = match router.targets.get(&key) {
                Some(targets) => targets.clone(),
                None => {
                    let targets = self.targets(block.topic, block.mark, topic_name);
                    router.targets.insert(key, targets.clone());
                    targets
                }
            };
            for live in targets.iter() {
                let (_, ranges) = matched
                    .entry(live.id)
                    .or_insert_with(|| (live.clone(), Vec::new()));
                push_range(
                    ranges,
                    block.first_position.max(router.cursor)..=block.last_position(),
                );
            }
        }
        for (live, ranges) in matched.into_values() {
            let Some(last) = ranges.last() else { continue };
            live.lock().observe(*last.end(), ranges.iter().cloned());
            live.wake.notify_waiters();
        }
        router.cursor = next;
        self.routed_through.send_replace(next);
    }

    fn targets(
        &self,
        topic: TopicId,
        mark: LetterMark,
        topic_name: &impl Fn(TopicId) -> Option<TopicName>,
    ) -> Arc<[Arc<LiveSubscription>]> {
        let Some(name) = topic_name(topic) else {
            return Arc::new([]);
        };
        let mut subscriptions = self.selecting(&name, mark);
        subscriptions.retain(|live| live.is_routed());
        subscriptions.into()
    }

    /// Lets the router feed `live` from here on, if it has no filters and has seen everything the router has.
    pub(crate) fn join_router(&self, live: &LiveSubscription) -> Join {
        let router = lock(&self.router);
        let seen = {
            let state = live.lock();
            if state.stages() > 0 || state.judges_until() != Position(u64::MAX) {
                return Join::Changing;
            }
            state.evaluated_through().next()
        };
        if seen < router.cursor {
            return Join::Behind(router.cursor);
        }
        live.routed.store(true, Ordering::Release);
        self.version.fetch_add(1, Ordering::AcqRel);
        Join::Joined
    }

    // The router, whose lock the caller holds until the subscription says why, feeds it no longer, and has shown it everything up to
    // its cursor.
    fn leave_router(&self, router: &RouterState, live: &LiveSubscription) {
        if !live.routed.swap(false, Ordering::AcqRel) {
            return;
        }
        self.version.fetch_add(1, Ordering::AcqRel);
        let through = Position(router.cursor.0.saturating_sub(1));
        live.lock().observe(through, std::iter::empty());
        // What is left of its present chain needs a catch-up.
        live.forget_followed();
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
            let router = lock(&self.router);
            if fenced {
                self.leave_router(&router, live);
            }
            live.update(subscription);
        }
        if fenced {
            self.start(Start::Filters(live.clone()));
        }
        live.wake.notify_waiters();
    }

    /// Lets nothing more be decided for `live` until the change `revision`, and returns the first position that is
    /// undecided.
    pub(crate) fn freeze(&self, live: &LiveSubscription, revision: u32) -> Position {
        let router = lock(&self.router);
        self.leave_router(&router, live);
        live.lock().freeze(revision)
    }

    /// The change `revision` for which `live` was frozen will not come: what feeds it begins anew, since lanes may have taken it for
    /// the end of what it judges.
    pub(crate) fn thaw(&self, live: &Arc<LiveSubscription>, revision: u32) {
        let (is_frozen, is_filtered) = {
            let mut state = live.lock();
            (state.thaw(revision), state.stages() > 0)
        };
        if !is_frozen {
            return;
        }
        // A catch-up goes on by itself; whoever has left the router gets one.
        self.start(match is_filtered {
            true => Start::Anew(live.clone()),
            false => Start::Filters(live.clone()),
        });
        live.wake.notify_waiters();
    }

    /// What fed `live` has died: it is paused for that reason, and fed anew once it is resumed.
    pub(crate) fn pause_unfed(&self, live: &LiveSubscription, why: &str) {
        live.forget_followed();
        live.lock().pause(why);
        live.wake.notify_waiters();
    }

    /// Hands something to the supervisor.
    pub(crate) fn start(&self, start: Start) {
        // The receiver ends with the broker only.
        let _ = self.starts.send(start);
    }

    /// Tells every routed subscription how far the router is, so that their checkpoints say it. Returns that
    /// position.
    pub(crate) fn settle(&self) -> Position {
        let router = lock(&self.router);
        let Some(through) = router.cursor.0.checked_sub(1).map(Position) else {
            return router.cursor;
        };
        for live in self.all().iter().filter(|live| live.is_routed()) {
            live.lock().observe(through, std::iter::empty());
        }
        router.cursor
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
